"""Define the interface of image sets: named, ordered, read-only collections of test images."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from posterior_bench.datasets.contents import content_hash
from posterior_bench.datasets.turns import UPRIGHT, turned_plane

_AT_ONCE = 64

NUMBERS = 20
"""Random numbers that a draw of a :class:`KnownPosterior` takes."""


@dataclass(frozen=True)
class Frame:
    """Relation between a photograph and the image that was made of it.

    Masks that were drawn on the photograph are carried to the image with it.

    Parameters
    ----------
    seen : tuple[int, int]
        Height and width of the photograph in pixels, as a person sees it.
    stored : tuple[int, int]
        Height and width in pixels as the file stores them; swapped relative to ``seen`` where the
        camera was held upright.
    rows : NDArray[int]
        ``(H,)``: for each row of the image, the row of the photograph (as seen) that it shows.
    columns : NDArray[int]
        ``(W,)``: for each column of the image, the column of the photograph that it shows.
    turn : int, default 1
        EXIF orientation of the photograph, 1 to 8; 1 = upright.
    """

    seen: tuple[int, int]
    stored: tuple[int, int]
    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    turn: int = UPRIGHT

    def carry(self, plane: NDArray[Any]) -> NDArray[Any]:
        """Turn, crop and resize a plane in the same way as the photograph.

        Parameters
        ----------
        plane : NDArray
            Values ``(h, w)``; the size is ``seen`` or ``stored``.

        Returns
        -------
        NDArray
            Values ``(H, W)`` at the size of the image; each pixel has the value of the nearest
            pixel of ``plane``.
        """
        if plane.shape != self.seen:
            plane = turned_plane(plane, self.turn)
        return plane[self.rows[:, None], self.columns]


class KnownPosterior(Protocol):
    """The posterior of one image, which independent draws can be taken from."""

    def sample(self, uniform: NDArray[np.floating]) -> NDArray[np.float32]:
        """Draw images.

        Parameters
        ----------
        uniform : NDArray[float]
            Independent numbers ``(D, K)`` in [0, 1); ``K`` is :data:`NUMBERS`.

        Returns
        -------
        NDArray[float32]
            Images ``(D, C, H, W)`` in [-1, 1].
        """


class ImageSet:
    """Base class of all image sets.

    A subclass sets ``name``, ``ids`` and ``shape`` and writes :meth:`images`. A set with class
    labels also sets ``num_classes`` and writes :meth:`labels`. The other methods have defaults that
    work for every set.

    Attributes
    ----------
    name : str
        Data id. Seeds of masks and noise derive from it, so it must not depend on where the files
        lie, and it must differ between sets with different ids.
    ids : Sequence[str]
        Stable ids of the images in use, in order; ``data.images=K`` takes the first ``K``.
    shape : tuple[int, int, int]
        Shape ``(C, H, W)`` of every image.
    num_classes : int
        Number of classes; 0 if there are no labels.
    caps : frozenset[str]
        Capabilities that the images add to those of the prior: ``enumerated`` if their distribution
        is known and :meth:`posterior` can be computed.

    Notes
    -----
    Settings that are paths do not enter the hash of a cell. :meth:`content` enters instead, so it
    must differ where other images lie behind the same ids.
    """

    name: str
    ids: Sequence[str]
    shape: tuple[int, int, int]
    num_classes: int = 0
    caps: ClassVar[frozenset[str]] = frozenset()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def known(self) -> Collection[str]:
        """Return the ids of all images on disk; ``ids`` are the ones in use."""
        return self.ids

    def images(self, ids: Sequence[str]) -> Tensor:
        """Load images.

        Parameters
        ----------
        ids : Sequence[str]
            Ids of ``N`` images.

        Returns
        -------
        Tensor
            float32 ``(N, C, H, W)`` in [-1, 1].

        Raises
        ------
        ValueError
            For an unknown id and for a file that cannot be read. The message names the file.
        """
        raise NotImplementedError

    def demand_posterior(self) -> None:
        """Check that :meth:`posterior` can be called.

        Raises
        ------
        ValueError
            If the distribution of the images is not known.
        ImportError
            If a package for it is missing.
        """
        raise ValueError(f"the distribution of the images of {self.name} is not known")

    def posterior(
        self, y: NDArray[np.floating], mask: NDArray[np.bool_], sigma: float, label: int | None
    ) -> KnownPosterior:
        """Return the exact posterior of an image, given some of its pixels.

        It is asked for more than once for the same image, in a padded batch for one; an image set
        whose posteriors are dear keeps them.

        Parameters
        ----------
        y : NDArray[float]
            Measurement ``(C, H, W)`` in [-1, 1] units; hidden pixels may have any value.
        mask : NDArray[bool]
            ``(H, W)``; True = observed.
        sigma : float
            Standard deviation of the Gaussian noise in ``y``.
        label : int or None
            The class of the image; None if it is not known.

        Raises
        ------
        ValueError
            If the distribution of the images is not known, it has no such image, or the posterior
            is too large to be enumerated.
        ImportError
            If a package for it is missing.
        """
        raise ValueError(f"the distribution of the images of {self.name} is not known")

    def labels(self, ids: Sequence[str]) -> Tensor | None:
        """Return the class labels of images.

        Parameters
        ----------
        ids : Sequence[str]
            Ids of ``N`` images.

        Returns
        -------
        Tensor or None
            int64 ``(N,)``, from 0 to ``num_classes - 1``; None for a set without labels.

        Raises
        ------
        ValueError
            If the label of an image is missing or out of range.
        """
        return None

    def content(self, ids: Sequence[str]) -> list[str]:
        """Hash images as they are stored, with their labels.

        The default hashes the decoded pixels. A set of large files hashes the bytes of the files,
        which is much faster.

        Parameters
        ----------
        ids : Sequence[str]
            Ids of ``N`` images.

        Returns
        -------
        list[str]
            ``N`` hashes, which do not depend on where the files lie.
        """
        hashes: list[str] = []
        for start in range(0, len(ids), _AT_ONCE):
            some = ids[start : start + _AT_ONCE]
            labels = self.labels(some)
            words = [""] * len(some) if labels is None else [str(k) for k in labels.tolist()]
            pixels = self.images(some).cpu().contiguous().numpy()
            hashes += [
                content_hash(str(image.shape), image.tobytes(), word)
                for image, word in zip(pixels, words, strict=True)
            ]
        return hashes

    def check(self, ids: Sequence[str]) -> list[str]:
        """Find images that cannot be read.

        The benchmark calls it before a run. It reads the files but computes no more than necessary.

        Parameters
        ----------
        ids : Sequence[str]
            Ids of the images to check.

        Returns
        -------
        list[str]
            One line for every unreadable image, which names its file; empty if all images can be
            read.
        """
        return []

    def frame(self, image: str) -> Frame | None:
        """Tell how an image was made of a photograph.

        Parameters
        ----------
        image : str
            Id of the image.

        Returns
        -------
        Frame or None
            None if the image was not made of a larger photograph, or if that cannot be read.
        """
        return None

    def notes(self) -> list[str]:
        """Return remarks about the files for the user, for example which files were left out."""
        return []
