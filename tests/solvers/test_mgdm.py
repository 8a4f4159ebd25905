"""MGDM, against Gaussian priors that it must keep, and Gaussian products that its fit must find."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from posterior_bench.priors.mixture import MixturePrior
from posterior_bench.priors.mixtures import g2 as named_g2
from posterior_bench.priors.process import VE, Level
from posterior_bench.solvers.base import Observation
from posterior_bench.solvers.mgdm import MGDM, Diagonal

SHORT = MGDM(levels=10, fit_steps=2, late_steps=3, inner_steps=4)


def _noisy(obs: Observation, sigma: float) -> Observation:
    return replace(obs, operator=replace(obs.operator, sigma=sigma))


@pytest.mark.parametrize(
    ("kind", "steps", "short"),
    [("vp", 60, 0.055), ("vp", 120, 0.030), ("ve", 60, 0.105), ("flow", 60, 0.105)],
)
def test_without_a_fit_the_prior_is_kept(kind, steps, short, law):
    """Every Gibbs move leaves the prior as it is, but for what ancestral sampling in so many steps
    falls short of it.

    An exact law, without chance: 0.043, 0.023, 0.081 and 0.080. Twice the steps leave half of it.
    """
    mean, covariance = law(
        MGDM(levels=8, fit_steps=0, late_steps=0, late=0.0, inner_steps=steps), named_g2(kind)
    )
    assert mean.tolist() == [0, 0]
    assert covariance.flatten().tolist() == pytest.approx([1, 0.9, 0.9, 1], abs=short)


def test_without_a_fit_random_levels_keep_the_prior_too(g2, observe, double_noise):
    """It takes some levels to forget that the first clean image was a prediction and not a draw."""
    blind = MGDM(levels=24, fit_steps=0, late_steps=0, inner_steps=40)
    x = blind.draw(observe((True, False), rows=400), g2("vp"), double_noise(400)).flatten(1)
    assert x.mean(0).tolist() == pytest.approx([0, 0], abs=0.15)
    assert x.T.cov().flatten().tolist() == pytest.approx([1, 0.9, 0.9, 1], abs=0.2)


def test_nothing_observed_leaves_the_fit_where_it_starts(law, g2):
    """The gradient of the KL is zero there: the law is that without a fit."""
    blind = replace(SHORT, fit_steps=0, late_steps=0)
    for fitted, expected in zip(
        *(law(s, g2("vp"), (False, False)) for s in (SHORT, blind)), strict=True
    ):
        torch.testing.assert_close(fitted, expected, atol=1e-9, rtol=0)


def test_without_a_fit_the_measurement_changes_nothing(g2, observe, double_noise):
    blind = replace(SHORT, fit_steps=0, late_steps=0)
    runs = [
        blind.draw(observe((True, False), y, rows=3), g2("vp"), double_noise(3))
        for y in (0.0, 5.0, torch.nan)
    ]
    assert torch.equal(runs[0], runs[1])
    assert torch.equal(runs[0], runs[2])


def test_boundless_noise_is_nothing_observed(g2, observe, double_noise):
    deaf = _noisy(observe((True, False), 5.0, rows=4), 1e15)
    free = SHORT.draw(observe((False, False), rows=4), g2("vp"), double_noise(4))
    torch.testing.assert_close(SHORT.draw(deaf, g2("vp"), double_noise(4)), free, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["vp", "flow"])
def test_the_hole_follows_what_is_observed(kind, observe, double_noise):
    """The truth is N(0.9, 0.19) given 1, and -0.45 given -0.5."""
    y = torch.tensor([1.0, -0.5]).repeat(60)
    solver = MGDM(levels=30, inner_steps=8, lr=0.1)
    x = solver.draw(
        _noisy(observe((True, False), y, rows=120), 0.1), named_g2(kind), double_noise(120)
    ).flatten(1)
    assert (x[:, 0] - y).square().mean().sqrt() < 0.2
    assert x[0::2].mean(0).tolist() == pytest.approx([0.99, 0.9], abs=0.2)
    assert x[1::2].mean(0).tolist() == pytest.approx([-0.5, -0.45], abs=0.2)
    assert 0.05 < x[0::2, 1].var() < 0.35


def test_everything_observed_comes_back_within_its_noise(g2, observe, double_noise):
    x = MGDM(levels=30, inner_steps=8, lr=0.1).draw(
        observe((True, True), 0.4, rows=30), g2("vp"), double_noise(30)
    )
    assert (x - 0.4).square().mean().sqrt() < 3 * 0.05


def test_the_fit_finds_the_nearest_diagonal_gaussian(g2, observe, double_noise):
    """For a linear denoiser the target is Gaussian: its mean, and the reciprocals of its
    precision's diagonal."""
    rows, level, var, sigma = 800, g2("vp").level(1.0), 0.3, 0.5
    prior, S = g2("vp"), g2("vp").covariances[0]
    mean = torch.tensor([0.2, -0.4]).double()
    H = (
        level.alpha
        * S
        @ torch.linalg.inv(level.alpha**2 * S + level.sigma**2 * torch.eye(2).double())
    )[:1]
    precision = torch.eye(2).double() / var + H.T @ H / sigma**2
    expected = torch.linalg.solve(precision, mean / var + (H.T * 1.0 / sigma**2).flatten())
    q = Diagonal(mean.view(1, 1, 2).expand(rows, 1, 1, 2), var)
    solver, obs = MGDM(lr=0.05), _noisy(observe((True, False), 1.0, rows=rows), sigma)
    z = solver._fitted(q, Level.stack([level] * rows), 60, obs, prior, double_noise(rows)).flatten(
        1
    )
    torch.testing.assert_close(z.mean(0), expected, atol=0.05, rtol=0)
    torch.testing.assert_close(z.var(0), 1 / precision.diagonal(), atol=0.04, rtol=0)


