"""The contact sheet: what the solvers made of the first images, as one picture.

A row is an image. Its columns are the truth, what was observed of it, then per solver some draws
and a map of where all draws disagree. Solvers that saw the same measurements stand side by side,
others below.
"""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from posterior_bench.bench.store.atomic import write_atomic

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]

PAPER, INK, FAINT, RULE = "#ffffff", "#1b1b1b", "#757575", "#c4c4c4"
HOLE, STRIPE = "#f7e3bd", "#ecc987"
FAILED, CROSS = "#e4e4e4", "#9a9a9a"
SPREAD = colormaps["cividis"]

IMAGES, COLUMNS, DRAWS = 8, 14, 4
"""At most: rows of the whole sheet (two a section at least), columns of draws, draws of one solver.
"""

TILE, LARGEST, WIDTH = 112, 256, 1900
ALONE, SHOWN = 224, 8
"""Of the sheet of one image: the side to which a small picture is enlarged, and the draws of a
solver at most."""
GAP, GROUP_GAP, SECTION_GAP, MARGIN = 4, 20, 30, 24
HEADING, LINE, LABEL, CAPTION, FOOT = 30, 16, 20, 17, 40
DPI = 100


@dataclass(frozen=True)
class Panel:
    """What one cell has to show for some images; arrays or CPU tensors.

    ``truth`` and ``observed`` are ``(N, C, H, W)`` in [-1, 1] with C = 1 or 3 (an observation of
    another size is scaled, one that is no picture is left blank); ``mask`` is bool ``(N, 1, H,
    W)``, True = observed; ``draws`` is ``(N, D, C, H, W)``, NaN where a draw failed; ``captions``
    are a few words below the draws of each image; ``group`` says what was measured and stands once
    above the panels that share it.
    """

    title: str
    truth: ArrayLike
    observed: ArrayLike
    mask: ArrayLike
    draws: ArrayLike
    captions: Sequence[str] = ()
    group: str = ""


@dataclass(frozen=True)
class Tile:
    """A picture with its upper left corner at ``x``, ``y`` in pixels from the upper left of the
    sheet.
    """

    x: int
    y: int
    pixels: Pixels


@dataclass(frozen=True)
class Words:
    """A line of text, its lower left (or centre) at ``x``, ``y``."""

    x: float
    y: float
    text: str
    size: float = 8.5
    colour: str = INK
    bold: bool = False
    centred: bool = False


@dataclass
class Layout:
    """Everything on the sheet, in pixels."""

    width: int = 0
    height: int = 0
    tiles: list[Tile] = field(default_factory=list)
    words: list[Words] = field(default_factory=list)
    rules: list[tuple[int, int, int]] = field(default_factory=list)

    def place(self, x: int, y: int, pixels: Pixels) -> None:
        self.tiles.append(Tile(x, y, pixels))
        self.width = max(self.width, x + pixels.shape[1] + MARGIN)


def contact_sheet(path: Path | str, panels: Sequence[Panel]) -> None:
    """Write the sheet as PNG, replacing ``path`` as a whole. Raises ValueError where shapes
    disagree.
    """
    write_atomic(Path(path), _paint(arrange(panels)))


def solver_sheet(path: Path | str, panels: Sequence[Panel]) -> None:
    """Write the sheet of one image as PNG: truth and observation on the left, a row of draws per
    solver.

    Raises ValueError where shapes disagree, and for panels that show another measurement or several
    images.
    """
    write_atomic(Path(path), _paint(arrange_solvers(panels)))


