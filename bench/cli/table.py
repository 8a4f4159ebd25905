"""``bench table``: a table of a study for a paper."""

from __future__ import annotations

from pathlib import Path

from posterior_bench.bench.cli.output_file import writing
from posterior_bench.bench.cli.paper_settings import add_page, add_where, chosen, some_names
from posterior_bench.bench.cli.parser import Parser, true_or_false
from posterior_bench.bench.cli.verb import Verb


def add_arguments(parser: Parser) -> None:
    """Declare the study, and what the table shows."""
    parser.add_argument("study", type=Path, metavar="STUDY", help="the folder of a study")
    parser.add_setting(
        "metrics",
        "[NAME,...]",
        "columns: metrics of the study, and passes and seconds (default: the first that fit)",
        some_names,
        (),
    )
    parser.add_setting(
        "rows", "[SOLVER,...]", "solvers in their order (default: all, best first)", some_names, ()
    )
    add_page(parser)
    parser.add_setting(
        "interval", "true|false", "show 95 % intervals (default: where they fit)", true_or_false
    )
    add_where(parser)
    parser.add_setting("out", "FILE.tex", "the file (default: table.tex in the study)")


def run(
    study: Path,
    metrics: list[str],
    rows: list[str],
    style: str,
    width: str | None,
    interval: bool | None,
    out: str | None,
    **where: str | None,
) -> int:
    """Write the table and print where it is and how wide.

    Parameters
    ----------
    study : Path
        The folder of the study.
    metrics, rows : list of str
        The columns and the solvers; empty for the default.
    style : str
        The page that it must fit.
    width : str or None
        ``column`` or ``page``; None for the first that holds the table.
    interval : bool or None
        Whether intervals are shown; None for where they fit.
    out : str or None
        The file.
    **where : str or None
        Columns of the leaderboard and the values that cells must have there.

    Raises
    ------
    UserError
        If the folder is no study, a name does not exist, or the table fits nowhere.
    """
    # pandas and matplotlib take seconds to load, and help does not need them
    from posterior_bench.bench.analysis import article_table
    from posterior_bench.bench.core import terminal
    from posterior_bench.bench.store.study_files import check_study, planned_cells

    check_study(study)
    planned_cells(study)
    wish = article_table.TableWish(metrics, rows, style, width, interval, chosen(where))
    path = Path(out) if out else study / "table.tex"
    with writing(f"out={path}"):
        found = article_table.write(study, wish, path)
    table = found.table
    said = f"{len(table.keys)} solvers, {len(table.titles)} columns of values"
    said += f", {table.width:.0f} of the {found.room:.0f} pt of a {found.kind} of style={style}"
    terminal.out.print(f"{said}, letters of {table.size} pt", markup=False, highlight=False)
    terminal.out.print(f"{path}", style="dim")
    return 0


VERB = Verb(
    name="table",
    does="write a LaTeX table of a study that fits a column or a page of a paper",
    example="bench table runs/default metrics=[psnr,stlpips] style=icml",
    more="The marks are those of the paired tests of the leaderboard: bold and underlined are the "
    "best and the second best mean, with all solvers that share a rank letter with it. The table "
    "needs \\usepackage{booktabs}. What must be known of its numbers stands in its caption, and "
    "all notes of the leaderboard in comments above it.",
    add_arguments=add_arguments,
    run=run,
    prints_only=True,
)
