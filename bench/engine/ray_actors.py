"""The executor ``ray``: chunks on actors of Ray, one per GPU, with a put-back loop."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.core.signals import is_stop
from posterior_bench.bench.engine import pulse, ray_pool
from posterior_bench.bench.engine.chunking import idle_words, say_once
from posterior_bench.bench.engine.executor import Counts, cpu_workers, threads_words
from posterior_bench.bench.engine.heartbeat import beats
from posterior_bench.bench.engine.plan import CellPlan, Chunk

GRACE_SECONDS = 30.0
"""Seconds after ``timeout`` at which a worker is ended: it stops by itself at the next network
evaluation."""


class RayActors:
    """Ray actors, one per GPU (or ``workers`` CPU actors), with a put-back loop.

    Ray places and restarts actors; a chunk whose worker dies goes back into the queue, at most
    ``tries`` times, and then becomes error rows. A chunk that runs twice writes the same shard
    twice. ``max_task_retries`` stays 0: with Ray's own retries a chunk waits for ever on an actor
    whose node is gone. A worker that cannot start or load the cell ends the run: it would take
    chunk after chunk with it. A worker that does not heed ``timeout`` is ended.

    Parameters
    ----------
    workers : int, default None
        How many actors; None = one per GPU, else half of the CPU cores.
    address : str, default None
        The cluster to join, such as ``auto``; None = start one on this machine.
    tries : int, default 3
        How often a chunk is run while its worker dies.
    """

    def __init__(self, workers: int | None = None, address: str | None = None, tries: int = 3):
        if workers is not None and workers < 1:
            raise ValueError(f"executor.workers={workers}; at least 1 worker is needed")
        self.workers, self.address, self.tries = workers, address, tries

    def planned_workers(self) -> int:
        """Return how many workers there will be; 1 if only a cluster not yet joined knows."""
        if self.workers is not None or self.address is not None:
            return self.workers or 1
        import torch  # heavy

        return torch.cuda.device_count() or cpu_workers()

    def run(
        self, plan: CellPlan, chunks: Sequence[Chunk], threads: int | None
    ) -> Iterator[tuple[Chunk, Counts]]:
        """Yield each chunk with its number of rows per status, once it is stored."""
        ray_pool.stay_here(self.address)
        try:
            pool = ray_pool.actors(self.address, self.workers, threads)
            if not plan.cell.config.quiet:
                say_once(threads_words(len(pool), pool.threads))
                say_once(idle_words(plan, len(chunks), len(pool)))
            yield from _Round(plan, chunks, pool, self.tries).run()
        except BaseException as error:
            if is_stop(error):
                # first of all: workers receive no signal, and would store the chunk they are at
                ray_pool.end_pool()
            raise


class _Round:
    """The chunks of one cell on a pool of actors: which wait, which run and which come back.

    ``waking`` holds the actors that load the cell and ``flying`` the chunks at work, both by the
    reference to their result; ``ends`` says when a chunk is ended.
    """

    def __init__(self, plan: CellPlan, chunks: Sequence[Chunk], pool: Sequence[Any], tries: int):
        self.plan, self.most = plan, tries
        self.config, self.timeout = plan.cell.config, plan.cell.config.timeout
        # every call pickles the plan; with all of its chunks, the traffic would be quadratic
        self.light = replace(plan, chunks=())
        self.todo, self.idle = deque(chunks), deque[Any]()
        self.waking: dict[Any, Any] = {}
        self.flying: dict[Any, tuple[Any, Chunk]] = {}
        self.ends: dict[Any, float] = {}
        self.overdue: set[Any] = set()
        self.tries: dict[str, int] = {}
        for actor in pool[: len(chunks)]:
            self._wake(actor)

    def run(self) -> Iterator[tuple[Chunk, Counts]]:
        """Hand out chunks and take results, until no chunk is left."""
        from ray import wait  # optional

        while self.todo or self.flying:
            while self.todo and self.idle:
                self._start(self.idle.popleft(), self.todo.popleft())
            done, _ = wait([*self.flying, *self.waking], num_returns=1, timeout=5)
            if not done:
                _tell(self.plan)
            self._end_overdue(done)
            for ref in done:
                if ref in self.waking:
                    self._woken(ref)
                elif (finished := self._landed(ref)) is not None:
                    yield finished

    def _wake(self, actor: Any) -> None:
        self.waking[actor.prepare.remote(self.config)] = actor

    def _start(self, actor: Any, chunk: Chunk) -> None:
        ref = actor.run.remote(self.light, chunk)
        self.flying[ref] = actor, chunk
        self.ends[ref] = time.monotonic() + (self.timeout or math.inf) + GRACE_SECONDS

    def _end_overdue(self, done: Sequence[Any]) -> None:
        """End the workers that do not heed ``timeout``."""
        from ray import kill  # optional

        now = time.monotonic()
        for ref in {ref for ref in self.flying if now > self.ends[ref]} - self.overdue - {*done}:
            self.overdue.add(ref)
            kill(self.flying[ref][0], no_restart=False)

    def _woken(self, ref: Any) -> None:
        """Take an actor that has loaded the cell; one that died while loading is woken again."""
        from ray import get  # optional
        from ray.exceptions import RayActorError

        actor = self.waking.pop(ref)
        try:
            problem = get(ref)
        except RayActorError as error:
            _check_started(error)
            time.sleep(0.5)
            self._wake(actor)
            return
        if problem:
            raise UserError(problem)
        self.idle.append(actor)

    def _landed(self, ref: Any) -> tuple[Chunk, Counts] | None:
        """Return a chunk that is stored; None for a chunk that goes back into the queue."""
        from ray import get  # optional
        from ray.exceptions import RayActorError

        actor, chunk = self.flying.pop(ref)
        del self.ends[ref]  # a reference that is kept keeps its result in memory
        try:
            counts = get(ref)
        except RayActorError as error:
            _check_started(error)
            self._wake(actor)
            return self._lost(chunk, ref in self.overdue)
        if isinstance(counts, Exception):
            raise counts
        self.idle.append(actor)
        return chunk, counts

    def _lost(self, chunk: Chunk, overdue: bool) -> tuple[Chunk, Counts] | None:
        """Put a chunk back whose worker died; after too many tries, store failed rows."""
        # heavy: imports torch
        from posterior_bench.bench.engine.failures import failed_rows

        tries = self.tries[chunk.name] = self.tries.get(chunk.name, 0) + 1
        if overdue:
            status = "timeout"
            message = f"the chunk took longer than timeout={self.timeout:g} seconds, and was ended"
        elif tries < self.most:
            self.todo.appendleft(chunk)
            return None
        else:
            status, message = "error", f"the worker died {self.most} times on this chunk"
        rows = failed_rows(self.plan, chunk, status, message)
        self.plan.store.write(chunk.name, rows)
        return chunk, {status: len(rows)}


def _check_started(error: Exception) -> None:
    """Raise UserError if a worker never started: Ray names a creation task, and gives it up."""
    if "creation task" in str(error):
        cause = [line for line in str(error).splitlines() if line.strip()][-1].strip()
        raise UserError(f"a worker of Ray cannot start: {cause}") from None


def _tell(plan: CellPlan) -> None:
    """Report how far the workers are, by the files that they leave in the folder of the cell."""
    for beat in beats(plan.folder):
        if beat.fresh:
            pulse.tell(beat.chunk, beat.passes)
