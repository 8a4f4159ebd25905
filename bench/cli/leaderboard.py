"""``bench leaderboard``: the tables of a study, rebuilt from its rows."""

from __future__ import annotations

from pathlib import Path

from posterior_bench.bench.cli.parser import Parser, positive
from posterior_bench.bench.cli.verb import Verb
from posterior_bench.bench.core.errors import UserError


def add_arguments(parser: Parser) -> None:
    """Declare the study, and the question which neighbours are told apart."""
    parser.add_argument(
        "study",
        type=Path,
        metavar="STUDY",
        help="the folder of a study: runs/NAME, or the value of out=",
    )
    parser.add_setting(
        "metric", "NAME", "lists too which neighbours in the order of this metric are told apart"
    )
    parser.add_setting(
        "margin",
        "DIFFERENCE",
        "with metric=: the largest difference that counts as none, so which are equal",
        positive,
    )


def run(study: Path, metric: str | None, margin: float | None) -> int:
    """Write the tables and the figure, and print the leaderboard.

    Parameters
    ----------
    study : Path
        The folder of the study.
    metric : str or None
        The metric by which neighbours are looked at.
    margin : float or None
        The largest difference of it that counts as none.

    Raises
    ------
    UserError
        If the folder is no study, or there is a margin without a metric.
    """
    if margin is not None and metric is None:
        raise UserError("margin= is in units of a metric; give metric=NAME too")
    # pandas and matplotlib take seconds to load, and help does not need them
    from posterior_bench.bench.analysis import leaderboard, study_figure
    from posterior_bench.bench.core.terminal import out
    from posterior_bench.bench.store.study_files import check_study, planned_cells

    check_study(study)
    planned_cells(study)
    board = leaderboard.write(study)
    out.print(leaderboard.table(board, out.width))
    for path in (study / "leaderboard.csv", study_figure.write_figure(study, board)):
        if path is not None:
            out.print(f"{path}", style="dim")
    if metric is not None:
        _print_neighbours(study, metric, margin)
    return 0


def _print_neighbours(study: Path, metric: str, margin: float | None) -> None:
    """Print and write which neighbours of every table are resolved, equal or undecided."""
    # these load pandas, and help does not need it
    from posterior_bench.bench.analysis.adjacent import (
        adjacent_in_study,
        adjacent_sentence,
        adjacent_table,
    )
    from posterior_bench.bench.analysis.columns import to_csv
    from posterior_bench.bench.core.terminal import out
    from posterior_bench.bench.store.atomic import write_atomic

    pairs = adjacent_in_study(study, metric, margin)
    for title, table in adjacent_table(pairs, margin):
        out.print(title, markup=False, highlight=False)
        out.print(table, "")
    path = study / f"adjacent_{metric}.csv"
    write_atomic(path, to_csv(pairs))
    out.print(adjacent_sentence(pairs, metric, margin), markup=False, highlight=False)
    out.print(f"{path}", style="dim")


VERB = Verb(
    name="leaderboard",
    does="rebuild the tables of a study from its rows; with metric= say which neighbours differ",
    example="bench leaderboard runs/default",
    add_arguments=add_arguments,
    run=run,
    prints_only=True,
)
