"""Settings and images of a training."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor

from posterior_bench.bench.config.build import build, target
from posterior_bench.bench.config.prompts import NOT_OF_THE_IMAGES
from posterior_bench.bench.core.errors import UserError
from posterior_bench.datasets.base import ImageSet

IN_MEMORY = 2**30
"""Bytes of images that are kept in memory for a training."""


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
    """Return the training images and the validation images of a configured data set.

    They are its splits ``train`` and ``validation``. A data set without splits gives a tenth of its
    images for validation, its part ``validation``.

    Raises
    ------
    UserError
        If ``data.part`` has already chosen some of the images, or if they need an optional package
        that is missing.
    """
    try:
        return _splits(node)
    except ImportError as error:
        raise UserError(str(error)) from None


def _splits(node: Mapping[str, Any]) -> tuple[ImageSet, ImageSet]:
    if "split" in {field.name for field in dataclasses.fields(target(node))}:
        return build(node, split="train"), build(node, split="validation")
    if node.get("part") is not None:
        raise UserError(
            f"data.part={node['part']}: training takes a tenth of the images for validation by "
            "itself; leave data.part out, and choose images with data.id_list"
        )
    skip = (*NOT_OF_THE_IMAGES, "part")
    return build(node, skip=skip, part="test"), build(node, skip=skip, part="validation")


class ImageFiles:
    """Images that are read when they are asked for.

    Parameters
    ----------
    images : ImageSet
        The data set.
    ids : Sequence of str
        The ids of the images in use.
    """

    def __init__(self, images: ImageSet, ids: Sequence[str]):
        self.images, self.ids = images, ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, rows: Tensor) -> Tensor:
        return self.images.images([self.ids[row] for row in rows.tolist()])


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


def image_rows(images: ImageSet, count: int | None = None) -> Tensor | ImageFiles:
    """Return the first images of a data set; all if ``count`` is None.

    They are ``(N, C, H, W)`` in [-1, 1]. Images that take more than 1 GiB are read when they are
    asked for.
    """
    ids = images.ids[:count]
    large = 4 * len(ids) * math.prod(images.shape) > IN_MEMORY
    return ImageFiles(images, ids) if large else images.images(ids)
