"""Images of the Python API: images of a data set, or the user's own images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from typing_extensions import override

from posterior_bench.bench.api.configuration import configuration
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.engine.arena import are_drawn, build_images
from posterior_bench.bench.engine.cache import shared
from posterior_bench.bench.engine.job import job_of
from posterior_bench.datasets.base import ImageSet
from posterior_bench.datasets.crops import CROPS
from posterior_bench.datasets.pixels import eight_bit

Picture: TypeAlias = "Tensor | NDArray[Any] | Image.Image | str | Path"
"""An image as people have it. Arrays are ``(C, H, W)`` or ``(N, C, H, W)`` in [-1, 1]."""


class InMemory(ImageSet):
    """Images that the user has in memory.

    Parameters
    ----------
    pixels : Tensor
        Images ``(N, C, H, W)`` in [-1, 1]; their ids are ``0``, ``1``, ...
    """

    name = "memory"

    def __init__(self, pixels: Tensor):
        self._pixels = pixels.detach().float().cpu()
        self.shape = (pixels.shape[1], pixels.shape[2], pixels.shape[3])
        self.ids = tuple(map(str, range(len(pixels))))

    @override
    def images(self, ids: Sequence[str]) -> Tensor:
        return self._pixels[[int(i) for i in ids]]


@dataclass(frozen=True)
class Images:
    """The first images of an image set.

    Parameters
    ----------
    source : ImageSet
        The image set. Its name and the ids of the images decide about masks and noise.
    ids : sequence of str
        The ids of the images, in order.
    data : Mapping[str, Any]
        The option of the data set, as the command line has it.
    single : bool, default False
        The user gave one image ``(C, H, W)``, so results have no axis of images.
    """

    source: ImageSet
    ids: Sequence[str]
    data: Mapping[str, Any]
    single: bool = False

    def __len__(self) -> int:
        return len(self.ids)

    @cached_property
    def pixels(self) -> Tensor:
        """The images, float32 ``(N, C, H, W)`` in [-1, 1]."""
        return self.source.images(list(self.ids))


def load_images(
    data: str, images: int = 1, *, seed: int = 0, settings: Mapping[str, Any] | None = None
) -> Images:
    """Load the first images of a data set.

    Parameters
    ----------
    data : str
        A name that ``python -m bench ls data`` lists, such as ``"fashion"``.
    images : int, default 1
        How many images.
    seed : int, default 0
        The seed of the study; it matters where images are drawn from a prior (``"arena/g2"``).
    settings : Mapping[str, Any], optional
        Settings by their names on the command line, such as ``{"data.root": "photos"}``.

    Returns
    -------
    Images
        The images with their ids. Masks and noise depend on the ids, so a problem with these images
        is the problem of the command line.

    Raises
    ------
    UserError
        If there is no such data set or setting, or if there are fewer images.

    Examples
    --------
    >>> import posterior_bench as pb
    >>> images = pb.load_images("fashion", images=2)
    >>> images.ids, tuple(images.pixels.shape)
    (('test-00000', 'test-00001'), (2, 1, 28, 28))
    """
    config = job_of(
        configuration({"data": data}, {"data.images": images, "seed": seed, **(settings or {})})
    )
    prior = shared("prior", config.prior, "cpu") if are_drawn(config.data) else None
    source: ImageSet = build_images(config.data, prior, seed)
    if not 0 < images <= len(source):
        raise UserError(
            f"images={images}: data={data} has {len(source)} images; give 1 to {len(source)}"
        )
    return Images(source, tuple(source.ids[:images]), config.data)


def as_images(picture: Picture | Images, size: int | None = None) -> Images:
    """Return any kind of picture as :class:`Images`; UserError where it is none.

    A file or PIL image is cropped to a square of ``size`` pixels, if that is given.
    """
    if isinstance(picture, Images):
        return picture
    pixels = _pixels(picture, size)
    if pixels.ndim not in (3, 4) or pixels.shape[-3] not in (1, 3):
        raise UserError(
            f"an image of shape {tuple(pixels.shape)}: give (C, H, W) or (N, C, H, W) with 1 or 3 "
            "channels, in [-1, 1]"
        )
    if not pixels.isfinite().all() or pixels.abs().max() > 1:
        raise UserError(
            f"pixels reach from {pixels.min():g} to {pixels.max():g}: images are finite and in "
            "[-1, 1]; of uint8 values give x / 127.5 - 1"
        )
    single = pixels.ndim == 3
    source = InMemory(pixels[None] if single else pixels)
    return Images(source, source.ids, {"images": len(source)}, single)


def _pixels(picture: Picture, size: int | None) -> Tensor:
    if isinstance(picture, str | Path):
        try:
            picture = Image.open(picture)
        except OSError as error:
            raise UserError(f"{picture} cannot be read as an image: {error}") from None
    if not isinstance(picture, Image.Image):
        return torch.as_tensor(picture).float()
    mode = "L" if picture.mode in ("1", "L") or picture.mode.startswith("I") else "RGB"
    image = eight_bit(picture, mode)
    image = CROPS["guided"](image, size) if size else image
    array = np.atleast_3d(np.asarray(image, np.float32))
    return torch.from_numpy(array.transpose(2, 0, 1) / 127.5 - 1)
