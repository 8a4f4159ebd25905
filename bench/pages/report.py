"""The report of a study: ``report.html``, one file that opens from disk without a network.

At its top stand the question of the study and the answer: the overall order of the solvers, and
quality against cost. Below are the leaderboard, pictures, tables by class and by coverage, cards,
failures and provenance. All of it is computed from the rows, and from the data where it can still
be read. The number of embedded pictures is bounded: of every measurement the first :data:`IMAGES`
images with up to :data:`DRAWS` draws of every solver, fewer images where that would exceed
:data:`PICTURES`; and the best, the median and the worst image of every solver by up to
:data:`METRICS` metrics.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from posterior_bench.bench.analysis import figures, leaderboard, tables
from posterior_bench.bench.core.errors import UserError, unknown
from posterior_bench.bench.pages.extracted_files import extract_pictures
from posterior_bench.bench.pages.report_answer import answers, solvers_in_order
from posterior_bench.bench.pages.report_breakdown import breakdowns, holes_of
from posterior_bench.bench.pages.report_data import ReportData
from posterior_bench.bench.pages.report_facts import (
    failures,
    metric_cards,
    provenance,
    rerun_command,
    solver_cards,
)
from posterior_bench.bench.pages.report_heading import heading
from posterior_bench.bench.pages.report_pictures import (
    DRAWS,
    METRICS,
    fits_of,
    images_shown,
    picture_side,
    scene_of,
    scored,
)
from posterior_bench.bench.pages.report_plots import plots_of, write_pareto
from posterior_bench.bench.pages.report_table import leaderboard_table
from posterior_bench.bench.pages.thumbnails import Thumbnails, ramp
from posterior_bench.bench.store.atomic import write_atomic

ASSETS = Path(__file__).parent / "assets" / "report"


def report(
    study: Path,
    images: int | None = None,
    metric: str | None = None,
    extract: Path | None = None,
) -> list[Path]:
    """Read a study and write its report; see :func:`write_report`.

    Raises
    ------
    UserError
        If the folder holds no cells, or a metric has no values of images.
    """
    try:
        board = leaderboard.build(study)
    except ValueError as error:
        raise UserError(str(error)) from None
    return write_report(study, board, images, metric, extract)


def write_report(
    study: Path,
    board: pd.DataFrame,
    images: int | None = None,
    metric: str | None = None,
    extract: Path | None = None,
) -> list[Path]:
    """Write ``report.html`` and the Pareto figure ``pareto.svg`` and ``.png``; return the paths.

    Parameters
    ----------
    study : Path
        The study folder.
    board : DataFrame
        The leaderboard.
    images : int, optional
        How many images of every measurement are shown; None = as many as fit.
    metric : str, optional
        The metric that orders the solvers, and that costs and coverage are plotted against; None =
        that of the study's figure, else the perceptual one.
    extract : Path, optional
        A folder for whole pictures, which the report links to.

    Raises
    ------
    UserError
        If the metric has no value per image.
    """
    material = ReportData.read(study, board)
    if metric is not None and metric not in material.metrics:
        raise unknown("metric", metric, material.metrics)
    metric = metric or material.main_metric()
    full = extract_pictures(material, extract) if extract else {}
    means = material.means()
    shown = images or images_shown(material.groups)
    pictures = Thumbnails(side=picture_side(material.groups, shown))
    scenes, fits = _scenes(material, means, (shown, metric), pictures, full)
    holes = [holes_of(group) for group in material.groups]
    orders = answers(material, means, metric)
    page = _page(
        heading=heading(study, board, len(material.groups)),
        answers=orders,
        breakdowns=[
            breakdowns(material, group, means, metric, hidden, solvers_in_order(orders))
            for group, hidden in zip(material.groups, holes, strict=True)
            if metric
        ],
        board=leaderboard_table(material),
        notes=[tables.RANKING, *board.attrs["notes"]],
        plots=plots_of(material, means, metric, holes) if metric else [],
        fits=fits if any(fit["losses"] for fit in fits) else [],
        metric=board.attrs["metrics"][metric]["title"] if metric else "",
        scenes=[group.name for group in material.groups],
        data={
            "pictures": pictures.items,
            "scenes": scenes,
            "ramp": ramp(),
            "order": solvers_in_order(orders),
        },
        rule=_rule(shown, pictures.left_out),
        failures=failures(material),
        metric_cards=metric_cards(material.cells),
        solver_cards=solver_cards(material.cells),
        provenance=provenance(material),
        lines=_commands(material),
    )
    write_atomic(study / "report.html", page.encode())
    return [study / "report.html", *(write_pareto(study, board, metric) if metric else [])]


def _scenes(
    material: ReportData,
    means: pd.DataFrame,
    choice: tuple[int, str | None],
    pictures: Thumbnails,
    full: Mapping[Hashable, str],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return what the page shows of every measurement, and of the fits in it.

    ``choice`` holds the number of images and the main metric.
    """
    shown, metric = choice
    looks, metrics = figures.looks_of(material.board), scored(material, metric)
    scenes, fits = [], []
    for group in material.groups:
        scenes.append(scene_of(group, material, means, (shown, metrics), pictures, full))
        fits.append(fits_of(group, shown, pictures, looks))
        scenes[-1]["fits"] = fits[-1].pop("strips")
    return scenes, fits


def _commands(material: ReportData) -> list[dict[str, str]]:
    """Return the command that runs each cell again."""
    return [
        {"cell": cell.name, "label": cell.label, "command": rerun_command(cell.identity)}
        for cell in material.cells
    ]


def _page(**context: object) -> str:
    """Return the file; every string of the context is escaped."""
    jinja = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return jinja.get_template("report.html").render(**context)


def _rule(shown: int, left_out: int) -> str:
    """Return in words which pictures are embedded."""
    text = (
        f"Embedded: the first {shown} image{'s' * (shown > 1)} of every measurement with up to "
        f"{DRAWS} draws of every "
        f"solver, and the best, median and worst image of every solver by up to {METRICS} metrics. "
    )
    if left_out:
        text += f"{left_out} more pictures did not fit. "
    return (
        text + "More: bench report STUDY images=N. Whole PNG files: bench report STUDY extract=DIR."
    )
