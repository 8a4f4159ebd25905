"""Experiment trackers: a run of Weights & Biases or TensorBoard for every cell, beside the rows.

When a command ends, one more run holds the leaderboard and the pictures of its study.

A tracker works in one thread that the run never waits for: a slow tracker falls behind, a failing
or absent tracker is named once and left alone for the rest of the process. At the end of the
process it has a few seconds to finish. Files lie in ``trackers/`` of the study. Weights & Biases
writes offline, without account and network, unless WANDB_MODE says else; ``wandb sync`` sends such
a run later.
"""

from __future__ import annotations

import atexit
import io
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import Full, Queue
from typing import Any, Protocol

import numpy as np
import pandas as pd
from PIL import Image

from posterior_bench.bench.core import terminal
from posterior_bench.bench.core.cost import total_passes
from posterior_bench.bench.engine import display
from posterior_bench.bench.engine.plan import CellPlan, Chunk

FOLDER = "trackers"
MOST_WAITING, LAST_SECONDS, SHOWN = 1000, 20.0, 8
"""Tasks that may wait before new ones are dropped; patience at the end of the process; images per
cell."""

LEADERBOARD = "leaderboard"
"""The name of the run that holds the tables and pictures of a study."""

_NAMES = ("solver", "data", "mask", "operator", "prior", "seed", "images", "draws", "failed")

Counts = Mapping[str, int]


class Sink(Protocol):
    """One run of a tracker, for one cell; made from a folder, a name and a configuration."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Record values at a step."""

    def images(self, name: str, images: Mapping[str, bytes]) -> None:
        """PNG files by caption."""

    def table(self, name: str, frame: pd.DataFrame) -> None:
        """Record a table."""

    def close(self, summary: Mapping[str, float]) -> None:
        """End the run with these values."""


