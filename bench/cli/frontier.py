"""``bench frontier``: quality against network passes, and who is best at which budget."""

from __future__ import annotations

from pathlib import Path

from posterior_bench.bench.cli.output_file import writing
from posterior_bench.bench.cli.parser import Parser
from posterior_bench.bench.cli.verb import Verb


def add_arguments(parser: Parser) -> None:
    """Declare the studies, the metric and the folder."""
    parser.add_argument(
        "studies",
        type=Path,
        nargs="+",
        metavar="STUDY",
        help="folders of studies whose cells have budgets; cells without one are single points",
    )
    parser.add_setting(
        "metric",
        "NAME",
        "a metric with a value per image (default: that of the first study's figure)",
    )
    parser.add_setting("out", "FOLDER", "where the files go (default: the first study)")


def run(studies: list[Path], metric: str | None, out: str | None) -> int:
    """Write the curves, the table and the figures, and print the table.

    Parameters
    ----------
    studies : list of Path
        The folders of the studies.
    metric : str or None
        The metric; None for that of the first study's figure.
    out : str or None
        The folder for the files; None for the first study.
    """
    # pandas and matplotlib take seconds to load, and help does not need them
    from posterior_bench.bench.analysis import frontier_table
    from posterior_bench.bench.analysis.frontier import frontier
    from posterior_bench.bench.core import terminal
    from posterior_bench.bench.store.study_files import check_study, planned_cells

    for study in studies:
        check_study(study)
        planned_cells(study)
    found = frontier(studies, metric or None)
    with writing(f"out={out or studies[0]}"):
        paths = frontier_table.write(found, Path(out) if out else studies[0])
    terminal.out.print(frontier_table.markdown(found), markup=False, highlight=False, emoji=False)
    for path in paths:
        terminal.out.print(f"{path}", style="dim")
    return 0


VERB = Verb(
    name="frontier",
    does="say which solver is best at which budget of network passes, with a figure of all curves",
    example="bench frontier runs/frontier_arena",
    add_arguments=add_arguments,
    run=run,
    prints_only=True,
)