def arrange_solvers(panels: Sequence[Panel]) -> Layout:
    """Where everything goes on the sheet of one image; what the panels share as ``group`` stands
    above it.
    """
    views = [_Views(panel) for panel in panels]
    if (
        not views
        or any(view.measurement != views[0].measurement for view in views)
        or len(views[0].truth) != 1
    ):
        raise ValueError("the sheet of one image needs panels of one image and one measurement")
    first, layout = views[0], Layout(height=MARGIN)
    mapped = [view.draws.shape[1] > 2 for view in views]
    spread = max(
        (view.largest_spread for view, extra in zip(views, mapped, strict=True) if extra),
        default=0.0,
    )
    shown = [min(SHOWN, view.draws.shape[1]) for view in views]
    columns = 1 + max(draws + extra for draws, extra in zip(shown, mapped, strict=True))
    height, width = _tile_size(first.truth.shape[2:], columns, ALONE)
    step, left = width + GAP, MARGIN + width + GROUP_GAP
    if first.panel.group:
        layout.words.append(Words(MARGIN, layout.height + 14, first.panel.group, 12, bold=True))
        layout.height += HEADING
    tops = []
    for view, draws, extra in zip(views, shown, mapped, strict=True):
        layout.words.append(Words(left, layout.height + 12, view.panel.title, 9, bold=True))
        layout.rules.append((left, layout.height + LINE + 2, (draws + extra) * step - GAP))
        top = layout.height + LINE + 8 + LABEL
        for d in range(draws):
            _column(
                layout,
                f"draw {d + 1}",
                left + d * step,
                [top],
                [_picture(view.draws[0, d], height, width)],
            )
        if extra:
            heat = _heat(view.spread[0], spread, height, width)
            _column(layout, "std of draws", left + draws * step, [top], [heat])
        for words in view.panel.captions:
            layout.words.append(Words(left, top + height + 13, words, 7.5, FAINT))
        tops.append(top)
        layout.height = top + height + CAPTION + GROUP_GAP // 2
    tops = [*tops, layout.height + LABEL][
        :2
    ]  # under the truth of a single solver there is room as well
    pictures = [_picture(first.truth[0], height, width), _observations(first, height, width)[0]]
    for label, top, picture in zip(("truth", "observed"), tops, pictures, strict=True):
        _column(layout, label, MARGIN, [top], [picture])
    layout.height = max(layout.height, tops[1] + height)
    _arrange_foot(layout, spread)
    return layout


