"""Measure how much of the host's work the device waits for, with and without overlapped chunks.

    python tests/benchmarks/overlap.py [--device cuda] [--json FILE]

Two cells, each in turns with ``executor.overlap=false`` and ``true``:

- ``sleeping``: a device that samples 16 rows of 3 x 64 x 64 pixels in a given time, pretended by a
  solver that sleeps; the host reads, scores and stores;
- ``network``: RePaint with the embedded prior, 16 rows a chunk.

``wait`` is the time between the end of one sampling and the start of the next, in all of the time:
the share in which the device has nothing to do. ``ratio`` is the time with overlap over the time
without. For a sleeping device ``of max`` is the time with overlap over the longer one of sampling
and the host's work, and ``of sum`` the time without over their sum; both are 1 at best, but for the
host's work on the last chunk. Asserts nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # for a script that is run in a checkout, before its imports

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

from posterior_bench.bench.config.compose import compose  # noqa: E402
from posterior_bench.bench.config.overrides import check  # noqa: E402
from posterior_bench.bench.engine import overlap, solving  # noqa: E402
from posterior_bench.bench.engine.plan import CellPlan  # noqa: E402
from posterior_bench.bench.engine.prepare import prepare  # noqa: E402
from posterior_bench.bench.engine.worker import Worker  # noqa: E402
from posterior_bench.solvers.blended import Blended  # noqa: E402

COMMON = (
    *("draws=1", "batch=16", "threads=1", "quiet=true", "sheet=false", "report=false"),
    "metrics=[psnr,ssim,consistency]",
)
DRAW = solving.draw


class Clock:
    """When chunks were sampled."""

    def __init__(self) -> None:
        self.times: list[tuple[float, float]] = []

    def draw(self, *about: object) -> object:
        start = time.perf_counter()
        drawn = DRAW(*about)  # type: ignore[arg-type]
        self.times.append((start, time.perf_counter()))
        return drawn


def seconds(worker: Worker, plan: CellPlan, overlapped: bool) -> tuple[float, float, float]:
    """Return all seconds after the first chunk, those of sampling, and those of waiting."""
    clock = Clock()
    solving.draw = overlap.draw = clock.draw  # type: ignore[assignment]
    if overlapped:
        running = overlap.Overlapping(worker, plan).run(plan.chunks)
    else:
        running = ((chunk, worker.run(plan, chunk)) for chunk in plan.chunks)
    next(running)
    start = time.perf_counter()
    for _, counts in running:
        assert counts == {"ok": 16}, counts
    every = time.perf_counter() - start
    later = clock.times[1:]
    waits = sum(after[0] - before[1] for before, after in zip(clock.times, later, strict=False))
    return every, sum(end - begin for begin, end in later), waits


def measured(name: str, worker: Worker, plan: CellPlan, turns_each: int) -> dict[str, object]:
    """Both ways in turns; medians."""
    seconds(worker, plan, overlapped=False)
    turns = [
        (seconds(worker, plan, overlapped=False), seconds(worker, plan, overlapped=True))
        for _ in range(turns_each)
    ]
    apart, beside = ([turn[i] for turn in turns] for i in range(2))
    found: dict[str, object] = {
        "cell": name,
        "device": worker.device,
        "chunks": len(plan.chunks) - 1,
        "seconds": _median(run[0] for run in apart),
        "sampling": _median(run[1] for run in apart),
        "wait": _median(run[2] / run[0] for run in apart),
        "wait_overlapped": _median(run[2] / run[0] for run in beside),
        "sampling_overlapped": _median(run[1] for run in beside),
        "ratio": _median(b[0] / a[0] for a, b in turns),
    }
    return found


def _median(values: object) -> float:
    return round(statistics.median(values), 4)  # type: ignore[type-var, call-overload, no-any-return]


def cell(folder: Path, *lines: str) -> CellPlan:
    return prepare(*compose(check([*COMMON, *lines, f"out={folder}"])))[1]


def sleeping(folder: Path, device: str, chunks: int, turns: int) -> list[dict[str, object]]:
    """A device as slow as the host, and one that is twice as slow."""
    (folder / "photos").mkdir()
    rng = np.random.default_rng(0)
    for i in range(16 * (chunks + 1)):
        pixels = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / f"{i:03d}.png")
    plan = cell(
        folder / "sleeping",
        *("solver=blended", "prior=smooth", "prior.shape=[3,64,64]", "data=folder"),
        *(f"data.root={folder / 'photos'}", "data.size=64", "data.mode=rgb"),
        f"data.images={16 * (chunks + 1)}",
    )
    worker, pause = Worker(device, 1), [0.0]

    def draw(self: Blended, obs, prior, noise):  # type: ignore[no-untyped-def]
        time.sleep(pause[0])
        return noise.normal(prior.image_shape)

    plain, Blended.draw = Blended.draw, draw  # type: ignore[method-assign]
    seconds(worker, plan, overlapped=False)  # what loads late
    every, sampling, _ = seconds(worker, plan, overlapped=False)
    host = (every - sampling) / chunks
    found = []
    for times in (1, 2):
        pause[0] = times * host
        one = measured(f"sleeping {times} x host", worker, plan, turns)
        one["host_a_chunk"] = round(host, 4)
        without = float(one["seconds"]) / chunks  # type: ignore[arg-type]
        one["of_sum"] = round(without / (host + pause[0]), 4)
        one["of_max"] = round(without * float(one["ratio"]) / pause[0], 4)  # type: ignore[arg-type]
        print(json.dumps(one), flush=True)
        found.append(one)
    Blended.draw = plain  # type: ignore[method-assign]
    return found


def network(folder: Path, device: str, chunks: int, turns: int) -> dict[str, object]:
    """The embedded prior."""
    steps = ("solver.preset=fast", "solver.steps=10", "solver.jump_length=5", "solver.resamples=2")
    plan = cell(
        folder / "network",
        *("solver=repaint", *steps, "prior=fashion", "data=fashion"),
        f"data.images={16 * (chunks + 1)}",
    )
    return measured("network", Worker(device, 1), plan, turns)


def main(arguments: Sequence[str] | None = None) -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--device", default="cpu")
    options.add_argument(
        "--chunks", type=int, default=8, help="after the first, in every turn; the network has half"
    )
    options.add_argument("--turns", type=int, default=3, help="of each way")
    options.add_argument("--pretended", action="store_true", help="the sleeping device alone")
    options.add_argument("--json", type=Path)
    given = options.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = sleeping(folder, given.device, given.chunks, given.turns)
        if not given.pretended:
            found.append(network(folder, given.device, given.chunks // 2, given.turns))
            print(json.dumps(found[-1]), flush=True)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
