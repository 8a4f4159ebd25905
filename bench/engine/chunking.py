"""Spread the rows of a cell over workers: cut the draws of an image into chunks.

The rule, for ``W`` workers. A cell whose draws fit into one network batch (``draws <= batch``) is
left as it is: a smaller batch would give rows with other last digits. Otherwise the draws of an
image may be cut into several chunks of the same padded batch, whose rows are bitwise the same as
those of one chunk.

- A solver that fits nothing gets the number of pieces after which the busiest worker runs the
  fewest network batches; one piece stays, unless several save a tenth of that.
- A solver that fits once per image, as VIPaint, would fit once per piece. It gets at most ``W //
  chunks`` pieces: all run at the same time, on workers that would have nothing to do, so the last
  row is never later than without.
- No piece fills less than half of its network batch.
- Metrics that look at all draws of an image together (diversity, FID and the like) keep them in one
  chunk.

The plan of a cell records its chunks, so another number of workers later finds the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING

from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.core import terminal
from posterior_bench.bench.engine.batches import rows_at_once
from posterior_bench.bench.engine.plan import CellPlan

if TYPE_CHECKING:
    from posterior_bench.solvers.base import Solver

_GAIN = 0.9
"""Several pieces must bring the time down to this share: every chunk also costs a file and a
measurement."""


def planned_workers(executor: object) -> int:
    """Return how many workers an executor will have; 1 if it does not say."""
    count = getattr(executor, "planned_workers", None)
    return 1 if count is None else int(count())


def pieces(chunks: int, draws: int, batch: int, workers: int, fits: bool) -> int:
    """Return into how many chunks the draws of an image are cut.

    ``chunks`` is how many chunks the cell has without cuts. ``fits`` says whether the solver fits
    something once per image: it would do so once per piece.
    """
    if draws <= batch or workers <= 1:
        return 1

    def waves(k: int) -> int:
        return math.ceil(chunks * k / workers) * math.ceil(math.ceil(draws / batch) / k)

    blocks = math.ceil(draws / batch)
    most = max(blocks, 2 * draws // batch)  # as many as leave no batch less than half full
    candidates = [
        k for k in range(1, min(most, draws) + 1) if not fits or k == 1 or chunks * k <= workers
    ]
    best = min(waves(k) for k in candidates)
    if best > _GAIN * waves(1):
        return 1
    good = [k for k in candidates if waves(k) == best]
    # of equally fast ones the most that still run at the same time, so that every worker has some
    at_once = [k for k in good if chunks * k <= workers]
    return max(at_once) if at_once else min(good)


def pieces_for(
    config: JobConfig, solver: Solver, metrics: Mapping[str, object], workers: int
) -> int:
    """:func:`pieces` of a cell that is about to be planned for the first time."""
    # loads torch, which status and plan of a study do without
    from posterior_bench.solvers.base import Sampler

    draws, batch = config.draws, config.batch
    if together(metrics):
        return 1
    chunks = math.ceil(config.images / rows_at_once(draws, batch).images)
    return pieces(chunks, draws, batch, workers, not isinstance(solver, Sampler))


def together(metrics: Mapping[str, object]) -> list[str]:
    """Return the metrics that need all draws of an image in one chunk."""
    # loads torch, which status and plan of a study do without
    from posterior_bench.metrics.base import Metric

    return [name for name, metric in metrics.items() if not isinstance(metric, Metric)]


def spread_words(plan: CellPlan, metrics: Iterable[str] = (), workers: int = 1) -> str:
    """One line about what the rule did; empty where it did nothing.

    ``metrics``: those that keep the draws of an image together. ``workers``: those the cell is
    about to get.
    """
    draws, images = plan.cell.draws, len(plan.images)
    if len(plan.chunks) > math.ceil(images / plan.padded):
        per_image = len(plan.chunks) * plan.padded // images
        return (
            f"the {draws} draws of an image are spread over {per_image} chunks of at most "
            f"{max(len(chunk.draws(draws)) for chunk in plan.chunks)} draws (rows are the same as "
            f"from one chunk)"
        )
    if draws > plan.batch and workers > len(plan.chunks) and (names := ", ".join(metrics)):
        return (
            f"the {draws} draws of an image stay in one chunk: these metrics look at all of "
            f"them together: {names}"
        )
    return ""


def idle_words(plan: CellPlan, chunks: int, workers: int) -> str:
    """One line where there are more workers than chunks to run; empty where there are not."""
    if workers <= chunks:
        return ""
    words = (
        f"{chunks} chunk{'s'[: chunks != 1]} for {workers} workers: {chunks} of them "
        f"start{'s'[: chunks == 1]}"
    )
    draws, images = plan.cell.draws, len(plan.images)
    smaller = draws * math.ceil(images / workers)
    if (
        chunks == len(plan.chunks)
        and draws <= plan.batch
        and smaller < plan.batch
        and images > len(plan.chunks)
    ):
        words += (
            f"; batch={smaller} would make {math.ceil(images * draws / smaller)} chunks of a "
            f"new study"
        )
    return words


def gpu_words(device: str, wanted: str, precision: str) -> tuple[str, ...]:
    """Return a line each on GPUs that a run leaves idle, and on tensor cores that it leaves idle.

    Parameters
    ----------
    device : str
        The device of the run, ``cpu``, ``cuda`` or ``cuda:N``.
    wanted : str
        What the setting of the executor says: the GPU that it names is meant.
    precision : str
        The precision of the run.
    """
    if not device.startswith("cuda"):
        return ()
    # heavy: an executor is built before anything needs torch
    import torch

    lines, count = [], torch.cuda.device_count()
    if count > 1 and not wanted.startswith("cuda:"):
        lines.append(f"this run uses one of {count} GPUs; executor=ray uses all of them")
    # since Ampere they multiply float32 numbers too, rounded to TensorFloat-32
    if precision == "fp32" and torch.cuda.get_device_capability(device) >= (8, 0):
        lines.append(
            f"precision=fp32 leaves the tensor cores of {torch.cuda.get_device_name(device)} idle; "
            f"precision=tf32 or bf16 is several times faster, with other last digits"
        )
    return tuple(lines)


@cache
def say_once(words: str) -> None:
    """Say it once, though every cell of a sweep may come to it."""
    if words:
        terminal.remark(f"bench: {words}")