def test_the_diagonal_gaussian_is_that_of_torch():
    mean, xi = torch.randn(
        2, 3, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    var = torch.tensor([0.5, 1.0, 2.0]).double().view(3, 1, 1, 1)
    q = Diagonal(mean, var)
    assert all(not gradient.any() for gradient in torch.autograd.grad(q.kl().sum(), q.parameters))
    q.shift.data.fill_(0.3)
    q.stretch.data.fill_(-0.2)
    fitted = Normal(mean + 0.3, var.sqrt() * torch.tensor(-0.2).double().exp())
    torch.testing.assert_close(
        q.kl(), kl_divergence(fitted, Normal(mean, var.sqrt())).flatten(1).sum(1)
    )
    torch.testing.assert_close(q.draw(xi), fitted.mean + fitted.stddev * xi)


def test_tau_is_any_level_below_and_later_the_next(g2, seeded_noise):
    solver, levels = MGDM(levels=10), g2("vp").grid(9)
    taus, steps = solver._plan(2, levels, 400, seeded_noise(range(400)))
    counts = [taus.count(level) for level in levels]
    assert counts[:4] == [0] * 4
    assert counts[-1] == 0
    assert all(50 < count < 110 for count in counts[4:9])  # 80 each
    assert steps == 5
    late = MGDM(levels=10, late=0.3)
    assert late._plan(2, levels, 3, seeded_noise(range(3)))[1] == 5
    assert late._plan(3, levels, 3, seeded_noise(range(3))) == ([levels[5]] * 3, 20)


class Halving(MixturePrior):
    """A prior whose calls cost nothing but are counted."""

    def denoise(self, z, level, cond=None, guidance=1.0):
        self.meter.add("nfe", len(z))
        return self._counted(0.5 * z, "nge", len(z))


@pytest.mark.parametrize(
    ("settings", "calls", "backwards"),
    [
        ({}, 70 * 5 + 27 * 20 + 97 * 19 + 1, 890),
        # every tenth of the first 70 levels too, and three steps at the others
        ({"fit_steps": 3, "every": 10}, 7 * 20 + 63 * 3 + 27 * 20 + 97 * 19 + 1, 869),
        ({"levels": 10, "repeats": 2}, 2 * (7 * 5 + 7 * 19) + 1, 70),
    ],
)
def test_cost(settings, calls, backwards, observe, double_noise):
    prior = Halving(VE(), torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None], (1, 1, 2))
    with prior.metered() as meter, torch.no_grad():
        x = MGDM(**settings).draw(observe((True, False)), prior, double_noise(1))
    assert (meter.nfe, meter.nge) == (calls, backwards)
    assert not x.requires_grad


def test_a_row_does_not_depend_on_its_batch(g2, observe, seeded_noise):
    prior, y = g2("ve"), torch.linspace(-1, 1, 5)
    batch = SHORT.draw(observe((True, False), y, rows=5), prior, seeded_noise(range(5)))
    alone = SHORT.draw(observe((True, False), y[3:4]), prior, seeded_noise([3]))
    torch.testing.assert_close(batch[3:4], alone, atol=1e-4, rtol=0)


def test_a_broken_row_breaks_no_other(g2, observe, double_noise):
    y = torch.tensor([0.1, torch.nan, 0.3])
    x = SHORT.draw(observe((True, False), y, rows=3), g2("ve"), double_noise(3))
    assert x.isnan().flatten(1).any(1).tolist() == [False, True, False]


class Doubling(MixturePrior):
    """A latent prior whose decoder multiplies by two."""

    is_latent = True

    def decode(self, z: Tensor) -> Tensor:
        return 2 * z


def test_latents_are_compared_as_images_and_never_clipped(observe, double_noise):
    covariance = torch.tensor([[[1.0, 0.9], [0.9, 1.0]]])
    prior = Doubling(VE(), torch.ones(1), torch.full((1, 2), 4.0), covariance, (1, 1, 2))
    solver = MGDM(levels=30, inner_steps=8, lr=0.1, clip=True)
    x = solver.draw(observe((True, False), 9.0, rows=40), prior, double_noise(40))
    # with eight other seeds the means lie within 0.01 of 9 and between 8.57 and 8.98, 0.12 being
    # their deviation
    assert x[..., 0].mean().item() == pytest.approx(9.0, abs=0.025)
    assert x[..., 1].mean().item() == pytest.approx(8.9, abs=0.4)


def test_condition_and_guidance_reach_the_prior(asked):
    cond, seen = asked(replace(SHORT, guidance=2.5))
    assert len(seen) == 1 + 7 * (2 + 4)
    assert all(given is cond and guidance == 2.5 for given, guidance in seen)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"levels": 3}, "levels must be at least 4, got 3"),
        ({"inner_steps": 0}, "inner_steps must be at least 1, got 0"),
        ({"fit_steps": -1}, "fit_steps must be at least 0, got -1"),
        ({"lr": 0.0}, "lr and sigma_floor must be positive, got 0.0 and 0.05"),
        ({"sigma_floor": 0.0}, "lr and sigma_floor must be positive, got 0.03 and 0.0"),
    ],
)
def test_impossible_settings_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        MGDM(**setting)


def test_shipped_presets_are_complete(presets):
    built = presets("mgdm")
    assert built["authors"] == MGDM()
    assert built["authors_latent"].every == 10
