"""The leaderboard: every cell of a study in one line, built from the shards and the cells' plans
alone.

The mean of a metric is taken over images, draws of an image averaged before. A set metric is one
number for all images, reduced from the features that their rows hold. Only rows whose status is
``ok`` count: a failed row is counted as failed and is never a zero.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rich.table import Table

from posterior_bench.bench.analysis import paper_table, papers, provenance, tables
from posterior_bench.bench.analysis.paired import Family, families, ranks
from posterior_bench.bench.analysis.statistics import (
    FEWEST,
    RESAMPLES,
    Array,
    means_over_images,
    statistic_over_images,
)
from posterior_bench.bench.config.build import build as build_object
from posterior_bench.bench.core import cost
from posterior_bench.bench.store.row_store import BULKY, FIXED, TRUTH, RowStore, write_atomic
from posterior_bench.bench.store.study_files import read_cell

IDENTITY = ["solver", "data", "mask", "operator", "prior", "seed", "images", "draws"]
COSTS = ["nfe", "nge", "passes", "decode", "seconds_fit", "seconds_sample", "peak_mib"]
LONG = [
    *("metric", "value", "lo", "hi", "n", "direction"),
    *("n_failed", "rank", "paper", "paper_flag", "deviation", "n_infinite"),
]
"""Columns of ``leaderboard_long.csv`` after :data:`IDENTITY`."""

NAMED = 6
"""More cells than these are counted in a note instead of named."""

SMALL_SET = 50
"""Distances between sets of features get a warning below so many images."""

EXTRA = ["missing", "cell", "variant", "commit", "dirty", "content", "fingerprint", "mixed"]

Card = Mapping[str, str]
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class CellRecord:
    """What a cell's ``config.yaml`` says; ``planned``: the image ids, each with all draws.

    ``sets``: the configuration of each metric whose rows hold features. ``padded_batch``: the
    network rows that every batch was planned with, 0 where that is not recorded. ``nodes``: the
    configuration of each metric. ``stale``: the metrics that an earlier version of the product
    computed in another way; they are in ``metrics``, and nowhere else. ``sigma``: the noise on the
    measurement.
    """

    name: str
    folder: Path
    identity: Mapping[str, object]
    metrics: Mapping[str, Card]
    sets: Mapping[str, Mapping[str, object]]
    planned: frozenset[str]
    commit: str
    dirty: bool | None
    padded_batch: int = 0
    nodes: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    stale: frozenset[str] = frozenset()
    sigma: float = 0.0

    @property
    def draws(self) -> int:
        return int(str(self.identity["draws"]))


def build(study: Path | str) -> pd.DataFrame:
    """One line per cell, best first within each group of comparable cells
    (:data:`bench.analysis.tables.GROUP`).

    Columns: ``solver data mask operator prior seed images draws failed``, then per metric ``m m_lo
    m_hi``, then costs per draw (means over ok rows; ``peak_mib`` is the largest), then
    :data:`EXTRA` and per metric ``m_n``, the number of images in the mean, and ``m_inf``, the
    number of images whose value is infinite: they are in no mean. ``content`` and ``fingerprint``
    are hashes of the images in use and of the prior, ``mixed`` says in what the rows of a cell
    differ that they should agree in (:mod:`bench.analysis.provenance`). ``failed`` counts rows that are
    there and not ok, ``missing`` planned rows that are not there. Where cells can be compared image
    by image there is ``m_rank``, the letters of :func:`bench.analysis.paired.ranks`, and where the study
    declares a table of a paper ``m_paper`` and ``m_paper_flag``, what is printed there.
    ``frame.attrs`` holds ``metrics`` (id to title, direction, unit) and ``notes``, what must be
    said below a table. Raises ValueError for a folder without cells.
    """
    found = gather(study)
    cells, parts, metrics, images = found.cells, found.parts, found.metrics, found.images
    frame = found.lines.assign(
        solver=found.lines["label"], data=provenance.data_labels(found.lines)
    )
    in_sets = {name for cell in cells for name in cell.sets}
    single = [name for name in metrics if name not in in_sets]
    features = {cell.name: part.features for cell, part in zip(cells, parts, strict=True)}
    scores = [
        _scores(images, cells, single),
        _set_scores(features, cells, [m for m in metrics if m in in_sets]),
    ]
    frame = pd.concat([frame, *scores, pd.DataFrame([part.costs for part in parts])], axis=1)
    frame = _sorted(frame, metrics)[
        [*csv_columns(metrics), *EXTRA, *(f"{m}{end}" for m in metrics for end in ("_n", "_inf"))]
    ]
    named = _ranks(frame, images, {name: metrics[name] for name in single})
    printed = papers.declared(study)
    beside = papers.beside(frame, metrics, printed) if printed else pd.DataFrame(index=frame.index)
    frame = pd.concat([frame, named, beside], axis=1)
    notes = _notes(frame, sum(len(c.planned) * c.draws for c in cells), metrics)
    if in_sets:
        reduced = ", ".join(m for m in metrics if m in in_sets)
        notes.insert(1, f"One value from all images, its interval over images too: {reduced}.")
    notes += _infinite(frame, metrics)
    notes += provenance.notes(frame, [part.origin for part in parts], cells)
    notes += _foreign_presets(cells)
    notes += _unasked(cells)
    notes += _small_batches(parts)
    notes += _small_sets(frame, cells)
    notes += _rank_notes(frame, named)
    if printed:
        notes.append(papers.note(frame, metrics, printed))
    frame.attrs = {"metrics": _Cards(metrics), "notes": notes}
    return frame


@dataclass(frozen=True)
class Gathered:
    """The rows of a study, reduced to what tables and comparisons need.

    ``lines``: a line per cell without its numbers, ``solver`` as configured and ``label`` as shown.
    ``images``: the value of every metric that has one per image, by cell and image, draws averaged.
    """

    cells: Sequence[CellRecord]
    parts: Sequence[_Reduced]
    metrics: Mapping[str, dict[str, str]]
    lines: pd.DataFrame
    images: pd.DataFrame


def gather(study: Path | str) -> Gathered:
    """Read every cell of a study. Raises ValueError for a folder without cells."""
    cells = read_cells(study)
    with ThreadPoolExecutor(
        2
    ) as pool:  # the next cell is read meanwhile; two cells' rows in memory at a time
        parts = list(pool.map(_reduced, cells))
    metrics = _metrics(cells, dict.fromkeys(name for part in parts for name in part.columns))
    lines = pd.DataFrame([part.line for part in parts])
    lines["label"] = labels(lines.assign(data=provenance.data_labels(lines)))
    in_sets = {name for cell in cells for name in cell.sets}
    images = pd.concat(
        {cell.name: part.means for cell, part in zip(cells, parts, strict=True)}, names=["cell"]
    )
    images = images.reindex(columns=[name for name in metrics if name not in in_sets]).astype(float)
    return Gathered(cells, parts, metrics, lines, images)


class _Cards(dict[str, dict[str, str]]):
    """Metrics by id. One object for all that is cut from a frame: pandas copies ``attrs`` deeply at
    every access.
    """

    def __deepcopy__(self, _memo: object) -> _Cards:
        return self


def write(study: Path | str) -> pd.DataFrame:
    """Build and write ``leaderboard.csv .parquet .md .tex`` and ``leaderboard_long.csv``, each
    replaced as a whole.
    """
    frame = build(study)
    parquet = io.BytesIO()
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), parquet)
    metrics = frame.attrs["metrics"]
    counted = [f"{m}_inf" for m in metrics if frame[f"{m}_inf"].any()]
    files = {
        "leaderboard.csv": to_csv(
            frame[[*csv_columns(metrics), *tables.rank_columns(frame), *counted]]
        ),
        "leaderboard_long.csv": to_csv(long(frame)),
        "leaderboard.md": tables.markdown(frame).encode(),
        "leaderboard.tex": tables.latex(frame).encode(),
        "leaderboard.parquet": parquet.getvalue(),
    }
    if printed := papers.declared(study):
        files["paper_table.md"] = paper_table.markdown(frame, study, printed).encode()
    for name, data in files.items():
        write_atomic(Path(study) / name, data)
    return frame


def table(frame: pd.DataFrame, width: int = 160, first: Iterable[str] = ()) -> Table:
    """The leaderboard for a terminal of ``width`` characters; the metrics ``first`` come before the
    others.
    """
    return tables.terminal(frame, width, first=first)


def long(frame: pd.DataFrame) -> pd.DataFrame:
    """Tidy form: one line per cell and metric; ``n`` is the number of images in the mean.

    ``n_failed`` counts the rows of the cell that are not ok, ``rank`` holds the letters, ``paper``
    and ``paper_flag`` what is printed, ``deviation`` how far the value lies from that
    (:func:`bench.analysis.papers.deviation`), and ``n_infinite`` counts the images whose value is infinite
    and not in the mean.
    """
    columns = [*IDENTITY, *LONG]
    lines = [
        [
            *line[IDENTITY],
            m,
            *_scored(line, m),
            card["direction"],
            line["failed"],
            *_compared(line, m),
        ]
        for _, line in frame.iterrows()
        for m, card in frame.attrs["metrics"].items()
    ]
    return pd.DataFrame(lines, columns=columns)


def _scored(line: pd.Series, metric: str) -> list[object]:
    return [line[metric], line[f"{metric}_lo"], line[f"{metric}_hi"], line[f"{metric}_n"]]


def _compared(line: pd.Series, metric: str) -> list[object]:
    """``rank paper paper_flag deviation n_infinite`` of a metric; empty where there is none."""
    rank, printed, flag = (
        line.get(f"{metric}{end}", "") for end in ("_rank", "_paper", "_paper_flag")
    )
    value, lo, hi = (float(line[f"{metric}{end}"]) for end in ("", "_lo", "_hi"))
    return [
        rank,
        printed,
        flag,
        papers.deviation(value, lo, hi, str(printed)),
        line[f"{metric}_inf"],
    ]


def csv_columns(metrics: Iterable[str]) -> list[str]:
    """The fixed columns of ``leaderboard.csv``."""
    return [
        *IDENTITY,
        "failed",
        *(f"{m}{end}" for m in metrics for end in ("", "_lo", "_hi")),
        *COSTS,
    ]


def to_csv(frame: pd.DataFrame) -> bytes:
    """UTF-8 CSV, ``nan`` and ``inf`` spelt out. A text that a spreadsheet would take for a formula
    gets a ``'``.
    """
    safe = frame.apply(lambda column: column.map(_plain_text))
    return safe.to_csv(index=False, na_rep="nan", lineterminator="\n").encode()


def _plain_text(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def read_cells(study: Path | str) -> list[CellRecord]:
    """What every cell of a study says of itself. Raises ValueError for a folder without cells."""
    study = Path(study)
    paths = sorted(study.glob("cells/*/config.yaml"))
    if not paths:
        raise ValueError(
            f"{study} is not a study folder: it has no cells/*/config.yaml; name one with out=DIR"
        )
    environment = study / "environment.json"
    shared = json.loads(environment.read_text(encoding="utf-8")) if environment.exists() else {}
    return provenance.without_stale([_cell(path, shared) for path in paths])


def _cell(path: Path, environment: Mapping[str, object]) -> CellRecord:
    config = read_cell(path)
    origin = {**environment, **(config.get("provenance") or {})}
    cards, nodes = config.get("metrics") or {}, (config.get("config") or {}).get("metrics") or {}
    return CellRecord(
        name=str(config["cell"]),
        folder=path.parent,
        identity=config["identity"],
        metrics=cards,
        sets={
            name: nodes[name]
            for name, card in cards.items()
            if card.get("level") == "set" and name in nodes
        },
        planned=frozenset(map(str, chain.from_iterable(config["chunks"].values()))),
        commit=str(origin.get("commit") or ""),
        dirty=origin.get("dirty"),
        padded_batch=_padded_batch(config),
        nodes={name: node for name, node in nodes.items() if name in cards},
        sigma=float(((config.get("config") or {}).get("operator") or {}).get("sigma") or 0),
    )


def _padded_batch(config: Mapping[str, Any]) -> int:
    draws, batch = (
        int(config["identity"].get("draws") or 0),
        int((config.get("config") or {}).get("batch") or 0),
    )
    return int(config.get("padded") or 0) * min(draws, batch)


def _metrics(cells: Sequence[CellRecord], columns: Iterable[str]) -> dict[str, dict[str, str]]:
    """Every metric of any cell in the order of the configurations, then columns nobody
    described.
    """
    cards: dict[str, Card] = {}
    for cell in sorted(cells, key=lambda cell: -len(cell.metrics)):
        cards = {
            **cards,
            **{name: card for name, card in cell.metrics.items() if name not in cards},
        }
    features = {f"{card.get('features')}{end}" for card in cards.values() for end in ("", TRUTH)}
    cards |= {
        name: {}
        for name in columns
        if name not in FIXED.names and name not in cards and name not in features
    }
    titles = [card.get("title", name) for name, card in cards.items()]
    return {
        name: {
            "title": title if titles.count(title) == 1 else name,
            "direction": card.get("direction", "none"),
            "unit": card.get("unit", ""),
        }
        for (name, card), title in zip(cards.items(), titles, strict=True)
    }


@dataclass(frozen=True)
class _Reduced:
    """What the tables need of a cell's rows.

    ``columns``: all that were read. ``line``: all of its line but the numbers. ``means``: of every
    number over the draws of an image, by image. ``costs``: of the cell. ``features``: the rows of
    set metrics, with their image ids. ``ok`` counts rows with a result, ``smaller`` those of a
    smaller batch than planned. ``origin``: what they were computed with.
    """

    columns: Sequence[str]
    line: Mapping[str, object]
    means: pd.DataFrame
    costs: Mapping[str, float]
    features: pd.DataFrame
    ok: int
    smaller: int
    origin: provenance.Origin


_UNREAD = {*BULKY, *FIXED.names} - {
    *COSTS,
    *provenance.COLUMNS,
    "cell",
    "image_id",
    "draw",
    "status",
    "padded_batch",
}
"""Columns of a row that no table shows; texts are most of the time it takes to read one."""


def _reduced(cell: CellRecord) -> _Reduced:
    rows = RowStore(cell.folder).read(but=_UNREAD)
    ok = rows[rows["status"] == "ok"]
    scored = [name for name in rows.columns if name not in FIXED.names]
    numbers = [name for name in scored if pd.api.types.is_numeric_dtype(rows[name])]
    numbers = [name for name in numbers if name not in cell.stale]
    origin = provenance.origin_of(ok)
    features = (
        ok[["image_id", *(name for name in scored if name not in {*numbers, *cell.stale})]]
        if cell.sets
        else ok.iloc[:0]
    )
    return _Reduced(
        columns=scored,
        line={**_line(cell, rows), "mixed": origin.mixed},
        means=ok.groupby("image_id")[numbers].mean(),
        costs=_costs(ok),
        features=features.copy(),  # a view would keep all rows in memory
        ok=len(ok),
        smaller=int((ok["padded_batch"] < cell.padded_batch).sum()),
        origin=origin,
    )


def _costs(ok: pd.DataFrame) -> dict[str, float]:
    """Means of a cell's rows that are ok, and the largest peak of memory; ``passes`` are no column
    of a row.
    """
    ok = ok.assign(passes=ok["nfe"] + ok["nge"])
    return {name: ok[name].max() if name == "peak_mib" else ok[name].mean() for name in COSTS}


def _line(cell: CellRecord, mine: pd.DataFrame) -> dict[str, object]:
    """All of a cell's line but its numbers."""
    there = mine["draw"].between(0, cell.draws - 1)
    if (
        strange := {*mine["image_id"].unique().to_numpy()} - cell.planned
    ):  # looking up every row's id takes seconds
        there &= ~mine["image_id"].isin(strange)
    return {
        **{key: cell.identity[key] for key in IDENTITY},
        "failed": int((mine["status"] != "ok").sum()),
        "missing": len(cell.planned) * cell.draws - int(there.sum()),
        "cell": cell.name,
        "variant": str(cell.identity.get("variant") or ""),
        "commit": cell.commit,
        "dirty": cell.dirty,
        "content": str(cell.identity.get("content") or ""),
        "fingerprint": str(cell.identity.get("fingerprint") or ""),
    }


