"""Define the interface of mask generators.

A mask is a boolean array of the size of an image; True marks an observed pixel. Generators draw the
geometry from a NumPy random generator or read it from files.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray


class Frame(Protocol):
    """Relation between a photograph and the image that was made of it.

    This protocol lists the part of :class:`datasets.base.Frame` that masks use, because this
    package imports nothing of ``datasets``.
    """

    @property
    def seen(self) -> tuple[int, int]:
        """Return height and width of the photograph in pixels, as a person sees it."""

    @property
    def stored(self) -> tuple[int, int]:
        """Return height and width in pixels as the file stores them.

        They are swapped relative to ``seen`` where the camera was held upright.
        """

    def carry(self, plane: NDArray[Any]) -> NDArray[Any]:
        """Turn, crop and resize a plane in the same way as the photograph.

        Parameters
        ----------
        plane : NDArray
            Values ``(H, W)``; the size is ``seen`` or ``stored``.

        Returns
        -------
        NDArray
            Values at the size of the image. Each pixel has the value of the nearest pixel of
            ``plane``.
        """


class Pictures(Protocol):
    """Image set whose photographs masks may have been drawn on."""

    def frame(self, image: str, /) -> Frame | None:
        """Return the frame of one image, or None if it was not made of a photograph."""


@runtime_checkable
class Parts(Protocol):
    """Image set that knows where the parts of its images are, such as the cartoon faces."""

    def part(self, image: str, name: str, /) -> NDArray[np.bool_]:
        """Return the pixels ``(H, W)`` of a part; none where the image does not show it.

        Raises
        ------
        ValueError
            If the set has no such image, or knows no such part.
        """


class MaskGenerator:
    """Base class of all masks.

    A subclass is a dataclass whose fields are its settings. Most masks are drawn at random, and for
    these :meth:`generate` is all a subclass has to write. Masks that belong to images, such as
    masks from files, also override :meth:`for_image` and :meth:`content`.

    Notes
    -----
    The benchmark builds one generator per cell. It calls :meth:`beside` once with the image set,
    then :meth:`for_image` for each image, then :meth:`generate` on the result. Randomness may come
    from the argument ``rng`` only, so that a mask depends on the study seed and the image alone.

    Examples
    --------
    A mask that hides the lower part of every image:

    >>> from dataclasses import dataclass
    >>> import numpy as np
    >>> @dataclass(frozen=True)
    ... class Lower(MaskGenerator):
    ...     share: float = 0.5
    ...
    ...     def generate(self, rng, height, width):
    ...         observed = np.ones((height, width), dtype=bool)
    ...         observed[height - round(self.share * height) :] = False
    ...         return observed
    >>> int(Lower(0.25).generate(np.random.default_rng(0), 4, 2).sum())
    6
    """

    def generate(self, rng: np.random.Generator, height: int, width: int) -> np.ndarray:
        """Draw one mask.

        Parameters
        ----------
        rng : numpy.random.Generator
            The only source of randomness. The same state gives the same mask.
        height : int
            Height of the image in pixels.
        width : int
            Width of the image in pixels.

        Returns
        -------
        numpy.ndarray
            bool ``(height, width)``; True = observed.

        Raises
        ------
        ValueError
            If the settings allow no mask of this size.
        """
        raise NotImplementedError

    def for_image(self, image_id: str, index: int) -> MaskGenerator:
        """Return the generator for one image.

        Parameters
        ----------
        image_id : str
            Id of the image in its image set.
        index : int
            Position of the image in its image set, counted from 0.

        Returns
        -------
        MaskGenerator
            A generator whose :meth:`generate` gives the mask of this image. The default is
            ``self``: drawn masks do not depend on the image.
        """
        return self

    def beside(self, pictures: Pictures) -> MaskGenerator:
        """Return the generator for the images of one image set.

        Parameters
        ----------
        pictures : Pictures
            The image set. Masks from files ask it how each photograph was turned, cropped and
            resized.

        Returns
        -------
        MaskGenerator
            The default is ``self``: drawn masks do not depend on the image set.
        """
        return self

    def content(self, ids: Sequence[str], height: int, width: int) -> str | None:
        """Hash the masks that are read from files.

        Parameters
        ----------
        ids : Sequence[str]
            Ids of the first images of the image set, in order.
        height : int
            Height of the images in pixels.
        width : int
            Width of the images in pixels.

        Returns
        -------
        str or None
            SHA-256 of all masks as 64 hexadecimal digits; None if masks are drawn.

        Raises
        ------
        ValueError
            If the mask of an image is missing or unusable. The message names the image and the
            file.
        """
        return None
