"""Image sets: named, ordered, read-only collections of test images."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from posterior_bench.datasets.contents import content_hash
from posterior_bench.datasets.turns import UPRIGHT, turned_plane

_AT_ONCE = 64


@dataclass(frozen=True)
class Frame:
    """What became of a photograph on its way to the image of a set, for masks that were drawn on
    it.

    ``seen`` and ``stored`` are its height and width as a person sees it and as its file holds it;
    they differ where a camera was held upright. ``rows`` and ``columns`` say which pixel of the
    photograph, as seen, every pixel of the image shows. ``turn`` is its EXIF orientation.
    """

    seen: tuple[int, int]
    stored: tuple[int, int]
    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    turn: int = UPRIGHT

    def carry(self, plane: NDArray[Any]) -> NDArray[Any]:
        """Turn, crop and resize a plane of either size as the photograph was, to the nearest
        pixels.
        """
        if plane.shape != self.seen:
            plane = turned_plane(plane, self.turn)
        return plane[self.rows[:, None], self.columns]


class ImageSet:
    """Images float32 ``(C, H, W)`` in [-1, 1] behind stable string ids.

    ``name`` is the data id of the noise streams: it must not depend on where the files lie. ``ids``
    is ordered; ``data.images=K`` takes the first K. ``shape`` is ``(C, H, W)``; ``num_classes`` is
    0 where there are no labels. No setting that is a path enters the hash of a cell, so ``name``
    must differ where other ids are in use, and :meth:`content` where other pictures lie behind
    them.
    """

    name: str
    ids: Sequence[str]
    shape: tuple[int, int, int]
    num_classes: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def known(self) -> Collection[str]:
        """The ids of all images there are, of which ``ids`` are those in use."""
        return self.ids

    def images(self, ids: Sequence[str]) -> Tensor:
        """float32 ``(N, C, H, W)`` in [-1, 1]. An unreadable file raises ValueError with its
        name.
        """
        raise NotImplementedError

    def labels(self, ids: Sequence[str]) -> Tensor | None:
        """int64 ``(N,)``, or None for a set without labels."""
        return None

    def content(self, ids: Sequence[str]) -> list[str]:
        """A hash of every image as it is stored, with its label where there is one; the same
        wherever it lies.

        Here of the pixels. A set of large files hashes their bytes instead, which is much faster
        than decoding them.
        """
        hashes: list[str] = []
        for start in range(0, len(ids), _AT_ONCE):
            some = ids[start : start + _AT_ONCE]
            labels = self.labels(some)
            words = (
                [""] * len(some) if labels is None else [str(label) for label in labels.tolist()]
            )
            pixels = self.images(some).cpu().contiguous().numpy()
            hashes += [
                content_hash(str(image.shape), image.tobytes(), word)
                for image, word in zip(pixels, words, strict=True)
            ]
        return hashes

    def check(self, ids: Sequence[str]) -> list[str]:
        """One line for every one of these images that cannot be read, naming it; empty where all is
        well.

        Meant to be called before a run: it reads the files, but computes no more than it must.
        """
        return []

    def frame(self, image: str) -> Frame | None:
        """How the image was made of a larger photograph; None where it was not, or that cannot be
        read.
        """
        return None

    def notes(self) -> list[str]:
        """What a person should know of the files before a run: which were left out, and which are
        read in part.
        """
        return []
