"""Figures of pictures for papers (``bench figure``), as wide as a column or a page.

Every picture is embedded in the PDF with its own pixels. Fonts are embedded as TrueType, as
publishers ask for.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from posterior_bench.bench.analysis.paper_styles import POINTS, WIDTHS, PaperStyle, text_width
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.pages.crops import Crop
from posterior_bench.bench.pages.paper_grid import Grid, GridRow, Tile
from posterior_bench.bench.pages.sheet_colours import FAILED, FAINT, INK
from posterior_bench.bench.store.atomic import write_atomic

GAP, ROW_GAP, LABEL, LEADING = 2.0, 5.0, 10.0, 1.2
"""In points: between pictures, between images, for the label at the left, and of lines."""

SIZE, SMALL = 8, 6
"""Points of the titles and of the words at pictures."""

NARROWEST, COMFORTABLE = 20.0, 42.0
"""Points of a picture: none is narrower, and in a column none is narrower than that if a page may
be used."""

CAPTION = 72.0
"""Points that the caption needs below a figure."""

FRAME = "#d55e00"

DPI = 400


@dataclass(frozen=True)
class Measures:
    """The measures of a figure, in points.

    Parameters
    ----------
    width : float
        Its width.
    tile : float
        The width of a picture.
    left : float
        Where the pictures begin.
    titles : sequence of str
        The titles of the columns, with line breaks.
    """

    width: float
    tile: float
    left: float
    titles: Sequence[str]

    @property
    def top(self) -> float:
        """Return the height of the titles."""
        lines = max(title.count("\n") + 1 for title in self.titles)
        return lines * SIZE * LEADING + 2

    def row(self, row: GridRow) -> float:
        """Return the height of an image, with the space below it."""
        height = self.picture(row) + ROW_GAP
        height += self.tile + GAP if row.crop else 0.0
        return height + (SMALL * LEADING if _captioned(row) else 0.0)

    def picture(self, row: GridRow) -> float:
        """Return the height of its pictures."""
        return self.tile * row.size[0] / row.size[1]

    def height(self, grid: Grid) -> float:
        """Return the height of the figure."""
        return self.top + sum(map(self.row, grid.rows)) - ROW_GAP


def write(grid: Grid, style: PaperStyle, width: str | None, path: Path) -> tuple[list[Path], str]:
    """Write a figure as PDF and PNG, and return their paths and its width, ``column`` or ``page``.

    Parameters
    ----------
    grid : Grid
        The pictures.
    style : PaperStyle
        The page.
    width : str or None
        ``column`` or ``page``; None for a column if its pictures are large enough.
    path : Path
        The files without their ending.

    Raises
    ------
    UserError
        If the pictures do not fit.
    """
    kind, measures = fitted(grid, style, width)
    paths = []
    for ending in ("pdf", "png"):
        paths.append(path.with_name(f"{path.name}.{ending}"))
        write_atomic(paths[-1], render(grid, measures, ending))
    return paths, kind


def fitted(grid: Grid, style: PaperStyle, width: str | None) -> tuple[str, Measures]:
    """Return the width of a figure and its measures.

    Raises
    ------
    UserError
        If the pictures do not fit.
    """
    kinds = WIDTHS if width is None else (width,)
    several = [(kind, _measures(grid, style.width(kind))) for kind in kinds]
    kind, measures = next((one for one in several if one[1].tile >= COMFORTABLE), several[-1])
    if measures.tile < NARROWEST:
        raise UserError(
            f"{len(grid.titles) - 2} solvers do not fit: a picture would be {measures.tile:.0f} pt "
            f"wide, and {NARROWEST:.0f} pt are the least; name fewer solvers=[...], or width=page"
        )
    height, room = measures.height(grid), style.height - CAPTION
    if height > room:
        raise UserError(
            f"{len(grid.rows)} images do not fit: they are {height:.0f} pt high, and a page has "
            f"{room:.0f} pt beside the caption; name fewer images=[...], or choose cells with "
            "mask=, data= and the like"
        )
    return kind, measures


def _measures(grid: Grid, width: float) -> Measures:
    left = LABEL if any(row.label for row in grid.rows) else 0.0
    columns = len(grid.titles)
    tile = (width - left - GAP * (columns - 1)) / columns
    return Measures(width, tile, left, [_broken(title, tile) for title in grid.titles])


def _broken(title: str, width: float) -> str:
    """Return a title broken into lines that fit, at blanks and hyphens."""
    lines = [""]
    for part in title.replace("-", "-\0").replace(" ", " \0").split("\0"):
        if lines[-1] and text_width((lines[-1] + part).strip(), SIZE) > width + GAP:
            lines.append("")
        lines[-1] += part
    return "\n".join(line.strip() for line in lines)


def render(grid: Grid, measures: Measures, kind: str) -> bytes:
    """Return the bytes of the figure; the same grid gives the same bytes."""
    height = measures.height(grid)
    with mpl.rc_context(
        {"font.family": "STIXGeneral", "image.composite_image": False, "pdf.fonttype": 42}
    ):
        figure = Figure(figsize=(measures.width / POINTS, height / POINTS))
        FigureCanvasAgg(figure)
        page = _Page(figure, measures.width, height, "none" if kind == "pdf" else "auto")
        for i, title in enumerate(measures.titles):
            x = measures.left + i * (measures.tile + GAP) + measures.tile / 2
            page.words(x, measures.top - 3, title, SIZE, INK, "bottom")
        top = measures.top
        for row in grid.rows:
            _draw_row(page, row, measures, top)
            top += measures.row(row)
        return _saved(figure, grid, kind)


def _saved(figure: Figure, grid: Grid, kind: str) -> bytes:
    buffer = io.BytesIO()
    facts: dict[str, str | None] = {"Software": None, "Description": grid.caption}
    if kind == "pdf":
        facts = {"CreationDate": None, "Producer": None, "Creator": None, "Subject": grid.caption}
    figure.savefig(buffer, format=kind, dpi=DPI, metadata=facts)
    return buffer.getvalue()


@dataclass(frozen=True)
class _Page:
    """A figure whose places are points from its upper left corner."""

    figure: Figure
    width: float
    height: float
    interpolation: str

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        """Return axes without ticks for a picture."""
        bottom = 1 - (y + height) / self.height
        panel = self.figure.add_axes(
            (x / self.width, bottom, width / self.width, height / self.height)
        )
        panel.set_axis_off()
        return panel

    def words(self, x: float, y: float, text: str, size: float, colour: str, side: str) -> None:
        """Write words that stand centred above (``bottom``) or below (``top``) a place."""
        self.figure.text(
            x / self.width,
            1 - y / self.height,
            text,
            fontsize=size,
            color=colour,
            ha="center",
            va=side,
            linespacing=1.0,
            parse_math=False,
        )

    def picture(self, panel: Axes, tile: Tile) -> None:
        """Fill axes with a picture; a grey field with words in its place."""
        if tile.pixels is None:
            panel.add_patch(Rectangle((0, 0), 1, 1, color=FAILED, transform=panel.transAxes))
            panel.text(
                0.5,
                0.5,
                tile.words,
                fontsize=SMALL,
                color=FAINT,
                ha="center",
                va="center",
                transform=panel.transAxes,
                parse_math=False,
            )
            return
        pixels = np.atleast_3d(tile.pixels)
        shown = np.broadcast_to(pixels, (*pixels.shape[:2], 3))
        panel.imshow(
            shown, aspect="auto", interpolation=self.interpolation, extent=(0, 1, 0, 1), zorder=1
        )


def _draw_row(page: _Page, row: GridRow, measures: Measures, top: float) -> None:
    tile, height = measures.tile, measures.picture(row)
    below = top + height + (GAP + tile if row.crop else 0.0)
    if row.label:
        page.figure.text(
            SIZE / 2 / page.width,
            1 - (top + below) / 2 / page.height,
            row.label,
            fontsize=SIZE - 1,
            color=INK,
            rotation=90,
            ha="center",
            va="center",
            parse_math=False,
        )
    for i, each in enumerate(row.tiles):
        x = measures.left + i * (tile + GAP)
        panel = page.axes(x, top, tile, height)
        page.picture(panel, each)
        if row.crop and each.pixels is not None:
            _frame(panel, row.crop, row.size)
            zoom = page.axes(x, top + height + GAP, tile, tile)
            page.picture(zoom, Tile(row.crop.of(each.pixels, *row.size)))
            _outline(zoom, (0, 0), 1, 1, 1.2)
        if each.pixels is not None and each.words:
            page.words(x + tile / 2, below + 1, each.words, SMALL, INK, "top")


def _frame(panel: Axes, crop: Crop, size: tuple[int, int]) -> None:
    """Outline the window of a picture of ``size`` (height, width)."""
    height, width = size
    place = (crop.x / width, 1 - (crop.y + crop.side) / height)
    _outline(panel, place, crop.side / width, crop.side / height, 0.7)


def _outline(
    panel: Axes, place: tuple[float, float], width: float, height: float, line: float
) -> None:
    panel.add_patch(
        Rectangle(
            place,
            width,
            height,
            fill=False,
            edgecolor=FRAME,
            linewidth=line,
            transform=panel.transAxes,
            zorder=2,
            clip_on=True,
        )
    )


def _captioned(row: GridRow) -> bool:
    return any(tile.words for tile in row.tiles if tile.pixels is not None)
