"""DDRM, against its exact law on a Gaussian prior and the equations of the paper."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from operators.inpainting import Inpainting
from priors.mixtures import g2 as named_g2
from solvers.base import Observation
from solvers.ddrm import DDRM

# mean and variance of the hidden pixel: exact propagation of the affine map
GOLDEN = {
    ("vp", 250): (0.8434, 0.1621),
    ("ve", 250): (0.8553, 0.1562),
    ("vp", 1000): (0.8789, 0.1515),
    ("ve", 1000): (0.8889, 0.1479),
}
CASES = [pytest.param(*key, marks=pytest.mark.slow) if key[1] == 1000 else key for key in GOLDEN]


@pytest.mark.parametrize(("kind", "steps"), CASES)
def test_law_on_a_gaussian(kind, steps, g2, law):
    mean, covariance = law(DDRM(steps), g2(kind))
    assert (mean[1].item(), covariance[1, 1].item()) == pytest.approx(GOLDEN[kind, steps], abs=1e-4)


@pytest.mark.parametrize("kind", ["vp", "ve", "flow"])
def test_without_noise_the_measurement_comes_back_exactly(kind, observe, double_noise):
    obs = observe((True, False), torch.linspace(-1, 1, 4), rows=4)
    x = DDRM(20).draw(obs, named_g2(kind), double_noise(4))
    assert torch.equal(obs.operator.A(x), obs.y)
    assert x.isfinite().all()


@pytest.mark.parametrize("kind", ["vp", "ve"])
def test_nothing_observed_and_no_fresh_noise_is_ddim(kind, g2, observe, double_noise):
    prior, noise = g2(kind), double_noise(4)
    levels = prior.grid(30)
    z = levels[0].sigma * noise.normal((1, 1, 2))
    for t, s in pairwise(levels):  # Song et al. 2021, Eq. 12 with eta = 0
        x0 = prior.denoise(z, t)
        z = s.alpha * x0 + s.sigma * (z - t.alpha * x0) / t.sigma
    x = DDRM(30, eta=0.0).draw(observe((False, False), rows=4), prior, double_noise(4))
    torch.testing.assert_close(x, z, atol=1e-9, rtol=0)


@pytest.mark.parametrize(("eta", "eta_b"), [(0.85, 1.0), (0.3, 0.4)])
def test_a_noisy_measurement_follows_the_equations(eta, eta_b, g2, observe, double_noise):
    """Eq. 7 and 8 in the paper's own coordinates (alpha = 1), pixel by pixel, for measurement noise 0.5."""
    prior, sigma_y, noise, y = g2("ve"), 0.5, double_noise(1), 0.7
    levels, keep = prior.grid(12), math.sqrt(1 - eta**2)
    xi = noise.normal((1, 1, 2)).flatten().tolist()
    z = [y + math.sqrt(levels[0].sigma ** 2 - sigma_y**2) * xi[0], levels[0].sigma * xi[1]]
    for t, s in pairwise(levels):
        a, b = prior.denoise(torch.tensor(z, dtype=torch.float64).view(1, 1, 1, 2), t).flatten().tolist()
        xi = noise.normal((1, 1, 2)).flatten().tolist()
        hidden = b + keep * s.sigma * (z[1] - b) / t.sigma + eta * s.sigma * xi[1]
        if s.sigma < sigma_y:
            seen = a + keep * s.sigma * (y - a) / sigma_y + eta * s.sigma * xi[0]
        else:
            seen = (1 - eta_b) * a + eta_b * y + math.sqrt(s.sigma**2 - eta_b**2 * sigma_y**2) * xi[0]
        z = [seen, hidden]
    clean = observe((True, False), y)
    obs = replace(clean, operator=replace(clean.operator, sigma=sigma_y))
    x = DDRM(12, eta, eta_b).draw(obs, prior, double_noise(1))
    assert x.flatten().tolist() == pytest.approx(z, abs=1e-9)


@pytest.mark.parametrize("sigma", [0.0, 0.3])
def test_coordinates_do_not_matter(sigma, g2, double_noise):
    prior, solver = g2("vp"), DDRM(40, grid="karras")
    mask = torch.tensor([True, False]).expand(3, 1, 1, 2)
    obs = Observation(mask.double(), Inpainting(mask=mask, sigma=sigma))
    native = solver.draw(obs, prior, double_noise(3))
    torch.testing.assert_close(solver.draw(obs, prior.view("ve"), double_noise(3)), native, atol=1e-6, rtol=0)


def test_one_network_call_per_step(g2, observe, double_noise):
    prior = g2("ve")
    with prior.metered() as meter:
        DDRM(30).draw(observe((True, False), rows=4), prior, double_noise(4))
    assert (meter.nfe, meter.nge) == (4 * 30, 0)


def test_a_row_does_not_depend_on_its_batch(g2, observe, seeded_noise):
    prior, solver, y = g2("ve"), DDRM(30), torch.linspace(-1, 1, 5)
    batch = solver.draw(observe((True, False), y, rows=5), prior, seeded_noise(range(5)))
    alone = solver.draw(observe((True, False), y[3:4]), prior, seeded_noise([3]))
    torch.testing.assert_close(batch[3:4], alone, atol=1e-6, rtol=0)


def test_a_broken_row_breaks_no_other(g2, observe, double_noise):
    y = torch.tensor([0.1, torch.nan, 0.3])
    x = DDRM(30).draw(observe((True, False), y, rows=3), g2("ve"), double_noise(3))
    assert x.isnan().flatten(1).any(1).tolist() == [False, True, False]


def test_clipped_predictions_stay_in_the_image_range(g2, observe, double_noise):
    prior, obs = g2("ve"), observe((False, False), rows=50)
    assert DDRM(20, clip=False).draw(obs, prior, double_noise(50)).abs().max() > 1
    assert DDRM(20, clip=True).draw(obs, prior, double_noise(50)).abs().max() <= 1


def test_condition_and_guidance_reach_the_prior(asked):
    cond, seen = asked(DDRM(3, guidance=2.5))
    assert len(seen) == 3
    assert all(given is cond and guidance == 2.5 for given, guidance in seen)


@pytest.mark.parametrize("name", ["eta", "eta_b"])
def test_a_weight_outside_the_family_is_refused(name):
    with pytest.raises(ValueError, match=rf"{name} 1.5 is outside \[0, 1\]"):
        DDRM(**{name: 1.5})


def test_a_measurement_noisier_than_the_prior_is_refused(g2, observe, double_noise):
    clean = observe((True, False))
    obs = replace(clean, operator=replace(clean.operator, sigma=100.0))
    with pytest.raises(ValueError, match=r"measurement noise 100.0 exceeds the noisiest level of the prior, 80"):
        DDRM(5).draw(obs, g2("ve"), double_noise(1))


def test_shipped_presets_are_complete(presets):
    assert presets("ddrm")["authors"].steps == 20
