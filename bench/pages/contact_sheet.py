"""The contact sheet: the results of the solvers on the first images, as one picture.

A row is an image. Its columns are the truth, the observation, then per solver some draws and a map
of where all draws disagree. Solvers that saw the same measurements stand side by side, others
below.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from posterior_bench.bench.pages.sheet_colours import PAPER, RULE
from posterior_bench.bench.pages.sheet_layout import SheetLayout, arrange, arrange_solvers
from posterior_bench.bench.pages.sheet_panels import Panel
from posterior_bench.bench.pages.sheet_tiles import rgb8
from posterior_bench.bench.store.atomic import write_atomic

DPI = 100


def contact_sheet(path: Path | str, panels: Sequence[Panel]) -> None:
    """Write the sheet as PNG, replacing ``path`` as a whole.

    Raises
    ------
    ValueError
        If shapes disagree.
    """
    write_atomic(Path(path), paint(arrange(panels)))


def solver_sheet(path: Path | str, panels: Sequence[Panel]) -> None:
    """Write the sheet of one image as PNG.

    Truth and observation stand on the left, beside a row of draws per solver.

    Raises
    ------
    ValueError
        If shapes disagree, or if the panels show several images or measurements.
    """
    write_atomic(Path(path), paint(arrange_solvers(panels)))


def paint(layout: SheetLayout) -> bytes:
    """Return the layout as PNG bytes, one canvas pixel to one image pixel."""
    canvas = np.full((layout.height, layout.width, 3), rgb8(to_rgb(PAPER)), np.uint8)
    for tile in layout.tiles:
        height, width, _ = tile.pixels.shape
        canvas[tile.y : tile.y + height, tile.x : tile.x + width] = tile.pixels
    figure = Figure(figsize=(layout.width / DPI, layout.height / DPI), dpi=DPI)
    FigureCanvasAgg(figure)
    figure.figimage(canvas, origin="upper")
    across, down = 1 / layout.width, 1 / layout.height
    for word in layout.words:
        figure.text(
            word.x * across,
            1 - word.y * down,
            word.text,
            fontsize=word.size,
            color=word.colour,
            fontweight="bold" if word.bold else "normal",
            ha="center" if word.centred else "left",
            va="baseline",
            parse_math=False,
        )
    for x, y, width in layout.rules:
        ends = [x * across, (x + width) * across]
        figure.add_artist(Line2D(ends, [1 - y * down] * 2, color=RULE, linewidth=0.8))
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=DPI)
    return sink.getvalue()
