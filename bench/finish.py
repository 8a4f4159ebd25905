"""The end of a run: the table, the contact sheet, the paths, and what went wrong."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from bench import console, leaderboard
from bench.errors import UserError
from bench.plan import CellPlan
from bench.run import Outcome, prepare
from bench.sheet import Panel, contact_sheet

SHEET_CELLS, SHEET_ROWS = 12, 8


def finish(outcomes: Sequence[Outcome]) -> bool:
    """Print and draw what the jobs of this process came to; True if every row is good."""
    last = outcomes[-1]
    board = leaderboard.build(last.study)
    sheet = _sheet(outcomes) if last.sheet else None
    if not last.quiet:
        console.out.print(leaderboard.table(board))
        for label, path in (
            ("leaderboard", last.study / "leaderboard.csv"),
            ("rows", last.study / "cells"),
            ("contact sheet", sheet),
        ):
            if path is not None:
                console.out.print(f"{label:>14}  {path}")
    bad = [o for o in outcomes if not o.good]
    for outcome in bad:
        console.err.print(f"bench: {console.title(outcome.plan)}: {_failures(outcome)}")
    return not bad


def _failures(outcome: Outcome) -> str:
    """How many rows failed, with the first message, and what to do."""
    rows = outcome.plan.store.read(["status", "message"])
    failed = rows[~rows["status"].isin(["ok", *outcome.accept])]
    if failed.empty:
        return "rows are missing; give the same command again to continue"
    counts = ", ".join(f"{n} {status}" for status, n in failed["status"].value_counts().items())
    return f"{counts} of {len(rows)} rows; first: {failed['message'].iloc[0]} (retry=true runs them again)"


def _sheet(outcomes: Sequence[Outcome]) -> Path | None:
    """The contact sheet of the cells of this run."""
    shown = outcomes[:SHEET_CELLS]
    images = max(2, SHEET_ROWS // len(shown)) if len(shown) > 1 else SHEET_ROWS
    panels = [panel for panel in (_panel(o.plan, images) for o in shown) if panel is not None]
    if not panels:
        return None
    path = outcomes[-1].study / "contact_sheet.png"
    contact_sheet(path, panels)
    return path


def _panel(plan: CellPlan, images: int) -> Panel | None:
    """Truth, observation and stored draws of a cell's first images; images with a failed draw are left out."""
    from bench.worker import Session

    rows = plan.store.read(["png"])
    pngs = rows.dropna(subset="png").groupby("image_id")["png"].apply(list)
    ids = [i for chunk in plan.chunks for i in chunk.images if len(pngs.get(i, ())) == plan.cell.draws][:images]
    if not ids:
        return None
    measured = Session(plan.cell.config, "cpu").measure(ids)
    draws = np.stack([[_pixels(png) for png in pngs[i]] for i in ids])
    mask = measured.operator.mask
    mask = np.ones_like(measured.truth[:, :1], dtype=bool) if mask is None else mask.numpy()
    return Panel(console.title(plan), measured.truth.numpy(), measured.y.numpy(), mask, draws)


def _pixels(png: bytes) -> np.ndarray:
    """A stored PNG as float ``(C, H, W)`` in [-1, 1]."""
    array = np.atleast_3d(np.asarray(Image.open(io.BytesIO(png)))).astype(np.float32)
    return array.transpose(2, 0, 1) / 127.5 - 1


def describe(overrides: list[str]) -> str:
    """What ``bench plan`` prints for one configuration."""
    from bench.app import compose

    if any(o.startswith("-") for o in overrides):
        raise UserError("'plan' describes one cell; leave out -m and comma lists")
    cfg, choices = compose(overrides)
    study, plan = prepare(cfg, choices)
    missing = plan.missing()
    rows = sum(len(c.images) for c in plan.chunks) * plan.cell.draws
    todo = sum(len(c.images) for c in missing) * plan.cell.draws
    return "\n".join(
        (
            f"cell     {plan.cell.name}  {console.title(plan)}",
            f"folder   {plan.folder}",
            f"rows     {rows} in {len(plan.chunks)} chunks; {todo} rows in {len(missing)} chunks still missing",
            f"batch    {plan.padded} images x {plan.cell.draws} draws, every chunk filled up to that",
            f"metrics  {', '.join(plan.cell.config['metrics'])}",
            f"study    {study}",
        )
    )
