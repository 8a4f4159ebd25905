"""The leaderboard: every cell of a study in one line, built from the shards and the cells' plans alone.

The mean of a metric is taken over images, draws of an image averaged before. A set metric is one number for all
images, reduced from the features that their rows hold. Only rows whose status is ``ok`` count: a failed row is counted
as failed and is never a zero.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rich.table import Table

from bench import paper, paper_table, tables
from bench.build import build as build_object
from bench.paired import FEWEST, ranks
from bench.record import read_yaml
from bench.statistics import RESAMPLES, Array, means_over_images, statistic_over_images
from bench.store import BULKY, FIXED, TRUTH, RowStore, write_atomic

IDENTITY = ["solver", "data", "mask", "operator", "prior", "seed", "images", "draws"]
COSTS = ["nfe", "nge", "decode", "seconds_fit", "seconds_sample", "peak_mib"]
LONG = [
    *("metric", "value", "lo", "hi", "n", "direction"),
    *("n_failed", "rank", "paper", "paper_flag", "deviation"),
]
"""Columns of ``leaderboard_long.csv`` after :data:`IDENTITY`."""

EXTRA = ["missing", "cell", "variant", "commit", "dirty"]

Card = Mapping[str, str]
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True)
class CellRecord:
    """What a cell's ``config.yaml`` says; ``planned``: the image ids, each with all draws.

    ``sets``: the configuration of each metric whose rows hold features. ``padded_batch``: the network rows that every
    batch was planned with, 0 where that is not recorded.
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

    @property
    def draws(self) -> int:
        return int(str(self.identity["draws"]))


def build(study: Path | str) -> pd.DataFrame:
    """One line per cell, best first within each group of comparable cells (:data:`bench.tables.GROUP`).

    Columns: ``solver data mask operator prior seed images draws failed``, then per metric ``m m_lo m_hi``, then costs
    per draw (means over ok rows; ``peak_mib`` is the largest), then ``missing cell variant commit dirty`` and per
    metric ``m_n``, the number of images with a value. ``failed`` counts rows that are there and not ok, ``missing``
    planned rows that are not there. Where cells can be compared image by image there is ``m_rank``, the letters of
    :func:`bench.paired.ranks`, and where the study declares a table of a paper ``m_paper`` and ``m_paper_flag``, what
    is printed there. ``frame.attrs`` holds ``metrics`` (id to title, direction, unit) and ``notes``,
    what must be said below a table. Raises ValueError for a folder without cells.
    """
    cells = read_cells(study)
    with ThreadPoolExecutor(2) as pool:  # the next cell is read meanwhile; two cells' rows in memory at a time
        parts = list(pool.map(_reduced, cells))
    metrics = _metrics(cells, dict.fromkeys(name for part in parts for name in part.columns))
    frame = pd.DataFrame([part.line for part in parts])
    frame["solver"] = labels(frame)
    in_sets = {name for cell in cells for name in cell.sets}
    single = [name for name in metrics if name not in in_sets]
    images = pd.concat({cell.name: part.means for cell, part in zip(cells, parts, strict=True)}, names=["cell"])
    images = images.reindex(columns=single).astype(float)
    features = {cell.name: part.features for cell, part in zip(cells, parts, strict=True)}
    scores = [_scores(images, cells, single), _set_scores(features, cells, [m for m in metrics if m in in_sets])]
    frame = pd.concat([frame, *scores, pd.DataFrame([part.costs for part in parts])], axis=1)
    frame = _sorted(frame, metrics)[[*csv_columns(metrics), *EXTRA, *(f"{m}_n" for m in metrics)]]
    named = _ranks(frame, images, {name: metrics[name] for name in single})
    printed = paper.declared(study)
    beside = paper.beside(frame, metrics, printed) if printed else pd.DataFrame(index=frame.index)
    frame = pd.concat([frame, named, beside], axis=1)
    notes = _notes(frame, sum(len(c.planned) * c.draws for c in cells))
    if in_sets:
        reduced = ", ".join(m for m in metrics if m in in_sets)
        notes.insert(1, f"One value from all images, its interval over images too: {reduced}.")
    notes += _small_batches(parts)
    notes += _small_sets(frame, cells)
    notes += _rank_notes(frame, named)
    if printed:
        notes.append(paper.note(frame, metrics, printed))
    frame.attrs = {"metrics": _Cards(metrics), "notes": notes}
    return frame


