"""Settings that no preset has, each against its formula: a default hides what is done with them."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from tests.solvers.test_exact import UnitNoise
from torch import Tensor

from posterior_bench.operators.inpainting import Inpainting
from posterior_bench.priors.process import VE
from posterior_bench.solvers.base import Observation
from posterior_bench.solvers.copaint import CoPaint
from posterior_bench.solvers.diffpir import DiffPIR
from posterior_bench.solvers.ding import DING
from posterior_bench.solvers.exact import Exact
from posterior_bench.solvers.pigdm import PiGDM
from posterior_bench.solvers.vipaint import VIPaint
from posterior_bench.solvers.vipaint.intervals import Intervals

S = torch.tensor([[1.0, 0.9], [0.9, 1.0]]).double()  # as the prior holds it, rounded to float32
EYE = torch.eye(2, dtype=torch.float64)
Y = 0.7


def gain(alpha: float, sigma: float) -> Tensor:
    """``K`` with ``E[x0 | z] = z K`` under the prior ``N(0, S)``."""
    return alpha * S @ torch.linalg.inv(alpha**2 * S + sigma**2 * EYE)


def numbers(prior, steps: int) -> list[tuple[float, float]]:
    """``(alpha, sigma)`` of the grid."""
    return [(float(level.alpha), float(level.sigma)) for level in prior.grid(steps)]


def test_copaints_pull_grows_from_level_to_level(g2, observe, double_noise):
    """Two gradient steps at each of three levels: only the second one of a level feels the pull."""
    prior, lr, weight, growth = g2("vp"), 0.4, 0.3, 1.5
    levels = numbers(prior, 4)[:-1]
    z = levels[0][1] * double_noise(5).normal((2,))
    for i, ((alpha, sigma), (alpha_s, sigma_s)) in enumerate(pairwise(levels)):
        K, start = gain(alpha, sigma), z
        for _ in range(2):
            slope = -2 * (Y - (z @ K)[:, :1]) * K[:1] + 2 * weight * growth**i * (z - start)
            z = z - lr * slope
        x0 = z @ K
        z = alpha_s * x0 + sigma_s * (z - alpha * x0) / sigma
    solver = CoPaint(4, 2, lr, 1.0, False, weight, growth, line_search=0, clip=False)
    x = solver.draw(observe((True, False), Y, rows=5), prior, double_noise(5)).flatten(1)
    torch.testing.assert_close(x, z, atol=1e-10, rtol=0)


@pytest.mark.parametrize("eta", [0.0, 0.4, 0.8])
@pytest.mark.parametrize("kind", ["vp", "ve"])
def test_pigdms_practical_weight_with_less_fresh_noise(kind, eta, g2, observe, double_noise):
    """A DDIM step (Song et al. 2021, Eq. 12 and 16) and ``r^2`` times the score (Song et al.
    2023)."""
    prior, noise, noise_y = g2(kind), double_noise(5), 0.3
    levels = numbers(prior, 6)
    z = levels[0][1] * noise.normal((2,))
    for (a, s), (a_next, s_next) in pairwise(levels):
        K, r2 = gain(a, s), s**2 / (a**2 + s**2)
        x0 = z @ K
        score = (Y - x0[:, :1]) / (r2 + noise_y**2) * K[:1]
        c1 = eta * s_next / s * math.sqrt(s**2 - (a / a_next * s_next) ** 2)
        c2 = math.sqrt(s_next**2 - c1**2)
        z = a_next * x0 + c1 * noise.normal((2,)) + c2 * (z - a * x0) / s + a_next * a * r2 * score
    obs = observe((True, False), Y, rows=5)
    obs = replace(obs, operator=Inpainting(obs.operator.mask, noise_y))
    solver = PiGDM(6, weight="practical", eta=eta)
    torch.testing.assert_close(
        solver.draw(obs, prior, double_noise(5)).flatten(1), z, atol=1e-9, rtol=0
    )


@pytest.mark.parametrize("floor", [0.1, 0.4])
@pytest.mark.parametrize("zeta", [0.3, 0.75])
@pytest.mark.parametrize("kind", ["vp", "ve"])
def test_diffpir_mixes_old_and_fresh_noise_by_the_roots_of_their_shares(
    kind, zeta, floor, g2, observe, double_noise
):
    """Zhu et al. 2023, Eq. 14: the variance is kept for every zeta. The floor is the least
    noise."""
    prior, noise, noise_y, lam = g2(kind), double_noise(5), 0.2, 3.0
    levels = numbers(prior, 6)
    z = levels[0][1] * noise.normal((2,))
    for (a, s), (a_next, s_next) in pairwise(levels):
        x0 = z @ gain(a, s)
        rho = lam * (max(noise_y, floor) * a / s) ** 2
        x0 = torch.cat([(Y + rho * x0[:, :1]) / (1 + rho), x0[:, 1:]], 1)
        old, fresh = (z - a * x0) / s, noise.normal((2,))
        z = a_next * x0 + s_next * (math.sqrt(1 - zeta) * old + math.sqrt(zeta) * fresh)
    obs = observe((True, False), Y, rows=5)
    obs = replace(obs, operator=replace(obs.operator, sigma=noise_y))
    x = (
        DiffPIR(6, lam=lam, zeta=zeta, sigma_floor=floor, clip=False)
        .draw(obs, prior, double_noise(5))
        .flatten(1)
    )
    torch.testing.assert_close(x, z, atol=1e-9, rtol=0)


@pytest.mark.parametrize(("floor", "sigma", "taken"), [(0.3, 0.4, 0.4), (0.5, 0.2, 0.5)])
def test_exact_takes_the_larger_of_floor_and_noise(floor, sigma, taken, g2, observe):
    """Not their sum or the root of their squares: Bishop, Eq. 2.116, with one deviation."""
    obs = observe((True, False))
    noisy = Observation(obs.y, Inpainting(obs.operator.mask, sigma))
    x = Exact(floor).fit(noisy, g2("ve"), UnitNoise(1)).sample([0, 1, 2]).x.flatten(2)[0]
    variance = 1 / (1 + 1 / taken**2)
    torch.testing.assert_close(x[0], torch.tensor([1.0, 0.9]).double() / (1 + taken**2))
    expected = S - torch.outer(S[0], S[0]) / (1 + taken**2)
    torch.testing.assert_close((x[1:] - x[0]).T @ (x[1:] - x[0]), expected)
    assert expected[0, 0].item() == pytest.approx(variance)


INFORMATION = {False: [3 / 16, 3 / 4], True: [3 / 16, 3 / 4, 1 / 2]}
"""What is known of the top state at the ends of an interval: ratios with squares 17, 5, 2 and 1.

