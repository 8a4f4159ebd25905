"""The exact prior against brute-force integration, autograd, Monte Carlo and direct Gaussian
conditioning."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from posterior_bench.priors import mixtures
from posterior_bench.priors.mixture import MixturePrior
from posterior_bench.priors.process import CLEAN, VE, VP, Flow, Level

PROCESSES = {"ve": VE(), "vp": VP.scheduled("linear", 1e-4, 0.02), "flow": Flow()}


@pytest.fixture(params=PROCESSES)
def process(request):
    return PROCESSES[request.param]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def uniform(count: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def data_density(prior: MixturePrior, points: np.ndarray) -> np.ndarray:
    """The density of the data, written out with NumPy alone."""
    total = np.zeros(len(points))
    for weight, mean, cov in zip(prior.weights, prior.means, prior.covariances, strict=True):
        centred, cov = points - mean.numpy(), cov.numpy()
        exponent = -0.5 * np.einsum("ni,ij,nj->n", centred, np.linalg.inv(cov), centred)
        total += weight.item() * np.exp(exponent) / (2 * np.pi * np.sqrt(np.linalg.det(cov)))
    return total


def square(side: int = 801, reach: float = 4.0) -> tuple[np.ndarray, float]:
    """Points that tile the plane, and the area of one."""
    axis = np.linspace(-reach, reach, side)
    return np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2), (
        axis[1] - axis[0]
    ) ** 2


@pytest.mark.parametrize("ratio", [0.2, 1.0, 6.0])
def test_denoiser_and_density_equal_integrals(make_mixture, process, ratio):
    prior, level = make_mixture(process), process.level(ratio)
    z = torch.tensor([[0.3, -0.2], [-0.9, 0.8], [2.0, 1.0]], dtype=torch.float64)
    points, area = square()
    prior_density = data_density(prior, points)
    for row in z:
        likelihood = np.exp(
            -((row.numpy() - level.alpha * points) ** 2).sum(1) / (2 * level.sigma**2)
        )
        likelihood /= 2 * np.pi * level.sigma**2
        joint = prior_density * likelihood * area
        mean = (joint[:, None] * points).sum(0) / joint.sum()
        state = row.view(1, 1, 1, 2)
        assert prior.denoise(state, level).flatten().numpy() == pytest.approx(mean, abs=1e-7)
        assert prior.log_prob(state, level).item() == pytest.approx(math.log(joint.sum()), abs=1e-7)


def test_score_is_the_gradient_of_the_log_density(make_mixture, process):
    prior, level = make_mixture(process), process.level(0.7)
    z = normal(5, 1, 1, 2).requires_grad_()
    (gradient,) = torch.autograd.grad(prior.log_prob(z, level).sum(), z)
    torch.testing.assert_close(prior.score(z, level), gradient, atol=1e-12, rtol=0)


def test_log_density_of_the_data_itself(make_mixture):
    prior = make_mixture(VE())
    points = np.array([[0.5, -0.4], [-0.6, 0.2]])
    values = prior.log_prob(torch.tensor(points).view(2, 1, 1, 2), CLEAN)
    assert values.numpy() == pytest.approx(np.log(data_density(prior, points)), abs=1e-12)


def test_denoiser_of_pure_noise_is_the_mean_of_the_data(make_mixture):
    """A flow at t = 1 has alpha = 0: the state says nothing."""
    prior = make_mixture(Flow())
    out = prior.denoise(normal(4, 1, 1, 2), prior.level(math.inf))
    torch.testing.assert_close(out.flatten(1), prior.mean.expand(4, 2), atol=1e-14, rtol=0)


def test_rows_at_different_levels(make_mixture, process):
    prior, z = make_mixture(process), normal(3, 1, 1, 2)
    levels = [process.level(r) for r in (8.0, 1.0, 0.1)]
    together = prior.denoise(z, Level.stack(levels))
    alone = torch.cat([prior.denoise(z[i : i + 1], level) for i, level in enumerate(levels)])
    torch.testing.assert_close(together, alone, atol=1e-13, rtol=0)


def test_second_derivatives_exist(make_mixture):
    prior, level = make_mixture(VE()), VE().level(0.5)
    z = normal(2, 1, 1, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda state: prior.denoise(state, level), z)
    assert torch.autograd.gradgradcheck(lambda state: prior.denoise(state, level), z)


def test_posterior_of_one_gaussian_is_textbook_conditioning():
    """``mean_2 + S_21 / (S_11 + s^2) (y - mean_1)``, and without noise the observed pixel is the
    observation."""
    covariance = torch.tensor([[1.0, 0.6], [0.6, 0.8]])
    prior = MixturePrior(
        VE(), torch.ones(1), torch.tensor([[0.2, -0.1]]), covariance[None], (1, 1, 2)
    )
    A, y = torch.tensor([[1.0, 0.0]]), torch.tensor([1.0])
    for sigma in (0.0, 0.5):
        gain = np.array([1.0, 0.6]) / (1.0 + sigma**2)
        posterior = prior.posterior(A, y, sigma)
        assert posterior.mean.numpy() == pytest.approx(np.array([0.2, -0.1]) + gain * 0.8, abs=1e-7)
        expected = covariance.numpy() - np.outer(gain, [1.0, 0.6])
        assert posterior.covariance.numpy() == pytest.approx(expected, abs=1e-7)


def test_noisy_posterior_of_the_mixture_against_integration(make_mixture):
    prior = make_mixture(VE())
    A, y, sigma = np.array([[0.7, -0.4]]), 0.3, 0.2
    points, _ = square()
    weight = data_density(prior, points) * np.exp(-((y - points @ A[0]) ** 2) / (2 * sigma**2))
    weight /= weight.sum()
    mean = (weight[:, None] * points).sum(0)
    covariance = np.einsum("n,ni,nj->ij", weight, points - mean, points - mean)
    posterior = prior.posterior(torch.tensor(A), torch.tensor([y]), sigma)
    assert posterior.mean.numpy() == pytest.approx(mean, abs=1e-7)
    assert posterior.covariance.numpy() == pytest.approx(covariance, abs=1e-7)


def test_noise_free_posterior_of_the_mixture_against_integration(make_mixture):
    """One pixel known exactly: what is left is the density along a line."""
    prior, y = make_mixture(VE()), 0.25
    line = np.linspace(-4, 4, 40_001)
    weight = data_density(prior, np.stack([np.full_like(line, y), line], 1))
    weight /= weight.sum()
    mean = (weight * line).sum()
    posterior = prior.posterior(torch.tensor([[1.0, 0.0]]), torch.tensor([y]), 0.0)
    assert posterior.mean.numpy() == pytest.approx([y, mean], abs=1e-7)
    assert posterior.covariance.numpy() == pytest.approx(
        np.diag([0, (weight * (line - mean) ** 2).sum()]), abs=1e-7
    )


def test_a_degenerate_component_is_kept_only_where_it_can_be():
    """A component without spread in the observed pixel cannot have produced another value there."""
    flat = torch.tensor([[0.0, 0.0], [0.0, 1.0]])
    wide = torch.eye(2)
    means = torch.tensor([[0.5, 2.0], [0.0, -1.0]])
    prior = MixturePrior(VE(), torch.ones(2), means, torch.stack([flat, wide]), (1, 1, 2))
    A = torch.tensor([[1.0, 0.0]])
    elsewhere, there = (
        prior.posterior(A, torch.tensor([0.1]), 0.0),
        prior.posterior(A, torch.tensor([0.5]), 0.0),
    )
    assert elsewhere.weights.tolist() == [0, 1]
    assert elsewhere.mean.tolist() == pytest.approx([0.1, -1.0], abs=1e-7)
    assert there.weights.tolist() == pytest.approx([1, 0], abs=1e-100)
    certain = MixturePrior(VE(), torch.ones(1), means[:1], flat[None], (1, 1, 2))
    with pytest.raises(ValueError, match="no component of this mixture can produce y"):
        certain.posterior(A, torch.tensor([0.1]), 0.0)


def test_sample_moments(make_mixture):
    prior, count = make_mixture(VE()), 40_000
    x = prior.sample(uniform(count), normal(count, 1, 1, 2, seed=1)).flatten(1)
    spread = prior.covariance.diagonal().sqrt()
    # five standard errors
    assert ((x.mean(0) - prior.mean).abs() < 5 * spread / count**0.5).all()
    assert (
        torch.cov(x.T).sub(prior.covariance).abs().max() < 5 * 1.5 * spread.max() ** 2 / count**0.5
    )
    near = (x[:, None] - prior.means).norm(dim=2).argmin(1)
    assert near.bincount().numpy() / count == pytest.approx(prior.weights.numpy(), abs=0.08)


def test_draws_of_the_posterior_agree_with_the_observation(make_mixture):
    posterior = make_mixture(VE()).posterior(torch.tensor([[1.0, 0.0]]), torch.tensor([0.25]), 0.0)
    x = posterior.sample(uniform(100), normal(100, 1, 1, 2, seed=1)).flatten(1)
    assert x[:, 0].numpy() == pytest.approx(np.full(100, 0.25), abs=1e-6)
    assert x[:, 1].std() > 0.05


def test_means_must_fill_the_image():
    with pytest.raises(
        ValueError, match=r"means of 3 dimensions do not fill images of shape \(1, 1, 2\)"
    ):
        MixturePrior(VE(), torch.ones(1), torch.zeros(1, 3), torch.eye(3)[None], (1, 1, 2))


@pytest.mark.parametrize("kind", ["ve", "vp", "flow"])
def test_g2_posterior_is_known(kind):
    """Observing y = 1 leaves the second pixel with mean 0.9 and variance 0.19."""
    prior = mixtures.g2(kind)
    posterior = prior.posterior(torch.tensor([[1.0, 0.0]]), torch.tensor([1.0]), 0.0)
    assert prior.process.kind == kind
    assert posterior.mean.tolist() == pytest.approx([1.0, 0.9], abs=1e-12)
    assert posterior.covariance[1, 1].item() == pytest.approx(0.19, abs=1e-12)


def test_two_modes_stay_open_in_the_middle():
    posterior = mixtures.two_modes().posterior(torch.tensor([[1.0, 0.0]]), torch.tensor([0.0]), 0.0)
    assert posterior.weights.tolist() == pytest.approx([0.5, 0.5], abs=1e-12)
    assert posterior.means[:, 1].tolist() == pytest.approx([1.0, -1.0], abs=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mixtures.g2("cosine"), "unknown process 'cosine'; valid: ve, vp, flow"),
        (lambda: mixtures.g2(correlation=1.0), "between -1 and 1"),
        (lambda: mixtures.two_modes(spread=0.0), "must be positive"),
    ],
)
def test_impossible_mixtures_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_smooth_images_have_the_covariance_of_their_distance():
    """Pixels (0, 0) and (1, 2) of one channel are sqrt(5) apart; channels are independent."""
    covariance = mixtures.smooth((2, 3, 4), "vp", length=1.5, deviation=0.4).covariance
    assert covariance[0, 0].item() == pytest.approx(0.16, abs=1e-12)
    assert covariance[0, 1 * 4 + 2].item() == pytest.approx(
        0.16 * math.exp(-5 / (2 * 1.5**2)), abs=1e-7
    )
    assert covariance[0, 12:].abs().max() == 0
