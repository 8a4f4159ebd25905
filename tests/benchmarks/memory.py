"""Compare the memory that ``doctor`` estimates with the memory that runs take.

    python tests/benchmarks/memory.py

For pairs of solver and prior, with a few steps each, it prints the most memory that networks,
states and scores of one chunk take, without the weights: as ``doctor`` estimates it without weights
or data, as it was measured, and their ratio. Measured is the peak of live tensor bytes on the CPU
(:class:`bench.estimate.live_tensors.Live`): every storage that an operation makes, for as long as
it lives, counted below autograd. That is not the memory of the process: temporary memory of a
kernel, the reserve of the allocator, Python and libraries are left out. It asserts nothing.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from posterior_bench.bench.config.compose import compose
from posterior_bench.bench.config.overrides import check
from posterior_bench.bench.engine.job import job_of
from posterior_bench.bench.engine.session import Session
from posterior_bench.bench.engine.solving import solve
from posterior_bench.bench.estimate.live_tensors import Live
from posterior_bench.bench.estimate.memory import Estimate, estimate
from posterior_bench.bench.estimate.network_memory import NetworkMemory
from posterior_bench.priors.load import verify

LATENT = ("prior=fashion_latent", "data=fashion32")
FIT = ("solver.iterations=6", "solver.refine_steps=6")
PAIRS: dict[str, tuple[str, ...]] = {
    "dps / pixel": ("solver=dps", "solver.steps=6"),
    "dps, guidance 2 / pixel": ("solver=dps", "solver.steps=6", "solver.guidance=2"),
    "dps, bf16 / pixel": ("solver=dps", "solver.steps=6", "precision=bf16"),
    "dps, perceptual / pixel": (
        "solver=dps",
        "solver.steps=6",
        "solver.loss=l1",
        "solver.perceptual=stlpips",
    ),
    "ddnm / pixel": ("solver=ddnm", "solver.steps=6"),
    "mmps / pixel": ("solver=mmps", "solver.steps=6"),
    "vipaint2 / pixel": ("solver=vipaint2", *FIT),
    "vipaint2, checkpointing / pixel": ("solver=vipaint2", *FIT, "checkpointing=call"),
    "psld / latent": ("solver=psld", *LATENT, "solver.steps=6"),
    "resample / latent": (
        *("solver=resample", *LATENT, "solver.steps=6", "solver.every=2"),
        *("solver.pixel_iterations=6", "solver.latent_iterations=6"),
    ),
    "latentpaint / latent": ("solver=latentpaint", *LATENT, "solver.steps=6"),
    "vipaint4 / latent": ("solver=vipaint4", *LATENT, *FIT),
    "vipaint4, checkpointing / latent": ("solver=vipaint4", *LATENT, *FIT, "checkpointing=call"),
}
ROWS = ("draws=2", "batch=8", "metrics=[psnr]", "quiet=true")


@dataclass(frozen=True)
class Compared:
    """Bytes beside the weights of one pair, estimated and measured, and the seconds of both."""

    estimated: int
    measured: int
    weights: int
    seconds: tuple[float, float]

    @property
    def ratio(self) -> float:
        """Estimated over measured."""
        return self.estimated / self.measured


def compared(overrides: Sequence[str]) -> Compared:
    """One pair; the estimate never sees the prior that is measured, nor the data."""
    config = job_of(compose(check([*ROWS, *overrides]))[0])
    start = time.monotonic()
    found = estimate(config, NetworkMemory(verify(config.prior["path"])))
    middle = time.monotonic()
    measured = peak(config, found)
    return Compared(
        found.activations(), measured, found.weights, (middle - start, time.monotonic() - middle)
    )


def peak(config: dict[str, object], found: Estimate) -> int:
    """Live tensor bytes, at most, while a worker solves and scores the first chunk."""
    session = Session(config, "cpu")
    images = list(session.images.ids)[: found.size.images]
    gc.collect()
    with Live() as live:
        solve(session, session.measure(images), found.draws, found.size.draws, None)
    return live.peak


def main(names: Sequence[str]) -> None:
    print("| solver and prior | weights (MiB) | estimated (MiB) | measured (MiB) | ratio |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name in names or PAIRS:
        one, size = compared(PAIRS[name]), 2**20
        print(f"| {name} | {one.weights / size:.1f} | {one.estimated / size:.2f} ", end="")
        print(f"| {one.measured / size:.2f} | {one.ratio:.3f} |", flush=True)
        print(
            f"{name}: {one.seconds[0]:.1f} s estimated, {one.seconds[1]:.1f} s measured",
            file=sys.stderr,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
