"""The report of a study: ``report.html``, one file that opens from disk and asks nothing of a
network.

It holds the leaderboard, pictures, figures, cards, failures and where all of it came from.
Everything is computed from the rows, and from the data that was measured where it can still be
read. How many pictures are embedded is bounded: of every measurement the first :data:`IMAGES`
images with up to :data:`DRAWS` draws of every solver, fewer images where that would come to more
than :data:`PICTURES`; and the best, the median and the worst image of every solver by up to
:data:`METRICS` metrics.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import shlex
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from posterior_bench.bench.analysis import (
    figures,
    leaderboard,
    tables,
)
from posterior_bench.bench.analysis.cell_records import read_cells
from posterior_bench.bench.analysis.columns import span, to_csv
from posterior_bench.bench.analysis.study_summary import image_means
from posterior_bench.bench.config.build import arguments, target
from posterior_bench.bench.config.catalog import options
from posterior_bench.bench.config.plugins import admit_typed
from posterior_bench.bench.config.settings import SETTINGS
from posterior_bench.bench.core.errors import UserError, unknown
from posterior_bench.bench.pages.thumbnails import (
    Floats,
    Pictures,
    Pixels,
    Scene,
    data_uri,
    heat,
    ramp,
    spread,
    stored,
)
from posterior_bench.bench.store import truth
from posterior_bench.bench.store.atomic import write_atomic
from posterior_bench.bench.store.read_study import read_study
from posterior_bench.bench.store.row_store import RowStore
from posterior_bench.bench.store.schema import TRACE
from posterior_bench.bench.store.shards import CorruptShard
from posterior_bench.bench.store.study_files import read_cell, study_settings
from posterior_bench.bench.store.trace import Trace, unpacked

IMAGES, DRAWS, PICTURES, METRICS = 8, 10, 2000, 3
STEPS = 12
"""Pictures of a fit, at most."""

COVERED = 2000
"""Images whose masks are drawn again for the plot against mask coverage, at most."""

GIVEN = ("images", "metric", "extract")
USAGE = (
    "bench report STUDY [images=N] [metric=NAME] [extract=DIR] [plugins=[NAME]] [trust_file=true]"
)
PERCEPTUAL = ("lpips", "stlpips", "dists")
COSTS = {
    "passes": "forward + backward passes of the network per draw",
    "forward": "forward passes of the network per draw (NFE)",
    "backward": "backward passes of the network per draw",
    "decodings": "of the autoencoder, per draw; no passes",
    "s / draw": "seconds per draw, a fit shared by its draws",
    "peak MiB": "largest memory of any row",
}
"""Headings of what a draw costs, and what they mean."""

CASES = ("best", "median", "worst")
ASSETS = Path(__file__).parent / "assets" / "report"

_WORDS = re.compile(r" (?=[\w.]+=)")


@dataclass(frozen=True)
class CellFile:
    """A line of the leaderboard with what its cell's ``config.yaml`` says."""

    name: str
    label: str
    identity: Mapping[str, Any]
    config: Mapping[str, Any]
    chunks: Mapping[str, Sequence[str]]
    cards: Mapping[str, Mapping[str, Any]]
    folder: Path

    @property
    def ids(self) -> list[str]:
        """Every planned image in its order."""
        return list(
            dict.fromkeys(str(image) for images in self.chunks.values() for image in images)
        )

    def pngs(self, wanted: Iterable[str]) -> dict[str, dict[int, bytes]]:
        """Stored pictures by image and draw; only chunks that hold wanted images are read, damaged
        ones are left.
        """
        found: dict[str, dict[int, bytes]] = {image: {} for image in wanted}
        for rows in self._stored(found.keys()):
            for image, draw, png in rows[["image_id", "draw", "png"]].itertuples(index=False):
                if image in found and isinstance(png, bytes):
                    found[image][int(draw)] = png
        return found

    def traces(self, wanted: Collection[str]) -> dict[str, Trace]:
        """How the fits of these images went, of those whose rows tell it."""
        found: dict[str, Trace] = {}
        for rows in self._stored(wanted):
            for image, data in (
                rows[["image_id", TRACE]].itertuples(index=False) if TRACE in rows else ()
            ):
                if image in wanted and isinstance(data, bytes):
                    found[image] = unpacked(data)
        return {image: found[image] for image in wanted if image in found}

    def _stored(self, wanted: Collection[str]) -> Iterator[pd.DataFrame]:
        """The rows of every chunk that holds a wanted image."""
        store, wanted = RowStore(self.folder), frozenset(wanted)
        for chunk, images in self.chunks.items():
            if not wanted.isdisjoint(images):
                with suppress(FileNotFoundError, CorruptShard):
                    yield store.stored(chunk)[1]


