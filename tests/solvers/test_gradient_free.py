"""What DDRM, DDNM and DiffPIR have in common: one network call per level, and no gradient through
it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch

from posterior_bench.solvers.base import Sampler
from posterior_bench.solvers.ddnm import DDNM
from posterior_bench.solvers.ddrm import DDRM
from posterior_bench.solvers.diffpir import DiffPIR

METHODS = [DDRM, DDNM, DiffPIR]
WITHOUT_FRESH_NOISE: dict[Any, Callable[[int], Sampler]] = {
    DDRM: lambda steps: DDRM(steps, eta=0.0),
    DDNM: lambda steps: DDNM(steps, eta=0.0),
    DiffPIR: lambda steps: DiffPIR(steps, zeta=0.0, clip=False),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["vp", "ve"])
def test_nothing_observed_and_no_fresh_noise_is_ddim(method, kind, g2, observe, double_noise):
    prior, noise = g2(kind), double_noise(4)
    levels = prior.grid(30)
    z = levels[0].sigma * noise.normal((1, 1, 2))
    for t, s in pairwise(levels):  # Song et al. 2021, Eq. 12 with eta = 0
        x0 = prior.denoise(z, t)
        z = s.alpha * x0 + s.sigma * (z - t.alpha * x0) / t.sigma
    x = WITHOUT_FRESH_NOISE[method](30).draw(
        observe((False, False), rows=4), prior, double_noise(4)
    )
    torch.testing.assert_close(x, z, atol=1e-9, rtol=0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sigma", [0.0, 0.3])
def test_coordinates_do_not_matter(method, sigma, g2, observe, double_noise):
    prior, solver, clean = g2("vp"), method(40, grid="karras"), observe((True, False), rows=3)
    obs = replace(clean, operator=replace(clean.operator, sigma=sigma))
    native = solver.draw(obs, prior, double_noise(3))
    torch.testing.assert_close(
        solver.draw(obs, prior.view("ve"), double_noise(3)), native, atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("method", METHODS)
def test_one_network_call_per_step(method, g2, observe, double_noise):
    prior = g2("ve")
    with prior.metered() as meter:
        method(30).draw(observe((True, False), rows=4), prior, double_noise(4))
    assert (meter.nfe, meter.nge) == (4 * 30, 0)


@pytest.mark.parametrize("method", METHODS)
def test_a_row_does_not_depend_on_its_batch(method, g2, observe, seeded_noise):
    prior, solver, y = g2("ve"), method(30), torch.linspace(-1, 1, 5)
    batch = solver.draw(observe((True, False), y, rows=5), prior, seeded_noise(range(5)))
    alone = solver.draw(observe((True, False), y[3:4]), prior, seeded_noise([3]))
    torch.testing.assert_close(batch[3:4], alone, atol=1e-6, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_a_broken_row_breaks_no_other(method, g2, observe, double_noise):
    y = torch.tensor([0.1, torch.nan, 0.3])
    x = method(30).draw(observe((True, False), y, rows=3), g2("ve"), double_noise(3))
    assert x.isnan().flatten(1).any(1).tolist() == [False, True, False]


@pytest.mark.parametrize("method", METHODS)
def test_clipped_predictions_stay_in_the_image_range(method, g2, observe, double_noise):
    prior, obs = g2("ve"), observe((False, False), rows=50)
    assert method(20, clip=False).draw(obs, prior, double_noise(50)).abs().max() > 1
    assert method(20, clip=True).draw(obs, prior, double_noise(50)).abs().max() <= 1


@pytest.mark.parametrize("method", METHODS)
def test_condition_and_guidance_reach_the_prior(method, asked):
    cond, seen = asked(method(3, guidance=2.5))
    assert len(seen) == 3
    assert all(given is cond and guidance == 2.5 for given, guidance in seen)
