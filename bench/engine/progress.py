"""How far a cell is between two stored chunks, by the passes of the network in running chunks.

The passes of a row are known from the cell's stored rows, from an earlier cell of this process with
the same solver, or from a dry run of one draw (:class:`bench.engine.budget.Trial`), which runs no
network and is given up after a second. If none of these has an answer, the first chunk that ends
has one.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from posterior_bench.bench.config.cell import digest
from posterior_bench.bench.core import signals
from posterior_bench.bench.core.cost import total_passes
from posterior_bench.bench.engine.plan import CellPlan, Chunk

DRY_SECONDS = 1.0
"""The most that a dry run may take."""

_LOOKED_AT = 3
"""Stored chunks that are read at most: a cell may have thousands."""

_KNOWN: dict[str, float] = {}
"""Passes of a row, by what decides them."""


@dataclass
class Position:
    """How many rows of a cell's chunks are done, parts of chunks counted by their passes.

    ``cost``: passes of a row, NaN where nothing is known. ``running``: passes so far of the chunks
    at hand, by name.
    """

    plan: CellPlan
    chunks: dict[str, Chunk]
    cost: float = math.nan
    rows: int = 0
    running: dict[str, int] = field(default_factory=dict)

    def hear(self, chunk: str, passes: int) -> None:
        """Take the passes that a worker reports from within a chunk."""
        if chunk in self.chunks:
            self.running[chunk] = passes

    def ended(self, chunk: Chunk, ok: bool) -> None:
        """Count a stored chunk; a good chunk says what a row takes, if that was unknown."""
        passes = self.running.pop(chunk.name, 0)
        self.chunks.pop(chunk.name, None)
        self.rows += chunk.rows(self.plan.cell.draws)
        if ok and passes and math.isnan(self.cost):
            self.cost = _KNOWN[_key(self.plan)] = passes / self._run(chunk)

    @property
    def done(self) -> float:
        """Rows that are done; of a chunk at hand at most 99 in 100, until it is stored."""
        return self.rows + sum(
            self._part(self.chunks[name], passes) for name, passes in self.running.items()
        )

    def _part(self, chunk: Chunk, passes: int) -> float:
        if math.isnan(self.cost) or self.cost <= 0:
            return 0.0
        share = min(0.99, passes / (self.cost * self._run(chunk)))
        return share * chunk.rows(self.plan.cell.draws)

    def _run(self, chunk: Chunk) -> int:
        """Rows that a chunk runs: every batch is filled up."""
        images = math.ceil(len(chunk.images) / self.plan.padded) * self.plan.padded
        return images * len(chunk.draws(self.plan.cell.draws))

    @property
    def passes(self) -> int:
        """Passes of the chunks that are running."""
        return sum(self.running.values())


def position(plan: CellPlan, chunks: Sequence[Chunk]) -> Position:
    """Return the position before any of these chunks has run."""
    missing = {chunk.name: chunk for chunk in chunks}
    stored = [chunk.name for chunk in plan.chunks if chunk.name not in missing]
    return Position(plan, missing, _cost(plan, stored[:_LOOKED_AT]))


def _key(plan: CellPlan) -> str:
    config = plan.cell.config
    return digest([config.solver, config.prior, config.operator, config.draws, config.budget])


def _cost(plan: CellPlan, stored: Sequence[str]) -> float:
    """Return the passes of a row, by the first source that has an answer; else NaN.

    The first source are a few of the ``stored`` chunks.
    """
    for name in stored:
        with contextlib.suppress(OSError, ValueError):  # a shard that is damaged, or gone
            rows = plan.store.stored(name)[1]
            good = rows[rows["status"] == "ok"]
            if len(good):
                return float(total_passes(good["nfe"], good["nge"]).mean())
    key = _key(plan)
    if key not in _KNOWN:
        _KNOWN[key] = _counted(plan)
    return _KNOWN[key]


class _Enough(RuntimeError):
    """The dry run takes longer than it is worth."""


def _counted(plan: CellPlan) -> float:
    """Count the passes of a row by a dry run on the first image.

    NaN if the solver needs the whole network, fails, or takes too long.
    """
    # loads torch, and only a run without stored rows needs it
    from posterior_bench.bench.core.isolation import isolated
    from posterior_bench.bench.engine.budget import Trial
    from posterior_bench.bench.engine.cache import described
    from posterior_bench.bench.engine.session import Session

    end = time.monotonic() + DRY_SECONDS
    try:
        with isolated(numbers=True):
            session = Session(plan.cell.config, "cpu", described(plan.cell.config.prior))
        if "features" in session.solver.needs:
            return math.nan
        trial = Trial.of(session, "passes")
        with session.prior.metered(watch=_until(end)):
            return float(trial.cost(session.solver))
    except Exception:  # the run itself will say what is wrong, if anything is
        signals.check()
        return math.nan


def _until(end: float) -> Callable[[], None]:
    def look() -> None:
        signals.check()
        if time.monotonic() > end:
            raise _Enough

    return look


def left(seconds: float, done: float, total: float) -> float:
    """How long the rest takes at the speed so far; NaN before anything is done."""
    with contextlib.suppress(ZeroDivisionError):
        return seconds * (total - done) / done
    return math.nan
