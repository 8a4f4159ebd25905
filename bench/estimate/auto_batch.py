"""``batch=auto``: the largest network batch that fits, chosen once for a cell.

On a GPU of this process, a few steps of the solver run with one image and one draw, with two
images, and with two draws. Their peaks give the line through which any other batch is known
(:mod:`bench.estimate.memory`). Elsewhere, and for ``bench plan``, the same three points are counted
without weights.

The plan of the cell records the choice. So rows stay reproducible: whoever continues the cell, on
this machine or another, reads the batch from the plan and measures nothing.
"""

from __future__ import annotations

import gc
import math
from dataclasses import replace

import torch

from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.engine.batches import AutoBatch, BatchSize, rows_at_once
from posterior_bench.bench.engine.chunking import planned_workers
from posterior_bench.bench.engine.device import repeatable
from posterior_bench.bench.engine.failures import status_of
from posterior_bench.bench.engine.session import Session
from posterior_bench.bench.engine.short_solver import shortened
from posterior_bench.bench.engine.solving import solve
from posterior_bench.bench.estimate.attempt import attempt
from posterior_bench.bench.estimate.checks.memory import free_here
from posterior_bench.bench.estimate.memory import Linear, estimate, largest_batch
from posterior_bench.bench.estimate.network_memory import NetworkMemory

_SIZES = (BatchSize(1, 1), BatchSize(2, 1), BatchSize(1, 2))


def measured_batch(config: JobConfig, session: Session, executor: object) -> AutoBatch:
    """Choose the batch of a cell that is about to run.

    Parameters
    ----------
    config : JobConfig
        The configuration of the cell.
    session : Session
        Its solver, beside a prior that may lack its weights.
    executor : object
        What will run it.

    Raises
    ------
    UserError
        If the memory of the cell is not known, or not even one row fits.
    """
    here = getattr(executor, "device_here", None)
    device = "cpu" if here is None else here()
    if not device.startswith("cuda"):
        return estimated_batch(config, session, executor)
    line = Linear.through(*(peak_on(device, config, size) for size in _SIZES))
    gc.collect()
    torch.cuda.empty_cache()
    room = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)

    def total(batch: int) -> float:
        return line.at(rows_at_once(config.draws, batch))

    name = torch.cuda.get_device_name(device)
    return _chosen(
        config, executor, largest_batch(total, room), line.row, room, f"measured, {name}"
    )


def estimated_batch(config: JobConfig, session: Session, executor: object) -> AutoBatch:
    """Choose the batch of a cell as :func:`measured_batch` does, without weights or a run."""
    if session.prior.net is None:
        raise UserError(
            "batch=auto: a prior in closed form has no network to measure; give batch=N"
        )
    known, problem = attempt(lambda: estimate(config, NetworkMemory(session.prior)))
    if known is None:
        raise UserError(f"batch=auto: the memory of a row is not known ({problem}); give batch=N")
    owner, room = free_here(config)
    room //= planned_workers(executor) if owner == "cpu" else 1
    row = known.activations(2) - known.activations(1) if config.draws > 1 else known.activations(1)
    largest = known.largest_batch(room)
    return _chosen(config, executor, largest, row, room, f"estimated, {owner}")


def peak_on(device: str, config: JobConfig, size: BatchSize) -> int:
    """Return the most memory of a GPU while a few steps run, weights and metrics included.

    Raises
    ------
    UserError
        If the memory of the GPU runs out.
    """
    repeatable(device)  # other kernels take other memory
    session = Session(replace(config, draws=size.draws, batch=size.rows, auto_batch=False), device)
    session.solver = shortened(session.solver)
    measured = session.measure([*session.images.ids, *session.images.ids][: size.images])
    for _ in range(2):  # the first run also loads kernels
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        try:
            solve(session, measured, size.draws, size.draws)
        except Exception as error:
            if status_of(error) == "oom":
                raise UserError(
                    f"batch=auto: not even {size.rows} rows fit on {device}; checkpointing=block "
                    "or tile= take less"
                ) from None
            raise
    return torch.cuda.max_memory_allocated(device)


def _chosen(
    config: JobConfig, executor: object, largest: int, row: float, room: float, how: str
) -> AutoBatch:
    """Return the batch for a cell where at most ``largest`` rows fit."""
    if not largest:
        raise UserError(
            f"batch=auto: not even one row fits into {room / 2**30:.1f} GiB; "
            "checkpointing=block or tile= take less"
        )
    # more rows than the cell has for each worker would only leave others idle
    images = math.ceil(config.images / planned_workers(executor))
    batch = min(largest, images * config.draws)
    if batch > config.draws:
        batch -= batch % config.draws  # whole images
    words = f"{how}: a row takes {row / 2**20:.1f} MiB of {room / 2**30:.1f} GiB, {largest} fit"
    return AutoBatch(batch, words)
