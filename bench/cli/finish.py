"""The end of a run: the table, the contact sheet, the paths, and what went wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from posterior_bench.bench.analysis import leaderboard, study_figure
from posterior_bench.bench.cli import study_status
from posterior_bench.bench.cli.finished_run import print_results, remember_run
from posterior_bench.bench.cli.remembered import Command, rows_of
from posterior_bench.bench.cli.stored_image import stored_image
from posterior_bench.bench.config.schema import study_folder
from posterior_bench.bench.core import terminal
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.engine import display, trackers
from posterior_bench.bench.engine.cache import described
from posterior_bench.bench.engine.plan import CellPlan
from posterior_bench.bench.engine.run import Outcome
from posterior_bench.bench.engine.session import Session
from posterior_bench.bench.pages import report
from posterior_bench.bench.pages.contact_sheet import contact_sheet
from posterior_bench.bench.pages.sheet_panels import Panel
from posterior_bench.bench.store.read_study import read_study
from posterior_bench.bench.store.truth import demand_equal, truth_hashes

SHEET_CELLS, SHEET_IMAGES = 24, 8
"""Most cells and images on one contact sheet; it shows fewer images if there are many cells."""

_CELL_GROUPS = ("solver", "data", "mask", "operator", "prior", "seed", "draws", "budget")
_NO_CELL_SETTINGS = ("data.root", "data.images", "solver.preset")


def finish(outcomes: Sequence[Outcome], cells: int = 0, command: Command | None = None) -> bool:
    """Print and draw the results of the jobs of this process.

    Parameters
    ----------
    outcomes : sequence of Outcome
        One per job, in the order in which they ran.
    cells : int, default 0
        Number of cells of the command.
    command : Command or None, default None
        The command, which is remembered where nothing is left to do.

    Returns
    -------
    bool
        Whether all ``cells`` ran and every row is ok or accepted.
    """
    last = outcomes[-1]
    rows = rows_of(last.study)
    board = leaderboard.write(last.study)
    figure = study_figure.write_figure(last.study, board)
    sheet = _sheet(outcomes) if last.sheet else None
    page = report.write_report(last.study, board)[0] if last.report else None
    pictures = [path for path in (sheet, figure) if path is not None]
    trackers.log_study(last.study, board, last.plan.cell.config.logger, pictures)
    paths = {
        "leaderboard": last.study / "leaderboard.csv",
        "rows": last.study / "cells",
        "contact sheet": sheet,
        "figure": figure,
        "report": page,
    }
    if not last.quiet:
        print_results(board, paths)
    _print_problems(outcomes)
    missing = max(0, cells - len(outcomes))
    if missing:
        terminal.err.print(
            f"bench: {missing} of {cells} cells did not run; give the same command again"
        )
    good = not missing and all(outcome.good for outcome in outcomes)
    drawn = sheet is not None or not last.sheet
    if command and good and drawn and rows == rows_of(last.study) and _lasts(outcomes):
        remember_run(command, outcomes, board, paths)
    return good


def _lasts(outcomes: Sequence[Outcome]) -> bool:
    """Return whether the same command would find nothing to do: one study, nothing tried again."""
    configs = [outcome.plan.cell.config for outcome in outcomes]
    return len({outcome.study for outcome in outcomes}) == 1 and not any(
        config.retry or config.logger for config in configs
    )


def _print_problems(outcomes: Sequence[Outcome]) -> None:
    """Print a line for every cell whose rows carry a note, then one for every cell that failed."""
    for outcome in outcomes:
        note, count = outcome.noted
        if count:
            terminal.remark(f"bench: {display.title(outcome.plan)}: {count} rows, {note}")
    for outcome in outcomes:
        if not outcome.good:
            terminal.err.print(f"bench: {display.title(outcome.plan)}: {_failures(outcome)}")


def finish_elsewhere(config: DictConfig, cells: Sequence[Sequence[str]] = ()) -> bool:
    """Print and draw the results of a sweep whose jobs ran in other processes.

    Parameters
    ----------
    config : DictConfig
        The configuration of the sweep, without the swept values.
    cells : sequence of sequence of str, default ()
        The overrides of every cell of the command.

    Returns
    -------
    bool
        Whether all cells ran and every row is ok or accepted, as far as the study folders tell.
    """
    distinct = {
        (_study_of_cell(config, lines), tuple(filter(_changes_cell, lines)))
        for lines in cells or [[]]
    }
    folders = Counter(folder for folder, _ in distinct)
    return all([_finish_study(config, study, planned) for study, planned in folders.items()])


def _changes_cell(override: str) -> bool:
    """Tell whether two values of this setting always make two cells."""
    key = override.lstrip("+").partition("=")[0]
    return key.partition(".")[0] in _CELL_GROUPS and key not in _NO_CELL_SETTINGS


def _study_of_cell(config: DictConfig, overrides: Sequence[str]) -> Path:
    """Return the study folder of a cell of a sweep: its name and place may be swept too."""
    pairs = (line.partition("=") for line in overrides)
    values = {key.lstrip("+"): value for key, _, value in pairs}
    out, name = values.get("out", config.out), values.get("study.name", config.study.name)
    return Path(study_folder(None if out in (None, "null") else str(out).strip("'\""), str(name)))


def _finish_study(config: DictConfig, study: Path, planned: int) -> bool:
    """Print and draw the results of one study folder; True if all its rows are good.

    With ``study.skip_inapplicable`` the number of cells is not checked: a cell that does not apply
    leaves no trace in the folder.
    """
    skips = bool(config.study.get("skip_inapplicable"))
    if not (study / "cells").is_dir():
        advice = "none of them applies" if skips else "give the same command again"
        terminal.err.print(f"bench: no cell of {study} was run; {advice}", markup=False)
        return False
    board = leaderboard.write(study)
    study_figure.write_figure(study, board)
    page = report.write_report(study, board)[0] if config.report else None
    cells = study_status.read(study)
    if not config.quiet:
        status = study_status.summary(cells)
        leaders = study / "leaderboard.csv"
        print_results(board, {"leaderboard": leaders, "status": status, "report": page})
    if len(cells) < planned and not skips:
        terminal.err.print(
            f"bench: {planned - len(cells)} of {planned} cells of {study} were not run; give the "
            "same command again",
            markup=False,
        )
        return False
    incomplete = [cell for cell in cells if cell.rows < cell.planned]
    for cell in incomplete:
        terminal.err.print(
            f"bench: {cell.title}: rows are missing; give the same command again to continue"
        )
    good = read_study(study, ["status"])["status"].isin(["ok", *config.accept])
    if not good.all():
        terminal.err.print(
            f"bench: {(~good).sum()} of {len(good)} rows failed (retry=true runs them again)"
        )
    return not incomplete and bool(good.all())


def _failures(outcome: Outcome) -> str:
    """Say how many rows failed, why the first one did, and what to do."""
    rows = outcome.plan.store.read(["status", "message"])
    if outcome.stopped:
        return (
            f"stopped after {len(rows)} rows, because the first ones all failed alike: "
            f"{outcome.stopped} (retry=true runs them again and goes on once one succeeds, "
            "accept=[STATUS] goes on regardless)"
        )
    failed = rows[~rows["status"].isin(["ok", *outcome.accept])]
    if failed.empty:
        return "rows are missing; give the same command again to continue"
    counts = ", ".join(f"{n} {status}" for status, n in failed["status"].value_counts().items())
    return (
        f"{counts} of {len(rows)} rows; first: {failed['message'].iloc[0]} "
        "(retry=true runs them again)"
    )


def _sheet(outcomes: Sequence[Outcome]) -> Path | None:
    """Draw the contact sheet of the cells of this run.

    If a picture has changed since the run, print a line that says so, and return None.
    """
    path = outcomes[-1].study / "contact_sheet.png"
    try:
        panels = [_panel(outcome.plan, SHEET_IMAGES) for outcome in outcomes[:SHEET_CELLS]]
    except UserError as error:
        terminal.err.print(f"bench: {error}", markup=False)
        return None
    contact_sheet(path, panels)
    return path


def _panel(plan: CellPlan, images: int) -> Panel:
    """Return truth, observation and stored draws of a cell's first images.

    A draw that failed is NaN.
    """
    ids = plan.images[:images]
    rows = plan.store.read(["png", "truth"], images=ids)
    pngs = rows.set_index(["image_id", "draw"])["png"].dropna()
    measured = Session(plan.cell.config, "cpu", described(plan.cell.config.prior)).measure(ids)
    demand_equal(
        truth_hashes(rows),
        dict(zip(ids, measured.truth, strict=True)),
        "contact_sheet.png is not drawn: ",
    )
    draws = np.full((len(ids), plan.cell.draws, *measured.truth.shape[1:]), np.nan, np.float32)
    for i, image in enumerate(ids):
        for d in range(plan.cell.draws):
            if (image, d) in pngs.index:
                draws[i, d] = stored_image(pngs[image, d])
    observed = measured.operator.mask
    everything = np.ones(measured.truth[:, :1].shape, dtype=bool)
    mask = everything if observed is None else observed.numpy()
    identity = plan.cell.identity
    name = " ".join(filter(None, (str(identity["solver"]), str(identity["variant"]))))
    group = " · ".join(str(identity[k]) for k in ("data", "mask", "operator"))
    return Panel(name, measured.truth, measured.y, mask, draws, group=group)
