"""Compare our solvers with those of deepinv, diffusers and azula, on one network.

    pip install deepinv azula        # what is absent is left out; diffusers is ours too
    python tests/benchmarks/side_by_side.py [METHOD ...] [--draws 1 8 32] [--steps 20]

The network is a ``UNet2DModel`` of diffusers with random weights, 3 x 32 x 32 pixels, with the
linear noise schedule of DDPM. Every library gets the same object in its own wrapper, the same
image, mask and noise, and as many steps. One image is solved, with 1, 8 and 32 draws. A library
that can take the draws as one batch is given a batch. The DPS of azula cannot: it takes one norm
over the whole batch, so the draws would change each other. It gets one draw after the other.

Libraries take turns, and medians are printed, of ratios too. Seconds are those of the processor on
one thread. All ratios are theirs over ours: above 1, ours is faster or smaller.

``passes``      forward and backward passes a draw, counted by hooks on the network
``ratio``       of seconds a draw
``a pass``      the same, divided by the ratio of passes
``one by one``  with the draws of theirs one after the other, as deepinv's ``DiffusionSampler`` does
``beside``      milliseconds a pass outside the network and its gradient: what a library adds
``MiB``         the most that tensors take at once, without weights; over six steps, since more
                change nothing

It asserts no time.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import RePaintPipeline, RePaintScheduler
from torch import Tensor

from posterior_bench.bench.core.streams import Key, Noise
from posterior_bench.bench.estimate.live_tensors import Live
from posterior_bench.operators.inpainting import Inpainting
from posterior_bench.priors.base import Prior
from posterior_bench.priors.nets import UNet2D
from posterior_bench.priors.process import VP
from posterior_bench.solvers.base import Observation, Solver
from posterior_bench.solvers.ddrm import DDRM
from posterior_bench.solvers.diffpir import DiffPIR
from posterior_bench.solvers.dps import DPS
from posterior_bench.solvers.mmps import MMPS
from posterior_bench.solvers.repaint import RePaint

SHAPE = (3, 32, 32)
SIGMA = 0.05
"""Noise of the measurement, in units of images from -1 to 1."""
NETWORK = {
    "sample_size": 32,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": [32, 64],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": 32,
}
JUMP, RESAMPLES = 5, 3

Run = Callable[[int], object]
"""Draws so many samples of the image."""


class Task:
    """The network, the image and its measurement, for all libraries."""

    def __init__(self, steps: int):
        torch.manual_seed(0)
        self.steps = steps
        self.prior = Prior(VP.scheduled("linear", 1e-4, 0.02), UNet2D(NETWORK), SHAPE, "eps")
        self.prior.net.requires_grad_(False).eval()
        self.unet = self.prior.net.unet
        self.mask = torch.ones(1, 1, *SHAPE[1:], dtype=torch.bool)
        self.mask[..., 8:24, 8:24] = False
        truth = torch.rand(1, *SHAPE) * 2 - 1
        self.y = self.mask * (truth + SIGMA * torch.randn(1, *SHAPE))
        self.alphas = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
        self.passes, self.inside, self.began = 0, 0.0, 0.0
        self.unet.register_forward_pre_hook(self._begin)
        self.unet.register_forward_hook(self._count)

    def _begin(self, _module: object, _inputs: object) -> None:
        self.began = time.process_time()

    def _count(self, _module: object, _inputs: object, output: object) -> None:
        sample = getattr(output, "sample", output)
        rows = len(sample)
        self.passes += rows
        self.inside += time.process_time() - self.began
        if sample.requires_grad:
            sample.register_hook(lambda _: self._backward(rows))

    def _backward(self, rows: int) -> None:
        self.passes += rows

    def eps(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the noise that the network finds in a state, at whole time steps."""
        return self.unet(x, t).sample

    def ours(self, solver: Solver) -> Run:
        """Return our solver, as a worker runs it."""
        obs = Observation(self.y, Inpainting(self.mask, sigma=SIGMA))
        key = [Key(0, "side by side", "0")]

        def run(draws: int) -> object:
            posterior = solver.fit(obs, self.prior, Noise(key, "solver"))
            return posterior.sample(range(draws)).x

        return run


@dataclass
class Peer:
    """The solver of another library."""

    library: str
    make: Callable[[Task], Run]


@dataclass
class Method:
    """Our solver, and the same method of other libraries."""

    ours: Callable[[int], Solver]
    peers: list[Peer] = field(default_factory=list)


# -- other libraries -------------------------------------------------------------------------------


