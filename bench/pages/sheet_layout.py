"""The layout of a contact sheet, in pixels."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from posterior_bench.bench.pages.sheet_colours import FAINT, INK, SPREAD
from posterior_bench.bench.pages.sheet_panels import Panel, PanelArrays
from posterior_bench.bench.pages.sheet_tiles import (
    Pixels,
    hatch,
    heat_tile,
    observation_tiles,
    picture_tile,
    rgb8,
)

IMAGES, COLUMNS, DRAWS = 8, 14, 4
"""At most: rows of the whole sheet (two a section at least), columns of draws, draws of one solver.
"""


TILE, LARGEST, WIDTH = 112, 256, 1900


ALONE, SHOWN = 224, 8
"""Of the sheet of one image: the side to which a small picture is enlarged, and the draws of a
solver at most."""


GAP, GROUP_GAP, SECTION_GAP, MARGIN = 4, 20, 30, 24


HEADING, LINE, LABEL, CAPTION, FOOT = 30, 16, 20, 17, 40


@dataclass(frozen=True)
class Tile:
    """A picture with its upper left corner at ``x``, ``y``, from the upper left of the sheet."""

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
class SheetLayout:
    """Everything on the sheet, in pixels."""

    width: int = 0
    height: int = 0
    tiles: list[Tile] = field(default_factory=list)
    words: list[Words] = field(default_factory=list)
    rules: list[tuple[int, int, int]] = field(default_factory=list)

    def place(self, x: int, y: int, pixels: Pixels) -> None:
        """Put a picture on the sheet, and widen the sheet to hold it."""
        self.tiles.append(Tile(x, y, pixels))
        self.width = max(self.width, x + pixels.shape[1] + MARGIN)


def arrange_solvers(panels: Sequence[Panel]) -> SheetLayout:
    """Arrange the sheet of one image; the text that the panels share as ``group`` stands above it.

    Raises
    ------
    ValueError
        If the panels show several images or measurements.
    """
    views = [PanelArrays(panel) for panel in panels]
    if (
        not views
        or any(view.measurement != views[0].measurement for view in views)
        or len(views[0].truth) != 1
    ):
        raise ValueError("the sheet of one image needs panels of one image and one measurement")
    first, layout = views[0], SheetLayout(height=MARGIN)
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
                [picture_tile(view.draws[0, d], height, width)],
            )
        if extra:
            heat = heat_tile(view.spread[0], spread, height, width)
            _column(layout, "std of draws", left + draws * step, [top], [heat])
        for words in view.panel.captions:
            layout.words.append(Words(left, top + height + 13, words, 7.5, FAINT))
        tops.append(top)
        layout.height = top + height + CAPTION + GROUP_GAP // 2
    tops = [*tops, layout.height + LABEL][
        :2
    ]  # under the truth of a single solver there is room as well
    pictures = [
        picture_tile(first.truth[0], height, width),
        observation_tiles(first, height, width)[0],
    ]
    for label, top, picture in zip(("truth", "observed"), tops, pictures, strict=True):
        _column(layout, label, MARGIN, [top], [picture])
    layout.height = max(layout.height, tops[1] + height)
    _arrange_foot(layout, spread)
    return layout


def arrange(panels: Sequence[Panel]) -> SheetLayout:
    """Arrange the contact sheet.

    Few solvers show more draws each, many measurements fewer images each.

    Raises
    ------
    ValueError
        Without panels.
    """
    if not panels:
        raise ValueError("a contact sheet needs at least one panel")
    sections = list(_sections([PanelArrays(panel) for panel in panels]))
    layout = SheetLayout(height=MARGIN)
    mapped = [view for section in sections for view in section if _is_mapped(view, len(section))]
    spread = max((view.largest_spread for view in mapped), default=0.0)
    for number, section in enumerate(sections):
        layout.height += SECTION_GAP if number else 0
        _arrange_section(layout, section, max(2, IMAGES // len(sections)), spread)
    _arrange_foot(layout, spread)
    return layout


def _sections(views: Sequence[PanelArrays]) -> Iterator[list[PanelArrays]]:
    """Yield panels of the same measurements, in their order, as many as fit side by side."""
    groups: dict[tuple[str, bytes, bytes, bytes], list[PanelArrays]] = {}
    for view in views:
        groups.setdefault(view.measurement, []).append(view)
    for group in groups.values():
        for start in range(0, len(group), COLUMNS):
            yield group[start : start + COLUMNS]


def _is_mapped(view: PanelArrays, solvers: int) -> bool:
    """Return whether there are enough draws to measure their spread, and space to show it."""
    return view.draws.shape[1] > 2 and COLUMNS // solvers >= DRAWS


def _arrange_section(
    layout: SheetLayout, section: Sequence[PanelArrays], images: int, spread: float
) -> None:
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

    _column(layout, "truth", MARGIN, rows, [picture_tile(x, height, width) for x in first.truth])
    _column(layout, "observed", MARGIN + step, rows, observation_tiles(first, height, width))
    left = MARGIN + 2 * step - GAP + GROUP_GAP
    for view, shown, extra, span, title in zip(
        section, draws, with_spread, spans, titles, strict=True
    ):
        if lines:
            _title(layout, title, left, layout.height + lines * LINE, span)
        for d in range(shown):
            tiles = [picture_tile(x, height, width) for x in view.draws[:images, d]]
            _column(layout, f"draw {d + 1}", left + d * step, rows, tiles)
        if extra:
            tiles = [heat_tile(x, spread, height, width) for x in view.spread[:images]]
            _column(layout, "std of draws", left + shown * step, rows, tiles)
        for y, words in zip(rows, view.panel.captions, strict=False):
            layout.words.append(Words(left, y + height + 13, words, 7.5, FAINT))
        left += span + GROUP_GAP
    layout.height = rows[-1] + height + caption


def _column(
    layout: SheetLayout, label: str, x: int, rows: Sequence[int], tiles: Sequence[Pixels]
) -> None:
    layout.words.append(
        Words(x + tiles[0].shape[1] / 2, rows[0] - 6, label, 7.5, FAINT, centred=True)
    )
    for y, tile in zip(rows, tiles, strict=False):
        layout.place(x, y, tile)


def _title(layout: SheetLayout, lines: Sequence[str], x: int, bottom: int, width: int) -> None:
    """Put a solver's name above its columns, and a rule as wide as they are."""
    for i, line in enumerate(reversed(lines)):
        layout.words.append(Words(x, bottom - 4 - i * LINE, line, 9, bold=True))
    layout.rules.append((x, bottom + 2, width))


