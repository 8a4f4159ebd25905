"""``bench status``: how far a study is, read from its folder alone."""

from __future__ import annotations

from pathlib import Path

from posterior_bench.bench.cli.parser import Parser
from posterior_bench.bench.cli.verb import Verb
from posterior_bench.bench.core.errors import FAILED


def add_arguments(parser: Parser) -> None:
    """Declare the study."""
    parser.add_argument("study", type=Path, metavar="STUDY", help="the folder of a study")


def run(study: Path) -> int:
    """Print a line for every cell; 1 if a row has failed so far."""
    # pandas takes a second to load, and help does not need it
    from posterior_bench.bench.cli.study_status import read, report
    from posterior_bench.bench.core.terminal import out

    cells = read(study)
    out.print(report(cells))
    return FAILED if any(cell.failed for cell in cells) else 0


VERB = Verb(
    name="status",
    does="show how far a study is, from its folder alone: running, stalled, failed, rows per "
    "minute",
    example="bench status runs/default",
    add_arguments=add_arguments,
    run=run,
    prints_only=True,
)
