"""Let the device sample one chunk while the host reads the next one and finishes the last one.

The thread that calls runs the solver. A second thread reads, decodes and crops the images of the
next chunk; a third one scores the last chunk and stores it. There is one chunk ahead and one behind
at most, and chunks are stored in their order. Rows are bitwise the same.

Most settings of torch and Python belong to the whole process: the default type, TF32, random
states, the working directory. :mod:`bench.core.isolation` puts them back after code of other people
has run, but while it runs, they hold for every thread. So nothing overlaps where such code takes
part (:func:`why_not`), and :func:`scores_beside` says when scores must wait for the solver. Chunks
then run one after the other (:meth:`bench.engine.worker.Worker.run`).

Two chunks in memory need more of it than one. Where it runs out, a chunk is computed once more by
itself, and nothing overlaps in the rest of the cell: a row depends on the memory of its own chunk
alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from posterior_bench.bench.config.build import target
from posterior_bench.bench.core.foreign import foreign
from posterior_bench.bench.core.isolation import isolated
from posterior_bench.bench.engine import pulse
from posterior_bench.bench.engine.arena import are_drawn
from posterior_bench.bench.engine.batches import BatchSize, padded
from posterior_bench.bench.engine.device import free_memory
from posterior_bench.bench.engine.exact_draws import REFERENCE
from posterior_bench.bench.engine.executor import Counts
from posterior_bench.bench.engine.failures import failed_rows, one_line, status_of
from posterior_bench.bench.engine.heartbeat import beating
from posterior_bench.bench.engine.limits import watch_of
from posterior_bench.bench.engine.measurement import Originals
from posterior_bench.bench.engine.plan import CellPlan, Chunk
from posterior_bench.bench.engine.scoring import Row
from posterior_bench.bench.engine.session import Session
from posterior_bench.bench.engine.solving import Drawn, draw, judge, put_png
from posterior_bench.bench.engine.warm_up import warm_up
from posterior_bench.bench.engine.worker import Worker, named_rows
from posterior_bench.bench.store.truth import truth_hash

_OURS = "posterior_bench."
_FOREIGN = (
    "posterior_bench.bench.external.",
    "posterior_bench.solvers.deepinv",
    "posterior_bench.solvers.dpir",
    "posterior_bench.solvers.opencv",
)
"""Modules of ours that run code of other people."""


def overlaps(wanted: bool | None, session: Session) -> bool:
    """Return whether chunks of a session overlap: where it helps, unless the user says.

    On a CPU the same cores would do both, so by default nothing overlaps there.
    """
    if wanted is None:
        wanted = session.device != "cpu"
    return wanted and not why_not(session)


def why_not(session: Session) -> str:
    """Return why chunks of a session must not overlap; empty if they may."""
    config = session.config
    if config.plugins:
        return "code of plugins may change settings of the process"
    for node in (*config.nodes.values(), *config.metrics.values()):
        for module in sorted(_modules(node)):
            if not module.startswith(_OURS) or module.startswith(_FOREIGN):
                return f"code of {module} may change settings of the process"
    if config.offload:
        return "offload=true moves networks that the other chunk uses"
    if are_drawn(session.config.data):
        return "the images are drawn from the prior, which the solver uses"
    if any(REFERENCE in metric.needs for metric in session.metrics.values()):
        return "a metric uses the prior, as the solver does"
    return ""


def _modules(node: object) -> set[str]:
    """Return the modules of everything that a node of the configuration builds."""
    if isinstance(node, Mapping):
        own = {target(node).__module__} if "_target_" in node else set[str]()
        return own.union(*map(_modules, node.values()))
    if isinstance(node, list | tuple):
        return set[str]().union(*map(_modules, node))
    return set()


def scores_beside(session: Session) -> bool:
    """Return whether scores may be computed while the solver works.

    The switch of TF32 is one for the process, and scores stay in float32. A CUDA graph, as compiled
    networks have, must not be recorded while another thread uses the device.
    """
    return not (session.execution.tf32 or session.execution.compile)


_Read = tuple[Originals, list[str]]
"""A chunk that is read, and the hash of every image."""


@dataclass(frozen=True)
class _Waiting:
    """A chunk that is sampled, and what is left to do.

    ``drawn`` are images to be scored, or rows with pixels in place of a PNG. ``ready`` is when the
    device has finished them.
    """

    chunk: Chunk
    fixed: Row
    images: Sequence[str]
    truths: Sequence[str]
    drawn: Drawn | list[Row]
    ready: Any


class Overlapping:
    """Runs the chunks of one cell, overlapped.

    Parameters
    ----------
    worker : Worker
        The worker, with its device.
    plan : CellPlan
        The plan of the cell.
    """

    def __init__(self, worker: Worker, plan: CellPlan):
        self.worker, self.plan = worker, plan
        self.session = worker.session(plan.cell.config)
        self.size = BatchSize(plan.padded, min(plan.cell.draws, plan.batch))
        self.alone = False  # from now on
        self.ended = False  # nothing is stored any more
        self.stream: Any = None

    def run(self, chunks: Sequence[Chunk]) -> Iterator[tuple[Chunk, Counts]]:
        """Yield each chunk with its number of rows per status, once it is stored."""
        reader, finisher = (self._helper(name) for name in ("reader", "finisher"))
        try:
            yield from self._run(chunks, reader, finisher)
        finally:
            self.ended = True
            for helper in (reader, finisher):
                helper.shutdown(cancel_futures=True)

    def _run(
        self, chunks: Sequence[Chunk], reader: ThreadPoolExecutor, finisher: ThreadPoolExecutor
    ) -> Iterator[tuple[Chunk, Counts]]:
        ahead: Future[_Read] | None = None
        behind: tuple[Chunk, Future[Counts | None]] | None = None
        for place, chunk in enumerate(chunks):
            # the first one by itself: what loads late, such as networks of metrics, is loaded then
            if place == 0 or self.alone:
                yield chunk, self.worker.run(self.plan, chunk)
                continue
            now = ahead or reader.submit(self._read, chunk)
            ahead = reader.submit(self._read, chunks[place + 1]) if chunks[place + 1 :] else None
            waiting, status, message, counts = None, "", "", None
            with beating(self.plan.folder, chunk.name):
                try:
                    waiting = self._sample(chunk, now)
                except Exception as error:
                    status, message = status_of(error), one_line(error)
                # outside the handler, whose traceback kept the tensors of the attempt
                if behind is not None:
                    counts = behind[1].result()
            if behind is not None and counts is None:
                waiting, status = None, status or "oom"  # it would take memory beside the other
                counts = self._alone(behind[0])
            if behind is not None and counts is not None:
                yield behind[0], counts
            behind = None
            if waiting is not None:
                behind, waiting = (chunk, finisher.submit(self._finish, waiting)), None
            elif status == "lost":
                raise self.worker.lost(message)
            elif status == "oom":
                yield chunk, self._alone(chunk)
            else:
                rows = failed_rows(self.plan, chunk, status, message, self._fixed())
                yield chunk, self.worker.store(self.plan, chunk, rows)
        if behind is not None:
            with beating(self.plan.folder, behind[0].name):
                counts = behind[1].result()
            yield behind[0], counts or self._alone(behind[0])

    def _helper(self, name: str) -> ThreadPoolExecutor:
        """Return a thread, with the threads of the worker for its own operations."""
        return ThreadPoolExecutor(1, name, torch.set_num_threads, (self.worker.threads,))

    def _fixed(self) -> Row:
        return self.worker.fixed(self.session, self.plan, self.size)

    def _read(self, chunk: Chunk) -> _Read:
        """Read a chunk, in a thread of its own."""
        originals = self.session.read(padded(list(chunk.images), self.size.images))
        return originals, [truth_hash(image) for image in originals.truth]

    def _sample(self, chunk: Chunk, ahead: Future[_Read]) -> _Waiting:
        """Sample a chunk in the thread that called."""
        self.worker.settle()
        session, every = self.session, self.plan.cell.draws
        watch = watch_of(session.config.timeout)
        pulse.begin(chunk.name)
        fixed = self._fixed()
        originals, truths = ahead.result()
        with isolated(), foreign():
            measured = session.observe(originals)
        warm_up(session, measured, every, self.size)
        drawn = draw(session, measured, every, self.size.draws, watch, chunk.draws(every))
        outcome: Drawn | list[Row] = drawn
        if not scores_beside(session):
            with isolated(), foreign():
                outcome = judge(drawn)
        ready = torch.cuda.Event() if session.device.startswith("cuda") else None
        if ready is not None:
            ready.record()
        return _Waiting(chunk, fixed, list(chunk.images), truths, outcome, ready)

    def _finish(self, waiting: _Waiting) -> Counts | None:
        """Score and store a chunk, in a thread of its own; None if memory ran out."""
        chunk, status, message = waiting.chunk, "", ""
        rows: list[Row] = []
        try:
            rows = self._rows(waiting)
        except Exception as error:
            status, message = status_of(error), one_line(error)
        if status == "oom" or self.ended:
            return None
        if status == "lost":
            raise self.worker.lost(message)
        if status:
            rows = failed_rows(self.plan, chunk, status, message, waiting.fixed)
        return self.worker.store(self.plan, chunk, rows)

    def _rows(self, waiting: _Waiting) -> list[Row]:
        outcome = waiting.drawn
        if isinstance(outcome, Drawn):
            with self._beside(waiting.ready):
                outcome = judge(outcome)
        put_png(outcome)
        draws = waiting.chunk.draws(self.plan.cell.draws)
        return named_rows(waiting.fixed, waiting.images, waiting.truths, draws, outcome)

    @contextmanager
    def _beside(self, ready: Any) -> Iterator[None]:
        """Use the device beside the solver, in a stream of its own, once images are ``ready``.

        The stream is empty at the end, so that the memory of the images can be used again.
        """
        if ready is None:
            yield
            return
        self.stream = self.stream or torch.cuda.Stream(self.session.device)
        self.stream.wait_event(ready)
        with torch.cuda.stream(self.stream):
            try:
                yield
            finally:
                self.stream.synchronize()

    def _alone(self, chunk: Chunk) -> Counts:
        """Run a chunk for which memory ran out, with nothing beside it from now on."""
        self.alone = True
        free_memory(self.worker.device)
        return self.worker.run(self.plan, chunk)
