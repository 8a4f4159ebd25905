"""Compare two solvers of a study on the same images (``bench compare``).

The answer is a paragraph and a scatter plot per line-up. A line-up is data, mask, operator, prior
and seed. Verdict, interval and adjusted p value are those behind the rank letters of the
leaderboard, over all pairs of solvers of the same table, so that the two cannot contradict each
other; tests of the pair alone stand beside them. Cells that the leaderboard does not rank against
each other get no verdict, and a line says why.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from posterior_bench.bench.analysis.adjacent import demand_margin
from posterior_bench.bench.analysis.cell_records import read_cells
from posterior_bench.bench.analysis.comparison_report import ComparisonReport
from posterior_bench.bench.analysis.figures import render
from posterior_bench.bench.analysis.matches import (
    chosen_lines,
    demand_current_metric,
    match_cells,
    metric_card,
    pairs_of_cells,
)
from posterior_bench.bench.analysis.ranked_groups import ranked_groups
from posterior_bench.bench.analysis.study_summary import summarise_study
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.store.atomic import write_atomic
from posterior_bench.bench.store.read_study import read_study
from posterior_bench.bench.store.truth import demand_paired


def compare(
    study: Path,
    a: str,
    b: str,
    metric: str,
    where: Mapping[str, str] | None = None,
    margin: float | None = None,
) -> tuple[ComparisonReport, Path]:
    """Compare two solvers of a study and write ``compare_A_B_METRIC.svg`` and ``.png`` into it.

    The arguments and errors are those of :func:`compare_solvers`.

    Returns
    -------
    tuple of (ComparisonReport, Path)
        The report, and the path of the PNG.

    Raises
    ------
    UserError
        If a solver, metric or value does not exist, or no cells match.
    """
    report = compare_solvers(study, a, b, metric, where or {}, margin)
    name = "_".join(re.sub(r"[^A-Za-z0-9_.=-]+", "-", text).strip("-") for text in (a, b, metric))
    figure = report.figure()
    for kind in ("svg", "png"):
        write_atomic(study / f"compare_{name}.{kind}", render(figure, kind))
    return report, study / f"compare_{name}.png"


def compare_solvers(
    study: Path,
    a: str,
    b: str,
    metric: str,
    where: Mapping[str, str],
    margin: float | None = None,
) -> ComparisonReport:
    """Compare two solvers of a study on the images that both were run on.

    Parameters
    ----------
    study : Path
        The study folder.
    a, b : str
        Names of solvers as the leaderboard shows them.
    metric : str
        The column of the metric.
    where : Mapping[str, str]
        Columns of the leaderboard and the values that cells must have there.
    margin : float, optional
        The largest difference that counts as none: asks too whether the solvers are equal.

    Returns
    -------
    ComparisonReport
        A match for every pair of cells.

    Raises
    ------
    UserError
        If something does not exist, or the two solvers share no cell.
    """
    demand_margin(margin)
    try:
        card = metric_card(read_cells(study), metric)
        found = summarise_study(study)
    except ValueError as error:
        raise UserError(str(error)) from None
    pairs = pairs_of_cells(chosen_lines(found.lines, where), a, b)
    demand_current_metric(found.cells, metric, pairs)
    rows = read_study(study, ["status", "truth"])
    for heading, first, second in pairs:
        demand_paired(rows, heading, (first, a), (second, b))
    images = found.images.reindex(columns=[metric])
    # the families are those of the leaderboard, whatever mask= and the like leave of its tables
    families = ranked_groups(found.lines, images, [metric])
    lines = found.lines.set_index("cell")
    matches = [
        match_cells(
            images[metric],
            heading,
            lines.loc[one],
            lines.loc[other],
            families,
            lines["label"],
            margin,
        )
        for heading, one, other in pairs
    ]
    return ComparisonReport(a, b, metric, card, matches, margin)