def labels(frame: pd.DataFrame) -> pd.Series:
    """Solver names from the columns :data:`IDENTITY`, ``variant`` and ``cell``.

    Cells that would look the same are told apart by what was overridden, then by their hash.
    """
    names = frame["solver"].astype(str)
    for detail in (" " + frame["variant"], " [" + frame["cell"].str[:8] + "]"):
        same = frame.assign(solver=names).duplicated(IDENTITY, keep=False)
        names = names.where(~same, names + detail).str.strip()
    return names


def _scores(
    means: pd.DataFrame, cells: Sequence[CellRecord], metrics: Sequence[str]
) -> pd.DataFrame:
    """Per cell ``m m_lo m_hi m_n m_inf``. Cells of one data set share their resamples of images."""
    images = {cell: part[metrics] for cell, part in means.groupby(level="cell")}
    nothing = pd.DataFrame(columns=metrics, dtype=float)
    scores: dict[Hashable, dict[str, float]] = {cell.name: {} for cell in cells}
    for data in sorted({str(cell.identity["data"]) for cell in cells}):
        keys = [
            (cell.name, m) for cell in cells if str(cell.identity["data"]) == data for m in metrics
        ]
        over = means_over_images(
            [images.get(cell, nothing)[m].to_numpy(float) for cell, m in keys], data
        )
        for i, (cell, m) in enumerate(keys):
            values = {
                m: over.mean[i],
                f"{m}_lo": over.lo[i],
                f"{m}_hi": over.hi[i],
                f"{m}_n": over.n[i],
            }
            scores[cell].update(values | {f"{m}_inf": over.infinite[i]})
    return pd.DataFrame([scores[cell.name] for cell in cells])


