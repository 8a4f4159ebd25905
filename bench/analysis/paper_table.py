"""The table of a paper as it is printed, with measured numbers beside it: ``paper_table.md``.

A cell reads ``printed / measured (deviation)``, with the deviation of
:func:`bench.analysis.papers.deviation`. Printed minutes are shown as seconds too, beside seconds
measured on other hardware. With ``scale=smoke``, stand-ins take the place of data, mask and
metrics, so that the layout can be seen; those numbers mean nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
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

    A setting that is no number is ``text``.
    """

    value: float = float("nan")
    lo: float = float("nan")
    hi: float = float("nan")
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
    """

    frame: pd.DataFrame
    study: Path
    instead: Mapping[str, Mapping[str, str]]
    columns: Mapping[str, str]

    def measured(self, printed: Printed) -> Measured | None:
        """Return the measured number beside a printed one, if the study has it."""
        if _VERSUS in printed.method:
            return self._test(printed)
        line = self._line(printed, printed.method)
        if line is None:
            return None
        if printed.metric in _COSTS:
            return Measured(float(_COSTS[printed.metric](line)))
        if printed.metric in printed_settings.SETTINGS:
            return Measured(text=self._setting(printed.metric, line))
        names = sorted(
            {self.columns.get(m, m) for m in papers.ours().get(("metric", printed.metric), ())}
        )
        name = next((name for name in names if name in line), None)
        if name is None:
            return None
        value, low, high = (float(line[f"{name}{end}"]) for end in ("", "_lo", "_hi"))
        return Measured(value, low, high)

    def _line(self, printed: Printed, method: str) -> dict[str, Any] | None:
        """Return the only line of the leaderboard that a printed number belongs to, if any.

        A stand-in has its own prior; where the paper does not state one, any prior will do. Of
        several lines the one counts whose preset ``names.csv`` gives for the method.
        """
        known = papers.ours()
        wanted = {
            "solver": known.get(("method", method), frozenset()),
            "data": self._stands_in("data", known.get(("dataset", printed.dataset), frozenset())),
            "problem": self._stands_in("mask", known.get(("task", printed.task), frozenset())),
        }
        if not self.instead and (priors := known.get(("prior", printed.prior))):
            wanted["prior"] = priors
        found = []
        for line in self.frame.to_dict("records"):
            here = {
                key: str(line[key]).partition(" ")[0]
                for key in ("solver", "data", "mask", "operator", "prior")
            }
            here["problem"] = here["mask"] if here["operator"] == "inpainting" else here["operator"]
            if all(here[key] in names for key, names in wanted.items()):
                found.append({str(key): value for key, value in line.items()})
        if len(found) > 1 and (preset := papers.preset_of(method)):
            found = [line for line in found if line["preset"] == preset]
        return found[0] if len(found) == 1 else None

    def _setting(self, name: str, line: Mapping[str, Any]) -> str:
        """Return a setting that the paper prints, of the solver of a line."""
        recorded = read_cell(self.study / "cells" / line["cell"] / "config.yaml")
        solver = (recorded.get("config") or {}).get("solver")
        return printed_settings.printed_setting(name, solver) if solver else ""

    def _stands_in(self, group: str, names: frozenset[str]) -> frozenset[str]:
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
    board = Board(frame, Path(study), scale.get("instead", {}), scale.get("columns", {}))
    beside = {printed: board.measured(printed) for printed in papers.printed_numbers(table)}
    parts = [f"# {table}: printed / measured (deviation)"]
    for heading, block in _blocks(table).items():
        parts += [
            "",
            f"## {escape_markdown(heading)}",
            "",
            *_grid(block, beside, table in METHODS_IN_ROWS),
        ]
    notes = [*_notes(beside, scale), *_hardware(beside, Path(study)), *_flags(beside)]
    return "\n".join([*parts, "", *(f"- {escape_markdown(note)}" for note in notes), ""])


def _blocks(table: str) -> dict[str, list[Printed]]:
    """Return the numbers of a table by data set and prior, in the printed order."""
    blocks: dict[str, list[Printed]] = {}
    for printed in papers.printed_numbers(table):
        blocks.setdefault(f"{printed.dataset} · {printed.prior}", []).append(printed)
    return blocks


def _grid(
    block: list[Printed], beside: Mapping[Printed, Measured | None], methods_in_rows: bool
) -> list[str]:
    """Return the lines of one Markdown table."""
    several = len({printed.metric for printed in block}) > 1

    def place(printed: Printed) -> tuple[str, str]:
        metric = f"{printed.metric} ({_HARDWARE})" if printed.metric in _MINUTES else printed.metric
        task = (
            f"{printed.task}, {metric}" if several or printed.metric in _MINUTES else printed.task
        )
        return (printed.method, task) if methods_in_rows else (task, printed.method)

    cells = {place(printed): _cell(printed, beside[printed]) for printed in block}
    rows, columns = (list(dict.fromkeys(names)) for names in zip(*cells, strict=True))
    lines = [["", *columns], ["---", *["---:"] * len(columns)]]
    lines += [[row, *(cells.get((row, column), "") for column in columns)] for row in rows]
    return [f"| {' | '.join(escape_markdown(text) for text in line)} |" for line in lines]


def _cell(printed: Printed, measured: Measured | None) -> str:
    flag = " †" if printed.flag else ""
    if printed.metric in _MINUTES and printed.value:
        return _seconds(printed, measured, flag)
    if measured is not None and measured.text:
        return f"{printed.value or '—'}{flag} / {measured.text}"
    if measured is None or np.isnan(measured.value):
        return f"{printed.value or '—'}{flag} / —"
    value = (
        f"{measured.value:.{_decimals(printed.value)}f}"
        if measured.value >= 0.001
        else f"{measured.value:.2g}"
    )
    deviation = papers.deviation(measured.value, measured.lo, measured.hi, printed.value)
    ends = "" if np.isnan(deviation) else f" ({deviation:+.1f})"
    return f"{printed.value or '—'}{flag} / {value}{ends}"


def _seconds(printed: Printed, measured: Measured | None, flag: str) -> str:
    """Return printed minutes, the same in seconds, and measured seconds."""
    seconds = (
        "—" if measured is None or np.isnan(measured.value) else f"{significant(measured.value)} s"
    )
    return f"{printed.value} min{flag} = {significant(60 * float(printed.value))} s / {seconds}"


def _decimals(text: str) -> int:
    """Return how many decimals are printed; 3 for a text that is no number."""
    return len(text.partition(".")[2]) if text.replace(".", "", 1).isdigit() else 3


def _notes(beside: Mapping[Printed, Measured | None], scale: Mapping[str, Any]) -> list[str]:
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
        pairs = {**instead.get("data", {}), **instead.get("mask", {}), **scale.get("columns", {})}
        words = ", ".join(f"{ours} for {theirs}" for theirs, ours in pairs.items())
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


def _flags(beside: Mapping[Printed, Measured | None]) -> list[str]:
    return list(dict.fromkeys(f"† {p.flag}: {p.note}" for p in beside if p.flag))
