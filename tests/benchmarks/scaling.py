"""How the harness itself scales, with a solver that only sleeps: python tests/benchmarks/scaling.py [part ...]

Parts: ``workers`` (efficiency from 1 to 8 Ray workers for chunks of one second), ``memory`` (of the driver, over
many chunks), ``planning`` (of ten million rows), ``resume`` (of a study with ten thousand shards). Prints what was
measured beside what is allowed; asserts nothing. All parts together take about four minutes on two cores.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from bench import executors  # noqa: E402 (the threads of torch are set before it is imported)
from bench.app import compose  # noqa: E402
from bench.overrides import check  # noqa: E402
from bench.plan import CellPlan, Chunk  # noqa: E402
from bench.run import prepare, run_job  # noqa: E402

SLEEPER = '''\
import time
from dataclasses import dataclass

from solvers.base import Card, Sampler


@dataclass(frozen=True)
class Sleeper(Sampler):
    """Sleeps, then returns noise."""

    card = Card(title="Sleeper", paper="none", equations="x = n")
    needs = frozenset()

    seconds: float = 1.0

    def draw(self, obs, prior, noise):
        time.sleep(self.seconds)
        return noise.normal(prior.image_shape)
'''
ROWS = 10_000_000
SHARDS = 9_999  # an arena has 10 000 images; one is left to do
CALLS = 100_000


def overrides(folder: Path, images: int, *more: str, draws: int = 1, seconds: float = 1.0) -> list[str]:
    """A cell on pairs of pixels with one image a chunk."""
    (folder / "sleeper.py").write_text(SLEEPER)
    cell = (f"solver={folder / 'sleeper.py'}:Sleeper", f"solver.seconds={seconds}", f"data.images={images}")
    rest = (f"draws={draws}", f"batch={draws}", "metrics=[psnr]", "threads=1", "quiet=true", "sheet=false")
    return check(["data=arena/g2", *cell, *rest, f"out={folder / 'study'}", *more])


def planned(lines: list[str], write: bool = True) -> CellPlan:
    return prepare(*compose(lines), write=write)[1]


def workers(folder: Path) -> None:
    """Rate for 12 chunks a worker, workers started and loaded before the clock runs."""
    alone = 0.0
    for count in (1, 2, 4, 8):
        executor = executors.RayActors(workers=count)
        warm = planned(overrides(folder, 2 * count, "seed=1", seconds=0.0))
        for _ in executor.run(warm, warm.chunks, 1):
            pass
        plan = planned(overrides(folder, 12 * count, f"seed={10 + count}"))
        for _ in executor.run(plan, plan.chunks[:count], 1):
            pass  # the session of this cell is loaded in every worker
        rest = plan.chunks[count:]
        start = time.perf_counter()
        for _ in executor.run(plan, rest, 1):
            pass
        rate = len(rest) / (time.perf_counter() - start)
        alone = alone or rate
        print(
            f"workers: {count}: {rate:.3f} chunks a second, {rate / alone / count:.3f} of linear, "
            f"{rate / count:.3f} of doing nothing but sleep (0.95 allowed)",
            flush=True,
        )


class Instant:
    """In place of a worker: stores nothing, so that only the driver works."""

    def __init__(self, threads: int | None):
        pass

    def prepare(self, config: object) -> str:
        return ""

    def run(self, plan: CellPlan, chunk: Chunk) -> dict[str, int]:
        return {"ok": 1}


def memory(folder: Path) -> None:
    """Resident memory of the driver while it hands out chunks to four workers that answer at once."""
    executors._RayWorker = Instant  # type: ignore[assignment, misc]
    plan = planned(overrides(folder, 1, "seed=2", seconds=0.0))
    plan = replace(plan, chunks=[Chunk(f"{i:06d}-0000000000000000", [f"{i:06d}"]) for i in range(CALLS)])
    start = time.perf_counter()
    for done, _ in enumerate(executors.RayActors(workers=4).run(plan, plan.chunks, None), 1):
        if done in (1000, CALLS // 10, CALLS // 2, CALLS):
            seconds = time.perf_counter() - start
            print(f"memory: {done} chunks: {resident():.0f} MiB, {done / seconds:.0f} chunks a second", flush=True)


def planning(folder: Path) -> None:
    """A cell of ten million rows: planned and recorded, and then planned again from the record."""
    for what in ("first", "again"):
        lines = overrides(folder, ROWS // 1000, "seed=3", draws=1000)
        start = time.perf_counter()
        plan = planned(lines)
        took = time.perf_counter() - start
        rows = sum(len(chunk.images) for chunk in plan.chunks) * plan.cell.draws
        print(f"planning: {what}: {rows} rows in {took:.1f} s, at most {peak():.0f} MiB (30 s and 2048 MiB allowed)")


def resume(folder: Path) -> None:
    """From the start of ``run_job`` to the first chunk given to the executor, with ten thousand shards stored."""
    from bench.worker import Worker

    lines = overrides(folder, SHARDS + 1, "seed=4", seconds=0.0)
    plan = planned(lines)
    first = Worker("cpu", 1).rows(plan, plan.chunks[0])
    os.fsync = lambda _: None  # making the study is not what is timed
    for chunk in plan.chunks[:-1]:
        plan.store.write(chunk.name, [{**first[0], "image_id": chunk.images[0]}])
    began: list[float] = []

    class Watched(executors.Serial):
        def run(self, plan: CellPlan, chunks: list[Chunk], threads: int | None):  # type: ignore[no-untyped-def, override]
            began.append(time.perf_counter())
            assert len(chunks) == 1
            return super().run(plan, chunks, threads)

    executors.Serial = Watched  # type: ignore[misc]
    start = time.perf_counter()
    run_job(*compose(lines))
    end = time.perf_counter()
    print(
        f"resume: {SHARDS} shards: working after {began[0] - start:.1f} s (10 s allowed), tables {end - began[0]:.1f} s"
    )


def resident() -> float:
    """MiB in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def peak() -> float:
    """MiB in memory at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


PARTS = {"workers": workers, "memory": memory, "planning": planning, "resume": resume}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("parts", nargs="*", choices=[*PARTS, []], help="all of them unless some are named")
    given = options.parse_args().parts
    if len(given) == 1:
        with tempfile.TemporaryDirectory() as folder:
            PARTS[given[0]](Path(folder))
        return
    for part in given or PARTS:  # each in a process of its own: memory and what is replaced stay apart
        subprocess.run([sys.executable, __file__, part], check=True)


if __name__ == "__main__":
    main()
