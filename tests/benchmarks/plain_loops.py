"""Compare loops that are written as plainly as the authors' with ours.

    python tests/benchmarks/plain_loops.py [NAME ...]

Loops with the same network, noise and settings run beside ours with ``compat=released``. It checks
first that both give the same samples, and prints the ratio of the times, ours over the plain loop,
for 1 and 8 rows on one thread of the CPU. Noise comes from one generator for all rows, as in the
authors' loops. Times are seconds of the processor, medians of interleaved repeats. It asserts no
time.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from posterior_bench.operators.inpainting import Inpainting
from posterior_bench.priors.base import Prior
from posterior_bench.priors.latents import Latent
from posterior_bench.priors.process import VP
from posterior_bench.solvers.base import Observation
from posterior_bench.solvers.daps import DAPS
from posterior_bench.solvers.psld import PSLD
from posterior_bench.solvers.shared.likelihood import squares
from posterior_bench.solvers.shared.minimise import minimise
from posterior_bench.solvers.vipaint import VIPaint

ROWS = 8


class PlainNoise:
    """One generator for all rows."""

    def __init__(self, rows: int, seed: int = 0):
        self.rows, self.seed = rows, seed
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, shape: Sequence[int]) -> Tensor:
        return torch.randn(self.rows, *shape, generator=self.generator)

    def uniform(self, shape: Sequence[int]) -> Tensor:
        return torch.rand(self.rows, *shape, generator=self.generator)

    host_uniform = uniform

    def draws(self, draws: Sequence[int]) -> PlainNoise:
        return PlainNoise(self.rows * len(draws), self.seed + 1)


def medians(*functions: Callable[[], object], repeats: int = 5) -> list[float]:
    """Return the median seconds of functions that take turns, after one turn that is not timed."""
    times: list[list[float]] = [[] for _ in functions]
    for repeat in range(repeats + 1):
        for function, seconds in zip(functions, times, strict=True):
            start = time.process_time()
            function()
            if repeat:
                seconds.append(time.process_time() - start)
    return [statistics.median(seconds) for seconds in times]


class Blocks(Latent):
    """Latents are averages over blocks of 2 x 2 pixels."""

    channels, factor = 3, 2

    def __init__(self) -> None:
        super().__init__({}, 0.0, 1.0)

    def encode(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        return F.avg_pool2d(x, 2)

    def decode(self, z: Tensor) -> Tensor:
        return F.interpolate(z, scale_factor=2, mode="nearest")


def problem(latent: bool, net: nn.Module, rows: int = ROWS) -> tuple[Observation, Prior]:
    """Return a problem whose states are 3 x 64 x 64, half of it hidden."""
    size = 128 if latent else 64
    process = VP.scheduled("scaled_linear", 0.0015, 0.0195)
    prior = Prior(
        process, net, (3, size, size), parameterization="eps", latent=Blocks() if latent else None
    )
    generator = torch.Generator().manual_seed(5)
    x = torch.rand(rows, 3, size, size, generator=generator) * 2 - 1
    operator = Inpainting(torch.arange(size).lt(size // 2).expand(rows, 1, size, size))
    return Observation(operator.A(x), operator), prior


class Small(nn.Module):
    """Three convolutions: about 3 ms a row of 3 x 64 x 64 on one thread."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.layers = nn.Sequential(
                nn.Conv2d(3, 32, 3, padding=1),
                nn.SiLU(),
                nn.Conv2d(32, 32, 3, padding=1),
                nn.SiLU(),
                nn.Conv2d(32, 3, 3, padding=1),
            )

    def forward(self, z: Tensor, t: Tensor, values: Mapping[str, Tensor] = {}) -> Tensor:
        return self.layers(z) * (1 + 1e-3 * t).view(-1, 1, 1, 1)


@dataclass(frozen=True)
class Race:
    """Our run and a plain loop of the same method."""

    ours: Callable[[], Tensor]
    plain: Callable[[], Tensor]
    tolerance: float = 1e-3