class WandB:
    """A run of Weights & Biases, called and grouped as its cell and study are."""

    def __init__(self, folder: Path, name: str, config: Mapping[str, Any]):
        # optional package
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        self._wandb = wandb
        self._run = wandb.init(
            project="bench",
            name=name,
            group=str(config["study"]),
            job_type="cell" if "cell" in config else "study",
            dir=str(folder.parent),  # wandb adds a folder of its own name
            config=dict(config),
            mode=os.environ.get("WANDB_MODE", "offline"),  # type: ignore[arg-type]
            reinit="create_new",
            settings=wandb.Settings(
                silent=True, console="off", disable_git=True, save_code=False, init_timeout=30
            ),
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Record values at a step."""
        self._run.log(dict(values), step=step)

    def images(self, name: str, images: Mapping[str, bytes]) -> None:
        """Record PNG files by caption."""
        shown = [
            self._wandb.Image(Image.open(io.BytesIO(png)), caption=caption)
            for caption, png in images.items()
        ]
        self._run.log({name: shown})

    def table(self, name: str, frame: pd.DataFrame) -> None:
        """Record a table."""
        self._run.log({name: self._wandb.Table(dataframe=frame)})

    def close(self, summary: Mapping[str, float]) -> None:
        """End the run with these values."""
        self._run.summary.update(dict(summary))
        self._run.finish(exit_code=0)


class TensorBoard:
    """Event files for TensorBoard, a folder per cell."""

    def __init__(self, folder: Path, name: str, config: Mapping[str, Any]):
        # optional package
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder / name.replace("/", "-")))
        self._writer.add_text(
            "config", "\n".join(f"    {key}: {value}" for key, value in config.items())
        )

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Record values at a step."""
        for key, value in values.items():
            self._writer.add_scalar(key, value, step)

    def images(self, name: str, images: Mapping[str, bytes]) -> None:
        """Record PNG files by caption."""
        for caption, png in images.items():
            pixels = np.atleast_3d(np.asarray(Image.open(io.BytesIO(png))))
            self._writer.add_image(f"{name}/{caption}", pixels, dataformats="HWC")

    def table(self, name: str, frame: pd.DataFrame) -> None:
        """Record a table."""
        lines = [frame.columns, ["---"] * frame.shape[1], *frame.map(str).to_numpy()]
        self._writer.add_text(name, "\n".join(f"| {' | '.join(line)} |" for line in lines))

    def close(self, summary: Mapping[str, float]) -> None:
        """End the run with these values."""
        for key, value in summary.items():
            self._writer.add_scalar(f"summary/{key}", value)
        self._writer.close()


SINKS: dict[str, Callable[[Path, str, Mapping[str, Any]], Sink]] = {
    "wandb": WandB,
    "tensorboard": TensorBoard,
}


class _Background:
    """Does tasks in order in a thread of its own, until one fails.

    The failure is named once, and further tasks are dropped.
    """

    def __init__(self, name: str):
        self.name = name
        self._tasks: Queue[Callable[[], None] | None] = Queue(MOST_WAITING)
        self._thread = threading.Thread(target=self._work, name=f"logger-{name}", daemon=True)
        self._thread.start()

    def put(self, task: Callable[[], None] | None) -> None:
        with suppress(Full):
            self._tasks.put_nowait(task)

    def finish(self, seconds: float) -> None:
        """Do what waits, for so long at most."""
        self.put(None)
        self._thread.join(seconds)
        if self._thread.is_alive():
            self._say(f"not finished after {seconds:.0f} s")

    def _work(self) -> None:
        try:
            while (task := self._tasks.get()) is not None:
                task()
        except BaseException as error:  # a tracker that exits must not take the run along
            self._say(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")

    def _say(self, reason: str) -> None:
        terminal.err.print(
            f"bench: logger={self.name} is off from here on ({reason}); rows are not affected",
            markup=False,
        )


_RUNNING: dict[str, _Background] = {}


def finish(seconds: float = LAST_SECONDS) -> None:
    """Let every tracker end its work within so many seconds; a later cell starts it anew."""
    end = time.monotonic() + seconds
    for name in list(_RUNNING):
        _RUNNING.pop(name).finish(max(0.0, end - time.monotonic()))


atexit.register(finish)


@contextmanager
def tracking(
    plan: CellPlan, chunks: Sequence[Chunk], logger: str | None
) -> Iterator[Callable[[Chunk, Counts], None]]:
    """Yield a function that is to be called with every stored chunk.

    The end of the block is the end of the cell's run. Nothing in here raises or waits for the
    tracker; without ``logger``, or without chunks to run, nothing happens.
    """
    if logger is None or not chunks:
        yield lambda chunk, counts: None
        return
    if logger not in _RUNNING:
        _RUNNING[logger] = _Background(logger)
    background = _RUNNING[logger]
    opened: list[Sink] = []
    make = SINKS[logger]
    seen: dict[str, int] = {"rows": 0, "failed": 0, "chunks": 0}
    start = time.monotonic()

    def advance(chunk: Chunk, counts: Counts) -> None:
        rows = sum(counts.values())
        seen["rows"] += rows
        seen["failed"] += rows - counts.get("ok", 0)
        seen["chunks"] += 1
        values = {
            "rows": seen["rows"],
            "failed": seen["failed"],
            "seconds": time.monotonic() - start,
        }
        step = seen["chunks"]
        background.put(lambda: opened[0].log(values, step))

    background.put(
        lambda: opened.append(
            make(plan.folder.parents[1] / FOLDER / logger, _name(plan), _config(plan))
        )
    )
    try:
        yield advance
    finally:
        background.put(lambda: _close(opened[0], plan))


def log_study(
    study: Path, board: pd.DataFrame, logger: str | None, pictures: Sequence[Path]
) -> None:
    """Record the leaderboard and the pictures of a study, in a run of their own.

    Nothing happens if no cell of this process was tracked, so that a command that finds all rows
    there opens no run. As :func:`tracking`, this neither raises nor waits.

    Parameters
    ----------
    study : Path
        The study folder.
    board : DataFrame
        The leaderboard.
    logger : str or None
        The tracker.
    pictures : sequence of Path
        Pictures; those that are no PNG are left out.
    """
    background = _RUNNING.get(logger or "")
    if logger is None or background is None:
        return
    folder, make = study / FOLDER / logger, SINKS[logger]
    config = {"study": study.name, "cells": len(board)}
    shown = {path.stem: path.read_bytes() for path in pictures if path.suffix == ".png"}
    table = _plain_board(board)

    def record() -> None:
        sink = make(folder, LEADERBOARD, config)
        sink.table(LEADERBOARD, table)
        if shown:
            sink.images("study", shown)
        sink.close({"cells": float(len(table)), "failed": float(table["failed"].sum())})

    background.put(record)


def _plain_board(board: pd.DataFrame) -> pd.DataFrame:
    """Return the columns of a leaderboard that people read; infinite values are left empty."""
    scores = [f"{m}{end}" for m in board.attrs["metrics"] for end in ("", "_lo", "_hi", "_rank")]
    names = [*_NAMES, *scores, "passes", "seconds_fit", "seconds_sample"]
    shown = board[[name for name in names if name in board]].replace([np.inf, -np.inf], np.nan)
    return shown.dropna(axis=1, how="all")


def _name(plan: CellPlan) -> str:
    return f"{display.title(plan).replace('  ', '_').replace(' ', '_')}_{plan.cell.name[:8]}"


def _config(plan: CellPlan) -> dict[str, Any]:
    """Return the identity of the cell and its configuration."""
    return {
        **plan.cell.identity,
        "cell": plan.cell.name,
        "study": plan.folder.parents[1].name,
        **_settings(plan),
    }


def _settings(plan: CellPlan) -> dict[str, Any]:
    config = plan.cell.config
    solver = {
        f"solver.{key}": value
        for key, value in config.solver.items()
        if key not in ("_target_", "presets")
    }
    return {**solver, "batch": config.batch, "commit": config.commit}


def _close(sink: Sink, plan: CellPlan) -> None:
    """Summary, table and the first images of a cell, read back from its shards."""
    rows = plan.store.read()
    good = rows[rows["status"] == "ok"]
    good = good.assign(passes=total_passes(good["nfe"], good["nge"]))
    costs = ("passes", "nfe", "seconds_sample")
    names = [
        *(set(plan.cell.config.metrics) & set(good.select_dtypes("number").columns)),
        *costs,
    ]
    means = good.groupby("image_id")[sorted(names)].mean().dropna(axis=1, how="all")
    summary = {str(name): float(value) for name, value in means.mean().items()}
    sink.table("images", means.reset_index())
    pngs = plan.store.read(["png"], images=plan.images[:SHOWN])
    pngs = pngs.dropna(subset=["png"]).query("draw == 0")
    sink.images(
        "draws", {str(image): png for image, png in zip(pngs["image_id"], pngs["png"], strict=True)}
    )
    sink.close({**summary, "rows": float(len(rows)), "failed": float(len(rows) - len(good))})