def _set_scores(
    rows: Mapping[str, pd.DataFrame], cells: Sequence[CellRecord], metrics: Sequence[str]
) -> pd.DataFrame:
    """Per cell ``m m_lo m_hi m_n m_inf`` of set metrics, on the images that left features behind in
    its ``rows``.
    """
    lines: list[dict[str, float]] = []
    for cell in cells if metrics else ():
        mine, line = rows[cell.name], dict[str, float]()
        for m in metrics:
            features = (
                _set_features(mine, m, cell.metrics[m]) if m in cell.sets else np.empty((0, 0))
            )
            ends = (np.nan, np.nan, np.nan)
            if len(features):
                reduce = build_object(cell.sets[m]).reduce
                if cell.metrics[m].get("resampled", True):
                    ends = statistic_over_images(reduce, features, str(cell.identity["data"]))
                else:
                    ends = (float(reduce(features, np.ones((1, len(features))))[0]), np.nan, np.nan)
            names = (m, f"{m}_lo", f"{m}_hi", f"{m}_n", f"{m}_inf")
            line |= dict(zip(names, (*ends, len(features), 0), strict=True))
        lines.append(line)
    return pd.DataFrame(lines)


def _set_features(rows: pd.DataFrame, metric: str, card: Card) -> Array:
    """The features of a set metric; where its card names a column that others share, of the
    original first.
    """
    column = card.get("features") or metric
    if column not in rows:
        return np.empty((0, 0))
    features = _features(rows[["image_id", column]].dropna())
    if not card.get("features") or not len(features):
        return features
    truth = _features(rows[["image_id", column + TRUTH]].dropna())
    draws = features[:, None] if features.ndim == 2 else features
    return np.concatenate([truth[:, None], draws], axis=1)