@dataclass(frozen=True)
class Group:
    """Cells that saw the same measurements."""

    name: str
    cells: Sequence[CellFile]
    lines: pd.DataFrame

    @property
    def scene(self) -> Scene:
        return Scene(self.cells[0].config)

    @property
    def ids(self) -> list[str]:
        return self.cells[0].ids


@dataclass(frozen=True)
class Study:
    """Everything a report is made of; ``rows`` are those of images, without pictures and
    features.
    """

    folder: Path
    board: pd.DataFrame
    rows: pd.DataFrame
    groups: Sequence[Group]
    metrics: Sequence[str]
    """Metrics that have a direction and a value of every image, the headlines first."""

    @property
    def cells(self) -> list[CellFile]:
        return [cell for group in self.groups for cell in group.cells]

    @classmethod
    def read(cls, folder: Path, board: pd.DataFrame) -> Study:
        recorded = read_cells(folder)
        sets = {name for cell in recorded for name in cell.sets}
        cards = board.attrs["metrics"]
        valued = [m for m in cards if m not in sets and board[f"{m}_n"].sum() > 0]
        rows = read_study(folder, ["status", "message", "device", "truth", *valued])
        for cell in recorded:
            rows.loc[rows["cell"] == cell.name, [m for m in valued if m in cell.stale]] = np.nan
        directed = [m for m in valued if cards[m]["direction"] != "none"]
        heads = [m for m in tables.headlines(cards) if m in directed]
        groups = [
            Group(
                " · ".join(map(str, (*names[:3], f"{names[3]} images", f"seed {names[4]}"))),
                cells,
                lines,
            )
            for names, lines in board.groupby(tables.GROUP, sort=False)
            if (cells := [_cell(folder, line) for line in lines.to_dict("records")])
        ]
        return cls(folder, board, rows, groups, [*heads, *(m for m in directed if m not in heads)])

    def means(self) -> pd.DataFrame:
        """Values of images, draws averaged, by cell and image."""
        return image_means(self.rows[self.rows["status"] == "ok"], self.metrics)

    def main_metric(self) -> str | None:
        """The perceptual metric, or the first one."""
        perceptual = [m for m in self.metrics if m.partition("_")[0] in PERCEPTUAL]
        return next(iter([*perceptual, *self.metrics]), None)


def report(given: Sequence[str]) -> list[Path]:
    """``bench report``: the files written. Raises UserError for a bad setting and a folder without
    cells.
    """
    given = admit_typed(given)
    if not given or "=" in given[0]:
        raise UserError(f"'report' takes a study folder first: {USAGE}")
    settings = dict(argument.partition("=")[::2] for argument in given[1:])
    for key in settings:
        if key not in GIVEN:
            raise unknown("setting of report", key, GIVEN)
    images = settings.get("images")
    if images is not None and not (images.isdigit() and int(images) > 0):
        raise UserError(f"images={images}: give a whole number of at least 1")
    try:
        board = leaderboard.build(given[0])
    except ValueError as error:
        raise UserError(str(error)) from None
    folder = Path(settings["extract"]) if settings.get("extract") else None
    return write(
        Path(given[0]), board, int(images) if images else None, settings.get("metric"), folder
    )


