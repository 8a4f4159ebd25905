"""``bench report``: the report of a study, one HTML file."""

from __future__ import annotations

from pathlib import Path

from posterior_bench.bench.cli.parser import Parser, names, true_or_false, whole_number
from posterior_bench.bench.cli.verb import Verb


def add_arguments(parser: Parser) -> None:
    """Declare the study and the settings of the report."""
    parser.add_argument("study", type=Path, metavar="STUDY", help="the folder of a study")
    parser.add_setting(
        "images", "N", "how many images of every measurement are shown", whole_number
    )
    parser.add_setting("metric", "NAME", "the metric that orders the solvers and is plotted")
    parser.add_setting("extract", "DIR", "write whole pictures as PNG files too")
    add_trust(parser, "run the TorchScript operator that the study names, to show its measurements")


def add_trust(parser: Parser, trust_file: str) -> None:
    """Declare which code a verb may run to read a study; the study itself cannot allow any."""
    parser.add_setting(
        "plugins",
        "[NAME]",
        "packages or files whose code may be imported; names in the study do not count",
        names,
        (),
    )
    parser.add_setting("trust_file", "true|false", trust_file, true_or_false, False)


def run(
    study: Path,
    images: int | None,
    metric: str | None,
    extract: str | None,
    plugins: list[str],
    trust_file: bool,
) -> int:
    """Write ``report.html`` and print its path.

    Parameters
    ----------
    study : Path
        The folder of the study.
    images : int or None
        How many images of every measurement are shown.
    metric : str or None
        The metric that orders the solvers, and that costs and coverage are plotted against.
    extract : str or None
        A folder for whole pictures.
    plugins : list of str
        Packages and files whose code may be imported.
    trust_file : bool
        Whether TorchScript programs that the study names may run.
    """
    # pandas and matplotlib take seconds to load, and help does not need them
    from posterior_bench.bench.config.plugins import admit
    from posterior_bench.bench.core.terminal import out
    from posterior_bench.bench.pages.report import report

    admit(plugins, trust_file)
    for path in report(study, images, metric or None, Path(extract) if extract else None):
        out.print(f"{path}", style="dim")
    return 0


VERB = Verb(
    name="report",
    does="write report.html of a study: table, pictures, figures, cards",
    example="bench report runs/default images=4",
    add_arguments=add_arguments,
    run=run,
    prints_only=True,
)
