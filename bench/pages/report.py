"""The report of a study: ``report.html``, one file that opens from disk without a network.

It holds the leaderboard, pictures, figures, cards, failures and provenance. All of it is computed
from the rows, and from the data where it can still be read. The number of embedded pictures is
bounded: of every measurement the first :data:`IMAGES` images with up to :data:`DRAWS` draws of
every solver, fewer images where that would exceed :data:`PICTURES`; and the best, the median and
the worst image of every solver by up to :data:`METRICS` metrics.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from posterior_bench.bench.analysis import figures, leaderboard, tables
from posterior_bench.bench.analysis.columns import range_text
from posterior_bench.bench.core.errors import UserError, unknown
from posterior_bench.bench.pages.extracted_files import extract_pictures
from posterior_bench.bench.pages.report_data import ReportData
from posterior_bench.bench.pages.report_facts import (
    failures,
    metric_cards,
    provenance,
    rerun_command,
    solver_cards,
)
from posterior_bench.bench.pages.report_pictures import (
    DRAWS,
    METRICS,
    fits_of,
    images_shown,
    scene_of,
)
from posterior_bench.bench.pages.report_plots import plots_of, write_pareto
from posterior_bench.bench.pages.report_table import leaderboard_table
from posterior_bench.bench.pages.thumbnails import Thumbnails, ramp
from posterior_bench.bench.store.atomic import write_atomic
from posterior_bench.bench.store.study_files import study_settings

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
        The metric that costs and coverage are plotted against; None = the perceptual one.
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
    pictures, scenes, fits = Thumbnails(), [], []
    means, looks = material.means(), figures.looks_of(board)
    shown = images or images_shown(material.groups)
    for group in material.groups:
        scenes.append(scene_of(group, material, means, shown, pictures, full))
        fits.append(fits_of(group, shown, pictures, looks))
        scenes[-1]["fits"] = fits[-1].pop("strips")
    plots = plots_of(material, means, metric) if metric else []
    page = _page(
        study=_name(study),
        board=leaderboard_table(material),
        notes=[tables.RANKING, *board.attrs["notes"]],
        plots=plots,
        fits=fits if any(fit["losses"] for fit in fits) else [],
        metric=board.attrs["metrics"][metric]["title"] if metric else "",
        images=range_text(board["images"]),
        draws=range_text(board["draws"]),
        scenes=[group.name for group in material.groups],
        data={"pictures": pictures.items, "scenes": scenes, "ramp": ramp()},
        rule=_rule(shown, pictures.left_out),
        failures=failures(material),
        metric_cards=metric_cards(material.cells),
        solver_cards=solver_cards(material.cells),
        provenance=provenance(material),
        lines=_commands(material),
    )
    write_atomic(study / "report.html", page.encode())
    return [study / "report.html", *(write_pareto(study, board, metric) if metric else [])]


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


def _name(study: Path) -> str:
    """Return the study's name, or that of its folder if no ``study=`` was chosen."""
    settings = study_settings(study).get("study", {})
    name = str(settings.get("name") or "default")
    return study.resolve().name if name == "default" else name


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
