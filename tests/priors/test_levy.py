"""Lévy signals: their law, their network, and what it costs that the network is not exact."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from posterior_bench.bench.config.build import build
from posterior_bench.bench.config.catalog import option
from posterior_bench.priors.increments import BernoulliLaplace, Laplace, Student
from posterior_bench.priors.levy import LAWS, LevyPrior, levy_gauss, levy_student, untrained
from posterior_bench.priors.levy_net import random_walk

SHAPE = (1, 1, 64)


def prior_of(name: str, **settings: float) -> LevyPrior:
    content = option("prior", f"levy_{name}").content
    prior: LevyPrior = build({**content, **settings})
    return prior


def normals(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, *SHAPE, generator=torch.Generator().manual_seed(seed))


def test_gaussian_signals_are_brownian_motion() -> None:
    covariance = levy_gauss(0.5).covariance
    assert covariance[3, 40].item() == pytest.approx(0.25 * 4)
    assert covariance[63, 63].item() == pytest.approx(0.25 * 64)


def test_eigenvectors_of_a_random_walk() -> None:
    values, vectors = random_walk(64)
    places = np.arange(1, 65)
    covariance = (vectors * values) @ vectors.T
    np.testing.assert_allclose(covariance, np.minimum.outer(places, places), atol=1e-3)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(64), atol=1e-5)


@pytest.mark.parametrize(
    ("law", "known"), [(Laplace(2.0), stats.laplace(scale=2.0)), (Student(0.5), stats.t(3, 0, 0.5))]
)
def test_draws_are_sums_of_increments_of_the_law(law, known) -> None:
    x = LevyPrior(law).sample(torch.zeros(100), normals(100))
    assert x.shape == (100, *SHAPE) and x.dtype == torch.float32
    increments = np.diff(x.flatten(1).double().numpy(), axis=1, prepend=0)
    assert stats.kstest(increments.ravel(), known.cdf).pvalue > 0.01
    assert abs(np.corrcoef(increments[:, 1:].ravel(), increments[:, :-1].ravel())[0, 1]) < 0.05


def test_jumps_leave_flat_pieces() -> None:
    x = LevyPrior(BernoulliLaplace()).sample(torch.zeros(200), normals(200)).flatten(1)
    flat = (x.diff(dim=1) == 0).double().mean().item()
    assert flat == pytest.approx(0.9, abs=4 * (0.09 / 12_600) ** 0.5)


@pytest.mark.parametrize("name", LAWS)
def test_a_fresh_network_is_the_best_linear_denoiser(name: str) -> None:
    prior, z = untrained(name), 3 * normals(4)
    exact = levy_gauss(LAWS[name].variance ** 0.5)
    for ratio in (0.02, 0.5, 40.0):
        level = prior.level(ratio)
        expected = exact.denoise(z.double(), level).float()
        torch.testing.assert_close(prior.denoise(z, level), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", LAWS)
def test_the_shipped_denoiser_beats_the_linear_one(name: str) -> None:
    prior, law = prior_of(name), LAWS[name]
    x, deviation = LevyPrior(law).sample(torch.zeros(300), normals(300)), law.variance**0.5
    level = prior.level(deviation / 2)
    z = x + level.sigma * normals(300, seed=1)
    error = (prior.denoise(z, level) - x).square().mean()
    linear = (levy_gauss(deviation).denoise(z.double(), level) - x).square().mean()
    assert error < {"laplace": 0.99, "student": 0.97, "bernoulli_laplace": 0.6}[name] * linear


@pytest.mark.parametrize("name", LAWS)
def test_the_denoiser_follows_the_scale(name: str) -> None:
    one, small = prior_of(name), prior_of(name, scale=0.02)
    z = 2 * normals(3)
    for ratio in (0.1, 1.0, 30.0):
        expected = 0.02 * one.denoise(z, one.level(ratio))
        found = small.denoise(0.02 * z, small.level(0.02 * ratio))
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    assert small.process.ratio_max == pytest.approx(0.02 * one.process.ratio_max)


def test_capabilities_and_derivatives() -> None:
    prior = prior_of("bernoulli_laplace")
    assert prior.caps == {"pixel", "grad", "increments"}
    z = normals(2).requires_grad_()
    prior.denoise(z, prior.level(0.5)).sum().backward()
    assert z.grad is not None and z.grad.isfinite().all() and prior.meter.nge == 2


def test_laws_without_a_variance_have_no_denoiser() -> None:
    with pytest.raises(ValueError, match=r"freedom=1: .* no variance"):
        levy_student("priors/assets/levy_student", freedom=1)
    with pytest.raises(ValueError, match="holds no denoiser of the law student"):
        levy_student("priors/assets/levy_laplace")
    with pytest.raises(FileNotFoundError):
        levy_student("priors/assets/levy_nowhere")
