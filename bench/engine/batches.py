"""How the rows of a chunk are put into padded network batches."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class BatchSize:
    """The size of a padded network batch: so many images, with so many draws of each at a time."""

    images: int
    draws: int

    @property
    def rows(self) -> int:
        """How many rows the batch has."""
        return self.images * self.draws

    def halved(self) -> BatchSize:
        """Return half of it: fewer images first, because the draws of an image share its fit."""
        if self.images > 1:
            return replace(self, images=self.images // 2)
        return replace(self, draws=max(1, self.draws // 2))


@dataclass(frozen=True)
class AutoBatch:
    """The rows of a network batch that ``batch=auto`` chose, and in words why so many."""

    batch: int
    words: str


def rows_at_once(draws: int, batch: int) -> BatchSize:
    """Return the size to which every network batch of a cell is filled up."""
    return BatchSize(max(1, batch // draws), min(draws, batch))


def blocks_of(draws: range, size: int) -> list[tuple[list[int], int]]:
    """Cut draw indices into blocks of ``size``.

    Returns
    -------
    list of (list of int, int)
        Each block, the last one filled up by repetition, and how many of its draws count.
    """
    blocks = [list(draws[i : i + size]) for i in range(0, len(draws), size)]
    return [(block + [block[-1]] * (size - len(block)), len(block)) for block in blocks]


def padded(images: list[str], size: int) -> list[str]:
    """Return the images filled up to ``size`` by repeating the last one."""
    return [*images, *[images[-1]] * (size - len(images))]