def _features(rows: pd.DataFrame) -> Array:
    """Features ``(n, F)`` of one vector per image, ``(n, D, F)`` of one per draw; images without
    any are left out.
    """
    rows = rows[rows.iloc[:, 1].map(len) > 0]
    images = [
        np.stack(list(values)).astype(float)
        for _, values in rows.groupby("image_id")[rows.columns[1]]
    ]
    if not images:
        return np.empty((0, 0))
    features = np.stack(images)
    return features[:, 0] if features.shape[1] == 1 else features


def image_means(ok: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """Means over the draws that have a value, indexed by cell and image; infinite where a draw
    is.
    """
    return ok.groupby(["cell", "image_id"])[[*metrics]].mean()


@dataclass(frozen=True)
class Compared:
    """The cells of a table that are compared by a metric; ``cells`` name the solvers of
    ``family``.
    """

    metric: str
    cells: Sequence[str]
    family: Family


def compared(lines: pd.DataFrame, images: pd.DataFrame, metrics: Iterable[str]) -> list[Compared]:
    """Which cells are compared by which of ``metrics``, and how the comparison ends.

    Cells are compared that agree in :data:`bench.analysis.tables.RANKED` and in their image ids, and have
    all rows, all of them ok and computed with the same code and build (:mod:`bench.analysis.provenance`). By
    a metric, those of them are compared that have a finite value of the same images. Rank letters
    and ``bench compare`` both take their verdicts from here. With fewer than :data:`FEWEST` images
    nothing is compared.
    """
    means = {cell: part.droplevel("cell") for cell, part in images.groupby(level="cell")}
    sound = (lines["failed"] == 0) & (lines["missing"] == 0) & (lines["mixed"] == "")
    complete = lines[sound & lines["cell"].isin([*means])]
    found: list[Compared] = []
    for _, group in complete.groupby(tables.RANKED, sort=False):
        names = group["cell"].to_numpy()
        names = names[_usual([tuple(means[cell].index.to_numpy()) for cell in names])]
        by_size: dict[int, list[tuple[str, list[str], Array]]] = {}
        for m in metrics:
            values = np.stack([means[cell][m].to_numpy(float) for cell in names])
            chosen, there = _comparable(values)
            if len(chosen) > 1 and there.sum() >= FEWEST:
                table = (m, names[chosen].tolist(), values[chosen][:, there])
                by_size.setdefault(int(there.sum()), []).append(table)
        for parts in by_size.values():
            tested = families([values for _, _, values in parts], str(group["content"].iloc[0]))
            found += [
                Compared(m, cells, family)
                for (m, cells, _), family in zip(parts, tested, strict=True)
            ]
    return found


def _comparable(values: Array) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """The rows of ``values`` ``(cells, images)`` that can be compared, and the images that all of
    them have.

    A cell cannot if other images than with most cells have a value (NaN), or if one is infinite.
    """
    covered = ~np.isnan(values)
    rows = np.flatnonzero(covered.any(axis=1) & ~np.isinf(values).any(axis=1))
    rows = rows[_usual([covered[row].tobytes() for row in rows])]
    return rows, np.asarray(covered[rows].all(axis=0))


def _ranks(frame: pd.DataFrame, images: pd.DataFrame, metrics: Mapping[str, Card]) -> pd.DataFrame:
    """Columns ``m_rank`` of those ``metrics`` that have letters somewhere; empty text where a cell
    has none.
    """
    named = pd.DataFrame(
        "", index=frame.index, columns=[f"{m}_rank" for m in metrics], dtype=object
    )
    place = dict(zip(frame["cell"], frame.index, strict=True))
    for table in compared(
        frame, images, [m for m, card in metrics.items() if card["direction"] != "none"]
    ):
        where = [place[cell] for cell in table.cells]
        named.loc[where, f"{table.metric}_rank"] = ranks(
            table.family, metrics[table.metric]["direction"]
        )
    return named[[name for name in named if (named[name] != "").any()]]


def _usual(keys: Sequence[Hashable]) -> NDArray[np.bool_]:
    """Which of ``keys`` are the most frequent one."""
    most = [key for key, _ in Counter(keys).most_common(1)]
    return np.array([key in most for key in keys], dtype=bool)


def _rank_notes(frame: pd.DataFrame, named: pd.DataFrame) -> list[str]:
    """How the letters came about, or why there are none; nothing where nothing could be
    compared.
    """
    notes = []
    if named.shape[1]:
        notes.append(
            "Rank: two solvers that share a letter cannot be told apart at 5 % (sign-flip "
            "permutation test of the "
            "paired differences of the same images, two-sided, adjusted over all pairs of a table "
            "with the same prior "
            "and draws: single-step max-T). No letters where rows failed or are missing, or where "
            "a value is infinite."
        )
    elif frame.groupby(tables.RANKED).size().max() > 1 and frame["images"].min() < FEWEST:
        notes.append(
            f"No rank letters: with fewer than {FEWEST} images no solver can be called better than "
            f"another."
        )
    but_draws = [name for name in tables.RANKED if name != "draws"]
    if (frame.groupby(but_draws)["draws"].nunique() > 1).any():
        notes.append(
            f"Cells with different draws an image ({span(frame['draws'])}) are not ranked against "
            f"each other: a mean "
            "over more draws varies less."
        )
    return notes


def _sorted(frame: pd.DataFrame, metrics: Mapping[str, Card]) -> pd.DataFrame:
    """By group, then by its first headline that has a direction, best first and undefined last,
    then by name.
    """
    frame = frame.sort_values(["solver", "prior", "cell"], kind="stable")
    parts = []
    for _, lines in frame.groupby(tables.GROUP):
        first = tables.leading(metrics, lines)
        if first:
            down = metrics[first]["direction"] == "down"
            lines = lines.sort_values(first, ascending=down, kind="stable", na_position="last")
        parts.append(lines)
    return pd.concat(parts, ignore_index=True)


def _notes(frame: pd.DataFrame, planned: int, metrics: Mapping[str, Card]) -> list[str]:
    """What a reader must know before quoting a number."""
    commits = sorted({commit for commit in frame["commit"] if commit}) or ["unknown"]
    dirty = frame[[value is True for value in frame["dirty"]]]
    failed, missing = int(frame["failed"].sum()), int(frame["missing"].sum())
    counts = frame[
        [name for name in frame if name.endswith("_n") and name[:-2] in metrics]
    ].to_numpy()
    means = (
        f"{span(frame['images'])} images x {span(frame['draws'])} draws. Means over images, "
        f"draws averaged first"
    )
    few = (
        f"No interval where fewer than {FEWEST} images have a value: it would hold the true "
        f"mean "
        f"far too rarely."
    )
    if (counts >= FEWEST).any():
        means += (
            f", with 95 % bootstrap CI (BCa, tails expanded for few images, {RESAMPLES} "
            f"resamples of images)"
        )
    few = few if ((counts > 0) & (counts < FEWEST)).any() else ""
    notes = [
        f"{means}. {few}".strip(),
        f"Costs are per draw, what was spent once per image shared by its draws. {cost.NOTE}",
        f"Prior: {', '.join(sorted({*frame['prior'].astype(str)}))}. Commit: {', '.join(commits)}.",
    ]
    if len(dirty):
        notes.append(
            f"WARNING: {len(dirty)} of {len(frame)} cells ran on a dirty tree: their code is in no "
            f"commit "
            f"({', '.join(dict.fromkeys(dirty['solver']))})."
        )
    notes.append(f"Rows: {planned} planned, {missing} missing, {failed} failed.")
    if failed or missing:
        notes.append(
            f"{tables.INCOMPLETE} Some rows failed or are missing. They are left out of the means, "
            f"never counted as "
            "zero, so the means are over other images or draws, and these cells are not ranked."
        )
    pairs = zip(frame["solver"], frame["variant"], strict=True)
    changed = dict.fromkeys(
        f"{solver}: {variant}" for solver, variant in pairs if variant not in solver
    )
    if changed:
        notes.append(f"Settings other than the shipped ones: {'; '.join(changed)}.")
    return notes


def _infinite(frame: pd.DataFrame, metrics: Mapping[str, Card]) -> list[str]:
    """Which cells have infinite values, in one note; metrics where the same cells have them stand
    together.
    """
    alike: dict[str, list[str]] = {}
    for m in metrics:
        infinite, images = frame[f"{m}_inf"], frame[f"{m}_inf"] + frame[f"{m}_n"]
        if infinite.any():
            lines = zip(frame["solver"], infinite, images, strict=True)
            each = dict.fromkeys(
                f"{solver} {some} of {every}" for solver, some, every in lines if some
            )
            words = ", ".join(each)
            if (infinite == images).all():
                words = "all images of all cells"
            elif len(each) > NAMED:
                words = f"{(infinite > 0).sum()} of {len(frame)} cells, counted in {m}_inf"
            alike.setdefault(words, []).append(m)
    if not alike:
        return []
    parts = "; ".join(f"{', '.join(names)}: {words}" for words, names in alike.items())
    return [
        f"Infinite values, as perfect images have, are in no mean, and a cell is not ranked by a "
        f"metric that has them. "
        f"{parts}."
    ]


def _foreign_presets(cells: Sequence[CellRecord]) -> list[str]:
    """Which solvers ran with a preset that was chosen for other priors; nothing of cells that do
    not say.
    """
    foreign = [
        cell.identity
        for cell in cells
        if cell.identity.get("preset") and not cell.identity.get("preset_from")
    ]
    runs = (
        f"{i['solver']} with {i['preset']} (for {i['preset_for']}) on {i['prior']}" for i in foreign
    )
    listed = "; ".join(dict.fromkeys(runs))
    return (
        [f"Presets chosen for another prior than the one they ran on: {listed}."] if foreign else []
    )


def _unasked(cells: Sequence[CellRecord]) -> list[str]:
    """Which priors were told no class or prompt, or a part of one; nothing of cells that do not
    say.
    """
    asked: dict[str, list[str]] = {}
    for i in (cell.identity for cell in cells if cell.identity.get("asked")):
        asked.setdefault(f"{i['prior']} on {i['data']} with {i['asked']}", []).append(
            str(i["solver"])
        )
    listed = "; ".join(
        f"{what} ({', '.join(dict.fromkeys(solvers))})" for what, solvers in asked.items()
    )
    cut = dict.fromkeys(
        f"{i['cut']} of {i['data']}" for i in (c.identity for c in cells) if i.get("cut")
    )
    lines = [f"Priors asked without a class or prompt of the image: {listed}."] if asked else []
    return lines + (
        [f"Prompts longer than the text encoder reads, cut by it: {'; '.join(cut)}."] if cut else []
    )


def _small_batches(parts: Sequence[_Reduced]) -> list[str]:
    """How many rows were computed in another batch than planned: the padded batch is part of what
    fixes their bits.
    """
    smaller, rows = sum(part.smaller for part in parts), sum(part.ok for part in parts)
    if not smaller:
        return []
    return [
        f"Memory ran out for {smaller} of {rows} rows: they are from smaller batches (column "
        f"padded_batch). "
        "They agree with those of a machine with more memory within rounding, not bit for bit."
    ]


def _small_sets(frame: pd.DataFrame, cells: Sequence[CellRecord]) -> list[str]:
    """Which metrics of sets are biased, or mostly chance, because the sets are small."""
    cards = {m: card for cell in cells for m, card in cell.metrics.items()}
    limits = {m: int(card.get("small") or 0) for m, card in cards.items()}
    low = {
        m: limit
        for m, limit in limits.items()
        if limit and (frame[f"{m}_n"].between(1, limit)).any()
    }
    networks = {
        m
        for cell in cells
        for m, card in cell.metrics.items()
        if m in cell.sets and card.get("features")
    }
    chance = [
        m
        for m in limits
        if m in networks - {*low} and frame[f"{m}_n"].between(1, SMALL_SET - 1).any()
    ]
    notes = [
        f"WARNING: {m} is {cards[m].get('caution') or 'biased upward'} at N <= {limit} images "
        f"(here "
        f"{span(frame[f'{m}_n'])}); compare it at equal N with the same originals only."
        for m, limit in low.items()
    ]
    if chance:
        notes.append(
            f"WARNING: {', '.join(chance)} of {span(frame[f'{chance[0]}_n'])} images: chance moves "
            f"distances between "
            "so small sets by much of their value. Published ones are of thousands of images."
        )
    return notes


def span(values: pd.Series) -> str:
    """One number, or from the least to the greatest."""
    low, high = values.min(), values.max()
    return f"{low}" if low == high else f"{low} to {high}"