From 17 to 5 it is 1 / (5 - 1) - 1 / (17 - 1), from 5 to 2 it is 1 / (2 - 1) - 1 / (5 - 1), and of
the last interval 1 / 1 - 1 / 2, what the level above leaves out.
"""


@pytest.mark.parametrize("whole", [False, True])
def test_intervals_are_chosen_by_the_root_of_their_information(whole):
    process = VE()
    levels = [process.level(math.sqrt(square)) for square in (17, 5, 2, 1)]
    found = Intervals(process, levels[-1], levels, "importance", whole).probabilities
    roots = torch.tensor(INFORMATION[whole], dtype=torch.float64).sqrt()
    torch.testing.assert_close(found, roots / roots.sum(), atol=1e-12, rtol=0)
    uniform = Intervals(process, levels[-1], levels, "uniform", whole).probabilities
    assert uniform.tolist() == pytest.approx([1 / len(roots)] * len(roots))


@pytest.mark.parametrize(("law", "equal"), [("uniform", True), ("importance", False)])
def test_vipaint_hands_its_interval_law_on(law, equal, g2, observe, double_noise):
    solver = VIPaint(prior_law=law, prior_levels=12, full_bound=True)
    chain = solver._start(observe((True, False)), g2("ve"), double_noise(1))
    probabilities = chain.intervals.probabilities
    assert len(probabilities) == 12
    assert (probabilities.std().item() < 1e-12) == equal


def test_a_quarter_of_dings_steps_end_at_the_same_place_of_the_grid():
    """Its last prediction replaces 8 of 48 steps, so 2 of 12, and not most of them."""
    quarter = DING(steps=48, skip=8).scaled(0.25)
    assert (quarter.steps, quarter.skip) == (12, 2)


def test_half_of_copaints_steps_grow_twice_as_fast():
    """What 250 steps of growth by 1.012 come to, 125 steps of growth by its square come to as
    well."""
    half = CoPaint(steps=250, lr_decay=1.012, weight_decay=0.99).scaled(0.5)
    assert (half.steps, half.jump_length) == (125, 5)
    assert half.lr_decay == pytest.approx(1.012**2, rel=1e-5)
    assert half.weight_decay == pytest.approx(0.99**2, rel=1e-5)