def write(
    study: Path,
    board: pd.DataFrame,
    images: int | None = None,
    metric: str | None = None,
    extract: Path | None = None,
) -> list[Path]:
    """Write ``report.html`` and the Pareto figure ``pareto.svg`` and ``.png``; the report's path
    comes first.

    ``board`` is the leaderboard, ``images`` how many of every measurement are shown (all draws
    asked for then count for nothing), ``metric`` what costs and coverage are plotted against, and
    ``extract`` a folder for whole pictures, which the report then links to. Raises UserError for a
    metric without values of images.
    """
    material = Study.read(study, board)
    if metric is not None and metric not in material.metrics:
        raise unknown("metric", metric, material.metrics)
    metric = metric or material.main_metric()
    full = _extracted(material, extract) if extract else {}
    pictures, scenes, fits = Pictures(), [], []
    means, looks = material.means(), figures.looks_of(board)
    shown = images or _shown(material.groups)
    for group in material.groups:
        scenes.append(_scene(group, material, means, shown, pictures, full))
        fits.append(_fits(group, shown, pictures, looks))
        scenes[-1]["fits"] = fits[-1].pop("strips")
    plots = _plots(material, means, metric) if metric else []
    page = _page(
        study=_name(study),
        board=_table(material),
        notes=[tables.RANKING, *board.attrs["notes"]],
        plots=plots,
        fits=fits if any(fit["losses"] for fit in fits) else [],
        metric=board.attrs["metrics"][metric]["title"] if metric else "",
        images=span(board["images"]),
        draws=span(board["draws"]),
        scenes=[group.name for group in material.groups],
        data={"pictures": pictures.items, "scenes": scenes, "ramp": ramp()},
        rule=_rule(shown, pictures.left_out),
        failures=_failures(material),
        metric_cards=_metric_cards(material.cells),
        solver_cards=_solver_cards(material.cells),
        provenance=_provenance(material),
        lines=[
            {"cell": c.name, "label": c.label, "command": command(c.identity)}
            for c in material.cells
        ],
    )
    write_atomic(study / "report.html", page.encode())
    return [study / "report.html", *(_pareto(study, board, metric) if metric else [])]


def _page(**context: object) -> str:
    """The file; every string of the context is escaped."""
    jinja = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return jinja.get_template("report.html").render(**context)


def _name(study: Path) -> str:
    """The study's name; that of its folder where no ``study=`` was chosen, because then every name
    is ``default``.
    """
    settings = study_settings(study).get("study", {})
    name = str(settings.get("name") or "default")
    return study.resolve().name if name == "default" else name


def _cell(folder: Path, line: Mapping[Hashable, Any]) -> CellFile:
    cell = folder / "cells" / str(line["cell"])
    recorded = read_cell(cell / "config.yaml")
    return CellFile(
        name=str(line["cell"]),
        label=str(line["solver"]),
        identity=recorded["identity"],
        config=recorded.get("config") or {},
        chunks=recorded["chunks"],
        cards=recorded.get("metrics") or {},
        folder=cell,
    )


