"""The layout of a table of a paper: the size of its letters, its lines and its width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from posterior_bench.bench.analysis.article_blocks import Block, Entry, Key
from posterior_bench.bench.analysis.paper_styles import text_width

SIZES = {9: 5, 8: 4, 7: 3}
"""Sizes of letters in points, and half of the space between columns beside them."""

LEADING = 1.2
"""The height of a line over the size of its letters."""

EMPTY = "--"


@dataclass(frozen=True)
class ArticleTable:
    """A table that is laid out.

    Parameters
    ----------
    blocks : sequence of Block
        The cells.
    side : sequence of str
        The titles of the columns left of the values.
    titles : sequence of str
        The titles of the columns of values.
    size : int
        The size of its letters in points.
    abreast : bool
        Whether the blocks stand side by side, or else one below the other.
    intervals : bool
        Whether intervals are shown.
    """

    blocks: Sequence[Block]
    side: Sequence[str]
    titles: Sequence[str]
    size: int
    abreast: bool
    intervals: bool

    @property
    def gap(self) -> int:
        """Return half of the space between columns, in points."""
        return SIZES[self.size]

    @property
    def small(self) -> int:
        """Return the size of the letters of intervals, in points."""
        return max(6, self.size - 2)

    @cached_property
    def keys(self) -> list[Key]:
        """Return the names at the left of all lines, each once."""
        return list(dict.fromkeys(key for block in self.blocks for key in block.entries))

    @cached_property
    def heads(self) -> list[tuple[str, str]]:
        """Return both lines of every title of a column of values."""
        return [
            _two_lines(title, self._entries_width(i), self.size)
            for i, title in enumerate(self.titles)
        ]

    @property
    def columns(self) -> int:
        """Return the number of columns, with those at the left."""
        return len(self.side) + len(self.titles) * (len(self.blocks) if self.abreast else 1)

    @property
    def width(self) -> float:
        """Return the width in points."""
        sides = [
            max(text_width(text, self.size) for text in (title, *(key[i] for key in self.keys)))
            for i, title in enumerate(self.side)
        ]
        values = [self._value_width(i) for i in range(len(self.titles))]
        headings = [text_width(block.heading, self.size) for block in self.blocks]
        group = sum(values) + 2 * self.gap * (len(values) - 1)
        if self.abreast:
            groups = [max(group, heading) for heading in headings]
            return sum(sides) + sum(groups) + 2 * self.gap * (len(sides) + len(groups) - 1)
        return max(sum(sides) + group + 2 * self.gap * len(sides), *headings)

    @property
    def height(self) -> float:
        """Return the height in points, without the caption."""
        lines = len(self.keys) if self.abreast else sum(len(b.entries) + 1 for b in self.blocks)
        return (lines + 4) * self.size * LEADING

    @cached_property
    def boxes(self) -> list[tuple[float, float]]:
        """Return the widths of the letters and of the intervals of every column of values.

        All lines have boxes of these widths, so that digits stand below each other.
        """
        # LaTeX raises letters in a size of about three quarters
        raised = max(6, round(0.75 * self.size))
        return [
            (
                max(text_width(each.letters + each.flags, raised) for each in column),
                max(text_width(each.interval, self.small) for each in column)
                if self.intervals
                else 0.0,
            )
            for column in map(self._column, range(len(self.titles)))
        ]

    def _value_width(self, column: int) -> float:
        heads = (text_width(line, self.size) for line in self.heads[column])
        return max(*heads, self._entries_width(column))

    def _column(self, column: int) -> list[Entry]:
        return [entries[column] for block in self.blocks for entries in block.entries.values()]

    def _entries_width(self, column: int) -> float:
        letters, interval = self.boxes[column]
        values = (
            text_width(entry.value, self.size, entry.mark == "best")
            for entry in self._column(column)
        )
        return max(values) + letters + (text_width(" ", self.size) + interval if interval else 0.0)


def _two_lines(title: str, width: float, size: int) -> tuple[str, str]:
    """Return a title on two lines, the first one empty where it fits into ``width``."""
    words = title.split()
    if len(words) < 2 or text_width(title, size) <= width:
        return "", title
    splits = [(" ".join(words[:i]), " ".join(words[i:])) for i in range(1, len(words))]
    return min(splits, key=lambda lines: max(text_width(line, size) for line in lines))
