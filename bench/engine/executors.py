"""Executors: who runs the chunks of a plan. Placement only; what a chunk is and when it is done is
not theirs.
"""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

import posterior_bench
from posterior_bench.bench.core.errors import DeviceLost, UserError
from posterior_bench.bench.core.signals import die_at_once, heed_again, is_stop
from posterior_bench.bench.engine import pulse, watchdog
from posterior_bench.bench.engine.chunking import idle_words, say_once
from posterior_bench.bench.engine.heartbeat import beats
from posterior_bench.bench.engine.plan import CellPlan, Chunk

Counts = dict[str, int]


class Executor(Protocol):
    """Runs chunks in any order and yields each with its number of rows per status, once it is
    stored.
    """

    def run(
        self, plan: CellPlan, chunks: Sequence[Chunk], threads: int | None
    ) -> Iterator[tuple[Chunk, Counts]]: ...


class Serial:
    """Everything in this process, on one device. ``device``: ``auto``, ``cpu``, ``cuda`` or
    ``cuda:N``.
    """

    def __init__(self, device: str = "auto"):
        if device not in ("auto", "cpu", "cuda") and not device.removeprefix("cuda:").isdigit():
            raise ValueError(f"unknown device '{device}'; valid: auto, cpu, cuda, cuda:N")
        self.device = device

    def run(
        self, plan: CellPlan, chunks: Sequence[Chunk], threads: int | None
    ) -> Iterator[tuple[Chunk, Counts]]:
        worker = _worker(_device(self.device), threads)
        worker.session(plan.cell.config)
        for chunk in chunks:
            yield chunk, worker.run(plan, chunk)


@cache
def _worker(device: str, threads: int | None) -> Any:
    from posterior_bench.bench.engine.worker import Worker

    return Worker(device, threads)


def _device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(
            f"executor.device={name}, but this machine has no CUDA device; use executor.device=cpu"
        )
    return name


class RayActors:
    """Ray actors, one per GPU (or ``workers`` CPU actors), with a put-back loop.

    Ray places and restarts actors; a chunk whose worker dies goes back into the queue, at most
    ``tries`` times, and then becomes error rows. A chunk that runs twice writes the same shard
    twice. ``max_task_retries`` stays 0: with Ray's own retries a chunk waits for ever on an actor
    whose node is gone. A worker that cannot start or load the cell ends the run: it would take
    chunk after chunk with it. One that does not heed ``timeout`` is ended.
    """

    def __init__(self, workers: int | None = None, address: str | None = None, tries: int = 3):
        if workers is not None and workers < 1:
            raise ValueError(f"executor.workers={workers}; at least 1 worker is needed")
        self.workers, self.address, self.tries = workers, address, tries

    def planned_workers(self) -> int:
        """How many workers there will be; 1 where only a cluster that is not joined yet could
        say.
        """
        if self.workers is not None or self.address is not None:
            return self.workers or 1
        import torch

        return torch.cuda.device_count() or cpu_workers()

    def run(
        self, plan: CellPlan, chunks: Sequence[Chunk], threads: int | None
    ) -> Iterator[tuple[Chunk, Counts]]:
        _stay_here(self.address)
        try:
            yield from self._run(plan, chunks, threads)
        except BaseException as error:
            if is_stop(error):
                # before anything else: workers know of no signal, and would store what they finish
                _end_pool()
            raise

    def _run(
        self, plan: CellPlan, chunks: Sequence[Chunk], threads: int | None
    ) -> Iterator[tuple[Chunk, Counts]]:
        import torch
        from ray import get, kill, wait
        from ray.exceptions import RayActorError

        from posterior_bench.bench.engine.worker import failed_rows

        # Ray gives its workers one thread unless told; rows are to equal those of a serial run here
        pool = _actors(self.address, self.workers, threads or torch.get_num_threads())
        if not plan.cell.config.get("quiet"):
            say_once(idle_words(plan, len(chunks), len(pool)))
        actors = pool[: len(chunks)]
        config, timeout = plan.cell.config, plan.cell.config.get("timeout")
        idle, todo = deque[Any](), deque(chunks)
        flying: dict[Any, tuple[Any, Chunk]] = {}
        waking = {actor.prepare.remote(config): actor for actor in actors}
        light = replace(
            plan, chunks=()
        )  # every call pickles it; with its chunks, a cell's traffic would be quadratic
        tries: dict[str, int] = {}
        ends: dict[Any, float] = {}
        overdue: set[Any] = set()
        while todo or flying:
            while todo and idle:
                actor, chunk = idle.popleft(), todo.popleft()
                ref = actor.run.remote(light, chunk)
                flying[ref], ends[ref] = (
                    (actor, chunk),
                    time.monotonic() + (timeout or math.inf) + GRACE_SECONDS,
                )
            done, _ = wait([*flying, *waking], num_returns=1, timeout=5)
            if not done:
                _tell(plan)
            for ref in {ref for ref in flying if time.monotonic() > ends[ref]} - overdue - {*done}:
                overdue.add(ref)
                kill(flying[ref][0], no_restart=False)
            for ref in done:
                if ref in waking:
                    actor = waking.pop(ref)
                    try:
                        problem = get(ref)
                    except RayActorError as error:
                        _check_started(error)
                        time.sleep(0.5)
                        waking[actor.prepare.remote(config)] = actor
                        continue
                    if problem:
                        raise UserError(problem)
                    idle.append(actor)
                    continue
                actor, chunk = flying.pop(ref)
                del ends[ref]  # a reference that is kept keeps its result in memory
                try:
                    counts = get(ref)
                    if isinstance(counts, Exception):
                        raise counts
                    idle.append(actor)
                except RayActorError as error:
                    _check_started(error)
                    waking[actor.prepare.remote(config)] = actor
                    tries[chunk.name] = tries.get(chunk.name, 0) + 1
                    status, message = "error", f"the worker died {self.tries} times on this chunk"
                    if ref in overdue:
                        status, message = (
                            "timeout",
                            f"the chunk took longer than {timeout=:g} seconds, and was ended",
                        )
                    elif tries[chunk.name] < self.tries:
                        todo.appendleft(chunk)
                        continue
                    rows = failed_rows(plan, chunk, status, message)
                    plan.store.write(chunk.name, rows)
                    counts = {status: len(rows)}
                yield chunk, counts


