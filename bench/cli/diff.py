"""``bench diff``: two studies against each other."""

from __future__ import annotations

from pathlib import Path

from posterior_bench.bench.cli.output_file import writing
from posterior_bench.bench.cli.parser import Parser
from posterior_bench.bench.cli.verb import Verb


def add_arguments(parser: Parser) -> None:
    """Declare the two studies, the metric and the file."""
    parser.add_argument("study_a", type=Path, metavar="STUDY_A", help="the folder of a study")
    parser.add_argument(
        "study_b",
        type=Path,
        metavar="STUDY_B",
        help="the folder of another study; differences are B minus A",
    )
    parser.add_setting("metric", "NAME", "this metric instead of all that both studies have")
    parser.add_setting("out", "FILE.csv", "write the whole table: a line per cell and metric")


def run(study_a: Path, study_b: Path, metric: str | None, out: str | None) -> int:
    """Print what differs between two studies, and write the table to ``out``.

    Parameters
    ----------
    study_a, study_b : Path
        The folders of the studies.
    metric : str or None
        One metric; None for all that both studies have.
    out : str or None
        A CSV file for the whole table.
    """
    # pandas takes seconds to load, and help does not need it
    from posterior_bench.bench.analysis.columns import to_csv
    from posterior_bench.bench.analysis.diff import diff
    from posterior_bench.bench.core import terminal
    from posterior_bench.bench.store.atomic import write_atomic
    from posterior_bench.bench.store.study_files import check_study

    for study in (study_a, study_b):
        check_study(study)
    found = diff(study_a, study_b, metric)
    if out:
        with writing(f"out={out}"):
            write_atomic(Path(out), to_csv(found.table))
    terminal.out.print(found.text(), markup=False, highlight=False)
    return 0


VERB = Verb(
    name="diff",
    does="compare two studies: which cells match, what changed in code, versions and settings, "
    "and in the numbers",
    example="bench diff runs/october runs/november",
    add_arguments=add_arguments,
    run=run,
    prints_only=True,
)
