"""Printed numbers of the papers, to stand beside measured ones.

``assets/paper/<paper>-<table>.csv`` is our transcription of a table: the printed strings, and a
flag with a note where a number is doubtful. Numbers are only compared if a study declares its table
with ``study.paper``. Two more files belong to a table:

- ``names.csv`` gives our name for a printed data set, prior, task, method and metric; a name that
  is not in it has no counterpart. ``names-<table>.csv`` takes the place of some of them for one
  table. A method may name a setting too: ``copaint:iterations=2``. The column ``preset`` says which
  preset of a method the numbers belong to, where a study has several. A task may name all changed
  settings but the noise, sorted: ``super_resolution:factor=12:reduction=average``. One that names
  none is the same task at any setting.
- ``remarks-<table>.csv`` says which numbers no cell of ours can stand beside, and why (``absent``),
  and where a protocol cannot be followed (``protocol``). A column that is empty means any.

A number with the flag ``best-of-4`` is the mean over images of the best of four draws. It stands
beside our oracle of four draws and never beside the mean.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

import pandas as pd

from posterior_bench.bench.core.errors import unknown
from posterior_bench.bench.store.study_files import study_settings

ASSETS = Path(__file__).parent / "assets" / "paper"


NAMES, REMARKS = "names", "remarks"
_BEST_OF = "best-of-"


@dataclass(frozen=True)
class Printed:
    """A printed number; the strings are those of the paper.

    ``flag`` is empty, or a word for the doubt about the number: ``suspect``, ``protocol-suspect``,
    ``inconsistent``, ``ocr-corrected``, ``not-reported`` and the like; ``note`` explains it.
    ``best-of-4`` says that the best of four draws was chosen with the truth.
    """

    dataset: str
    prior: str
    task: str
    method: str
    metric: str
    value: str
    flag: str
    note: str

    @property
    def best_of(self) -> int | None:
        """Of how many draws the number is the best; None for a mean over draws."""
        size = self.flag.partition(_BEST_OF)[2]
        return int(size) if size else None


@dataclass(frozen=True)
class Remark:
    """A sentence on some numbers of a table.

    ``kind`` is ``absent`` where no cell of ours can stand beside them, ``protocol`` where ours
    stand beside them and were made in another way. The other words are those of the table; an empty
    one means any.
    """

    kind: str
    dataset: str
    prior: str
    task: str
    method: str
    metric: str
    text: str

    def fits(self, printed: Printed) -> bool:
        """Whether the sentence is about a number."""
        return all(
            getattr(self, column) in ("", getattr(printed, column))
            for column in ("dataset", "prior", "task", "method", "metric")
        )


def table_names() -> list[str]:
    """Return the names of the tables: ``vipaint-table6`` and so on."""
    others = (NAMES, REMARKS)
    return sorted(
        path.stem for path in ASSETS.glob("*.csv") if path.stem.partition("-")[0] not in others
    )


@cache
def printed_numbers(table: str) -> tuple[Printed, ...]:
    """Return every printed number of a table.

    Raises
    ------
    UserError
        If there is no such table.
    """
    if table not in table_names():
        raise unknown("study.paper", table, table_names())
    return tuple(Printed(**line) for line in _lines(table))


@cache
def ours(table: str = "") -> Mapping[tuple[str, str], frozenset[str]]:
    """Return our options and metric ids by ``(column, printed name)``.

    Parameters
    ----------
    table : str, default ''
        Name of a table, whose own names then take the place of the common ones.
    """
    lines = [*_lines(NAMES), *_lines_of_table(NAMES, table)]
    return {(line["column"], line["printed"]): frozenset(line["ours"].split()) for line in lines}


@cache
def remarks(table: str) -> tuple[Remark, ...]:
    """Return what is to be said about a table; empty for most."""
    return tuple(Remark(**line) for line in _lines_of_table(REMARKS, table))


def why_absent(table: str, printed: Printed) -> str:
    """Return why no cell of ours can stand beside a printed number; empty if one can."""
    return next(
        (r.text for r in remarks(table) if r.kind == "absent" and r.fits(printed)),
        "",
    )


def metric_ids(table: str, printed: Printed) -> list[str]:
    """Return our metrics beside a printed number: of best draws where it is of best draws."""
    names = sorted(ours(table).get(("metric", printed.metric), ()))
    return [f"{name}_oracle{printed.best_of}" for name in names] if printed.best_of else names


@cache
def _presets() -> Mapping[str, str]:
    return {line["printed"]: line["preset"] for line in _lines(NAMES) if line["preset"]}


def preset_of(method: str) -> str:
    """Return the preset that the printed numbers of a method belong to; empty if any will do."""
    return _presets().get(method, "")


def declared_table(study: Path | str) -> str | None:
    """Return the table that a study declares with ``study.paper``, or None."""
    table = (study_settings(study).get("study") or {}).get("paper")
    return str(table) if table else None


def lookup(table: str, line: Mapping[str, object], metric: str) -> Printed | None:
    """Return the number that ``table`` prints for a leaderboard line, if any.

    Settings of an option do not count: ``comod low=0.3`` is ``comod``, ``dps zeta=0.5`` is ``dps``,
    unless the name of the method or the task has the setting. A task is a mask or, for other
    problems than inpainting, an operator. The prior must be the paper's, and so must the preset be
    where ``names.csv`` gives one for the method.

    Parameters
    ----------
    table : str
        Name of the table.
    line : mapping
        A line with ``solver data mask operator prior``, and perhaps ``variant`` and ``preset``.
    metric : str
        Id of the metric.
    """
    here, index = place(line), _index(table)
    found = [
        p
        for name, problem in product(solver_names(line), problem_names(line))
        for p in index.get((metric, name, here["data"], problem, here["prior"]), ())
    ]
    preset = line.get("preset")
    fitting = [p for p in found if not preset or preset_of(p.method) in ("", preset)]
    return fitting[-1] if fitting else None


def place(line: Mapping[str, object]) -> dict[str, str]:
    """Return the parts of a leaderboard line without their settings, and its ``problem``."""
    here = {key: str(line[key]).partition(" ")[0] for key in ("data", "mask", "operator", "prior")}
    problem = here["mask"] if here["operator"] == "inpainting" else here["operator"]
    return {**here, "problem": problem}


def problem_names(line: Mapping[str, object]) -> list[str]:
    """Return what a task may call the problem of a line: without settings, and with all of them.

    The noise is no part of a name.
    """
    group = "mask" if place(line)["operator"] == "inpainting" else "operator"
    name, *settings = str(line[group]).split()
    told = sorted(word for word in settings if not word.startswith("sigma="))
    return [name, ":".join([name, *told])] if told else [name]


def solver_names(line: Mapping[str, object]) -> list[str]:
    """Return what a method may call the solver of a line: without settings, and with one."""
    solver = str(line["solver"]).partition(" ")[0]
    return [solver, *(f"{solver}:{word}" for word in str(line.get("variant", "")).split())]


def printed_columns(frame: pd.DataFrame, metrics: Iterable[str], table: str) -> pd.DataFrame:
    """Return columns ``m_paper`` and ``m_paper_flag``; empty where nothing is printed."""
    columns: dict[str, list[str]] = {}
    for m in metrics:
        found = [lookup(table, line, m) for line in frame.to_dict("records")]
        columns[f"{m}_paper"] = [printed.value if printed else "" for printed in found]
        columns[f"{m}_paper_flag"] = [printed.flag if printed else "" for printed in found]
    return pd.DataFrame(columns, index=frame.index, dtype=object)


def deviation(value: float, lo: float, hi: float, printed: str) -> float:
    """Return the distance from the printed number, as a share of that side of the interval.

    An interval may be longer on one side; the side towards the printed number counts. Between -1
    and 1 the printed number lies within the interval. NaN without a printed number or an interval.
    """
    if not printed:
        return math.nan
    off = value - float(printed)
    side = value - lo if off > 0 else hi - value
    if off == 0 and side >= 0:
        return 0.0
    return off / side if side > 0 and math.isfinite(side) else math.nan


def paper_note(frame: pd.DataFrame, metrics: Iterable[str], table: str) -> str:
    """Return the note below a table that shows printed numbers, with the reasons of flags."""
    lines = frame.to_dict("records")
    shown = [printed for m in metrics for line in lines if (printed := lookup(table, line, m))]
    flags = dict.fromkeys(f"{p.flag}: {p.note}" for p in shown if p.flag)
    text = (
        f"Paper: {len(shown)} numbers of {table} as printed, on the authors' images, masks and "
        "weights."
    )
    return " ".join([text, *(f"{flag}." for flag in flags)])


@cache
def _index(table: str) -> Mapping[tuple[str, ...], Sequence[Printed]]:
    """Return the numbers of a table by our metric, solver, data, mask or operator, and prior.

    There are several where methods of the paper are presets of one solver.
    """
    index: dict[tuple[str, ...], list[Printed]] = {}
    for printed in printed_numbers(table):
        counts = printed.value and not why_absent(table, printed)
        for key in _keys(table, printed) if counts else ():
            index.setdefault(key, []).append(printed)
    return index


def _keys(table: str, printed: Printed) -> Iterator[tuple[str, ...]]:
    columns = ("method", "dataset", "task", "prior")
    return product(
        metric_ids(table, printed),
        *(sorted(ours(table).get((column, getattr(printed, column)), ())) for column in columns),
    )


def _lines_of_table(kind: str, table: str) -> list[dict[str, str]]:
    name = f"{kind}-{table}"
    return _lines(name) if (ASSETS / f"{name}.csv").is_file() else []


def _lines(table: str) -> list[dict[str, str]]:
    with (ASSETS / f"{table}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))