def arrange(panels: Sequence[Panel]) -> Layout:
    """Where everything goes. Few solvers show more draws each, many measurements fewer images
    each.
    """
    if not panels:
        raise ValueError("a contact sheet needs at least one panel")
    sections = list(_sections([_Views(panel) for panel in panels]))
    layout = Layout(height=MARGIN)
    mapped = [view for section in sections for view in section if _is_mapped(view, len(section))]
    spread = max((view.largest_spread for view in mapped), default=0.0)
    for number, section in enumerate(sections):
        layout.height += SECTION_GAP if number else 0
        _arrange_section(layout, section, max(2, IMAGES // len(sections)), spread)
    _arrange_foot(layout, spread)
    return layout


class _Views:
    """A panel as arrays, checked."""

    def __init__(self, panel: Panel):
        self.panel = panel
        self.truth, self.draws = (
            np.asarray(panel.truth, np.float32),
            np.asarray(panel.draws, np.float32),
        )
        self.observed, self.mask = (
            np.asarray(panel.observed, np.float32),
            np.asarray(panel.mask, bool),
        )
        n, *image = self.truth.shape
        if len(image) != 3 or image[0] not in (1, 3):
            raise ValueError(
                f"'{panel.title}': truth must be (N, 1 or 3, H, W), not {self.truth.shape}"
            )
        if self.draws.ndim != 5 or self.draws.shape[:1] + self.draws.shape[2:] != self.truth.shape:
            raise ValueError(
                f"'{panel.title}': draws {self.draws.shape} are no draws of truth "
                f"{self.truth.shape}"
            )
        if self.mask.shape != (n, 1, *image[1:]):
            raise ValueError(
                f"'{panel.title}': mask must be {(n, 1, *image[1:])}, not {self.mask.shape}"
            )
        if panel.captions and len(panel.captions) != n:
            raise ValueError(f"'{panel.title}': {len(panel.captions)} captions for {n} images")

    @property
    def measurement(self) -> tuple[str, bytes, bytes, bytes]:
        """Equal for panels that saw the same."""
        return self.panel.group, self.truth.tobytes(), self.observed.tobytes(), self.mask.tobytes()

    @property
    def spread(self) -> Floats:
        """Standard deviation over draws, mean over channels, ``(N, H, W)``; NaN where a draw
        failed.
        """
        return self.draws.std(axis=1, ddof=1).mean(axis=1)

    @property
    def largest_spread(self) -> float:
        """The end of the colour scale: all but the last 0.5 % of pixels fit, so that one pixel does
        not darken all.
        """
        known = self.spread[np.isfinite(self.spread)]
        return float(np.quantile(known, 0.995)) if known.size else 0.0


def _sections(views: Sequence[_Views]) -> Iterator[list[_Views]]:
    """Panels of the same measurements, in their order, no more than fit side by side."""
    groups: dict[tuple[str, bytes, bytes, bytes], list[_Views]] = {}
    for view in views:
        groups.setdefault(view.measurement, []).append(view)
    for group in groups.values():
        for start in range(0, len(group), COLUMNS):
            yield group[start : start + COLUMNS]


def _is_mapped(view: _Views, solvers: int) -> bool:
    """Whether there are draws enough to measure their spread, and room to show it beside them."""
    return view.draws.shape[1] > 2 and COLUMNS // solvers >= DRAWS


def _arrange_section(layout: Layout, section: Sequence[_Views], images: int, spread: float) -> None:
    first = section[0]
    images = min(images, len(first.truth))
    columns = COLUMNS // len(section)
    with_spread = [_is_mapped(view, len(section)) for view in section]
    draws = [
        min(DRAWS, view.draws.shape[1], columns - extra)
        for view, extra in zip(section, with_spread, strict=True)
    ]
    height, width = _tile_size(first.truth.shape[2:], 2 + sum(draws) + sum(with_spread))
    step = width + GAP
    heading = first.panel.group or (first.panel.title if len(section) == 1 else "")
    if heading:
        layout.words.append(Words(MARGIN, layout.height + 14, heading, 12, bold=True))
        layout.height += HEADING
    spans = [(shown + extra) * step - GAP for shown, extra in zip(draws, with_spread, strict=True)]
    titles = [_wrapped(view.panel.title, span) for view, span in zip(section, spans, strict=True)]
    lines = max(map(len, titles)) if first.panel.group or len(section) > 1 else 0
    top = layout.height + lines * LINE + (8 if lines else 0) + LABEL
    caption = CAPTION if any(view.panel.captions for view in section) else 0
    rows = [top + i * (height + GAP + caption) for i in range(images)]

    _column(layout, "truth", MARGIN, rows, [_picture(x, height, width) for x in first.truth])
    _column(layout, "observed", MARGIN + step, rows, _observations(first, height, width))
    left = MARGIN + 2 * step - GAP + GROUP_GAP
    for view, shown, extra, span, title in zip(
        section, draws, with_spread, spans, titles, strict=True
    ):
        if lines:
            _title(layout, title, left, layout.height + lines * LINE, span)
        for d in range(shown):
            tiles = [_picture(x, height, width) for x in view.draws[:images, d]]
            _column(layout, f"draw {d + 1}", left + d * step, rows, tiles)
        if extra:
            tiles = [_heat(x, spread, height, width) for x in view.spread[:images]]
            _column(layout, "std of draws", left + shown * step, rows, tiles)
        for y, words in zip(rows, view.panel.captions, strict=False):
            layout.words.append(Words(left, y + height + 13, words, 7.5, FAINT))
        left += span + GROUP_GAP
    layout.height = rows[-1] + height + caption


def _column(
    layout: Layout, label: str, x: int, rows: Sequence[int], tiles: Sequence[Pixels]
) -> None:
    layout.words.append(
        Words(x + tiles[0].shape[1] / 2, rows[0] - 6, label, 7.5, FAINT, centred=True)
    )
    for y, tile in zip(rows, tiles, strict=False):
        layout.place(x, y, tile)


def _title(layout: Layout, lines: Sequence[str], x: int, bottom: int, width: int) -> None:
    """A solver's name above its columns, and a rule that says how far they reach."""
    for i, line in enumerate(reversed(lines)):
        layout.words.append(Words(x, bottom - 4 - i * LINE, line, 9, bold=True))
    layout.rules.append((x, bottom + 2, width))


def _arrange_foot(layout: Layout, spread: float) -> None:
    """What the hatching and the colours mean."""
    y, bar = layout.height + 14, 12
    swatch = np.broadcast_to(_hatch(bar, 28), (bar, 28, 3))
    layout.place(MARGIN, y, swatch)
    layout.words.append(Words(MARGIN + 34, y + 10, "not observed", 7.5, FAINT))
    if spread > 0:
        x = MARGIN + 140
        ramp = _rgb8(SPREAD(np.linspace(0, 1, 96))[None, :, :3])
        layout.place(x, y, np.repeat(ramp, bar, axis=0))
        text = f"standard deviation of all draws, 0 to {spread:.2g} (images are in [-1, 1])"
        layout.words.append(Words(x + 102, y + 10, text, 7.5, FAINT))
        layout.width = max(layout.width, x + 102 + 340)
    layout.height += FOOT


def _tile_size(shape: Sequence[int], columns: int, tile: int = TILE) -> tuple[int, int]:
    """Small images are enlarged by a whole factor, so that every pixel is a crisp square; large
    ones shrunk to fit.
    """
    room = min(max((WIDTH - 2 * MARGIN) // columns - GAP, 64), LARGEST)
    longest = max(shape)
    tile = max(TILE, min(tile, room))
    factor = tile // longest if longest <= tile else min(1.0, room / longest)
    return round(shape[0] * factor), round(shape[1] * factor)


def _observations(view: _Views, height: int, width: int) -> list[Pixels]:
    """Observations with a hatched hole: no image is striped in this colour, so it cannot be taken
    for content.
    """
    if view.observed.ndim != 4 or view.observed.shape[1] not in (1, 3):
        return [np.full((height, width, 3), _rgb8(to_rgb(FAILED)), np.uint8)] * len(view.truth)
    seen = [
        _scaled(m[0].astype(np.uint8), height, width).astype(bool)[..., None] for m in view.mask
    ]
    pictures = [_picture(y, height, width) for y in view.observed]
    return [
        np.where(m, picture, _hatch(height, width))
        for m, picture in zip(seen, pictures, strict=True)
    ]


def _picture(x: Floats, height: int, width: int) -> Pixels:
    """``(C, H, W)`` in [-1, 1] as RGB of the tile's size; a crossed tile where it is not finite."""
    if not np.isfinite(x).all():
        return _cross(height, width)
    pixels = np.round((np.clip(x, -1, 1) + 1) * 127.5).astype(np.uint8)
    return _scaled(np.broadcast_to(pixels, (3, *x.shape[1:])).transpose(1, 2, 0), height, width)


def _heat(x: Floats, largest: float, height: int, width: int) -> Pixels:
    if not np.isfinite(x).all():
        return _cross(height, width)
    return _scaled(_rgb8(SPREAD(np.clip(x / max(largest, 1e-9), 0, 1))[..., :3]), height, width)


def _scaled(pixels: Pixels, height: int, width: int) -> Pixels:
    """Nearest neighbour upwards, area averages downwards."""
    how = (
        Image.Resampling.BOX
        if height < pixels.shape[0] and pixels.ndim == 3
        else Image.Resampling.NEAREST
    )
    return np.asarray(Image.fromarray(np.ascontiguousarray(pixels)).resize((width, height), how))


def _hatch(height: int, width: int) -> Pixels:
    y, x = np.mgrid[:height, :width]
    return np.where(((x + y) % 8 < 3)[..., None], _rgb8(to_rgb(STRIPE)), _rgb8(to_rgb(HOLE)))


def _cross(height: int, width: int) -> Pixels:
    """A failed draw."""
    y, x = np.mgrid[:height, :width] / np.array([height - 1, width - 1])[:, None, None]
    line = np.minimum(abs(x - y), abs(x + y - 1)) < 0.015
    return np.where(line[..., None], _rgb8(to_rgb(CROSS)), _rgb8(to_rgb(FAILED)))


def _rgb8(colour: ArrayLike) -> Pixels:
    return np.round(np.asarray(colour) * 255).astype(np.uint8)


def _wrapped(text: str, width: int) -> list[str]:
    """Up to three lines that fit, long names broken at underscores; a bold letter is about 7.5
    pixels wide.
    """
    columns = max(8, int(width / 7.5))
    words = (word if len(word) <= columns else word.replace("_", "_ ") for word in text.split())
    lines = textwrap.wrap(" ".join(words), columns, max_lines=3, placeholder="…")
    return [line.replace("_ ", "_") for line in lines] or [""]


def _paint(layout: Layout) -> bytes:
    """PNG bytes, one canvas pixel to one image pixel."""
    canvas = np.full((layout.height, layout.width, 3), _rgb8(to_rgb(PAPER)), np.uint8)
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