def resample_pixels(rows: int) -> Race:
    """ReSample's optimisation of 3 x 256 x 256 pixels: 50 steps of AdamW, none of which stops."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(rows, 3, 256, 256, generator=generator) * 2 - 1
    operator = Inpainting(torch.arange(256).lt(128).expand(rows, 1, 256, 256))
    obs, start, mask = Observation(operator.A(x), operator), 0.5 * x, operator.mask.float()

    def plain() -> Tensor:
        u = start.detach().clone().requires_grad_()
        adam = torch.optim.AdamW([u], lr=1e-2)
        for _ in range(50):
            adam.zero_grad()
            loss = F.mse_loss(obs.y, mask * u)
            loss.backward()
            adam.step()
            if loss.item() < 1e-12:
                break
        return u.detach()

    def ours() -> Tensor:
        return minimise(lambda u: squares(u, obs), start, 1e-2, 50, 1e-12, decay=0.01, late=True)

    return Race(ours, plain)


def daps(rows: int) -> Race:
    """DAPS in pixels: 4 levels, 3 steps of the flow and 40 of Langevin dynamics each."""
    net = Small()
    obs, prior = problem(False, net, rows)
    solver = DAPS(4, 3, 40, tau=0.05, lr=1e-4, ode_ratio=0.1, ratio_max=50.0, compat="released")
    view, shape, mask = prior.view("ve"), prior.latent_shape, obs.operator.mask.float()

    def levels(n: int, high: float, low: float) -> list[float]:
        roots = [high ** (1 / 7) + i / n * (low ** (1 / 7) - high ** (1 / 7)) for i in range(n + 1)]
        return [root**7 for root in roots]

    outer = levels(4, 50.0, 0.1)
    flows = [[view.level(s) for s in levels(3, top, 0.1)] for top in outer[:-1]]

    def plain() -> Tensor:
        noise = PlainNoise(rows)
        z = outer[0] * noise.normal(shape)
        for k, flow in enumerate(flows):
            x0 = z
            with torch.no_grad():
                for t, s in pairwise(flow):
                    scale = math.sqrt(1 + t.sigma**2)
                    x, time_ = x0 / scale, torch.full((rows,), float(t.t))
                    denoised = scale * (x - t.sigma / scale * net(x, time_))
                    x0 = x0 + (s.sigma - t.sigma) * (x0 - denoised) / t.sigma
            lr = 1e-4 * (1 + k / (4 + 1) * (0.01 - 1))
            u = x0.clone()
            for _ in range(40):
                v = u.detach().requires_grad_()
                loss = (mask * v - obs.y).square().flatten(1).sum(-1)
                (slope,) = torch.autograd.grad(loss.sum(), v)
                slope = slope / 0.05**2 + (u - x0) / flow[0].sigma ** 2
                u = u - lr * slope + math.sqrt(2 * lr) * noise.normal(shape)
                if u.isnan().any():
                    return torch.zeros_like(u)
            z = u + (outer[k + 1] if k < 3 else 0.0) * noise.normal(shape)
        return z

    return Race(lambda: solver.draw(obs, prior, PlainNoise(rows)), plain)


def psld(rows: int) -> Race:
    """PSLD, 10 steps with eta 0, a norm over the batch in the plain loop."""
    net = Small()
    obs, prior = problem(True, net, rows)
    solver, mask, latent = PSLD(10, compat="released"), obs.operator.mask.float(), prior.latent
    levels = prior.grid(10, "leading_one")
    alphas = torch.tensor([level.alpha**2 for level in levels])
    times = [int(level.t) for level in levels[:-1]]

    def plain() -> Tensor:
        z = levels[0].sigma * PlainNoise(rows).normal(prior.latent_shape)
        for i, time_ in enumerate(times):
            a = torch.full((rows, 1, 1, 1), alphas[i].item())
            b = torch.full((rows, 1, 1, 1), alphas[i + 1].item())
            z_t = z.detach().clone().requires_grad_()
            eps = net(z_t, torch.full((rows,), float(time_)))
            z0 = (z_t - (1 - a).sqrt() * eps) / a.sqrt()
            down = b.sqrt() * z0 + (1 - b).sqrt() * eps
            x = latent.decode(z0)
            error = torch.linalg.norm(mask * x - obs.y)
            glued = mask * obs.y + x - mask * (mask * x)
            gap = torch.linalg.norm(latent.encode(glued) - z0)
            slope = torch.autograd.grad(0.1 * gap + 0.1 * error, z_t)[0]
            z = (down - slope).detach()
        return latent.decode(z)

    return Race(lambda: solver.draw(obs, prior, PlainNoise(rows)), plain)


VIPAINT = VIPaint(
    keypoints=(),
    keypoint_indices=(550, 20),
    eta=0.2,
    mean_noise=(0.8, 1.0),
    spread=0.7,
    gamma=0.98,
    iterations=6,
    monte_carlo=1,
    lr=(0.1, 0.01, 0.001),
    beta=100.0,
    scale=0.6407,
    prior_law="uniform",
    refine_scale=2.0,
    refine_eta=0.2,
    refine_term="nll",
    compat="released",
)


def refinement(rows: int) -> Race:
    """VIPaint's refinement from index 20: 20 network calls, one draw of each image."""
    net = Small()
    obs, prior = problem(True, net, rows)
    fitted = replace(VIPAINT, iterations=0).fit(obs, prior, PlainNoise(rows))
    chain, mask, latent = fitted.chain, obs.operator.mask.float(), prior.latent
    levels = [prior.level_at_index(k) for k in range(20, -1, -1)]
    alphas = torch.tensor([level.alpha**2 for level in levels])

    @torch.no_grad()
    def keypoint() -> Tensor:
        noise = fitted.noise.draws([0])
        z = chain.top(noise.normal(prior.latent_shape))
        return chain.down(1, z, prior.denoise, noise.normal(prior.latent_shape))[0]

    def plain() -> Tensor:
        z = keypoint()
        for i in range(20):
            a = torch.full((rows, 1, 1, 1), alphas[i].item())
            b = torch.full((rows, 1, 1, 1), alphas[i + 1].item())
            z_t = z.detach().requires_grad_()
            eps = net(z_t, torch.full((rows,), 20.0 - i))
            z0 = (z_t - (1 - a).sqrt() * eps) / a.sqrt()
            var = 0.2**2 * (1 - b) / (1 - a) * (1 - a / b)
            down = b.sqrt() * z0 + (1 - b - var).sqrt() * eps
            x = latent.decode(z0)
            # Summed over images, so that each has the step that it has alone.
            loss = 100 * (mask * obs.y - mask * x).abs().flatten(1).mean(1).sum() / 0.6407
            z = (down - 2.0 * torch.autograd.grad(loss, z_t)[0]).detach()
        return x.detach()

    def ours() -> Tensor:
        return fitted.sample([0]).x[:, 0]

    return Race(ours, plain)


