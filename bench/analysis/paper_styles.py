"""The measures of a page of a paper, and the widths of LaTeX text.

Widths are those of Computer Modern, the font of LaTeX's own classes. Times, which most conferences
ask for, is narrower, so that a table fits in both.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import matplotlib as mpl
from matplotlib.ft2font import FT2Font

from posterior_bench.bench.core.errors import unknown

POINTS = 72.27
"""TeX's points in an inch."""


@dataclass(frozen=True)
class PaperStyle:
    """The measures of a page, in TeX's points.

    Parameters
    ----------
    column : float
        The width of a column.
    page : float
        The width of the text; that of the column where there is one column.
    height : float
        The height of the text.
    """

    column: float
    page: float
    height: float

    def width(self, kind: str) -> float:
        """Return the width of a ``column`` or a ``page``."""
        return {"column": self.column, "page": self.page}[kind]

    def environment(self, kind: str, name: str) -> str:
        """Return the float that is so wide: ``table*`` spans the columns of a page."""
        return f"{name}*" if kind == "page" and self.page > self.column else name


def _inches(column: float, page: float, height: float) -> PaperStyle:
    return PaperStyle(column * POINTS, page * POINTS, height * POINTS)


STYLES = {
    "neurips": _inches(5.5, 5.5, 9.0),
    "iclr": _inches(5.5, 5.5, 9.0),
    "icml": _inches(3.25, 6.75, 9.0),
    "cvpr": _inches(3.28125, 6.875, 8.875),
    "article": PaperStyle(345.0, 345.0, 550.0),
}
"""Text areas by their style files; ``article`` is LaTeX's own class at 10 points."""

WIDTHS = ("column", "page")


def paper_style(name: str) -> PaperStyle:
    """Return a style by its name.

    Raises
    ------
    UserError
        If there is no such style.
    """
    if name not in STYLES:
        raise unknown("style", name, STYLES)
    return STYLES[name]


def text_width(text: str, size: int, bold: bool = False) -> float:
    """Return the width of a line of text in points, set in a size of ``size`` points."""
    width = sum(map(_advance, text)) * size / 10 * _OPTICAL.get(size, 1.0)
    return width * (_BOLD if bold else 1.0)


_OPTICAL = {9: 1.03, 8: 1.07, 7: 1.14, 6: 1.23, 5: 1.37}
"""Small sizes of Computer Modern are wider than the one of 10 points scaled down."""

_BOLD = 1.16


@cache
def _advance(character: str) -> float:
    """Return the width of a letter at 10 points; that of a wide one if the font lacks it."""
    font = _font()
    known = ord(character) in font.get_charmap()
    # 16 binary places; 72.27 TeX points are 72 of the font's
    return font.load_char(ord(character if known else "M")).linearHoriAdvance / 65536 * POINTS / 72


@cache
def _font() -> FT2Font:
    font = FT2Font(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / "cmr10.ttf"))
    font.set_size(10, 72)
    return font
