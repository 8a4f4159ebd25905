"""The table of a paper as it is printed, with measured numbers beside it: ``paper_table.md``.

A cell reads ``printed / measured (deviation)``, with the deviation of
:func:`bench.analysis.papers.deviation`. A printed best of N draws stands beside our oracle of N
draws, and the mean over draws follows it. A letter stands where no cell of ours can be; the note of
the letter says why. Printed minutes are shown as seconds too, beside seconds
measured on other hardware. With ``scale=smoke``, stand-ins take the place of data, mask and
metrics, so that the layout can be seen; those numbers mean nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from posterior_bench.bench.analysis import paired, papers, printed_settings
from posterior_bench.bench.analysis.papers import Printed
from posterior_bench.bench.analysis.tables import escape_markdown, significant
from posterior_bench.bench.store.read_study import read_study
from posterior_bench.bench.store.study_files import read_cell, study_settings

METHODS_IN_ROWS = (
    "vipaint-table7",
    "latentpaint-table1",
    "latentpaint-table2",
    "latentpaint-table3",
    "pnpflow-table",
    "flows-768",
)
"""These print a method a line; the others a data set or task a line, and methods in columns."""


_VERSUS = " vs "


DRAWS = 10
"""What printed minutes are for: so many draws of one image."""


def _fit(line: Mapping[str, Any]) -> float:
    """Return the seconds of a fit; in the leaderboard every draw of the image has its share."""
    return float(line["draws"] * line["seconds_fit"])


_MINUTES: dict[str, Callable[[Mapping[str, Any]], float]] = {
    "time_min": lambda line: _fit(line) + DRAWS * line["seconds_sample"],
    "time_min_optimization": _fit,
    "time_min_sampling": lambda line: DRAWS * line["seconds_sample"],
}
"""The seconds that stand beside printed minutes, by what is printed."""


_HARDWARE = "A6000"
"""What VIPaint printed its minutes for."""


_COSTS: dict[str, Callable[[Mapping[str, Any]], float]] = {
    "nfe": lambda line: line["nfe"],
    "nfe_optimization": lambda line: line["draws"] * line["nfe_fit"],
    "nfe_sampling": lambda line: line["nfe"] - line["nfe_fit"],
    "runtime_s_per_image_v100": lambda line: _fit(line) + line["draws"] * line["seconds_sample"],
    **_MINUTES,
}
"""Printed costs that the leaderboard has, other than as a metric."""


_TESTS: dict[str, Callable[[paired.Comparison], float]] = {
    # one-sided: the first is lower
    "paired_ttest_one_sided_p": lambda c: c.p_t / 2 if c.difference < 0 else 1 - c.p_t / 2,
    "wilcoxon_signed_rank_p": lambda c: c.p_wilcoxon,
}


@dataclass(frozen=True)
class Measured:
    """A measured number and its interval ``lo`` to ``hi``, NaN where it has none.

    If the number is of the best draws, ``mean`` is that of all draws. A setting that is no number
    is ``text``.
    """

    value: float = float("nan")
    lo: float = float("nan")
    hi: float = float("nan")
    mean: float = float("nan")
    text: str = ""


@dataclass(frozen=True)
class Board:
    """The leaderboard of a study at a scale.

    Parameters
    ----------
    frame : DataFrame
        The leaderboard.
    study : Path
        The study folder.
    instead : mapping
        The stand-ins for options, by group and option.
    columns : mapping of str to str
        The stand-ins for metrics.
    table : str, default ''
        The table, whose own names are then used.
    """

    frame: pd.DataFrame
    study: Path
    instead: Mapping[str, Mapping[str, str]]
    columns: Mapping[str, str]
    table: str = ""

    def measured(self, printed: Printed) -> Measured | None:
        """Return the measured number beside a printed one, if the study has it."""
        if papers.why_absent(self.table, printed):
            return None
        if _VERSUS in printed.method:
            return self._test(printed)
        line = self._line(printed, printed.method)
        if line is None:
            return None
        if printed.metric in _COSTS:
            return Measured(float(_COSTS[printed.metric](line)))
        if printed.metric in printed_settings.SETTINGS:
            return Measured(text=self._setting(printed.metric, line))
        value, lo, hi = self._values(line, papers.metric_ids(self.table, printed))
        plain = replace(printed, flag="") if printed.best_of else None
        mean = self._values(line, papers.metric_ids(self.table, plain))[0] if plain else math.nan
        found = Measured(value, lo, hi, mean)
        return None if math.isnan(value) and math.isnan(mean) else found

    def _values(
        self, line: Mapping[str, Any], metrics: Iterable[str]
    ) -> tuple[float, float, float]:
        """Return the value of the first of some metrics that the line has, and its interval."""
        names = dict.fromkeys(self.columns.get(name, name) for name in metrics)
        there = [name for name in names if not math.isnan(line.get(name, math.nan))]
        if not there:
            return math.nan, math.nan, math.nan
        value, lo, hi = (float(line[f"{there[0]}{end}"]) for end in ("", "_lo", "_hi"))
        return value, lo, hi

    def _line(self, printed: Printed, method: str) -> dict[str, Any] | None:
        """Return the only line of the leaderboard that a printed number belongs to, if any.

        A stand-in has its own prior; where the paper does not state one, any prior will do. Of
        several lines the one counts whose preset ``names.csv`` gives for the method.
        """
        known = papers.ours(self.table)
        priors = known.get(("prior", printed.prior), frozenset())
        methods = known.get(("method", method), frozenset())
        data = known.get(("dataset", printed.dataset), frozenset())
        problems = known.get(("task", printed.task), frozenset())
        wanted = {"data": self._data_for(priors) or self._stand_in("data", data)}
        if self.instead:  # a stand-in has none of the settings
            bare = frozenset(name.partition(":")[0] for name in problems)
            problems = self._stand_in("operator", self._stand_in("mask", bare))
        elif priors:
            wanted["prior"] = priors
        found = []
        for line in self.frame.to_dict("records"):
            here = papers.place(line)
            if (
                methods & {*papers.solver_names(line)}
                and problems & {*papers.problem_names(line)}
                and all(here[key] in names for key, names in wanted.items())
            ):
                found.append({str(key): value for key, value in line.items()})
        if len(found) > 1 and (preset := papers.preset_of(method)):
            found = [line for line in found if line["preset"] == preset]
        return found[0] if len(found) == 1 else None

    def _setting(self, name: str, line: Mapping[str, Any]) -> str:
        """Return a setting that the paper prints, of the solver of a line."""
        recorded = read_cell(self.study / "cells" / line["cell"] / "config.yaml")
        solver = (recorded.get("config") or {}).get("solver")
        return printed_settings.printed_setting(name, solver) if solver else ""

    def _data_for(self, priors: Iterable[str]) -> frozenset[str]:
        """Return the data that stand in for those of some priors."""
        instead = self.instead.get("prior", {})
        return frozenset(instead[name] for name in priors if name in instead)

    def _stand_in(self, group: str, names: frozenset[str]) -> frozenset[str]:
        return frozenset(self.instead.get(group, {}).get(name, name) for name in names)

    def _test(self, printed: Printed) -> Measured | None:
        """Return the p value of a paired test between two methods, on LPIPS averaged over draws."""
        lines = [self._line(printed, method) for method in printed.method.split(_VERSUS)]
        metric = self.columns.get("lpips_vgg", "lpips_vgg")
        if printed.metric not in _TESTS or any(
            line is None or metric not in line for line in lines
        ):
            return None
        rows = read_study(self.study, ["status", metric])
        means = rows[rows["status"] == "ok"].groupby(["cell", "image_id"])[metric].mean()
        try:
            first, second = paired.pair_values(
                *(means[line["cell"]] for line in lines if line is not None)
            )
        except (KeyError, ValueError):
            return None  # failed rows: there is no pair for every image
        if len(first) < 2:
            return None
        return Measured(_TESTS[printed.metric](paired.compare_pair(first, second, printed.task)))


def paper_markdown(frame: pd.DataFrame, study: Path | str, table: str) -> str:
    """Return a table of :func:`bench.analysis.papers.table_names` beside a leaderboard."""
    scale = study_settings(study).get("scale") or {}
    board = Board(frame, Path(study), scale.get("instead", {}), scale.get("columns", {}), table)
    beside = {printed: board.measured(printed) for printed in papers.printed_numbers(table)}
    letters = _letters(table, beside)
    cells = {
        printed: _cell(printed, beside[printed], letters.get(printed, "—")) for printed in beside
    }
    parts = [f"# {table}: printed / measured (deviation)"]
    for heading, block in _blocks(table).items():
        parts += [
            "",
            f"## {escape_markdown(heading)}",
            "",
            *_grid(block, cells, table in METHODS_IN_ROWS),
        ]
    notes = [
        *_notes(beside, scale, _options(table)),
        *_oracles(beside),
        *_hardware(beside, Path(study)),
        *_flags(beside),
        *_reasons(table, letters, beside),
        *(remark.text for remark in papers.remarks(table) if remark.kind == "protocol"),
    ]
    return "\n".join([*parts, "", *(f"- {escape_markdown(note)}" for note in notes), ""])


def _letters(table: str, beside: Iterable[Printed]) -> dict[Printed, str]:
    """Return ``(a)``, ``(b)`` and so on for numbers beside which no cell of ours can stand.

    Numbers with one reason have one letter.
    """
    letters: dict[str, str] = {}
    names = map(_letter, count())
    found = {}
    for printed in beside:
        reason = papers.why_absent(table, printed)
        if reason and reason not in letters:
            letters[reason] = next(names)
        if reason:
            found[printed] = letters[reason]
    return found


def _letter(number: int) -> str:
    """Return ``(a)`` to ``(z)``, then ``(aa)``."""
    first = "" if number < 26 else chr(ord("a") + number // 26 - 1)
    return f"({first}{chr(ord('a') + number % 26)})"


def _blocks(table: str) -> dict[str, list[Printed]]:
    """Return the numbers of a table by data set and prior, in the printed order."""
    blocks: dict[str, list[Printed]] = {}
    for printed in papers.printed_numbers(table):
        blocks.setdefault(f"{printed.dataset} · {printed.prior}", []).append(printed)
    return blocks


def _grid(block: list[Printed], texts: Mapping[Printed, str], methods_in_rows: bool) -> list[str]:
    """Return the lines of one Markdown table."""
    several = len({printed.metric for printed in block}) > 1

    def place(printed: Printed) -> tuple[str, str]:
        metric = f"{printed.metric} ({_HARDWARE})" if printed.metric in _MINUTES else printed.metric
        task = (
            f"{printed.task}, {metric}" if several or printed.metric in _MINUTES else printed.task
        )
        return (printed.method, task) if methods_in_rows else (task, printed.method)

    cells = {place(printed): texts[printed] for printed in block}
    rows, columns = (list(dict.fromkeys(names)) for names in zip(*cells, strict=True))
    lines = [["", *columns], ["---", *["---:"] * len(columns)]]
    lines += [[row, *(cells.get((row, column), "") for column in columns)] for row in rows]
    return [f"| {' | '.join(escape_markdown(text) for text in line)} |" for line in lines]


def _cell(printed: Printed, measured: Measured | None, nothing: str = "—") -> str:
    """Return a cell; ``nothing`` stands where nothing is measured."""
    flag = " †" if printed.flag else ""
    if printed.metric in _MINUTES and printed.value:
        return _seconds(printed, measured, flag)
    shown = f"{printed.value or '—'}{flag} / "
    if measured is None:
        return shown + nothing
    if measured.text:
        return shown + measured.text
    if printed.best_of:
        mean = f"mean {_value(measured.mean, printed)}"
        return f"{shown}oracle {_with_deviation(measured, printed)}, {mean}"
    return shown + _with_deviation(measured, printed)


def _with_deviation(measured: Measured, printed: Printed) -> str:
    deviation = papers.deviation(measured.value, measured.lo, measured.hi, printed.value)
    ends = "" if np.isnan(deviation) else f" ({deviation:+.1f})"
    return f"{_value(measured.value, printed)}{ends}"


def _value(value: float, printed: Printed) -> str:
    """Return a measured number with the decimals of the printed one; a dash for NaN."""
    if np.isnan(value):
        return "—"
    return f"{value:.{_decimals(printed.value)}f}" if value >= 0.001 else f"{value:.2g}"


def _seconds(printed: Printed, measured: Measured | None, flag: str) -> str:
    """Return printed minutes, the same in seconds, and measured seconds."""
    seconds = (
        "—" if measured is None or np.isnan(measured.value) else f"{significant(measured.value)} s"
    )
    return f"{printed.value} min{flag} = {significant(60 * float(printed.value))} s / {seconds}"


def _decimals(text: str) -> int:
    """Return how many decimals are printed; 3 for a text that is no number."""
    return len(text.partition(".")[2]) if text.replace(".", "", 1).isdigit() else 3


def _options(table: str) -> frozenset[str]:
    """Return our names of everything that a table prints."""
    ours, printed = papers.ours(table), papers.printed_numbers(table)
    columns = ("dataset", "prior", "task")
    names = (ours.get((c, getattr(p, c)), frozenset()) for p in printed for c in columns)
    return frozenset().union(*names, *(papers.metric_ids(table, p) for p in printed))


def _notes(
    beside: Mapping[Printed, Measured | None], scale: Mapping[str, Any], options: Collection[str]
) -> list[str]:
    """Return the first notes; of all stand-ins they name those for ``options`` of the table."""
    found = sum(measured is not None for measured in beside.values())
    notes = [
        f"{found} of {len(beside)} numbers have a measured one beside them. Printed: the authors' "
        "images, masks and weights. Measured: those of this study. Deviation: measured minus "
        "printed, as a share of that side of the measured 95 % interval; between -1 and 1 the "
        "printed number lies within the interval. Where several cells of the study could stand "
        "beside a number, none does.",
        "Costs depend on the machine; a network evaluation is a call of the network here, and not "
        "the paper's unit.",
    ]
    if instead := scale.get("instead", {}):
        groups = [instead.get(group, {}) for group in ("data", "mask", "operator", "prior")]
        pairs = {k: v for names in (*groups, scale.get("columns", {})) for k, v in names.items()}
        words = ", ".join(f"{v} for {k}" for k, v in pairs.items() if k in options)
        notes.insert(
            0,
            f"WARNING: scale={scale['name']}, a rehearsal with stand-ins ({words}): compare "
            "nothing here.",
        )
    return notes


def _hardware(beside: Iterable[Printed], study: Path) -> list[str]:
    """Return where minutes are printed: for what, and on which hardware seconds were measured."""
    if not any(printed.metric in _MINUTES for printed in beside):
        return []
    devices = sorted(read_study(study, ["device"])["device"].dropna().unique())
    return [
        f"Minutes are printed for {DRAWS} draws of one image on {_HARDWARE} GPUs. Measured: "
        f"seconds of a fit and {DRAWS} draws at the study's batch, on "
        f"{', '.join(devices) or 'unknown hardware'}."
    ]


def _oracles(beside: Mapping[Printed, Measured | None]) -> list[str]:
    """Return what a printed best of several draws is, and what stands beside it."""
    sizes = sorted({printed.best_of for printed in beside if printed.best_of})
    return [
        f"ORACLE: a number with the flag best-of-{n} is the best of {n} draws of every image, "
        f"chosen with the truth, which no method can do. It stands beside our best of {n} draws. "
        "The mean over draws follows it, and only this mean can be compared with other numbers."
        for n in sizes
    ]


def _reasons(
    table: str, letters: Mapping[Printed, str], beside: Mapping[Printed, Measured | None]
) -> list[str]:
    """Return the reason of every letter, and how many numbers have neither a cell nor a reason."""
    counts = Counter(letters.values())
    reasons = {letter: papers.why_absent(table, printed) for printed, letter in letters.items()}
    left = [p for p, measured in beside.items() if measured is None and p not in letters]
    return [
        *(f"{letter} {_numbers(counts[letter])}: {text}" for letter, text in reasons.items()),
        *([f"— {_numbers(len(left))}: this study has no cell here yet."] if left else []),
    ]


def _numbers(count: int) -> str:
    return f"{count} number{'s' * (count != 1)}"


def _flags(beside: Mapping[Printed, Measured | None]) -> list[str]:
    return list(dict.fromkeys(f"† {p.flag}: {p.note}" for p in beside if p.flag))
