"""``bench compare``: two solvers of a study, image by image; or two studies."""

from __future__ import annotations

from pathlib import Path

from posterior_bench.bench.cli import diff
from posterior_bench.bench.cli.parser import Parser, positive
from posterior_bench.bench.cli.verb import Verb
from posterior_bench.bench.config.prior_paths import PREFIX, with_prior_names
from posterior_bench.bench.core.errors import UserError

NEEDED = ("a", "b", "metric")
WHERE = ("data", "mask", "operator", "prior", "seed", "images", "draws")
"""Columns of the leaderboard by which cells may be chosen."""


def add_arguments(parser: Parser) -> None:
    """Declare the study, the solvers, the metric, and the choice of cells."""
    parser.add_argument("study", type=Path, metavar="STUDY", help="the folder of a study")
    parser.add_argument(
        "other",
        nargs="?",
        type=Path,
        metavar="STUDY_B",
        help="another study: then the two are compared, as by `bench diff`",
    )
    for side in ("a", "b"):
        parser.add_setting(side, "SOLVER", "a solver, as the tables call it (required)")
    parser.add_setting("metric", "NAME", "a metric with a value per image (required)")
    parser.add_setting(
        "margin",
        "DIFFERENCE",
        "the largest difference that counts as none: says too whether the two are equal within it",
        positive,
    )
    for key in WHERE:
        parser.add_setting(key, "VALUE", f"compare only cells with this {key}")
    parser.add_setting("out", "FILE.csv", "of two studies: write the whole table")


def run(
    study: Path,
    other: Path | None,
    a: str | None,
    b: str | None,
    metric: str | None,
    margin: float | None,
    out: str | None,
    **where: str | None,
) -> int:
    """Print who is better, and write a plot into the study.

    Parameters
    ----------
    study : Path
        The folder of the study.
    other : Path or None
        Another study; then ``bench diff`` does the work.
    a, b : str or None
        The two solvers, as the tables call them.
    metric : str or None
        The metric.
    margin : float or None
        The largest difference that counts as none.
    out : str or None
        The file for the table of two studies.
    **where : str or None
        Values of :data:`WHERE` by which cells are chosen.
    """
    chosen = {key: value for key, value in where.items() if value is not None}
    if other is not None:
        if a or b or margin or chosen:
            raise UserError(
                "'compare' of two studies takes metric= and out= only; for example: "
                f"{diff.VERB.example}"
            )
        return diff.run(study, other, metric, out)
    if not (a and b and metric):
        values = dict(zip(NEEDED, (a, b, metric), strict=True))
        missing = ", ".join(f"{key}=" for key, value in values.items() if not value)
        raise UserError(f"'compare' needs {missing}; for example: {VERB.example}")
    if out is not None:
        raise UserError("out= goes with two studies: bench compare STUDY_A STUDY_B out=FILE.csv")
    if "prior" in chosen:
        chosen["prior"] = with_prior_names([f"{PREFIX}{chosen['prior']}"])[0].removeprefix(PREFIX)
    # pandas and matplotlib take seconds to load, and help does not need them
    from posterior_bench.bench.analysis.compare import compare
    from posterior_bench.bench.core import terminal

    report, path = compare(study, a, b, metric, chosen, margin)
    terminal.out.print(report.text(), markup=False)
    terminal.out.print(f"{path}", style="dim")
    return 0


VERB = Verb(
    name="compare",
    does="say which of two solvers is better image by image, by how much and how surely; with a "
    "plot",
    example="bench compare runs/default a=dps b=repaint metric=psnr",
    add_arguments=add_arguments,
    run=run,
    prints_only=True,
)
