"""The rehearsal before the clock starts: what is done once in a process is no cost of a row."""

from __future__ import annotations

from contextlib import suppress
from copy import copy

from posterior_bench.bench.engine.batches import BatchSize
from posterior_bench.bench.engine.measurement import Measurement
from posterior_bench.bench.engine.session import Session
from posterior_bench.bench.engine.short_solver import shortened
from posterior_bench.bench.engine.solving import sample


def warm_up(session: Session, measured: Measurement, draws: int, size: BatchSize) -> None:
    """Run the solver once with few steps, on a GPU or where the network is compiled.

    The network is compiled then, and a GPU has loaded its kernels, made the handles of its
    libraries and reserved memory, for the shapes that rows need. Rows are not affected: every run
    draws its noise from streams of its own. Nothing happens on a CPU without compilation, or if the
    session has done it for this size. What fails here fails again in the run itself, which reports
    it.

    Parameters
    ----------
    session : Session
        The solver, the prior and the metrics of the cell.
    measured : Measurement
        The images of a padded batch.
    draws : int
        Draws per image in the whole cell.
    size : BatchSize
        The padded batch.
    """
    if size in session.warm or not _starts_slowly(session):
        return
    session.warm.add(size)
    with suppress(Exception):
        rehearsed = copy(session)
        rehearsed.solver = shortened(session.solver)
        sample(rehearsed, measured, draws, range(min(draws, size.draws)), size.draws)


def _starts_slowly(session: Session) -> bool:
    return session.device.startswith("cuda") or session.execution.compile
