"""Executors: who runs the chunks of a plan. Placement only; what a chunk is and when it is done is not theirs."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any, Protocol

from bench.errors import UserError
from bench.plan import CellPlan, Chunk

Counts = dict[str, int]


class Executor(Protocol):
    """Runs chunks in any order and yields each with its number of rows per status, once it is stored."""

    def run(self, plan: CellPlan, chunks: Sequence[Chunk], threads: int | None) -> Iterator[tuple[Chunk, Counts]]: ...


class Serial:
    """Everything in this process, on one device. ``device``: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""

    def __init__(self, device: str = "auto"):
        if device not in ("auto", "cpu", "cuda") and not device.removeprefix("cuda:").isdigit():
            raise ValueError(f"unknown device '{device}'; valid: auto, cpu, cuda, cuda:N")
        self.device = device

    def run(self, plan: CellPlan, chunks: Sequence[Chunk], threads: int | None) -> Iterator[tuple[Chunk, Counts]]:
        worker = _worker(_device(self.device), threads)
        worker.session(plan.cell.config)
        for chunk in chunks:
            yield chunk, worker.run(plan, chunk)


@cache
def _worker(device: str, threads: int | None) -> Any:
    from bench.worker import Worker

    return Worker(device, threads)


def _device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"executor.device={name}, but this machine has no CUDA device; use executor.device=cpu")
    return name


class RayActors:
    """Ray actors, one per GPU (or ``workers`` CPU actors), with a put-back loop.

    Ray places and restarts actors; a chunk whose worker dies goes back into the queue, at most ``tries`` times, and
    then becomes error rows. A chunk that runs twice writes the same shard twice. ``max_task_retries`` stays 0: with
    Ray's own retries a chunk waits for ever on an actor whose node is gone.
    """

    def __init__(self, workers: int | None = None, address: str | None = None, tries: int = 3):
        if workers is not None and workers < 1:
            raise ValueError(f"executor.workers={workers}; at least 1 worker is needed")
        self.workers, self.address, self.tries = workers, address, tries

    def run(self, plan: CellPlan, chunks: Sequence[Chunk], threads: int | None) -> Iterator[tuple[Chunk, Counts]]:
        import torch
        from ray import get, wait
        from ray.exceptions import RayActorError

        from bench.worker import failed_rows

        # Ray gives its workers one thread unless told; rows are to equal those of a serial run here
        actors = _actors(self.address, self.workers, threads or torch.get_num_threads())
        problem = get(actors[0].prepare.remote(plan.cell.config))
        if problem:
            raise UserError(problem)
        idle, todo = deque(actors), deque(chunks)
        flying: dict[Any, tuple[Any, Chunk]] = {}
        waking: dict[Any, Any] = {}
        tries: dict[str, int] = {}
        while todo or flying:
            while todo and idle:
                actor, chunk = idle.popleft(), todo.popleft()
                flying[actor.run.remote(plan, chunk)] = (actor, chunk)
            done, _ = wait([*flying, *waking], num_returns=1, timeout=5)
            for ref in done:
                if ref in waking:
                    actor = waking.pop(ref)
                    try:
                        get(ref)
                        idle.append(actor)
                    except RayActorError:
                        time.sleep(0.5)
                        waking[actor.ping.remote()] = actor
                    continue
                actor, chunk = flying.pop(ref)
                try:
                    counts = get(ref)
                    idle.append(actor)
                except RayActorError:
                    waking[actor.ping.remote()] = actor
                    tries[chunk.name] = tries.get(chunk.name, 0) + 1
                    if tries[chunk.name] < self.tries:
                        todo.appendleft(chunk)
                        continue
                    rows = failed_rows(plan, chunk, "error", f"the worker died {self.tries} times on this chunk")
                    plan.store.write(chunk.name, rows)
                    counts = {"error": len(rows)}
                yield chunk, counts


class _RayWorker:
    """A worker behind Ray; a mistake of the user comes back as itself, not as a Ray traceback."""

    def __init__(self, threads: int | None):
        from bench.worker import Worker

        self.worker = Worker(_device("auto"), threads)

    def ping(self) -> bool:
        return True

    def prepare(self, config: Any) -> str:
        try:
            self.worker.session(config)
        except UserError as error:
            return str(error)
        return ""

    def run(self, plan: CellPlan, chunk: Chunk) -> Counts:
        return self.worker.run(plan, chunk)


_POOL: dict[tuple[str | None, int | None, int | None], tuple[Any, ...]] = {}
"""The actors of this process; they outlive a cell, so a sweep loads a prior once per worker."""


def _actors(address: str | None, workers: int | None, threads: int | None) -> tuple[Any, ...]:
    """One pool at a time: another number of workers or threads ends the one before."""
    try:
        import ray
    except ImportError:
        raise UserError("executor=ray needs Ray: pip install ray, or use executor=serial") from None
    key = (address, workers, threads)
    if key in _POOL and ray.is_initialized():
        return _POOL[key]
    for actor in (actor for pool in _POOL.values() for actor in pool):
        ray.kill(actor)
    _POOL.clear()
    if not ray.is_initialized():
        _connect(address)
    gpus = int(ray.cluster_resources().get("GPU", 0))
    if gpus and workers and workers > gpus:
        raise UserError(
            f"executor.workers={workers}, but Ray has {gpus} GPUs and a worker takes one; give fewer workers"
        )
    count = workers or gpus or max(1, (os.cpu_count() or 2) // 2)
    # no CPU is asked for: an actor that waits for one which another holds would wait without a word
    make = ray.remote(max_restarts=-1, max_task_retries=0, num_cpus=0, num_gpus=1 if gpus else 0)(_RayWorker)
    _POOL[key] = tuple(make.remote(threads) for _ in range(count))
    return _POOL[key]


def _connect(address: str | None) -> None:
    """Start Ray here, or join the cluster at ``address``; workers import this checkout, wherever it was started."""
    import ray

    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 would starve workers on a shared machine
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray.init(
        address=address, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": path}}
    )
