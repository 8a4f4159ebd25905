"""``bench leaderboard``: the tables of a study, rebuilt from its rows."""

from __future__ import annotations

from pathlib import Path

from posterior_bench.bench.cli.parser import Parser
from posterior_bench.bench.cli.verb import Verb


def add_arguments(parser: Parser) -> None:
    """Declare the study."""
    parser.add_argument(
        "study",
        type=Path,
        metavar="STUDY",
        help="the folder of a study: runs/NAME, or the value of out=",
    )


def run(study: Path) -> int:
    """Write the tables and the figure, and print the leaderboard."""
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
    return 0


VERB = Verb(
    name="leaderboard",
    does="rebuild the tables of a study from its rows",
    example="bench leaderboard runs/default",
    add_arguments=add_arguments,
    run=run,
    prints_only=True,
)
