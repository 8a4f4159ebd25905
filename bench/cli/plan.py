"""``bench plan``: the work and the cost of a run, sweep or study."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from posterior_bench.bench.cli import plan_images
from posterior_bench.bench.cli.parser import Parser
from posterior_bench.bench.cli.remembered import Command
from posterior_bench.bench.cli.run_settings import add_sweep, checked_cells, typed_words
from posterior_bench.bench.cli.verb import Verb
from posterior_bench.bench.config.task_versions import version_of
from posterior_bench.bench.estimate.machine import bytes_of

MEASURES = ("calls", "none", "rows")
_REMEMBERED = "         Planned at %H:%M on %d %B %Y and remembered, because nothing it reads "
_AGAIN = "has changed; measure=calls measures again."


def add_arguments(parser: Parser) -> None:
    """Declare ``-m``, the settings of the estimate, and those of a run."""
    add_sweep(parser, "plan every cell of a sweep")
    parser.add_setting(
        "measure",
        "calls|none|rows",
        "calls: hours from a few network calls here; none: no call; rows: two images of every "
        "cell, in full",
        measure,
    )
    parser.add_setting(
        "seconds_pass",
        "SECONDS",
        "seconds of one network pass on the machine that will run it; then no call is made here",
        seconds,
    )
    parser.add_setting(
        "timings",
        "STUDY",
        "a study folder whose rows have the same prior: their seconds a pass are used",
        study_with_cells,
    )
    parser.add_setting(
        "max_seconds",
        "SECONDS",
        "seconds that counting and measuring may take together",
        seconds,
        120.0,
    )
    parser.add_setting(
        "max_memory",
        "SIZE",
        "memory of weights and activations, such as 8GiB; a network that takes more is not loaded "
        "(default: half of the free memory)",
        bytes_of,
    )
    plan_images.add_settings(parser)
    parser.add_run_settings()


def measure(text: str) -> str:
    """Return a way of measuring."""
    if text not in MEASURES:
        raise ValueError(f"takes {', '.join(MEASURES)}")
    return text


def seconds(text: str) -> float:
    """Return a positive number of seconds."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise ValueError("takes a number of seconds above 0")
    return number


def study_with_cells(text: str) -> str:
    """Return the path of a study folder."""
    if not Path(text, "cells").is_dir():
        raise ValueError("takes a study folder, and this one holds no cells/")
    return text


def run(
    overrides: Sequence[str],
    multirun: bool,
    measure: str | None,
    seconds_pass: float | None,
    timings: str | None,
    max_seconds: float,
    max_memory: int | None,
    **asked: Any,
) -> int:
    """Print the plan: one cell in full, or a line for every cell of a sweep or study.

    Parameters
    ----------
    overrides : sequence of str
        Settings of the run.
    multirun : bool
        Whether commas separate values to sweep over.
    measure, seconds_pass, timings, max_seconds, max_memory
        Settings of the estimate; see :class:`~bench.estimate.plan_settings.PlanSettings`.
    **asked
        Values of :data:`bench.cli.plan_images.SETTINGS`: then the number of images is planned.
    """
    # loads torch: a mistake in the settings is answered before
    from posterior_bench.bench.estimate.problems import remember_typed

    remember_typed(typed_words(overrides, multirun))
    singles = checked_cells(overrides, multirun)
    if any(value is not None for value in asked.values()):
        plan_images.print_images(singles, asked)
        return 0
    limits = (measure, seconds_pass, timings, max_seconds, max_memory)
    command = Command.of("plan", [*map(str, limits), *(word for cell in singles for word in cell)])
    # rich is heavy: a mistake in the settings is answered before
    from posterior_bench.bench.core import terminal
    from posterior_bench.bench.core.terminal import out

    terminal.REMARKS.clear()
    if measure is None and timings is None and (found := command.recall()) is not None:
        for line in found["remarks"]:
            terminal.remark(line)
        out.print(found["text"], markup=False, highlight=False)
        return 0
    # these load torch: a mistake in the settings is answered before
    from posterior_bench.bench.config.overrides import check
    from posterior_bench.bench.estimate.forecast import estimate_cells
    from posterior_bench.bench.estimate.forecast_table import forecast_table
    from posterior_bench.bench.estimate.one_cell import print_one_cell

    # loads torch: a mistake in the settings is answered before
    from posterior_bench.bench.estimate.plan_settings import PlanSettings

    settings = PlanSettings(measure or "calls", seconds_pass, timings, max_seconds, max_memory)
    if len(singles) > 1:
        out.print(forecast_table(estimate_cells(singles, settings), settings))
        for name in _studies(overrides):
            out.print(f"study={name} is at version {version_of('study', name)} (docs/versions.md)")
    else:
        checked = check(singles[0], study_sweep=True)
        texts, study, cell = print_one_cell(checked, singles[0], settings)
        if measure is None and timings is None:
            text = "\n".join((*texts, f"{time.strftime(_REMEMBERED)}{_AGAIN}"))
            found = {"text": text, "remarks": terminal.REMARKS}
            command.remember(found, study, [cell.cell.config.record()])
    return 0


def _studies(overrides: Sequence[str]) -> list[str]:
    """Return the study that the words choose, if any."""
    words = [word.partition("=")[::2] for word in overrides]
    return [name for key, name in words if key == "study"][-1:]


VERB = Verb(
    name="plan",
    does="show what a run, sweep (-m) or study would do: cells, rows, passes, hours, disk",
    example="bench plan study=arena",
    more="With pilot= and metric= it says how many images a study needs. docs/studies.md says how "
    "every figure is found, docs/statistics.md how the number of images is.",
    add_arguments=add_arguments,
    run=run,
    prints_only=True,
    abbreviations=True,
)
