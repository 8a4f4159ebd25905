"""Compute rows of a bundle again, with the engine that computes every row."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from posterior_bench.bench.core.environment import environment
from posterior_bench.bench.engine.device import device_name
from posterior_bench.bench.engine.plan import CellPlan, Chunk
from posterior_bench.bench.engine.source_code import code_of
from posterior_bench.bench.engine.worker import Worker
from posterior_bench.bench.store.schema import FIXED, Row
from posterior_bench.bench.submission.bundle import BundleCell

TOLERANCE = 0.05
"""How far a value may be off on other software or hardware: this share of the standard deviation of
its column over the rows of the cell, or this share of the value where it is larger."""

EXACT = ("nfe", "nge", "decode", "decode_grad", "encode", "encode_grad", "nfe_fit")
"""Counts: they do not depend on rounding."""

_NOT_OF_THE_ROW = ("oom", "timeout")
"""Statuses that depend on the machine."""


@dataclass(frozen=True)
class Rerun:
    """The result of computing some rows again.

    Parameters
    ----------
    rows : int
        How many rows were computed.
    exact : bool
        Whether software and hardware are those of the rows, so that every bit must agree.
    other : str
        What is different here, where it is not exact.
    problems : list of str
        Rows that are not reproduced.
    bitwise : bool
        Whether every value agreed bit for bit.
    """

    rows: int
    exact: bool
    other: str
    problems: list[str]
    bitwise: bool


def chosen_images(
    cells: Sequence[BundleCell], count: int | None, metric: Mapping[str, str]
) -> dict[str, list[str]]:
    """Choose the images that are computed again, by cell.

    Half of them are chosen by chance, so that nobody can know them before. The others are the best
    ones of cells chosen by chance, because a made-up row pays most if it is good.

    Parameters
    ----------
    cells : sequence of BundleCell
        The cells that can be computed here.
    count : int or None
        How many images; None = all.
    metric : mapping of str to str
        For every cell a metric with its direction, as ``up psnr``.
    """
    every = [(cell.name, str(row["image_id"])) for cell in cells for row in cell.rows]
    every = list(dict.fromkeys(every))
    if count is None or count >= len(every):
        return _by_cell(every)
    chance = random.SystemRandom()
    picked = dict.fromkeys(chance.sample(every, count - count // 2))
    for cell in chance.sample([*cells], min(len(cells), count // 2)):
        for image in _best_first(cell, metric.get(cell.name, "")):
            if (cell.name, image) not in picked:
                picked[cell.name, image] = None
                break
    left = [key for key in every if key not in picked]
    picked |= dict.fromkeys(chance.sample(left, count - len(picked)))
    return _by_cell([*picked])


def _by_cell(keys: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for cell, image in keys:
        found.setdefault(cell, []).append(image)
    return found


def _best_first(cell: BundleCell, metric: str) -> list[str]:
    direction, _, name = metric.partition(" ")
    values: dict[str, float] = {}
    for row in cell.rows:
        value = row.get(name)
        if isinstance(value, float) and not math.isnan(value):
            values[str(row["image_id"])] = value if direction == "down" else -value
    return sorted(values, key=lambda image: values[image])


def rerun_cell(
    cell: BundleCell,
    plan: CellPlan,
    images: Sequence[str],
    told_environment: Mapping[str, Any],
    device: str,
) -> Rerun:
    """Compute images of a cell again, all their draws, and compare.

    Parameters
    ----------
    cell : BundleCell
        The cell of the bundle.
    plan : CellPlan
        The same cell as it is made here, in a folder of our own.
    images : sequence of str
        The images.
    told_environment : mapping
        The environment that the bundle tells.
    device : str
        The device to use.
    """
    told = {_key(row): row for row in cell.rows}
    first = next(row for row in cell.rows if row["status"] == "ok")
    threads = max(1, min(int(str(first.get("threads") or 1)), os.cpu_count() or 1))
    worker = Worker(device, threads)
    plan = replace(plan, cell=replace(plan.cell, config=replace(plan.cell.config, threads=threads)))
    found = [row for part in _chunks(cell, plan, images) for row in worker.rows(plan, part)]
    other = _other(first, plan, told_environment, device)
    spread = _spreads(cell)
    problems, bitwise = [], True
    for row in found:
        wrong, same = _compare(told[_key(row)], row, spread, exact=not other)
        bitwise &= same
        problems += wrong
    return Rerun(len(found), not other, other, problems, bitwise)


def _chunks(cell: BundleCell, plan: CellPlan, images: Sequence[str]) -> Iterator[Chunk]:
    """Yield chunks with these images alone; padding makes their rows those of the whole chunk."""
    wanted = {*images}
    for name, every in cell.record["chunks"].items():
        mine = [image for image in every if image in wanted]
        for start in range(0, len(mine), plan.padded):
            yield Chunk(name, mine[start : start + plan.padded])


def _key(row: Row) -> tuple[str, int]:
    return str(row["image_id"]), int(str(row["draw"]))


def _other(row: Row, plan: CellPlan, told_environment: Mapping[str, Any], device: str) -> str:
    """Return in what software and hardware differ from those of a row; empty if in nothing."""
    here = {
        "device": device_name(device),
        "threads": plan.cell.config.threads,
        "build": torch.__version__,
        "precision": plan.cell.config.execution.label,
        "code": code_of(plan.cell.config.solver),
    }
    differ = [
        f"{key} {row.get(key)} and {now} here" for key, now in here.items() if row[key] != now
    ]
    then, now = (e.get("processor") for e in (told_environment, environment()))
    if then != now:
        differ.append(f"processor {then} and {now} here")
    return ", ".join(differ)


def _spreads(cell: BundleCell) -> dict[str, float]:
    """Return the standard deviation of every column of numbers over the rows of a cell."""
    found: dict[str, float] = {}
    for name in cell.rows[0]:
        values = [row[name] for row in cell.rows if isinstance(row.get(name), float)]
        finite = [value for value in values if math.isfinite(float(str(value)))]
        found[name] = float(np.std(np.array(finite, dtype=float))) if finite else 0.0
    return found


def _compare(
    told: Row, here: Row, spread: Mapping[str, float], exact: bool
) -> tuple[list[str], bool]:
    """Return what differs between two rows, and whether all is the same bit for bit."""
    where = f"{told['image_id']} draw {told['draw']}"
    if told["status"] in _NOT_OF_THE_ROW:
        return [], True
    if told["status"] != here["status"]:
        return [f"{where} is {told['status']} and here {here['status']}"], False
    wrong, same = [], True
    if told.get("truth") != here.get("truth"):
        wrong.append(f"{where} was measured on another picture")
    metrics = [name for name in told if name not in FIXED.names]
    for name in (*EXACT, *metrics):
        a, b = _values(told.get(name)), _values(here.get(name))
        equal = len(a) == len(b) and bool(np.array_equal(a, b, equal_nan=True))
        same &= equal
        if not equal and (exact or name in EXACT or not _near(a, b, spread.get(name, 0.0))):
            wrong.append(f"{where} has {name} {_said(a)} and here {_said(b)}")
    return wrong[:1], same


def _values(value: object) -> np.ndarray[Any, Any]:
    """Return a number, or features, as an array; no value is NaN, as in a file of rows."""
    if isinstance(value, list | np.ndarray):
        return np.asarray(value, dtype=np.float32)
    return np.array([math.nan if value is None else value], dtype=np.float64)


def _near(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any], spread: float) -> bool:
    if len(a) != len(b):
        return False
    whole = spread or float(np.nanstd(a) if len(a) > 1 else 0.0)
    margin = TOLERANCE * np.maximum(whole, np.abs(np.where(np.isfinite(a), a, 0.0)))
    return bool(np.allclose(a, b, rtol=0.0, atol=margin, equal_nan=True))


def _said(values: np.ndarray[Any, Any]) -> str:
    return repr(float(values[0])) if len(values) == 1 else f"{len(values)} features"
