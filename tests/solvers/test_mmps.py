"""MMPS, against Gaussian conditioning, which it does exactly."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from posterior_bench.operators.base import Operator
from posterior_bench.operators.inpainting import Inpainting
from posterior_bench.priors.mixture import MixturePrior
from posterior_bench.priors.process import VE, Flow
from posterior_bench.solvers.base import Observation
from posterior_bench.solvers.mmps import MMPS


@dataclass(frozen=True)
class Sums(Operator):
    """Weighted sums of pixels: a linear operator that is not a projection."""

    caps: ClassVar[frozenset[str]] = frozenset({"linear"})
    mask: ClassVar[None] = None

    weights: Tensor  # (M, d)
    sigma: float
    shape: ClassVar[tuple[int, int, int]] = (1, 2, 3)

    def A(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weights.T

    def At(self, y: Tensor) -> Tensor:
        return (y @ self.weights).view(-1, *self.shape)


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("observed", [1, 3])
def test_one_step_is_gaussian_conditioning_for_any_prior_and_operator(observed, double_noise):
    """``E[x0 | z_t, y]`` with both as measurements of a correlated Gaussian with a mean."""
    root, mean, A, rows, top, sigma = (
        _random(6, 6),
        _random(1, 6, seed=1),
        _random(observed, 6, seed=2),
        4,
        1.5,
        0.1,
    )
    S = root @ root.T
    prior = MixturePrior(VE(0.002, top), torch.ones(1), mean, S[None], (1, 2, 3))
    y = _random(rows, observed, seed=3)
    x = MMPS(1, iterations=observed, tolerance=0).draw(
        Observation(y, Sums(A, sigma)), prior, double_noise(rows)
    )
    z = top * double_noise(rows).normal((6,))
    precision = torch.linalg.inv(S) + torch.eye(6).double() / top**2 + A.T @ A / sigma**2
    evidence = mean @ torch.linalg.inv(S) + z / top**2 + y @ A / sigma**2
    torch.testing.assert_close(
        x.flatten(1), evidence @ torch.linalg.inv(precision), atol=1e-10, rtol=0
    )


@pytest.mark.parametrize(
    ("kind", "eta", "mean", "var"),
    [
        ("vp", 1.0, 0.9, 0.1781),
        ("ve", 1.0, 0.9, 0.1809),
        ("vp", 0.0, 0.8975, 0.1852),
        ("ve", 0.0, 0.8952, 0.1856),
    ],
)
def test_law_on_two_pixels(kind, eta, mean, var, g2, law):
    x, covariance = law(MMPS(250, iterations=1, eta=eta), g2(kind))
    assert x.tolist() == pytest.approx([1.0, mean], abs=1.5e-4)
    assert covariance[1, 1].item() == pytest.approx(var, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "eta", "mean", "var"),
    [
        ("vp", 1.0, 0.9, 0.1867),
        ("ve", 1.0, 0.9, 0.1877),
        ("vp", 0.0, 0.8975, 0.1887),
        ("ve", 0.0, 0.8951, 0.1889),
    ],
)
def test_law_on_two_pixels_with_many_steps(kind, eta, mean, var, g2, law):
    x, covariance = law(MMPS(1000, iterations=1, eta=eta), g2(kind))
    assert x[1].item() == pytest.approx(mean, abs=1.5e-4)
    assert covariance[1, 1].item() == pytest.approx(var, abs=1e-4)


def test_law_with_a_noisy_measurement(g2, law):
    x, covariance = law(MMPS(250, iterations=1, sigma_floor=0.5), g2("vp"))
    assert x.tolist() == pytest.approx([0.8, 0.72], abs=1e-4)
    assert covariance[1, 1].item() == pytest.approx(0.3355, abs=1e-4)


def test_noise_of_the_operator_counts_as_a_floor_does(g2, observe, double_noise):
    obs = observe((True, False), rows=3)
    noisy = replace(obs, operator=Inpainting(obs.operator.mask, 0.5))
    x = MMPS(20, sigma_floor=0.5).draw(obs, g2("ve"), double_noise(3))
    assert torch.equal(MMPS(20).draw(noisy, g2("ve"), double_noise(3)), x)


def test_mean_of_64_pixels_is_the_posterior_mean(ar64):
    class Zeros:
        def normal(self, shape):
            return torch.zeros(1, *shape, dtype=torch.float64)

    prior = ar64("ve")
    mask = (torch.arange(64) < 32).view(1, 1, 8, 8)
    truth = prior.sample(torch.zeros(1), _random(1, 1, 8, 8))
    obs = Observation(Inpainting(mask).A(truth), Inpainting(mask, 0.1))
    x = MMPS(60, iterations=32, tolerance=1e-8).draw(obs, prior, Zeros())
    exact = prior.posterior(torch.eye(64)[:32], truth.flatten()[:32], 0.1).mean
    # a chain that starts at zero keeps lambda / (lambda + 80^2) of the mean's error, 0.5 % along
    # the widest direction
    torch.testing.assert_close(x.flatten(), exact, atol=1e-3, rtol=5e-3)


def test_a_row_with_a_mask_and_difficulty_of_its_own_does_not_depend_on_its_batch(
    ar64, seeded_noise
):
    """Rows converge after different numbers of iterations; the first observes nothing at all."""
    prior, observed = ar64("ve"), torch.tensor([0, 1, 5, 20, 64])
    mask = (torch.arange(64) < observed[:, None]).view(5, 1, 8, 8)
    y = torch.where(mask, _random(5, 1, 8, 8).float(), 0.0)
    solver = MMPS(12, iterations=6, tolerance=0.05, sigma_floor=0.1)
    batch = solver.draw(Observation(y, Inpainting(mask)), prior, seeded_noise(range(5)))
    assert batch.isfinite().all()
    for i in range(5):
        one = Observation(y[i : i + 1], Inpainting(mask[i : i + 1]))
        torch.testing.assert_close(
            solver.draw(one, prior, seeded_noise([i])), batch[i : i + 1], atol=1e-5, rtol=0
        )


def test_a_broken_row_breaks_no_other(g2, observe, double_noise):
    prior, good = g2("ve"), torch.tensor([0.1, 0.2, 0.3])
    bad = torch.tensor([0.1, torch.nan, 0.3])
    x, clean = (
        MMPS(20).draw(observe((True, False), y, rows=3), prior, double_noise(3))
        for y in (bad, good)
    )
    assert x.isnan().flatten(1).any(1).tolist() == [False, True, False]
    assert torch.equal(x[[0, 2]], clean[[0, 2]])


def test_negative_curvature_stops_a_row(observe, double_noise):
    """A denoiser that answers ``-z`` is no posterior mean: its 'covariance' is negative, and the
    row stands still."""

    class Reversed(MixturePrior):
        def denoise(self, z, level, cond=None, guidance=1.0):
            return -z

    prior = Reversed(
        VE(0.002, 2.0), torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None], (1, 1, 2)
    )
    x = MMPS(1).draw(observe((True, False), rows=3), prior, double_noise(3))
    torch.testing.assert_close(x, -2.0 * double_noise(3).normal((1, 1, 2)))


def test_a_flow_starts_where_its_covariance_is_finite(g2, law):
    prior = MixturePrior(Flow(), torch.ones(1), torch.zeros(1, 2), g2("ve").covariances, (1, 1, 2))
    mean, _ = law(MMPS(100, iterations=1, grid="flow"), prior)
    assert mean.tolist() == pytest.approx([1.0, 0.9], abs=2e-3)


def test_cost_even_without_grad_mode(g2, observe, double_noise):
    prior = g2("ve")
    with prior.metered() as meter, torch.no_grad():
        x = MMPS(30, iterations=2).draw(observe((True, False), rows=4), prior, double_noise(4))
    assert (meter.nfe, meter.nge) == (4 * 30, 4 * 30 * 2)
    assert not x.requires_grad


def test_condition_and_guidance_reach_the_prior(asked):
    cond, seen = asked(MMPS(3, guidance=2.5))
    assert len(seen) == 3
    assert all(given is cond and guidance == 2.5 for given, guidance in seen)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("eta", -0.1, r"eta -0\.1 is outside"),
        ("iterations", 0, "iterations must be at least 1"),
        ("sigma_floor", 0.0, "sigma_floor must be positive"),
        ("tolerance", 1.0, r"tolerance 1\.0 is outside"),
    ],
)
def test_bad_settings_are_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        replace(MMPS(), **{field: value})


def test_shipped_presets_are_complete(presets):
    assert presets("mmps")["authors"].iterations == 1
