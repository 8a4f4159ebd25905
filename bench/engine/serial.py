"""The executor ``serial``: every chunk in this process, one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import TYPE_CHECKING

from posterior_bench.bench.engine.chunking import gpu_words, say_once
from posterior_bench.bench.engine.executor import Counts, device_called
from posterior_bench.bench.engine.plan import CellPlan, Chunk

if TYPE_CHECKING:
    from posterior_bench.bench.engine.worker import Worker


class Serial:
    """Everything in this process, on one device.

    Parameters
    ----------
    device : str, default 'auto'
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    overlap : bool, default None
        Whether the host reads the next chunk and finishes the last one while the device samples
        (:mod:`bench.engine.overlap`); None = on a GPU.
    """

    def __init__(self, device: str = "auto", overlap: bool | None = None):
        if device not in ("auto", "cpu", "cuda") and not device.removeprefix("cuda:").isdigit():
            raise ValueError(f"unknown device '{device}'; valid: auto, cpu, cuda, cuda:N")
        self.device, self.overlap = device, overlap

    def device_here(self) -> str:
        """Return the device of this process that chunks run on."""
        return device_called(self.device)

    def run(
        self, plan: CellPlan, chunks: Sequence[Chunk], threads: int | None
    ) -> Iterator[tuple[Chunk, Counts]]:
        """Yield each chunk with its number of rows per status, once it is stored."""
        # heavy: imports torch and every part of a run
        from posterior_bench.bench.engine.overlap import Overlapping, overlaps, why_not

        config, device = plan.cell.config, self.device_here()
        worker = _worker(device, threads)
        session = worker.session(config)
        if not config.quiet:
            for line in gpu_words(device, self.device, config.precision):
                say_once(line)
        if overlaps(self.overlap, session):
            yield from Overlapping(worker, plan).run(chunks)
            return
        if self.overlap and not config.quiet:
            say_once(f"executor.overlap=true has no effect: {why_not(session)}")
        for chunk in chunks:
            yield chunk, worker.run(plan, chunk)


@cache
def _worker(device: str, threads: int | None) -> Worker:
    # heavy: imports torch and every part of a run
    from posterior_bench.bench.engine.worker import Worker

    return Worker(device, threads)
