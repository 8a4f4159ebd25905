"""The check of CPU threads: more of them than cores wait for one another."""

from __future__ import annotations

import os
from collections.abc import Iterator

import torch

from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.core.cores import cores, threads_of_the_user
from posterior_bench.bench.engine.executor import cpu_workers, threads_each
from posterior_bench.bench.estimate.checks.devices import uses_ray
from posterior_bench.bench.estimate.finding import Finding
from posterior_bench.bench.estimate.machine import Machine

_BUSY = 0.75
"""Less other work than this, in cores, is not worth a warning."""


def check_threads(config: JobConfig, machine: Machine, busy: float) -> Iterator[Finding]:
    """Yield a warning if workers have more threads than there are cores, or cores are busy.

    The cores of another machine, or of a cluster that is not yet joined, are not known.

    Parameters
    ----------
    config : JobConfig
        The configuration of a cell.
    machine : Machine
        The machine of the run.
    busy : float
        How many cores of this machine are busy (:func:`busy_cores`).
    """
    if machine.elsewhere or (uses_ray(config) and config.executor.get("address")):
        return
    workers, threads = _workers_and_threads(config)
    here = cores()
    if workers * threads > here:
        each = f"{workers} worker{'s'[: workers != 1]} with {threads} thread{'s'[: threads != 1]}"
        found = f"{each} each on {here} core{'s'[: here != 1]}: they would wait for one another"
        yield Finding("threads", "warning", found, _remedy(config, workers, here))
    if busy >= _BUSY and busy + workers * threads > here:
        found = (
            f"other work keeps about {busy:.1f} of {here} cores busy; the run is slower beside it, "
            "and so are the seconds in its rows"
        )
        yield Finding("load", "warning", found)


def _workers_and_threads(config: JobConfig) -> tuple[int, int]:
    """Return how many workers a run has on this machine, and the threads of each."""
    usual = config.threads or torch.get_num_threads()
    if not uses_ray(config):
        return 1, usual
    gpus = torch.cuda.device_count()
    workers = int(config.executor.get("workers") or gpus or cpu_workers())
    if config.threads or threads_of_the_user():
        return workers, usual
    return workers, threads_each(workers, [{"CPU": cores(), "GPU": gpus}])


def busy_cores() -> float:
    """Return how many cores the whole machine kept busy in the last minute."""
    try:
        return os.getloadavg()[0]
    except OSError:  # not on this system
        return 0.0


def _remedy(config: JobConfig, workers: int, here: int) -> str:
    if workers > here:
        return f"executor.workers={here} threads=1"
    if config.threads or not threads_of_the_user():
        return f"threads={here // workers}"
    return f"threads={here // workers}, which overrules OMP_NUM_THREADS"
