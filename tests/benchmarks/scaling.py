"""Measure how Ray workers scale, and what the harness costs.

    python tests/benchmarks/scaling.py [part ...]

Parts: ``workers`` (Ray workers with a real network, beside as many independent processes, on an
idle machine and beside foreign work), ``sleepers`` (efficiency from 1 to 8 Ray workers for chunks
of one second that only sleep: the harness alone), ``memory`` (of the driver, over many chunks),
``planning`` (of ten million rows), ``resume`` (of a study with ten thousand shards). Prints what
was measured beside what is allowed; asserts nothing. ``workers`` takes about four minutes on two
cores, all other parts together as much.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # for a script that is run in a checkout, before its imports

from posterior_bench.bench.config.compose import compose  # noqa: E402
from posterior_bench.bench.config.overrides import check  # noqa: E402
from posterior_bench.bench.core.cores import cores  # noqa: E402
from posterior_bench.bench.engine import ray_actors, ray_pool, serial  # noqa: E402
from posterior_bench.bench.engine.plan import CellPlan, Chunk  # noqa: E402
from posterior_bench.bench.engine.prepare import prepare  # noqa: E402
from posterior_bench.bench.engine.run import run_job  # noqa: E402

SLEEPER = '''\
import time
from dataclasses import dataclass

from posterior_bench.solvers.base import Card, Sampler  # noqa: E402


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


def overrides(
    folder: Path, images: int, *more: str, draws: int = 1, seconds: float = 1.0
) -> list[str]:
    """A cell on pairs of pixels with one image a chunk."""
    (folder / "sleeper.py").write_text(SLEEPER)
    cell = (
        f"solver={folder / 'sleeper.py'}:Sleeper",
        f"solver.seconds={seconds}",
        f"data.images={images}",
    )
    rest = (
        f"draws={draws}",
        f"batch={draws}",
        "metrics=[psnr]",
        "threads=1",
        "quiet=true",
        "sheet=false",
    )
    return check(["data=arena/g2", *cell, *rest, f"out={folder / 'study'}", *more])


def planned(lines: list[str], write: bool = True) -> CellPlan:
    return prepare(*compose(lines), write=write)[1]


NETWORK = (
    *("data=fashion", "prior=fashion", "solver=repaint", "solver.preset=fast", "solver.steps=10"),
    *("solver.jump_length=5", "solver.resamples=2", "draws=1", "batch=8", "metrics=[psnr,ssim]"),
    *("data.images=128", "quiet=true", "sheet=false", "report=false"),
)
"""A cell of 16 chunks on the prior of the package; a chunk takes some seconds on one core."""
PER_WORKER, TURNS = 3, 2
"""Chunks for every worker in a turn, and the turns of the two kinds, one after the other."""


def workers(folder: Path, given: argparse.Namespace) -> None:
    """Ray workers on a real network, against as many processes that know nothing of each other.

    All have the threads that Ray workers get by default. The processes run the same chunks in the
    same worker at the same time, without Ray, so their rate is what the machine can give to so many
    processes: on two cores that share memory and caches it is less than twice that of one. Beside
    foreign work, one process that never sleeps, both are also compared with the share of the cores
    that a fair scheduler leaves them.
    """
    lines = check([*NETWORK, f"out={folder / 'study'}"])
    plan = planned(lines)
    for count in given.workers:
        if count > max(2, cores()):
            continue
        pool = ray_pool.actors(None, count, None)
        alone = [independent(folder, pool.threads) for _ in range(count)]
        load(plan, pool)
        for process in alone:
            process.stdout.readline()  # type: ignore[union-attr]  # it is ready
        idle = 0.0
        for foreign in range(2):
            busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"])] if foreign else []
            by_ray, by_itself = [], []
            try:
                for _ in range(TURNS):
                    by_ray.append(seconds_of_ray(plan, count))
                    by_itself.append(seconds_of(alone))
            finally:
                for process in busy:
                    process.kill()
                    process.wait()
            chunks = PER_WORKER * count * TURNS
            rate, ideal = chunks / sum(by_ray), chunks / sum(by_itself)
            idle = idle or ideal
            wanted = count * pool.threads
            share = min(1.0, cores() / (wanted + foreign))
            print(
                f"workers: {count} with {pool.threads} threads each, {foreign} foreign busy "
                f"processes: {8 * rate:.2f} rows a second, {rate / ideal:.3f} of independent "
                f"processes (0.9 allowed); these have {ideal / idle:.3f} of their idle rate, their "
                f"share of {cores()} cores is {share:.3f}; {load_average()}",
                flush=True,
            )
        for process in alone:
            process.kill()
            process.wait()


def seconds_of_ray(plan: CellPlan, count: int) -> float:
    start = time.perf_counter()
    for _ in ray_actors.RayActors(workers=count).run(plan, plan.chunks[: PER_WORKER * count], None):
        pass
    return time.perf_counter() - start


def independent(folder: Path, threads: int) -> subprocess.Popen[str]:
    """A process that runs chunks in a worker of its own whenever it gets a line."""
    command = [sys.executable, __file__, "alone", "--folder", str(folder), "--calls", str(threads)]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )


def seconds_of(processes: Sequence[subprocess.Popen[str]]) -> float:
    """From the start of all processes to the end of the last one."""
    start = time.perf_counter()
    for process in processes:
        process.stdin.write("go\n")  # type: ignore[union-attr]
    for process in processes:
        process.stdout.readline()  # type: ignore[union-attr]
    return time.perf_counter() - start


def alone(folder: Path, given: argparse.Namespace) -> None:
    """Such a process."""
    from posterior_bench.bench.engine.worker import Worker

    plan = planned(check([*NETWORK, f"out={given.folder / 'alone' / str(os.getpid())}"]))
    worker = Worker("cpu", given.calls)
    worker.run(plan, plan.chunks[0])
    print("ready", flush=True)
    for _ in sys.stdin:
        for chunk in plan.chunks[:PER_WORKER]:
            worker.run(plan, chunk)
        print("done", flush=True)


def sleepers(folder: Path, given: argparse.Namespace) -> None:
    """Rate of chunks, eleven for every worker; what it takes to start and load a worker does not
    count."""
    alone = 0.0
    for count in given.workers:
        plan = planned(overrides(folder, 12 * count, f"seed={10 + count}"))
        start = time.perf_counter()
        load(plan, ray_pool.actors(None, count, 1))
        ready = time.perf_counter() - start
        rest = plan.chunks[count:]
        start = time.perf_counter()
        for _ in ray_actors.RayActors(workers=count).run(plan, rest, 1):
            pass
        rate = len(rest) / (time.perf_counter() - start)
        alone = alone or rate / count
        print(
            f"sleepers: {count}: {rate:.3f} chunks a second, {rate / count / alone:.3f} of linear, "
            f"{rate / count:.3f} "
            f"of doing nothing but sleep (0.95 allowed); ready after {ready:.0f} s, "
            f"{load_average()}",
            flush=True,
        )


def load(plan: CellPlan, pool: ray_pool.Pool) -> None:
    """Every worker loads the cell and does one of its first chunks: some modules are imported
    then."""
    import ray

    ray.get([actor.prepare.remote(plan.cell.config) for actor in pool])
    ray.get(
        [actor.run.remote(plan, chunk) for actor, chunk in zip(pool, plan.chunks, strict=False)]
    )


class Instant:
    """In place of a worker: stores nothing, so that only the driver works."""

    def __init__(self, threads: int | None):
        pass

    def prepare(self, config: object) -> str:
        return ""

    def run(self, plan: CellPlan, chunk: Chunk) -> dict[str, int]:
        return {"ok": 1}


def memory(folder: Path, given: argparse.Namespace) -> None:
    """Resident memory of the driver while it hands out chunks to four workers that answer at
    once."""
    ray_pool.RayWorker = Instant  # type: ignore[assignment, misc]
    plan, calls = planned(overrides(folder, 1, "seed=2", seconds=0.0)), given.calls
    plan = replace(
        plan, chunks=[Chunk(f"{i:06d}-0000000000000000", [f"{i:06d}"]) for i in range(calls)]
    )
    start = time.perf_counter()
    for done, _ in enumerate(ray_actors.RayActors(workers=4).run(plan, plan.chunks, None), 1):
        if done == 1000 or done % (calls // 10) == 0:
            rate = done / (time.perf_counter() - start)
            print(
                f"memory: {done} chunks: {resident():.0f} MiB, {rate:.0f} chunks a second",
                flush=True,
            )


def planning(folder: Path, given: argparse.Namespace) -> None:
    """A cell of ten million rows: planned and recorded, and then planned again from the record."""
    for what in ("first", "again"):
        lines = overrides(folder, ROWS // 1000, "seed=3", draws=1000)
        start = time.perf_counter()
        plan = planned(lines)
        took = time.perf_counter() - start
        rows = sum(len(chunk.images) for chunk in plan.chunks) * plan.cell.draws
        print(
            f"planning: {what}: {rows} rows in {took:.1f} s, at most {peak():.0f} MiB (30 s and "
            f"2048 MiB allowed)"
        )


def resume(folder: Path, given: argparse.Namespace) -> None:
    """From the start of a process to the first chunk given to its executor, with ten thousand
    shards stored."""
    lines = overrides(given.folder or folder, SHARDS + 1, "seed=4", seconds=0.0)
    if given.folder:
        resumed(lines, given.since)
        return
    from posterior_bench.bench.engine.worker import Worker

    plan = planned(lines)
    first = Worker("cpu", 1).rows(plan, plan.chunks[0])
    os.fsync = lambda _: None  # making the study is not what is timed
    for chunk in plan.chunks[:-1]:
        plan.store.write(chunk.name, [{**first[0], "image_id": chunk.images[0]}])
    again = [
        sys.executable,
        __file__,
        "resume",
        "--folder",
        str(folder),
        "--since",
        str(time.time()),
    ]
    subprocess.run(again, check=True)


def resumed(lines: list[str], since: float) -> None:
    """The study once more, until it is finished."""
    began: list[float] = []

    class Watched(serial.Serial):
        def run(self, plan: CellPlan, chunks: list[Chunk], threads: int | None):  # type: ignore[no-untyped-def, override]
            began.append(time.time())
            assert len(chunks) == 1
            return super().run(plan, chunks, threads)

    serial.Serial = Watched  # type: ignore[misc]
    imported = time.time()
    run_job(*compose(lines))
    print(
        f"resume: {SHARDS} shards: working {began[0] - since:.1f} s after the command (10 s "
        f"allowed), of which "
        f"{imported - since:.1f} to import; then the chunk and the tables in "
        f"{time.time() - began[0]:.1f} s, "
        f"{load_average()}"
    )


def load_average() -> str:
    return f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"


def resident() -> float:
    """MiB in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20


def peak() -> float:
    """MiB in memory at most so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


PARTS = {
    "workers": workers,
    "sleepers": sleepers,
    "memory": memory,
    "planning": planning,
    "resume": resume,
}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument(
        "parts", nargs="*", choices=[*PARTS, "alone", []], help="all of them unless some are named"
    )
    options.add_argument(
        "--workers", nargs="+", type=int, default=[1, 2, 4, 8], help="of Ray, for both such parts"
    )
    options.add_argument("--calls", type=int, default=100_000, help="chunks, for the part memory")
    options.add_argument("--folder", type=Path, help="where the part resume finds what it made")
    options.add_argument("--since", type=float, help="when it was told to resume")
    given = options.parse_args()
    if given.parts == ["alone"]:
        alone(given.folder, given)
        return
    if len(given.parts) == 1:
        with tempfile.TemporaryDirectory() as folder:
            PARTS[given.parts[0]](Path(folder), given)
        return
    for part in (
        given.parts or PARTS
    ):  # each in a process of its own: memory and what is replaced stay apart
        more = ["--workers", *map(str, given.workers), "--calls", str(given.calls)]
        subprocess.run([sys.executable, __file__, part, *more], check=True)


if __name__ == "__main__":
    main()