def fit(rows: int) -> Race:
    """VIPaint's fit at two keypoints, 6 iterations; images in the batch of the network."""
    net = Small()
    obs, prior = problem(True, net, rows)
    mask, latent, process = obs.operator.mask.float(), prior.latent, prior.process
    top, low = (prior.level_at_index(k) for k in (550, 20))
    start = replace(VIPAINT, iterations=0)
    above = start.fit(obs, prior, PlainNoise(rows)).chain.intervals.levels[:-1]
    a_e, v_e = top.alpha, top.sigma**2
    step_var = 0.2 * process.transition(low, top).var

    def kl(shift: Tensor, var_q: Tensor, var_p: Tensor | float) -> Tensor:
        ratio = torch.as_tensor(var_q / var_p)
        elements = 0.5 * (ratio - ratio.log() - 1) + 0.5 * var_p * shift.square()
        return elements.flatten(1).mean(1)

    def plain() -> Tensor:
        noise, shape = PlainNoise(rows), prior.latent_shape
        chain = start.fit(obs, prior, noise).chain
        mu, var_log, logit = chain.mu, chain.log_var, chain.logit
        adams = [
            torch.optim.Adam([p], lr=lr, betas=(0.9, 0.99))
            for p, lr in ((mu, 0.1), (logit, 0.01), (var_log, 0.001))
        ]
        decays = [torch.optim.lr_scheduler.StepLR(adam, 10, 0.99) for adam in adams]
        for _ in range(6):
            for adam in adams:
                adam.zero_grad()
            tau2 = var_log[:, 0].exp()
            z = (1 - tau2).sqrt() * mu[:, 0] + tau2.sqrt() * noise.normal(shape)
            # The prior term, in one interval of every image.
            largest = tau2.detach().flatten(1).amax(1).sqrt()
            kept = [max(sum(level.sigma > float(m) for level in above) - 2, 1) for m in largest]
            u = noise.uniform((1,)).flatten()
            chosen = [min(int(float(x) * n), n - 1) for x, n in zip(u, kept, strict=True)]
            column = lambda values: torch.tensor(values).view(-1, 1, 1, 1)  # noqa: E731
            a_t, a_s = (column([above[k + d].alpha for k in chosen]) for d in (0, 1))
            v_t, v_s = (column([above[k + d].sigma ** 2 for k in chosen]) for d in (0, 1))
            b_t, b_s = (a / (1 - tau2).sqrt() for a in (a_t, a_s))
            w_t, w_s = v_t - b_t.square() * tau2, v_s - b_s.square() * tau2
            z_t = b_t * z + w_t.sqrt() * noise.normal(shape)
            eps = net(z_t, torch.tensor([float(above[k].t) for k in chosen]))
            c_t, c_s = a_t / a_e, a_s / a_e
            x_t, x_s = v_t - c_t.square() * v_e, v_s - c_s.square() * v_e
            a = a_t / a_s
            v = v_t - a.square() * v_s
            q_total, p_total = v + b_s.square() * w_s, v + c_s.square() * x_s
            predicted = (z_t - x_t.sqrt() * eps) / c_t
            q = (b_s * v * z + a * w_s * z_t) / q_total
            p = (c_s * v * predicted + a * x_s * z_t) / p_total
            loss = 225.0 * kl(q - p, v * w_s / q_total, v * x_s / p_total)
            # The step to the lower keypoint.
            eps = net(z, torch.full((rows,), 550.0))
            z0 = (z - top.sigma * eps) / a_e
            zbar = low.alpha * z0 + math.sqrt(low.sigma**2 - step_var) * eps
            gamma, tau2_low = logit[:, 1].sigmoid(), var_log[:, 1].exp()
            mean = gamma * zbar + (1 - gamma) * low.alpha * mu[:, 1]
            loss = loss + kl(mean - zbar, tau2_low, step_var)
            z = mean + tau2_low.sqrt() * noise.normal(shape)
            # The likelihood.
            x = latent.decode((z - low.sigma * net(z, torch.full((rows,), 20.0))) / low.alpha)
            data = (mask * obs.y - mask * x).abs().flatten(1).mean(1) / 0.6407
            (100 * data + 100 * loss).sum().backward()
            with torch.no_grad():
                mu[:, 1] -= mu[:, 1].amin((1, 2, 3), keepdim=True)
            for adam, decay in zip(adams, decays, strict=True):
                adam.step()
                decay.step()
        return mu.detach()

    def ours() -> Tensor:
        return VIPAINT.fit(obs, prior, PlainNoise(rows)).chain.mu.detach()

    return Race(ours, plain)


LOOPS: dict[str, Callable[[int], Race]] = {
    "resample, pixels": resample_pixels,
    "daps": daps,
    "psld": psld,
    "vipaint, fit": fit,
    "vipaint, refinement": refinement,
}


def main(names: Sequence[str]) -> None:
    """Print the table of the plain loops."""
    print("| loop | 1 row: ours (ms) | ratio | 8 rows: ours (ms) | ratio | largest difference |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name in names or LOOPS:
        alone, race = LOOPS[name](1), LOOPS[name](ROWS)
        # A batch of the plain loops shares its norms, so one row is compared.
        apart = (alone.ours() - alone.plain()).abs().max().item()
        if not apart < race.tolerance:
            raise SystemExit(f"{name}: ours and the plain loop are {apart} apart")
        print(f"| {name} ", end="")
        for one in (alone, race):
            ours, plain = medians(one.ours, one.plain, repeats=9)
            print(f"| {1e3 * ours:.0f} | {ours / plain:.2f} ", end="", flush=True)
        print(f"| {apart:.0e} |", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1:])
