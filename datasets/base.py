"""Image sets: named, ordered, read-only collections of test images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


class ImageSet:
    """Images float32 ``(C, H, W)`` in [-1, 1] behind stable string ids.

    ``name`` is the data id of the noise streams: it must not depend on where the files lie. ``ids`` is ordered;
    ``data.images=K`` takes the first K. ``shape`` is ``(C, H, W)``; ``num_classes`` is 0 where there are no labels.
    The setting ``root`` stays out of the hash of a cell, so ``name`` must differ where other ids are in use.
    """

    name: str
    ids: Sequence[str]
    shape: tuple[int, int, int]
    num_classes: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    def images(self, ids: Sequence[str]) -> Tensor:
        """float32 ``(N, C, H, W)`` in [-1, 1]. An unreadable file raises ValueError with its name."""
        raise NotImplementedError

    def labels(self, ids: Sequence[str]) -> Tensor | None:
        """int64 ``(N,)``, or None for a set without labels."""
        return None

    def check(self, ids: Sequence[str]) -> list[str]:
        """One line for every one of these images that cannot be read, naming it; empty where all is well.

        Meant to be called before a run: it reads the files, but computes no more than it must.
        """
        return []