GRACE_SECONDS = 30.0
"""What a worker may go beyond ``timeout`` before it is ended: it stops by itself at the next
network evaluation."""


def _check_started(error: Exception) -> None:
    """UserError where a worker never came to life: Ray says so of a creation task, and starts it no
    more.
    """
    if "creation task" in str(error):
        cause = [line for line in str(error).splitlines() if line.strip()][-1].strip()
        raise UserError(f"a worker of Ray cannot start: {cause}") from None


class _RayWorker:
    """A worker behind Ray; a mistake of the user comes back as itself, not as a Ray traceback."""

    def __init__(self, threads: int | None):
        from posterior_bench.bench.engine.worker import Worker

        # Ray's handler raises SystemExit in a solver, which may swallow it and store what was cut
        # short
        die_at_once()
        self.worker = Worker(_device("auto"), threads)

    def prepare(self, config: Any) -> str:
        try:
            self.worker.session(config)
        except UserError as error:
            return str(error)
        return ""

    def run(self, plan: CellPlan, chunk: Chunk) -> Counts | UserError | OSError:
        try:
            return self.worker.run(plan, chunk)
        except DeviceLost:
            os._exit(
                1
            )  # a fresh process can use the device again; the chunk goes back into the queue
        except (
            UserError,
            OSError,
        ) as error:  # a full disk; raised here, it would come back as a traceback of Ray's
            return error


class _Pool(Sequence[Any]):
    """So many actors, each made when it is first taken: a cell of two chunks starts two workers,
    not eight.
    """

    def __init__(self, make: Callable[[], Any], size: int):
        self.make, self.size = make, size
        self.made: list[Any] = []

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: Any) -> Any:
        wanted = range(self.size)[index]
        last = max(wanted, default=-1) if isinstance(wanted, range) else wanted
        self.made += [self.make() for _ in range(len(self.made), last + 1)]
        return self.made[index] if isinstance(wanted, int) else [self.made[i] for i in wanted]


_POOL: dict[tuple[str | None, int | None, int | None], _Pool] = {}
"""The actors of this process; they outlive a cell, so a sweep loads a prior once per worker."""


def cpu_workers() -> int:
    """How many workers a machine without GPUs gets where nobody says."""
    return max(1, (os.cpu_count() or 2) // 2)


def _actors(address: str | None, workers: int | None, threads: int | None) -> Sequence[Any]:
    """One pool at a time: another number of workers or threads ends the one before."""
    try:
        import ray
    except ImportError:
        raise UserError("executor=ray needs Ray: pip install ray, or use executor=serial") from None
    key = (address, workers, threads)
    if key in _POOL and ray.is_initialized():
        return _POOL[key]
    _end_pool()
    if not ray.is_initialized():
        _connect(address)
    gpus = int(ray.cluster_resources().get("GPU", 0))
    if gpus and workers and workers > gpus:
        raise UserError(
            f"executor.workers={workers}, but Ray has {gpus} GPUs and a worker takes one; give "
            f"fewer workers"
        )
    count = workers or gpus or cpu_workers()
    # no CPU is asked for: an actor that waits for one which another holds would wait without a word
    make = ray.remote(max_restarts=-1, max_task_retries=0, num_cpus=0, num_gpus=1 if gpus else 0)(
        _RayWorker
    )
    _POOL[key] = _Pool(lambda: make.remote(threads), count)
    return _POOL[key]


def _end_pool() -> None:
    """End the workers of this process, whatever they are at."""
    import ray

    for actor in (actor for pool in _POOL.values() for actor in pool.made):
        with suppress(Exception):  # the cluster may have gone before
            ray.kill(actor)
    _POOL.clear()


def _stay_here(address: str | None) -> None:
    """Let a cluster of this machine alone listen on the loopback interface: nobody else has a use
    for its ports.

    Ray does so where it is told that it is no cluster of several machines; it reads that when it is
    imported.
    """
    if address is None:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")


@contextmanager
def _watched(address: str | None) -> Iterator[None]:
    """Mark the processes of a cluster that is started in the block, which then does not outlive
    this process.
    """
    if address is not None:
        yield
        return
    mark = uuid4().hex
    watchdog.start(mark)
    os.environ[watchdog.VARIABLE] = mark
    try:
        yield
    finally:
        del os.environ[watchdog.VARIABLE]


def _tell(plan: CellPlan) -> None:
    """Hand on how far the workers are, by the signs that they leave in the cell's folder."""
    for beat in beats(plan.folder):
        if beat.fresh:
            pulse.tell(beat.chunk, beat.passes)


def _connect(address: str | None) -> None:
    """Start Ray here, or join the cluster at ``address``; workers import this checkout, wherever it
    was started.
    """
    import ray

    root = str(Path(posterior_bench.__file__).parents[1])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault(
        "RAY_worker_niceness", "0"
    )  # Ray's 15 would starve workers on a shared machine
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    with _watched(address):
        ray.init(
            address=address
            # without a word, Ray would join what it finds, or fail on what was there once
            or "local",
            include_dashboard=False,
            log_to_driver=False,
            runtime_env={"env_vars": {"PYTHONPATH": path}},
        )
    heed_again()  # Ray puts a handler of its own in place
