"""The results of a run on the terminal, and of one that was finished before.

No torch is imported here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow.parquet as pq

from posterior_bench.bench.analysis.tables import terminal_table
from posterior_bench.bench.cli.remembered import Command
from posterior_bench.bench.core import terminal
from posterior_bench.bench.engine import display

if TYPE_CHECKING:  # it loads torch
    from posterior_bench.bench.engine.run import Outcome


def print_results(board: pd.DataFrame, lines: Mapping[str, object]) -> None:
    """Print the table, and below it a line for every entry that is not None.

    Parameters
    ----------
    board : DataFrame
        The leaderboard (:func:`bench.analysis.leaderboard.build`).
    lines : Mapping of str to object
        What to print below, by the words in front of it.
    """
    terminal.out.print(terminal_table(board, terminal.out.width))
    for label, text in lines.items():
        if text is not None:
            terminal.out.print(f"{label:>14}  {text}")


def remember_run(
    command: Command,
    outcomes: Sequence[Outcome],
    board: pd.DataFrame,
    lines: Mapping[str, object],
) -> None:
    """Remember the results of a command, so that :func:`tell_again` can print them.

    Parameters
    ----------
    command : Command
        The command.
    outcomes : sequence of Outcome
        Its jobs, which all wrote to one study folder.
    board : DataFrame
        The leaderboard that was written.
    lines : Mapping of str to object
        What :func:`print_results` printed below the table.
    """
    last = outcomes[-1]
    found = {
        "study": str(last.study.absolute()),
        "cells": [
            [display.title(each.plan), each.plan.rows()] for each in outcomes if not each.quiet
        ],
        "remarks": terminal.REMARKS,
        "quiet": last.quiet,
        "metrics": dict(board.attrs["metrics"]),
        "notes": board.attrs["notes"],
        "lines": {label: text and str(text) for label, text in lines.items()},
    }
    configs = [each.plan.cell.config.record() for each in outcomes]
    command.remember(found, last.study, configs)


def tell_again(found: Mapping[str, Any]) -> None:
    """Print what a run prints that has nothing to do."""
    for line in found["remarks"]:
        terminal.remark(line)
    for cell, rows in found["cells"]:
        display.say_complete(cell, rows)
    if found["quiet"]:
        return
    board = pq.read_table(Path(found["study"]) / "leaderboard.parquet").to_pandas()
    board.attrs = {"metrics": found["metrics"], "notes": found["notes"]}
    print_results(board, found["lines"])