def deepinv_parts(task: Task):  # type: ignore[no-untyped-def]
    """Return deepinv's denoiser, physics and measurement; its images lie in [0, 1]."""
    import deepinv
    from deepinv.models.wrapper import ScoreModelWrapper

    denoiser = ScoreModelWrapper(
        task.eps,
        "epsilon",
        scale_t=task.alphas.sqrt().float(),
        variance_preserving=True,
        takes_integer_time=True,
    )
    physics = deepinv.physics.Inpainting(
        SHAPE,
        mask=task.mask[0].expand(SHAPE).float(),
        noise_model=deepinv.physics.GaussianNoise(SIGMA / 2),
    )
    return denoiser, physics, task.mask * (task.y + 1) / 2


def deepinv_dps(task: Task) -> Run:
    """DPS of deepinv in float32, as ours; its default is float64."""
    from deepinv.sampling import DPS as Theirs

    denoiser, physics, y = deepinv_parts(task)
    solver = Theirs(denoiser, num_steps=task.steps + 1, dtype=torch.float32)
    return lambda draws: solver(y.repeat(draws, 1, 1, 1), physics)


def deepinv_ddrm(task: Task) -> Run:
    """DDRM of deepinv at the noise levels of ours."""
    from deepinv.sampling import DDRM as Theirs

    denoiser, physics, y = deepinv_parts(task)
    grid = task.prior.grid(task.steps, kind="native")
    sigmas = [float(level.sigma / level.alpha) / 2 for level in grid][: task.steps]
    solver = Theirs(denoiser, sigmas=sigmas)
    return lambda draws: solver(y.repeat(draws, 1, 1, 1), physics)


def deepinv_diffpir(task: Task) -> Run:
    """DiffPIR of deepinv."""
    import deepinv
    from deepinv.sampling import DiffPIR as Theirs

    denoiser, physics, y = deepinv_parts(task)
    fidelity = deepinv.optim.data_fidelity.L2()
    solver = Theirs(denoiser, fidelity, sigma=SIGMA / 2, max_iter=task.steps)
    return lambda draws: solver(y.repeat(draws, 1, 1, 1), physics)


def diffusers_repaint(task: Task) -> Run:
    """Return RePaint as diffusers has it."""
    pipeline = RePaintPipeline(task.unet, RePaintScheduler(beta_schedule="linear"))
    pipeline.set_progress_bar_config(disable=True)

    def run(draws: int) -> object:
        return pipeline(
            task.y.repeat(draws, 1, 1, 1),
            task.mask.float().repeat(draws, 1, 1, 1),
            num_inference_steps=task.steps,
            eta=1.0,
            jump_length=JUMP,
            jump_n_sample=RESAMPLES,
            output_type="np",
        )

    return run


def azula_denoiser(task: Task):  # type: ignore[no-untyped-def]
    """Return azula's denoiser, written as its plugins for published networks are."""
    from azula.denoise import Denoiser, DiracPosterior
    from azula.noise import Schedule

    alpha, sigma = task.alphas.sqrt().float(), (1 - task.alphas).sqrt().float()

    class Linear(Schedule):
        def __call__(self, t: Tensor) -> tuple[Tensor, Tensor]:
            index = torch.round(999 * t).long()
            return alpha[index], sigma[index]

    class Eps(Denoiser):
        schedule = Linear()

        def forward(self, x_t: Tensor, t: Tensor, **_: object) -> DiracPosterior:
            alpha_t, sigma_t = self.schedule(t)
            eps = task.eps(x_t, torch.round(999 * t).long())
            return DiracPosterior(mean=(x_t - sigma_t * eps) / alpha_t)

    return Eps()


def azula_dps(task: Task) -> Run:
    """DPS of azula, one draw after the other."""
    from azula.guidance.dps import DPSSampler

    denoiser, mask = azula_denoiser(task), task.mask
    sampler = DPSSampler(denoiser, task.y, lambda x: mask * x, steps=task.steps, silent=True)
    return lambda draws: [sampler(sampler.init((1, *SHAPE))) for _ in range(draws)]


def azula_mmps(task: Task) -> Run:
    """MMPS of azula with one iteration of GMRES; it takes the pixels seen as a vector."""
    from azula.guidance.mmps import MMPSDenoiser
    from azula.linalg.covariance import IsotropicCovariance
    from azula.sample import DDPMSampler

    seen = task.mask.expand(1, *SHAPE).flatten().nonzero().squeeze(1)

    def run(draws: int) -> object:
        denoiser = MMPSDenoiser(
            azula_denoiser(task),
            task.y.flatten(1)[:, seen].repeat(draws, 1),
            lambda x: x.flatten(1)[:, seen],
            IsotropicCovariance(SIGMA**2),
            iterations=1,
        )
        sampler = DDPMSampler(denoiser, steps=task.steps, silent=True)
        return sampler(sampler.init((draws, *SHAPE)))

    return run


