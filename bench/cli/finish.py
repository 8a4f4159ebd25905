"""The end of a run: the table, the contact sheet, the paths, and what went wrong."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from omegaconf import DictConfig
from PIL import Image

from posterior_bench.bench.analysis import figures, leaderboard
from posterior_bench.bench.cli import study_status
from posterior_bench.bench.config.schema import study_folder
from posterior_bench.bench.core import terminal
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.engine import display
from posterior_bench.bench.engine.plan import CellPlan
from posterior_bench.bench.engine.run import Outcome
from posterior_bench.bench.pages import report
from posterior_bench.bench.pages.contact_sheet import contact_sheet
from posterior_bench.bench.pages.sheet_panels import Panel
from posterior_bench.bench.store.read_study import read_study

SHEET_CELLS, SHEET_IMAGES = 24, 8
"""At most on one contact sheet; the sheet itself shows fewer images of more cells."""


def finish(outcomes: Sequence[Outcome], cells: int = 0) -> bool:
    """Print and draw what the jobs of this process came to; True if every row of at least so many
    ``cells`` is good.
    """
    last = outcomes[-1]
    board = leaderboard.write(last.study)
    figure = figures.write_figure(last.study, board)
    sheet = _sheet(outcomes) if last.sheet else None
    page = report.write_report(last.study, board)[0] if last.report else None
    if not last.quiet:
        made = {
            "rows": last.study / "cells",
            "contact sheet": sheet,
            "figure": figure,
            "report": page,
        }
        _show(board, {"leaderboard": last.study / "leaderboard.csv", **made})
    for outcome in (o for o in outcomes if o.noted[1]):
        note, count = outcome.noted
        terminal.err.print(
            f"bench: {display.title(outcome.plan)}: {count} rows, {note}", markup=False
        )
    bad = [o for o in outcomes if not o.good]
    for outcome in bad:
        terminal.err.print(f"bench: {display.title(outcome.plan)}: {_failures(outcome)}")
    if len(outcomes) < cells:
        terminal.err.print(
            f"bench: {cells - len(outcomes)} of {cells} cells did not run; give the same command "
            f"again"
        )
    return not bad and len(outcomes) >= cells


def finish_elsewhere(config: DictConfig, cells: Sequence[Sequence[str]] = ()) -> bool:
    """The same for a sweep whose jobs a launcher ran in other processes: what its study folders
    say.

    ``cells``: the overrides of every cell that was asked for.
    """
    distinct = {
        (_folder(config, lines), tuple(filter(_names_a_cell, lines))) for lines in cells or [[]]
    }
    folders = Counter(folder for folder, _ in distinct)
    return all([_finish_study(config, study, planned) for study, planned in folders.items()])


def _names_a_cell(override: str) -> bool:
    """Whether cells that differ in this override alone are two cells, for sure."""
    key = override.lstrip("+").partition("=")[0]
    return key.partition(".")[0] in (
        "solver",
        "data",
        "mask",
        "operator",
        "prior",
        "seed",
        "draws",
        "budget",
    ) and (key not in ("data.root", "data.images", "solver.preset"))


def _folder(config: DictConfig, overrides: Sequence[str]) -> Path:
    """The study folder of a cell of a sweep: its name and place may be swept too."""
    given = {
        key.lstrip("+"): value for key, _, value in (line.partition("=") for line in overrides)
    }
    out, name = given.get("out", config.out), given.get("study.name", config.study.name)
    return Path(study_folder(None if out in (None, "null") else str(out).strip("'\""), str(name)))


def _finish_study(config: DictConfig, study: Path, planned: int) -> bool:
    """One folder of such a sweep.

    Cells that do not apply leave no trace in it, so those of a study that skips are not counted.
    """
    skips = bool(config.study.get("skip_inapplicable"))
    if not (study / "cells").is_dir():
        if not skips:
            terminal.err.print(
                f"bench: no cell of {study} was run; give the same command again", markup=False
            )
        return skips
    board = leaderboard.write(study)
    figures.write_figure(study, board)
    page = report.write_report(study, board)[0] if config.report else None
    cells = study_status.read(study)
    if not config.quiet:
        _show(
            board,
            {
                "leaderboard": study / "leaderboard.csv",
                "status": study_status.summary(cells),
                "report": page,
            },
        )
    known = read_study(study, ["status"])["status"].isin(["ok", *config.accept])
    bad = [cell for cell in cells if cell.rows < cell.planned]
    if len(cells) < planned and not skips:
        words = (
            f"{planned - len(cells)} of {planned} cells of {study} were not run; give the "
            f"same "
            f"command again"
        )
        terminal.err.print(f"bench: {words}", markup=False)
        return False
    for cell in bad:
        terminal.err.print(
            f"bench: {cell.title}: rows are missing; give the same command again to continue"
        )
    if not known.all():
        terminal.err.print(
            f"bench: {(~known).sum()} of {len(known)} rows failed (retry=true runs them again)"
        )
    return not bad and bool(known.all())


def _show(board: pd.DataFrame, lines: Mapping[str, object]) -> None:
    """The table, and below it what was made and where; nothing for what was not."""
    terminal.out.print(leaderboard.table(board, terminal.out.width))
    for label, text in lines.items():
        if text is not None:
            terminal.out.print(f"{label:>14}  {text}")


def _failures(outcome: Outcome) -> str:
    """How many rows failed, with the first message, and what to do."""
    rows = outcome.plan.store.read(["status", "message"])
    if outcome.stopped:
        return (
            f"stopped after {len(rows)} rows, because the first ones all failed alike: "
            f"{outcome.stopped} (retry=true "
            "runs them again and goes on once one succeeds, accept=[STATUS] goes on regardless)"
        )
    failed = rows[~rows["status"].isin(["ok", *outcome.accept])]
    if failed.empty:
        return "rows are missing; give the same command again to continue"
    counts = ", ".join(f"{n} {status}" for status, n in failed["status"].value_counts().items())
    return (
        f"{counts} of {len(rows)} rows; first: {failed['message'].iloc[0]} (retry=true runs "
        f"them again)"
    )


def _sheet(outcomes: Sequence[Outcome]) -> Path | None:
    """The contact sheet of the cells of this run; None, and a line that says why, where pictures
    have changed since.
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
    """Truth, observation and stored draws of a cell's first images; a draw that failed is NaN."""
    from posterior_bench.bench.engine.cache import described
    from posterior_bench.bench.engine.session import Session
    from posterior_bench.bench.store.truth import demand_equal, truth_hashes

    ids = plan.images[:images]
    rows = plan.store.read(["png", "truth"])
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
                draws[i, d] = _pixels(pngs[image, d])
    known = measured.operator.mask
    mask = np.ones(measured.truth[:, :1].shape, dtype=bool) if known is None else known.numpy()
    identity = plan.cell.identity
    name = " ".join(filter(None, (str(identity["solver"]), str(identity["variant"]))))
    group = " · ".join(str(identity[k]) for k in ("data", "mask", "operator"))
    return Panel(name, measured.truth, measured.y, mask, draws, group=group)


def _pixels(png: bytes) -> np.ndarray:
    """A stored PNG as float ``(C, H, W)`` in [-1, 1]."""
    array = np.atleast_3d(np.asarray(Image.open(io.BytesIO(png)))).astype(np.float32)
    return array.transpose(2, 0, 1) / 127.5 - 1
