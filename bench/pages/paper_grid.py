"""The pictures of a figure for a paper: truth, observation and solvers, image by image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from posterior_bench.bench.analysis import leaderboard, tables
from posterior_bench.bench.analysis.article_blocks import chosen_cells, full_title
from posterior_bench.bench.analysis.display_names import display_name
from posterior_bench.bench.core.errors import UserError, unknown
from posterior_bench.bench.pages.crops import Crop, hidden_crop
from posterior_bench.bench.pages.report_data import CellFile, Group, ReportData
from posterior_bench.bench.pages.report_pictures import originals_of
from posterior_bench.bench.pages.thumbnails import Pixels, stored_pixels

FIRST = 3
"""Images of every measurement that are shown if none are named."""


@dataclass(frozen=True)
class FigureWish:
    """What a figure of a paper shows.

    Parameters
    ----------
    images : int or sequence of str
        How many of the first images, or which.
    solvers : sequence of str
        Solvers in their order; empty for all, best first.
    draw : int
        Which draw.
    metric : str or None
        The metric whose value stands below every draw.
    crop : Crop or str
        The window that is enlarged; ``auto`` for where most detail is hidden, ``none`` for none.
    where : mapping of str to str
        Columns of the leaderboard and the values that cells must have there.
    """

    images: int | Sequence[str] = FIRST
    solvers: Sequence[str] = ()
    draw: int = 0
    metric: str | None = None
    crop: Crop | str = "auto"
    where: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Tile:
    """A picture of a figure.

    Parameters
    ----------
    pixels : array of uint8 or None
        The picture.
    words : str, default ''
        What stands below it, or in its place.
    """

    pixels: Pixels | None
    words: str = ""


@dataclass(frozen=True)
class GridRow:
    """The pictures of an image.

    Parameters
    ----------
    image : str
        Its id.
    label : str
        The measurement, where the figure shows several.
    size : tuple of int
        Height and width of the truth in pixels.
    tiles : sequence of Tile
        Truth, observation, and a draw of every solver.
    crop : Crop or None
        The window that is enlarged.
    """

    image: str
    label: str
    size: tuple[int, int]
    tiles: Sequence[Tile]
    crop: Crop | None


@dataclass(frozen=True)
class Grid:
    """All pictures of a figure.

    Parameters
    ----------
    titles : sequence of str
        The titles of the columns.
    rows : sequence of GridRow
        The images.
    caption : str
        What is shown, in sentences.
    """

    titles: Sequence[str]
    rows: Sequence[GridRow]
    caption: str


def grid(study: Path, wish: FigureWish) -> Grid:
    """Read the pictures of a figure from a study.

    Raises
    ------
    UserError
        If a solver, image, draw or metric does not exist, or the originals cannot be read here.
    """
    board = leaderboard.build(study)
    lines = chosen_cells(board, wish.solvers, wish.where)
    material = ReportData.read(study, board)
    if wish.metric is not None and wish.metric not in material.metrics:
        raise unknown("metric", wish.metric, material.metrics)
    names = list(dict.fromkeys(lines["solver"]))
    groups = [
        (group, kept)
        for group in material.groups
        if (kept := _cells(group, lines)) and any(name in kept for name in names)
    ]
    _demand_images(wish, [group for group, _ in groups])
    several = _labels([group for group, _ in groups])
    rows = [
        row
        for (group, cells), label in zip(groups, several, strict=True)
        for row in _rows(group, cells, names, label, material, wish)
    ]
    titles = ["Truth", "Observed", *map(display_name, names)]
    return Grid(titles, rows, _caption(lines, rows, wish))


def _cells(group: Group, lines: pd.DataFrame) -> dict[str, CellFile]:
    """Return the chosen cells of a measurement by solver.

    Raises
    ------
    UserError
        If a solver has several.
    """
    chosen = {*lines["cell"]}
    found: dict[str, CellFile] = {}
    for cell in group.cells:
        if cell.name not in chosen:
            continue
        if cell.label in found:
            ways = [
                f"{key}={found[cell.label].identity[key]} or {key}={cell.identity[key]}"
                for key in ("prior", "draws")
                if found[cell.label].identity[key] != cell.identity[key]
            ]
            raise UserError(
                f"several cells of '{cell.label}' saw the same measurements; choose one, such as "
                f"{' and '.join(ways) or 'by its whole name'}"
            )
        found[cell.label] = cell
    return found


def _demand_images(wish: FigureWish, groups: Sequence[Group]) -> None:
    """Raise UserError for an image or a draw that no measurement has."""
    known = dict.fromkeys(image for group in groups for image in group.ids)
    for image in wish.images if not isinstance(wish.images, int) else ():
        if image not in known:
            some = ", ".join([*known][:4])
            raise UserError(f"no image '{image}' in these cells; they have {some} and so on")
    draws = max(int(cell.identity["draws"]) for group in groups for cell in group.cells)
    if wish.draw >= draws:
        raise UserError(f"draw={wish.draw}: these cells have draws 0 to {draws - 1}")


def _labels(groups: Sequence[Group]) -> list[str]:
    """Return what tells every measurement from the others."""
    names = [[str(group.lines.iloc[0][key]) for key in tables.GROUP[:3]] for group in groups]
    told = [i for i in range(3) if len({name[i] for name in names}) > 1]
    return [" · ".join(name[i] for i in told) for name in names]


def _rows(
    group: Group,
    cells: Mapping[str, CellFile],
    names: Sequence[str],
    label: str,
    material: ReportData,
    wish: FigureWish,
) -> list[GridRow]:
    if isinstance(wish.images, int):
        ids = group.ids[: wish.images]
    else:
        ids = [image for image in wish.images if image in group.ids]
    originals, note = originals_of(group, ids, material)
    if note:
        raise UserError(note)
    pngs = {name: cell.pngs(ids) for name, cell in cells.items()}
    rows = material.rows.set_index(["cell", "image_id", "draw"])
    found = []
    for image in ids:
        truth, observed = originals[image]
        height, width = truth.shape[:2]
        tiles = [Tile(truth), Tile(observed, "" if observed is not None else "no picture")]
        for name in names:
            if name not in cells:
                tiles.append(Tile(None, "not run"))
                continue
            png = pngs[name][image].get(wish.draw)
            key = (cells[name].name, image, wish.draw)
            tiles.append(_tile(png, rows.loc[key] if key in rows.index else None, wish.metric))
        crop = _crop(wish, truth, observed, image)
        found.append(GridRow(image, label, (height, width), tiles, crop))
    return found


def _tile(png: bytes | None, row: pd.Series | None, metric: str | None) -> Tile:
    """Return the tile of a draw: its picture and score, or the status of its row."""
    if png is None:
        return Tile(None, "missing" if row is None else str(row["status"]))
    score = "" if row is None or metric is None else tables.number(float(row[metric]), 2)
    return Tile(stored_pixels(png), score)


def _crop(wish: FigureWish, truth: Pixels, observed: Pixels | None, image: str) -> Crop | None:
    if wish.crop == "none":
        return None
    crop = hidden_crop(truth, observed) if isinstance(wish.crop, str) else wish.crop
    if not crop.inside(*truth.shape[:2]):
        raise UserError(
            f"crop={crop.x},{crop.y},{crop.side} leaves the image '{image}', which has "
            f"{truth.shape[1]} x {truth.shape[0]} pixels"
        )
    return crop


def _caption(lines: pd.DataFrame, rows: Sequence[GridRow], wish: FigureWish) -> str:
    """Return the caption: what is shown, and how it was chosen."""
    if isinstance(wish.images, int):
        which = f"the first {wish.images} images" if wish.images > 1 else "the first image"
    else:
        which = f"images {', '.join(dict.fromkeys(row.image for row in rows))}"
    data, seeds, priors = (
        ", ".join(dict.fromkeys(map(str, lines[key]))) for key in ("data", "seed", "prior")
    )
    parts = [
        f"Truth, observation and draw {wish.draw} of every solver, as it was returned; {which} of "
        f"{data}, seed {seeds}, prior {priors}."
    ]
    if wish.crop == "auto":
        parts.append("Below each picture: the window where most detail of the truth is hidden.")
    elif wish.crop != "none":
        parts.append("Below each picture: the marked window.")
    if wish.metric:
        parts.append(f"Numbers: {full_title(lines.attrs['metrics'][wish.metric])}.")
    versions = ", ".join(lines.attrs.get("versions") or ["of unknown version"])
    return " ".join([*parts, f"posterior-bench {versions}."])