def _arrange_foot(layout: SheetLayout, spread: float) -> None:
    """Explain the hatching and the colours."""
    y, bar = layout.height + 14, 12
    swatch = np.broadcast_to(hatch(bar, 28), (bar, 28, 3))
    layout.place(MARGIN, y, swatch)
    layout.words.append(Words(MARGIN + 34, y + 10, "not observed", 7.5, FAINT))
    if spread > 0:
        x = MARGIN + 140
        ramp = rgb8(SPREAD(np.linspace(0, 1, 96))[None, :, :3])
        layout.place(x, y, np.repeat(ramp, bar, axis=0))
        text = f"standard deviation of all draws, 0 to {spread:.2g} (images are in [-1, 1])"
        layout.words.append(Words(x + 102, y + 10, text, 7.5, FAINT))
        layout.width = max(layout.width, x + 102 + 340)
    layout.height += FOOT


def _tile_size(shape: Sequence[int], columns: int, tile: int = TILE) -> tuple[int, int]:
    """Return the size of a tile.

    Small images are enlarged by a whole factor, so that every pixel is a crisp square; large ones
    are shrunk to fit.
    """
    room = min(max((WIDTH - 2 * MARGIN) // columns - GAP, 64), LARGEST)
    longest = max(shape)
    tile = max(TILE, min(tile, room))
    factor = tile // longest if longest <= tile else min(1.0, room / longest)
    return round(shape[0] * factor), round(shape[1] * factor)


def _wrapped(text: str, width: int) -> list[str]:
    """Return up to three lines that fit, long names broken at underscores.

    A bold letter is about 7.5 pixels wide.
    """
    columns = max(8, int(width / 7.5))
    words = (word if len(word) <= columns else word.replace("_", "_ ") for word in text.split())
    lines = textwrap.wrap(" ".join(words), columns, max_lines=3, placeholder="…")
    return [line.replace("_ ", "_") for line in lines] or [""]
