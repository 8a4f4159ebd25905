"""Mask generators: geometry from a random generator, True = observed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class Frame(Protocol):
    """How a photograph became an image: what :class:`datasets.base.Frame` says."""

    @property
    def seen(self) -> tuple[int, int]:
        """Height and width of the photograph as a person sees it."""

    @property
    def stored(self) -> tuple[int, int]:
        """Height and width in its file; they are the other way round where the camera was held
        upright.
        """

    def carry(self, plane: NDArray[Any]) -> NDArray[Any]:
        """Turn, crop and resize a plane of either size as the photograph was, to the nearest
        pixels.
        """


class Pictures(Protocol):
    """The photographs that masks may have been drawn on: an image set."""

    def frame(self, image: str, /) -> Frame | None:
        """That of one image; None where it was not made of a photograph."""


class MaskGenerator:
    """One family of masks; parameters are dataclass fields of the subclass.

    Most masks are drawn, and :meth:`generate` is all they need. Masks that belong to images, such
    as those read from files, override :meth:`for_image` and :meth:`content` too.
    """

    def generate(self, rng: np.random.Generator, height: int, width: int) -> np.ndarray:
        """One mask: bool ``(height, width)``, True = observed. The same generator state gives the
        same mask.
        """
        raise NotImplementedError

    def for_image(self, image_id: str, index: int) -> MaskGenerator:
        """The generator for the image with this id, number ``index`` (from 0) of its image set."""
        return self

    def beside(self, pictures: Pictures) -> MaskGenerator:
        """The generator for the images of this set; those that read files learn what became of the
        photographs.
        """
        return self

    def content(self, ids: Sequence[str], height: int, width: int) -> str | None:
        """sha256 of the masks that are read for the first ``ids`` of an image set, None where masks
        are drawn.

        Raises ValueError, with the id and the file, for an image whose mask is missing or cannot be
        used.
        """
        return None
