"""``bench compare``: two solvers of a study on the same images, in a paragraph and a scatter plot a
line-up.

A line-up is what both were run on: data, mask, operator, prior and seed. Its verdict, interval and
adjusted p value are those behind the rank letters of the leaderboard, over all pairs of the solvers
of the same table, so that the two cannot contradict each other; tests of the pair alone stand
beside them. Cells that the leaderboard does not rank against each other get no verdict here, and a
line says why. The plot is that of VIPaint's Fig. 10: an image is a point, and where the two do
equally well it lies on the diagonal.
"""

from __future__ import annotations

import re
from pathlib import Path

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
from posterior_bench.bench.analysis.ranked_groups import compared
from posterior_bench.bench.analysis.study_summary import summarise_study
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.store.atomic import write_atomic
from posterior_bench.bench.store.read_study import read_study
from posterior_bench.bench.store.truth import demand_paired


def compare(
    study: Path, a: str, b: str, metric: str, where: Mapping[str, str] | None = None
) -> tuple[ComparisonReport, Path]:
    """Compare two solvers of a study and write ``compare_A_B_METRIC.svg`` and ``.png`` into it.

    Parameters
    ----------
    study : Path
        The folder of the study.
    a, b : str
        The solvers, as the tables call them.
    metric : str
        A metric with a value per image.
    where : mapping of str to str or None, default None
        Values of columns (:data:`~bench.analysis.matches.WHERE`) by which cells are chosen.

    Returns
    -------
    tuple of (ComparisonReport, Path)
        The report, and the path of the PNG.

    Raises
    ------
    UserError
        If a solver, metric or value does not exist, or no cells match.
    """
    try:
        card = metric_card(read_cells(study), metric)
        found = summarise_study(study)
    except ValueError as error:
        raise UserError(str(error)) from None
    pairs = pairs_of_cells(chosen_lines(found.lines, where or {}), a, b)
    demand_current_metric(found.cells, metric, pairs)
    rows = read_study(study, ["status", "truth"])
    for heading, first, second in pairs:
        demand_paired(rows, heading, (first, a), (second, b))
    images = found.images.reindex(columns=[metric])
    # the families are those of the leaderboard, whatever mask= and the like leave of its tables
    families = compared(found.lines, images, [metric])
    lines = found.lines.set_index("cell")
    matches = [
        match_cells(
            images[metric], heading, lines.loc[first], lines.loc[second], families, lines["label"]
        )
        for heading, first, second in pairs
    ]
    report = ComparisonReport(a, b, metric, card, matches)
    name = "_".join(re.sub(r"[^A-Za-z0-9_.=-]+", "-", text).strip("-") for text in (a, b, metric))
    figure = report.figure()
    for kind in ("svg", "png"):
        write_atomic(study / f"compare_{name}.{kind}", render(figure, kind))
    return report, study / f"compare_{name}.png"