def _shown(groups: Sequence[Group]) -> int:
    """How many images of every measurement are embedded."""
    largest = max(
        sum(min(int(c.identity["draws"]), DRAWS) + 1 for c in group.cells) + 2 for group in groups
    )
    return max(1, min(IMAGES, PICTURES // len(groups) // largest))


def _rule(shown: int, left_out: int) -> str:
    """What is embedded and what is not, in words."""
    text = (
        f"Embedded: the first {shown} image{'s' * (shown > 1)} of every measurement with up to "
        f"{DRAWS} draws of every "
        f"solver, and the best, median and worst image of every solver by up to {METRICS} metrics. "
    )
    if left_out:
        text += f"{left_out} more pictures did not fit. "
    return (
        text + "More: bench report STUDY images=N. Whole PNG files: bench report STUDY extract=DIR."
    )


# pictures


def _scene(
    group: Group,
    study: Study,
    means: pd.DataFrame,
    shown: int,
    pictures: Pictures,
    full: Mapping[Hashable, str],
) -> dict[str, object]:
    """What the page shows of a measurement: numbers of pictures, and the words beside them."""
    first = group.ids[:shown]
    cases = _cases(group, study, means)
    wanted = list(
        dict.fromkeys([*first, *(case["image"] for lines in cases for case in lines["cases"])])
    )
    originals, note = _originals(group, wanted, study)
    for image in wanted:
        for kind, pixels in zip(
            ("truth", "observed"), originals.get(image, (None, None)), strict=True
        ):
            pictures.add((group.name, image, kind), pixels, full.get((group.name, image, kind), ""))
    statuses = study.rows.set_index(["cell", "image_id", "draw"])["status"]
    columns = [_column(cell, first, cases, pictures, full, statuses) for cell in group.cells]
    largest = _largest([values for column in columns for values in column.pop("spread")])
    for column in columns:
        maps = [heat(values, largest) for values in column.pop("maps")]
        column["std"] = [
            pictures.add((column["cell"], image, "std"), m)
            for image, m in zip(first, maps, strict=True)
        ]
    for lines in cases:
        for case in lines["cases"]:
            case["picture"] = pictures.find((lines["cell"], case["image"], case["draw"]))
    return {
        "name": group.name,
        "note": note,
        "largest": f"{largest:.2g}",
        "images": first,
        "originals": {
            image: [pictures.find((group.name, image, kind)) for kind in ("truth", "observed")]
            for image in wanted
        },
        "solvers": columns,
        "cases": cases,
    }


def _originals(
    group: Group, ids: Sequence[str], study: Study
) -> tuple[dict[str, tuple[Pixels, Pixels | None]], str]:
    """Truth and observation by image; nothing, and why, where the data cannot be read here or are
    others now.
    """
    mine = study.rows[study.rows["cell"].isin([cell.name for cell in group.cells])]
    try:
        return group.scene.pictures(ids, truth.recorded(mine)), ""
    except Exception as error:  # the report of rows from elsewhere must not need their data
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return (
            {},
            f"The originals cannot be read here, so truth and observation are missing: {reason}",
        )


def _column(
    cell: CellFile,
    first: Sequence[str],
    cases: Sequence[Mapping[str, Any]],
    pictures: Pictures,
    full: Mapping[Hashable, str],
    statuses: pd.Series,
) -> dict[str, Any]:
    """The draws of one solver; ``maps`` and ``spread`` are what the maps of all solvers are scaled
    by.
    """
    own = {
        (case["image"], case["draw"])
        for lines in cases
        if lines["cell"] == cell.name
        for case in lines["cases"]
    }
    pngs = cell.pngs([*first, *(image for image, _ in own)])
    draws = int(cell.identity["draws"])
    for image, draw in own:
        if draw in pngs[image]:
            pictures.add(
                (cell.name, image, draw),
                stored(pngs[image][draw]),
                full.get((cell.name, image, draw), ""),
            )
    grid, maps = [], []
    for image in first:
        pixels = {draw: stored(png) for draw, png in pngs[image].items()}
        for draw in range(min(draws, DRAWS)):
            pictures.add(
                (cell.name, image, draw), pixels.get(draw), full.get((cell.name, image, draw), "")
            )
        numbers = [pictures.find((cell.name, image, draw)) for draw in range(min(draws, DRAWS))]
        said = [
            str(statuses.get((cell.name, image, draw), "missing"))
            for draw in range(min(draws, DRAWS))
        ]
        grid.append([{"p": p, "status": status} for p, status in zip(numbers, said, strict=True)])
        maps.append(spread(list(pixels.values())) if len(pixels) == draws else None)
    known = [values for values in maps if values is not None]
    return {"cell": cell.name, "solver": cell.label, "draws": grid, "maps": maps, "spread": known}


def _largest(maps: Sequence[Floats]) -> float:
    """The end of the colour scale: all but the last 0.5 % of pixels fit, so that one pixel does not
    darken all.
    """
    return float(np.quantile(np.concatenate([m.ravel() for m in maps]), 0.995)) if maps else 0.0


def _cases(group: Group, study: Study, means: pd.DataFrame) -> list[dict[str, Any]]:
    """Best, median and worst image of every solver, by metric; with the draw nearest to the image's
    mean.
    """
    cards = study.board.attrs["metrics"]
    ok = study.rows[study.rows["status"] == "ok"]
    lines = []
    for cell in group.cells:
        rows = ok[ok["cell"] == cell.name].set_index(["image_id", "draw"])
        for metric in study.metrics[:METRICS] if len(rows) else ():
            values = means.loc[cell.name, metric].dropna()
            values = values.sort_values(
                ascending=cards[metric]["direction"] == "down", kind="stable"
            )
            if len(values):
                cases = _picked(values, rows[metric].unstack())
                lines.append(
                    {"metric": metric, "cell": cell.name, "solver": cell.label, "cases": cases}
                )
    return lines


def _picked(values: pd.Series, draws: pd.DataFrame) -> list[dict[str, Any]]:
    """The cases among ``values``, best image first; ``draws`` has the values of all draws, a row
    per image.
    """
    places = (0, (len(values) - 1) // 2, len(values) - 1)
    return [
        {
            "case": case,
            "image": str(values.index[place]),
            "value": number(float(values.iloc[place])),
            "draw": _typical(draws.loc[values.index[place]].dropna(), float(values.iloc[place])),
        }
        for case, place in zip(CASES, places, strict=True)
    ]


def _typical(draws: pd.Series, mean: float) -> int:
    """The draw whose value is nearest to the mean; the first where that is infinite."""
    away = (draws - mean).abs().fillna(0.0)
    return int(away.index[int(away.to_numpy().argmin())])


def _fits(group: Group, shown: int, pictures: Pictures, looks: figures.Looks) -> dict[str, Any]:
    """Where traces were kept: the figure of losses, and of every image the pictures its fit went
    through.
    """
    curves, strips = [], []
    for cell in group.cells:
        traces = cell.traces(group.ids[:shown])
        if traces:
            curves.append(
                (cell.label, np.stack([trace.loss for trace in traces.values()]).astype(float))
            )
        for image, trace in traces.items():
            steps = [
                {"after": n, "p": pictures.add((cell.name, image, f"after {n}"), trace.progress[n])}
                for n in _thinned(sorted(trace.progress))
            ]
            strips.append({"solver": cell.label, "image": image, "steps": steps})
    return {"losses": _svg(figures.losses(curves, looks) if curves else None), "strips": strips}


def _thinned(numbers: Sequence[int]) -> list[int]:
    """At most :data:`STEPS` of them, evenly, with the first and the last."""
    places = np.linspace(0, len(numbers) - 1, min(STEPS, len(numbers)))
    return [numbers[round(place)] for place in places]


def number(value: float) -> str:
    """Four significant digits."""
    return "∞" if value == math.inf else f"{value:.4g}"


# tables and figures


def _table(study: Study) -> dict[str, Any]:
    """The leaderboard: its columns, and lines of texts with the values they are sorted by."""
    board, cards = study.board, study.board.attrs["metrics"]
    heads = tables.headlines(cards)
    order = [*heads, *(m for m in cards if m not in heads)]
    varying = [
        name
        for name in ("data", "mask", "operator", "images", "seed", "prior", "draws")
        if _varies(board, name)
    ]
    scene = board.groupby(tables.GROUP, sort=False).ngroup()
    marks = {m: _marks(board, m, cards[m]["direction"]) for m in order}
    lines = [
        {
            "solver": line["solver"],
            "cell": line["cell"],
            "scene": int(scene[i]),
            "where": [str(line[name]) for name in varying],
            "scores": [_score(line, m, marks[m][i]) for m in order],
            "costs": [(tables.significant(v), _sortable(v)) for v in _costs(line)],
            "failed": int(line["failed"]),
            "missing": int(line["missing"]),
        }
        for i, line in board.iterrows()
    ]
    columns = [
        {
            "id": m,
            "title": tables.title(cards[m]),
            "more": m not in heads,
            "best": cards[m]["direction"],
        }
        for m in order
    ]
    missing = bool(board["missing"].any())
    return {
        "varying": varying,
        "columns": columns,
        "costs": COSTS,
        "lines": lines,
        "missing": missing,
        "hidden": len(order) > len(heads),
    }


def _varies(board: pd.DataFrame, name: str) -> bool:
    return int(board[name].nunique()) > 1


def _marks(board: pd.DataFrame, metric: str, direction: str) -> pd.Series:
    """``best``, ``second`` or nothing for every line."""
    parts = [
        tables.ranking(lines, metric, direction)
        for _, lines in board.groupby(tables.GROUP, sort=False)
    ]
    return pd.concat(parts)


def _score(line: pd.Series, metric: str, mark: str) -> dict[str, object]:
    text, ends = tables.interval(line, metric)
    printed, flag = line.get(f"{metric}_paper", ""), line.get(f"{metric}_paper_flag", "")
    return {
        "text": text,
        "ends": ends,
        "mark": mark,
        "value": _sortable(line[metric]),
        "letters": line.get(f"{metric}_rank", ""),
        "paper": f"{printed} ({flag})" if flag else printed,
    }


def _costs(line: pd.Series) -> list[float]:
    """Passes, forward and backward, decodings, seconds, peak memory."""
    seconds = line["seconds_fit"] + line["seconds_sample"]
    return [
        float(v)
        for v in (
            line["passes"],
            line["nfe"],
            line["nge"],
            line["decode"],
            seconds,
            line["peak_mib"],
        )
    ]


def _sortable(value: float) -> str:
    """A number as JavaScript reads it; nothing for what is no number."""
    return (
        ""
        if math.isnan(value)
        else {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, repr(float(value)))
    )


def _plots(study: Study, means: pd.DataFrame, metric: str) -> list[dict[str, str]]:
    """Per measurement: the figures of costs and of coverage as data URIs; nothing where there is
    nothing to draw.
    """
    looks, plots = figures.looks_of(study.board), []
    for group in study.groups:
        lines = group.lines.copy()
        lines.attrs = study.board.attrs
        cost = figures.pareto(lines, metric, looks) if lines[metric].notna().any() else None
        plots.append(
            {"cost": _svg(cost), "coverage": _coverage(group, study, means, metric, looks)}
        )
    return plots


def _svg(figure: Any) -> str:
    return (
        data_uri(figures.render(figure, "svg", transparent=True), "image/svg+xml")
        if figure is not None
        else ""
    )


def _coverage(
    group: Group, study: Study, means: pd.DataFrame, metric: str, looks: figures.Looks
) -> str:
    """The metric of every image against how much of it was hidden."""
    try:
        holes = pd.Series(group.scene.holes(group.ids[:COVERED]), dtype=float)
    except Exception:  # said once already, where the pictures of this measurement would be
        return ""
    if holes.empty:
        return ""
    points = {}
    for cell in group.cells:
        if cell.name in means.index:
            values = means.loc[cell.name, metric].dropna()
            values = values[values.index.isin(holes.index)]
            points[cell.label] = (holes[values.index].to_numpy(float), values.to_numpy(float))
    if not points:
        return ""
    return _svg(
        figures.scatter(
            points, "share of the image that was hidden", figures.title(study.board, metric), looks
        )
    )


def _pareto(study: Path, board: pd.DataFrame, metric: str) -> Iterator[Path]:
    """The figure of all measurements for a paper, as files."""
    if board[metric].isna().all():
        return
    figure = figures.pareto(board, metric)
    for kind in ("svg", "png"):
        write_atomic(study / f"pareto.{kind}", figures.render(figure, kind))
        yield study / f"pareto.{kind}"


# words


def _failures(study: Study) -> list[dict[str, object]]:
    """Rows that are not ok, those with the same solver, status and message together."""
    labels = {cell.name: (cell.label, group.name) for group in study.groups for cell in group.cells}
    failed = study.rows[study.rows["status"] != "ok"].fillna({"message": ""})
    return [
        {
            "solver": labels[str(cell)][0],
            "scene": labels[str(cell)][1],
            "status": status,
            "message": message or "(no message)",
            "count": len(part),
            "example": f"{part['image_id'].iloc[0]}, draw {part['draw'].iloc[0] + 1}",
        }
        for (cell, status, message), part in failed.groupby(
            ["cell", "status", "message"], sort=False
        )
        if cell in labels
    ]


def _metric_cards(cells: Sequence[CellFile]) -> list[dict[str, str]]:
    """The cards of all metrics, empty fields left out."""
    cards: dict[str, dict[str, str]] = {}
    for cell in cells:
        for name, card in cell.cards.items():
            cards.setdefault(
                name, {"id": name, **{k: str(v) for k, v in card.items() if v not in ("", None, 0)}}
            )
    return list(cards.values())


def _solver_cards(cells: Sequence[CellFile]) -> list[dict[str, Any]]:
    """The cards of all solvers with the settings of their first cell; a solver whose code is gone
    has settings only.
    """
    cards: dict[str, dict[str, Any]] = {}
    for cell in cells:
        name = str(cell.identity["solver"])
        if name in cards or not cell.config:
            continue
        node = cell.config["solver"]
        try:
            card = target(node).card
        except (UserError, AttributeError):
            card = None
        said = {
            key: getattr(card, key, None)
            for key in ("title", "paper", "equations", "deviations", "compat")
        }
        cards[name] = {
            "name": name,
            **said,
            "settings": {k: str(v) for k, v in arguments(node).items()},
        }
    return list(cards.values())


def _provenance(study: Study) -> dict[str, Any]:
    """Where the numbers came from, label by label, and the versions of packages."""
    path = study.folder / "environment.json"
    environment = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    board = study.board
    commits = sorted(
        {
            c + (" (dirty)" if d is True else "")
            for c, d in zip(board["commit"], board["dirty"], strict=True)
        }
    )
    ran = study.rows["device"].dropna()
    devices = sorted({*ran[ran != ""]}) or environment.get("devices", [])
    facts = {
        "Commit": ", ".join(filter(None, commits)) or "unknown",
        "Sweep": _sweep(study.folder),
        "Seeds": ", ".join(map(str, sorted(board["seed"].unique()))),
        "Priors": ", ".join(sorted(board["prior"].astype(str).unique())),
        "Hardware": ", ".join([*devices, *filter(None, [environment.get("processor")])]),
        "Threads": str(environment.get("threads", "")),
        "Platform": environment.get("platform", ""),
        "Python": environment.get("python", ""),
        # torch has a version of CUDA on machines without a GPU too
        "CUDA": str(environment.get("cuda") or "") if {*devices} - {"cpu"} else "",
        "Lock file": f"sha256 {environment['lock_sha256']}"
        if environment.get("lock_sha256")
        else "",
    }
    packages = {
        name: version for name, version in environment.get("packages", {}).items() if version
    }
    return {"facts": {k: v for k, v in facts.items() if v}, "packages": packages}


def _sweep(study: Path) -> str:
    """The command of a sweep, from what its launcher recorded; empty for single runs."""
    path = study / "launcher" / "multirun.yaml"
    if not path.exists():
        return ""
    task = yaml.safe_load(path.read_text(encoding="utf-8"))["hydra"]["overrides"]["task"]
    return shlex.join(["python", "-m", "bench", "-m", *map(str, task)])


def command(identity: Mapping[str, Any]) -> str:
    """What runs a cell again, from its names: ``mask`` says ``comod low=0.3`` for ``mask=comod
    mask.low=0.3``.
    """
    words = []
    variant = _WORDS.split(str(identity.get("variant") or ""))
    preset, *changed = variant if "=" not in variant[0] else ["", *variant]
    words.append(f"solver={identity['solver']}")
    words += [f"solver.preset={preset}"] if preset else []
    words += [word if word.partition("=")[0] in SETTINGS else f"solver.{word}" for word in changed]
    for group in ("data", "mask", "operator", "prior"):
        name, *settings = _WORDS.split(str(identity[group]).partition(" [")[0])
        settings = [
            word for word in settings if word.partition("=")[0] not in ("fingerprint", "class")
        ]
        # a network of the reader's own is where they put it
        known = group != "prior" or name in options("prior")
        words += [
            f"{group}={name}" if known else "prior.path=FOLDER",
            *(f"{group}.{word}" for word in settings),
        ]
    words += [
        f"data.images={identity['images']}",
        f"draws={identity['draws']}",
        f"seed={identity['seed']}",
    ]
    return shlex.join(["python", "-m", "bench", *words])


# whole pictures


def _extracted(study: Study, folder: Path) -> dict[Hashable, str]:
    """Write every stored draw, truth and observation as PNG, and ``index.csv``; their addresses by
    picture.
    """
    found: dict[Hashable, str] = {}
    index = []
    for place, group in enumerate(study.groups):
        names = {image: f"{i:05d}-{_safe(image)}" for i, image in enumerate(group.ids)}
        originals, _ = _originals(group, group.ids, study)
        files: dict[tuple[str, str, object], tuple[Path, bytes]] = {}
        for image, pair in originals.items():
            for kind, pixels in zip(("truth", "observed"), pair, strict=True):
                if pixels is not None:
                    path = folder / f"measurement-{place + 1}" / f"{names[image]}_{kind}.png"
                    files[group.name, image, kind] = (path, _png(pixels))
        _save(files, study.folder, found)
        index += [
            [_relative(path, folder), "", group.name, key[1], key[2]]
            for key, (path, _) in files.items()
        ]
        for cell in group.cells:
            files = {
                (cell.name, image, draw): (
                    folder / cell.name / f"{names.get(image, _safe(image))}_{draw}.png",
                    png,
                )
                for image, draws in cell.pngs(cell.ids).items()
                for draw, png in draws.items()
            }
            _save(files, study.folder, found)
            index += [
                [_relative(path, folder), cell.label, group.name, *key[1:]]
                for key, (path, _) in files.items()
            ]
    columns = ["file", "solver", "measurement", "image_id", "draw"]
    write_atomic(folder / "index.csv", to_csv(pd.DataFrame(index, columns=columns)))
    return found


def _save(files: Mapping[Any, tuple[Path, bytes]], study: Path, found: dict[Hashable, str]) -> None:
    for key, (path, png) in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png)
        found[key] = quote(_relative(path, study))


def _relative(path: Path, start: Path) -> str:
    return Path(os.path.relpath(path, start)).as_posix()


def _safe(image: str) -> str:
    """An image id as part of a file name."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", image)[:60]


def _png(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