METHODS = {
    "dps": Method(
        lambda steps: DPS(steps=steps),
        [Peer("deepinv", deepinv_dps), Peer("azula", azula_dps)],
    ),
    "ddrm": Method(lambda steps: DDRM(steps=steps), [Peer("deepinv", deepinv_ddrm)]),
    "diffpir": Method(lambda steps: DiffPIR(steps=steps), [Peer("deepinv", deepinv_diffpir)]),
    "repaint": Method(
        lambda steps: RePaint(steps=steps, jump_length=JUMP, resamples=RESAMPLES),
        [Peer("diffusers", diffusers_repaint)],
    ),
    "mmps": Method(
        lambda steps: MMPS(steps=steps, iterations=1, tolerance=0.0), [Peer("azula", azula_mmps)]
    ),
}


# -- the table -------------------------------------------------------------------------------------


def peak(run: Run, draws: int) -> float:
    """Return the most MiB of tensors that live at once while the samples are drawn."""
    with Live() as live:
        run(draws)
    return live.peak / 2**20


@dataclass
class Times:
    """Seconds of a run, turn by turn: in all, and outside the network."""

    whole: list[float] = field(default_factory=list)
    beside: list[float] = field(default_factory=list)


def timed(task: Task, runs: list[Run], draws: int, repeats: int) -> list[Times]:
    """Return the seconds a draw of runs that take turns, after one turn that is not timed."""
    times = [Times() for _ in runs]
    for repeat in range(repeats + 1):
        for run, each in zip(runs, times, strict=True):
            task.inside, start = 0.0, time.process_time()
            with gradients_counted(task):
                run(draws)
            seconds = time.process_time() - start
            if repeat:
                each.whole.append(seconds / draws)
                each.beside.append((seconds - task.inside) / draws)
    return times


@contextmanager
def gradients_counted(task: Task) -> Iterator[None]:
    """Count the time of gradients as time inside the network."""
    grad = torch.autograd.grad

    def counted(*inputs: Any, **settings: Any) -> Any:
        start = time.process_time()
        try:
            return grad(*inputs, **settings)
        finally:
            task.inside += time.process_time() - start

    torch.autograd.grad = counted
    try:
        yield
    finally:
        torch.autograd.grad = grad


def ratio(theirs: list[float], ours: list[float]) -> float:
    """Return the median ratio of turns that followed each other."""
    return statistics.median(a / b for a, b in zip(theirs, ours, strict=True))


def passes(task: Task, run: Run) -> int:
    """Return the passes of one draw."""
    task.passes = 0
    run(1)
    return task.passes


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("methods", nargs="*", metavar="METHOD", help=", ".join(METHODS))
    parser.add_argument("--draws", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    names = ("torch", "deepinv", "azula", "diffusers")
    here = [name for name in names if importlib.util.find_spec(name)]
    print(", ".join(f"{name} {importlib.metadata.version(name)}" for name in here))
    absent = sorted({*names} - {*here})
    if absent:
        print(f"left out, not installed: {', '.join(absent)}")
    print(f"{given.steps} steps; seconds and MiB of tensors a draw, milliseconds a pass")
    print(
        f"{'method':<9}{'library':<11}{'passes':>7}{'theirs':>7}{'draws':>6}"
        f"{'ours, s':>9}{'theirs':>8}{'ratio':>7}{'a pass':>8}{'one by one':>12}"
        f"{'beside, ms':>12}{'theirs':>8}{'MiB':>7}{'theirs':>8}{'ratio':>7}"
    )
    for name in given.methods or METHODS:
        compare(name, [peer for peer in METHODS[name].peers if peer.library in here], given)


def compare(name: str, peers: list[Peer], given: argparse.Namespace) -> None:
    """Print the lines of a method."""
    task, short = Task(given.steps), Task(6)
    runs, few = (
        [each.ours(METHODS[name].ours(each.steps)), *(peer.make(each) for peer in peers)]
        for each in (task, short)
    )
    own, *counts = [passes(task, run) for run in runs]
    alone = timed(task, runs, 1, given.repeats)
    for draws in given.draws:
        ours, *others = alone if draws == 1 else timed(task, runs, draws, given.repeats)
        memory = [peak(run, draws) / draws for run in few]
        rows = zip(peers, counts, others, alone[1:], memory[1:], strict=True)
        for peer, count, theirs, single, mib in rows:
            whole = ratio(theirs.whole, ours.whole)
            print(
                f"{name:<9}{peer.library:<11}{own:>7}{count:>7}{draws:>6}"
                f"{statistics.median(ours.whole):>9.3f}{statistics.median(theirs.whole):>8.3f}"
                f"{whole:>7.2f}{whole * own / count:>8.2f}"
                f"{ratio(single.whole, ours.whole):>12.2f}"
                f"{1e3 * statistics.median(ours.beside) / own:>12.2f}"
                f"{1e3 * statistics.median(theirs.beside) / count:>8.2f}"
                f"{memory[0]:>7.1f}{mib:>8.1f}{mib / memory[0]:>7.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