class _Cards(dict[str, dict[str, str]]):
    """Metrics by id. One object for all that is cut from a frame: pandas copies ``attrs`` deeply at every access."""

    def __deepcopy__(self, _memo: object) -> _Cards:
        return self


def write(study: Path | str) -> pd.DataFrame:
    """Build and write ``leaderboard.csv .parquet .md .tex`` and ``leaderboard_long.csv``, each replaced as a whole."""
    frame = build(study)
    parquet = io.BytesIO()
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), parquet)
    files = {
        "leaderboard.csv": to_csv(frame[[*csv_columns(frame.attrs["metrics"]), *tables.rank_columns(frame)]]),
        "leaderboard_long.csv": to_csv(long(frame)),
        "leaderboard.md": tables.markdown(frame).encode(),
        "leaderboard.tex": tables.latex(frame).encode(),
        "leaderboard.parquet": parquet.getvalue(),
    }
    if printed := paper.declared(study):
        files["paper_table.md"] = paper_table.markdown(frame, study, printed).encode()
    for name, data in files.items():
        write_atomic(Path(study) / name, data)
    return frame


def table(frame: pd.DataFrame, width: int = 160, first: Collection[str] = ()) -> Table:
    """The leaderboard for a terminal of ``width`` characters; the metrics named in ``first`` come first."""
    return tables.terminal(frame, width, first=first)


def long(frame: pd.DataFrame) -> pd.DataFrame:
    """Tidy form: one line per cell and metric; ``n`` is the number of images that have a value.

    ``n_failed`` counts the rows of the cell that are not ok, ``rank`` holds the letters, ``paper`` and ``paper_flag``
    what is printed, and ``deviation`` how far the value lies from that, in halves of the interval.
    """
    columns = [*IDENTITY, *LONG]
    lines = [
        [*line[IDENTITY], m, *_scored(line, m), card["direction"], line["failed"], *_compared(line, m)]
        for _, line in frame.iterrows()
        for m, card in frame.attrs["metrics"].items()
    ]
    return pd.DataFrame(lines, columns=columns)


def _scored(line: pd.Series, metric: str) -> list[object]:
    return [line[metric], line[f"{metric}_lo"], line[f"{metric}_hi"], line[f"{metric}_n"]]


def _compared(line: pd.Series, metric: str) -> list[object]:
    """``rank paper paper_flag deviation`` of a metric; empty where there is none."""
    rank, printed, flag = (line.get(f"{metric}{end}", "") for end in ("_rank", "_paper", "_paper_flag"))
    half = (line[f"{metric}_hi"] - line[f"{metric}_lo"]) / 2
    deviation = (line[metric] - float(printed)) / half if printed and half > 0 else np.nan
    return [rank, printed, flag, deviation]


def csv_columns(metrics: Iterable[str]) -> list[str]:
    """The fixed columns of ``leaderboard.csv``."""
    return [*IDENTITY, "failed", *(f"{m}{end}" for m in metrics for end in ("", "_lo", "_hi")), *COSTS]


def to_csv(frame: pd.DataFrame) -> bytes:
    """UTF-8 CSV, ``nan`` and ``inf`` spelt out. A text that a spreadsheet would take for a formula gets a ``'``."""
    safe = frame.apply(lambda column: column.map(_plain_text))
    return safe.to_csv(index=False, na_rep="nan", lineterminator="\n").encode()


def _plain_text(value: object) -> object:
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def read_cells(study: Path | str) -> list[CellRecord]:
    """What every cell of a study says of itself. Raises ValueError for a folder without cells."""
    study = Path(study)
    paths = sorted(study.glob("cells/*/config.yaml"))
    if not paths:
        raise ValueError(f"{study} is not a study folder: it has no cells/*/config.yaml; name one with out=DIR")
    environment = study / "environment.json"
    shared = json.loads(environment.read_text(encoding="utf-8")) if environment.exists() else {}
    return [_cell(path, shared) for path in paths]


