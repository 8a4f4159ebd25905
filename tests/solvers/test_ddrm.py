"""DDRM, against its exact law on a Gaussian prior and the equations of the paper."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from posterior_bench.priors.mixtures import g2 as named_g2
from posterior_bench.solvers.ddrm import DDRM

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


@pytest.mark.parametrize(("eta", "eta_b"), [(0.85, 1.0), (0.3, 0.4)])
def test_a_noisy_measurement_follows_the_equations(eta, eta_b, g2, observe, double_noise):
    """Eq. 7 and 8 in the paper's own coordinates (alpha = 1), pixel by pixel, for measurement noise
    0.5."""
    prior, sigma_y, noise, y = g2("ve"), 0.5, double_noise(1), 0.7
    levels, keep = prior.grid(12), math.sqrt(1 - eta**2)
    xi = noise.normal((1, 1, 2)).flatten().tolist()
    z = [y + math.sqrt(levels[0].sigma ** 2 - sigma_y**2) * xi[0], levels[0].sigma * xi[1]]
    for t, s in pairwise(levels):
        a, b = (
            prior.denoise(torch.tensor(z, dtype=torch.float64).view(1, 1, 1, 2), t)
            .flatten()
            .tolist()
        )
        xi = noise.normal((1, 1, 2)).flatten().tolist()
        hidden = b + keep * s.sigma * (z[1] - b) / t.sigma + eta * s.sigma * xi[1]
        if s.sigma < sigma_y:
            seen = a + keep * s.sigma * (y - a) / sigma_y + eta * s.sigma * xi[0]
        else:
            seen = (
                (1 - eta_b) * a + eta_b * y + math.sqrt(s.sigma**2 - eta_b**2 * sigma_y**2) * xi[0]
            )
        z = [seen, hidden]
    clean = observe((True, False), y)
    obs = replace(clean, operator=replace(clean.operator, sigma=sigma_y))
    x = DDRM(12, eta, eta_b).draw(obs, prior, double_noise(1))
    assert x.flatten().tolist() == pytest.approx(z, abs=1e-9)


@pytest.mark.parametrize("name", ["eta", "eta_b"])
def test_a_weight_outside_the_family_is_refused(name):
    with pytest.raises(ValueError, match=rf"{name} 1.5 is outside \[0, 1\]"):
        DDRM(**{name: 1.5})


def test_a_measurement_noisier_than_the_prior_is_refused(g2, observe, double_noise):
    clean = observe((True, False))
    obs = replace(clean, operator=replace(clean.operator, sigma=100.0))
    with pytest.raises(
        ValueError, match=r"measurement noise 100, .* exceeds the noisiest level of the prior, 80;"
    ):
        DDRM(5).draw(obs, g2("ve"), double_noise(1))


def test_released_a_measurement_noisier_than_the_prior_starts_as_hidden(g2, observe, double_noise):
    """One step from sigma = 80 down to clean: past the measurement, of which nothing is left."""
    clean = observe((True, False))
    obs = replace(clean, operator=replace(clean.operator, sigma=100.0))
    prior, noise = g2("ve"), double_noise(1)
    expected = prior.denoise(80.0 * noise.normal((1, 1, 2)), prior.level(80.0))
    x = DDRM(1, compat="released").draw(obs, prior, double_noise(1))
    torch.testing.assert_close(x, expected, atol=1e-12, rtol=0)


def test_released_without_noise_the_sample_is_the_last_prediction(g2, observe, double_noise):
    """Level and noise are both 0 in the last step, and neither is larger."""
    obs, prior, noise = observe((True, False), 0.7), g2("ve"), double_noise(1)
    z = 80.0 * noise.normal((1, 1, 2))
    z[..., 0] += 0.7
    x = DDRM(1, compat="released").draw(obs, prior, double_noise(1))
    torch.testing.assert_close(x, prior.denoise(z, prior.level(80.0)), atol=1e-12, rtol=0)


def test_an_unknown_compat_is_refused():
    with pytest.raises(ValueError, match="unknown compat 'authors'; valid: none, released"):
        DDRM(compat="authors")


def test_shipped_presets_are_complete(presets):
    built = presets("ddrm")
    assert built["authors"].steps == 20
    assert built["authors_released"] == replace(built["authors"], compat="released")
