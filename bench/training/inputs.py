"""Settings and images of a training."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import Tensor

from posterior_bench.bench.config.build import build
from posterior_bench.bench.core.errors import UserError
from posterior_bench.datasets.base import ImageSet


def check_keys(
    where: str,
    block: Mapping[str, Any],
    required: Collection[str],
    optional: Collection[str] = (),
) -> None:
    """Check the keys of a block of settings.

    Parameters
    ----------
    where : str
        Name of the block for the message.
    block : Mapping of str to Any
        The settings.
    required, optional : Collection of str
        The keys that the block must have, and those that it may have; by default there are no
        optional keys.

    Raises
    ------
    UserError
        If a key is missing or unknown; the message lists the valid keys.
    """
    valid = {*required, *optional}
    for problem, keys in (
        ("lacks", set(required) - block.keys()),
        ("does not know", block.keys() - valid),
    ):
        if keys:
            raise UserError(
                f"{where} {problem} {', '.join(sorted(keys))}; its keys are "
                f"{', '.join(sorted(valid))}"
            )


def image_splits(node: Mapping[str, Any]) -> tuple[ImageSet, ImageSet]:
    """Return the training split and the validation split of a configured data set."""
    return build(node, split="train"), build(node, split="validation")


def images_and_labels(images: ImageSet, count: int | None = None) -> tuple[Tensor, Tensor | None]:
    """Read the first images of a data set.

    Parameters
    ----------
    images : ImageSet
        The data set.
    count : int or None, default None
        How many images; all if None.

    Returns
    -------
    tuple of (Tensor, Tensor or None)
        Images ``(N, C, H, W)`` in [-1, 1], and labels ``(N,)`` or None.
    """
    ids = images.ids[:count]
    return images.images(ids), images.labels(ids)