def _cell(path: Path, environment: Mapping[str, object]) -> CellRecord:
    config = read_yaml(path)
    provenance = {**environment, **(config.get("provenance") or {})}
    cards, nodes = config.get("metrics") or {}, (config.get("config") or {}).get("metrics") or {}
    return CellRecord(
        name=str(config["cell"]),
        folder=path.parent,
        identity=config["identity"],
        metrics=cards,
        sets={name: nodes[name] for name, card in cards.items() if card.get("level") == "set" and name in nodes},
        planned=frozenset(map(str, chain.from_iterable(config["chunks"].values()))),
        commit=str(provenance.get("commit") or ""),
        dirty=provenance.get("dirty"),
        padded_batch=_padded_batch(config),
    )


def _padded_batch(config: Mapping[str, Any]) -> int:
    draws, batch = int(config["identity"].get("draws") or 0), int((config.get("config") or {}).get("batch") or 0)
    return int(config.get("padded") or 0) * min(draws, batch)


def _metrics(cells: Sequence[CellRecord], columns: Iterable[str]) -> dict[str, dict[str, str]]:
    """Every metric of any cell in the order of the configurations, then columns nobody described."""
    cards: dict[str, Card] = {}
    for cell in sorted(cells, key=lambda cell: -len(cell.metrics)):
        cards = {**cards, **{name: card for name, card in cell.metrics.items() if name not in cards}}
    features = {f"{card.get('features')}{end}" for card in cards.values() for end in ("", TRUTH)}
    cards |= {name: {} for name in columns if name not in FIXED.names and name not in cards and name not in features}
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

    ``columns``: all that were read. ``line``: all of its line but the numbers. ``means``: of every number over the
    draws of an image, by image. ``costs``: of the cell. ``features``: the rows of set metrics, with their image ids.
    ``ok`` counts rows with a result, ``smaller`` those of a smaller batch than planned.
    """

    columns: Sequence[str]
    line: Mapping[str, object]
    means: pd.DataFrame
    costs: Mapping[str, float]
    features: pd.DataFrame
    ok: int
    smaller: int


_UNREAD = {*BULKY, *FIXED.names} - {*COSTS, "cell", "image_id", "draw", "status", "padded_batch"}
"""Columns of a row that no table shows; texts are most of the time it takes to read one."""


def _reduced(cell: CellRecord) -> _Reduced:
    rows = RowStore(cell.folder).read(but=_UNREAD)
    ok = rows[rows["status"] == "ok"]
    scored = [name for name in rows.columns if name not in FIXED.names]
    numbers = [name for name in scored if pd.api.types.is_numeric_dtype(rows[name])]
    features = ok[["image_id", *(name for name in scored if name not in numbers)]] if cell.sets else ok.iloc[:0]
    return _Reduced(
        columns=scored,
        line=_line(cell, rows),
        means=ok.groupby("image_id")[numbers].mean(),
        costs={name: ok[name].max() if name == "peak_mib" else ok[name].mean() for name in COSTS},
        features=features.copy(),  # a view would keep all rows in memory
        ok=len(ok),
        smaller=int((ok["padded_batch"] < cell.padded_batch).sum()),
    )


def _line(cell: CellRecord, mine: pd.DataFrame) -> dict[str, object]:
    """All of a cell's line but its numbers."""
    there = mine["draw"].between(0, cell.draws - 1)
    if strange := {*mine["image_id"].unique().to_numpy()} - cell.planned:  # looking up every row's id takes seconds
        there &= ~mine["image_id"].isin(strange)
    return {
        **{key: cell.identity[key] for key in IDENTITY},
        "failed": int((mine["status"] != "ok").sum()),
        "missing": len(cell.planned) * cell.draws - int(there.sum()),
        "cell": cell.name,
        "variant": str(cell.identity.get("variant") or ""),
        "commit": cell.commit,
        "dirty": cell.dirty,
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


def _scores(means: pd.DataFrame, cells: Sequence[CellRecord], metrics: Sequence[str]) -> pd.DataFrame:
    """Per cell ``m m_lo m_hi m_n``. Cells of one data set share their resamples of images."""
    images = {cell: part[metrics] for cell, part in means.groupby(level="cell")}
    nothing = pd.DataFrame(columns=metrics, dtype=float)
    scores: dict[Hashable, dict[str, float]] = {cell.name: {} for cell in cells}
    for data in sorted({str(cell.identity["data"]) for cell in cells}):
        keys = [(cell.name, m) for cell in cells if str(cell.identity["data"]) == data for m in metrics]
        over = means_over_images([images.get(cell, nothing)[m].to_numpy(float) for cell, m in keys], data)
        for i, (cell, m) in enumerate(keys):
            values = {m: over.mean[i], f"{m}_lo": over.lo[i], f"{m}_hi": over.hi[i], f"{m}_n": over.n[i]}
            scores[cell].update(values)
    return pd.DataFrame([scores[cell.name] for cell in cells])


def _set_scores(rows: Mapping[str, pd.DataFrame], cells: Sequence[CellRecord], metrics: Sequence[str]) -> pd.DataFrame:
    """Per cell ``m m_lo m_hi m_n`` of set metrics, on the images that left features behind in its ``rows``."""
    lines: list[dict[str, float]] = []
    for cell in cells if metrics else ():
        mine, line = rows[cell.name], dict[str, float]()
        for m in metrics:
            features = _set_features(mine, m, cell.metrics[m]) if m in cell.sets else np.empty((0, 0))
            ends = (np.nan, np.nan, np.nan)
            if len(features):
                reduce = build_object(cell.sets[m]).reduce
                if cell.metrics[m].get("resampled", True):
                    ends = statistic_over_images(reduce, features, str(cell.identity["data"]))
                else:
                    ends = (float(reduce(features, np.ones((1, len(features))))[0]), np.nan, np.nan)
            line |= dict(zip((m, f"{m}_lo", f"{m}_hi", f"{m}_n"), (*ends, len(features)), strict=True))
        lines.append(line)
    return pd.DataFrame(lines)


def _set_features(rows: pd.DataFrame, metric: str, card: Card) -> Array:
    """The features of a set metric; where its card names a column that others share, of the original first."""
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
    """Features ``(n, F)`` of one vector per image, ``(n, D, F)`` of one per draw; images without any are left out."""
    rows = rows[rows.iloc[:, 1].map(len) > 0]
    images = [np.stack(list(values)).astype(float) for _, values in rows.groupby("image_id")[rows.columns[1]]]
    if not images:
        return np.empty((0, 0))
    features = np.stack(images)
    return features[:, 0] if features.shape[1] == 1 else features


def image_means(ok: pd.DataFrame, metrics: Sequence[str]) -> pd.DataFrame:
    """Means over the draws that have a value, indexed by cell and image; infinite where a draw is."""
    return ok.groupby(["cell", "image_id"])[[*metrics]].mean()


def _ranks(frame: pd.DataFrame, means: pd.DataFrame, metrics: Mapping[str, Card]) -> pd.DataFrame:
    """Columns ``m_rank`` of those ``metrics`` that have letters somewhere; empty text where a cell has none.

    Cells are compared that are complete and agree in :data:`bench.tables.RANKED` and in their image ids.
    """
    images = {cell: part.droplevel("cell") for cell, part in means.groupby(level="cell")}
    named = pd.DataFrame("", index=frame.index, columns=[f"{m}_rank" for m in metrics], dtype=object)
    complete = frame[(frame["failed"] == 0) & (frame["missing"] == 0) & frame["cell"].isin([*images])]
    for _, lines in complete.groupby(tables.RANKED, sort=False):
        lines = lines[_usual([tuple(images[cell].index.to_numpy()) for cell in lines["cell"]])]
        values = np.stack([images[cell].to_numpy(float) for cell in lines["cell"]], axis=-1)
        for k, (m, card) in enumerate(metrics.items()):
            if card["direction"] != "none":
                named.loc[lines.index, f"{m}_rank"] = _letters(values[:, k].T, card["direction"])
    return named[[name for name in named if (named[name] != "").any()]]


def _letters(values: Array, direction: str) -> list[str]:
    """Rank letters of cells from ``values`` ``(cells, images)``.

    A cell has none if other images than with most cells have a value (NaN), or if one is infinite.
    """
    named = np.full(len(values), "", dtype=object)
    covered = ~np.isnan(values)
    rows = np.flatnonzero(covered.any(axis=1) & ~np.isinf(values).any(axis=1))
    rows = rows[_usual([covered[row].tobytes() for row in rows])]
    images = covered[rows].all(axis=0)
    if len(rows) > 1 and images.sum() >= FEWEST:
        named[rows] = ranks(values[rows][:, images], direction)
    return list(named)


def _usual(keys: Sequence[Hashable]) -> NDArray[np.bool_]:
    """Which of ``keys`` are the most frequent one."""
    most = [key for key, _ in Counter(keys).most_common(1)]
    return np.array([key in most for key in keys], dtype=bool)


def _rank_notes(frame: pd.DataFrame, named: pd.DataFrame) -> list[str]:
    """How the letters came about, or why there are none; nothing where nothing could be compared."""
    if named.shape[1]:
        return [
            "Rank: two solvers that share a letter cannot be told apart at 5 % (paired t-test over the same images, "
            "two-sided, Holm over all pairs of a table with the same prior). No letters where rows are missing."
        ]
    if frame.groupby(tables.RANKED).size().max() > 1 and frame["images"].min() < FEWEST:
        return [f"No rank letters: with fewer than {FEWEST} images no solver can be called better than another."]
    return []


def _sorted(frame: pd.DataFrame, metrics: Mapping[str, Card]) -> pd.DataFrame:
    """By group, then by the first metric, best first and undefined last, then by name."""
    first = next(iter(metrics.items()), None)
    frame = frame.sort_values(["solver", "prior", "cell"], kind="stable")
    if first and first[1]["direction"] != "none":
        frame = frame.sort_values(first[0], ascending=first[1]["direction"] == "down", kind="stable")
    return frame.sort_values(tables.GROUP, kind="stable", ignore_index=True)


def _notes(frame: pd.DataFrame, planned: int) -> list[str]:
    """What a reader must know before quoting a number."""
    commits = sorted({commit for commit in frame["commit"] if commit}) or ["unknown"]
    dirty = frame[[value is True for value in frame["dirty"]]]
    failed, missing = int(frame["failed"].sum()), int(frame["missing"].sum())
    notes = [
        f"{span(frame['images'])} images x {span(frame['draws'])} draws. Means over images, draws averaged first, "
        f"with 95 % bootstrap CI (BCa, tails expanded for few images, {RESAMPLES} resamples of images).",
        "Costs are per draw, what was spent once per image shared by its draws.",
        f"Prior: {', '.join(sorted({*frame['prior'].astype(str)}))}. Commit: {', '.join(commits)}.",
    ]
    if len(dirty):
        notes.append(
            f"WARNING: {len(dirty)} of {len(frame)} cells ran on a dirty tree: their code is in no commit "
            f"({', '.join(dict.fromkeys(dirty['solver']))})."
        )
    notes.append(f"Rows: {planned} planned, {missing} missing, {failed} failed.")
    if failed or missing:
        notes.append(
            f"{tables.INCOMPLETE} Some rows failed or are missing. They are left out of the means, never counted as "
            "zero, so the means are over other images or draws, and these cells are not ranked."
        )
    pairs = zip(frame["solver"], frame["variant"], strict=True)
    changed = dict.fromkeys(f"{solver}: {variant}" for solver, variant in pairs if variant not in solver)
    if changed:
        notes.append(f"Settings other than the shipped ones: {'; '.join(changed)}.")
    return notes


def _small_batches(parts: Sequence[_Reduced]) -> list[str]:
    """How many rows were computed in another batch than planned: the padded batch is part of what fixes their bits."""
    smaller, rows = sum(part.smaller for part in parts), sum(part.ok for part in parts)
    if not smaller:
        return []
    return [
        f"Memory ran out for {smaller} of {rows} rows: they are from smaller batches (column padded_batch). "
        "They agree with those of a machine with more memory within rounding, not bit for bit."
    ]


def _small_sets(frame: pd.DataFrame, cells: Sequence[CellRecord]) -> list[str]:
    """Which metrics of sets are biased or uncertain because the sets are small."""
    cards = {m: card for cell in cells for m, card in cell.metrics.items()}
    limits = {m: int(card.get("small") or 0) for m, card in cards.items()}
    low = {m: limit for m, limit in limits.items() if limit and (frame[f"{m}_n"].between(1, limit)).any()}
    return [
        f"WARNING: {m} is {cards[m].get('caution') or 'biased upward'} at N <= {limit} images "
        f"(here {span(frame[f'{m}_n'])}); compare it at equal N with the same originals only."
        for m, limit in low.items()
    ]


def span(values: pd.Series) -> str:
    """One number, or from the least to the greatest."""
    low, high = values.min(), values.max()
    return f"{low}" if low == high else f"{low} to {high}"
