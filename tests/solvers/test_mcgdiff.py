"""MCG-Diff, against exact posteriors of the discretised prior, which its particles lead to."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from tests.solvers.test_spectral import RCOND, Dense, operator, problem
from torch import Tensor

from posterior_bench.priors.mixture import MixturePrior
from posterior_bench.priors.mixtures import two_modes
from posterior_bench.priors.process import Level
from posterior_bench.solvers.base import Observation
from posterior_bench.solvers.mcgdiff import MCGDiff, _Measured
from posterior_bench.solvers.unconditional import PriorSamples


def _noisy(obs: Observation, sigma: float = 0.1) -> Observation:
    return replace(obs, operator=replace(obs.operator, sigma=sigma))


def _exact(
    prior: MixturePrior,
    levels: list[Level],
    dense: Dense,
    coordinates: Tensor,
    sigma: float,
    kappa: float,
) -> tuple[Tensor, Tensor]:
    """The mean and the covariance that particles without number have, for a Gaussian prior of
    mean 0: ancestral steps, and a Kalman update with each coordinate at its level."""
    S = prior.covariances[0]
    eye = torch.eye(len(S)).double()
    mean, P = torch.zeros(len(S)).double(), levels[0].sigma ** 2 * eye
    left = {i: sigma / float(dense.s[i]) for i in range(len(S)) if dense.s[i] > 0}
    for k, s in enumerate(levels):
        if k > 0:
            t = levels[k - 1]
            K = t.alpha * S @ torch.linalg.inv(t.alpha**2 * S + t.sigma**2 * eye)
            step = prior.process.transition(s, t)
            affine = step.c0 * K + step.ct * eye
            mean, P = affine @ mean, affine @ P @ affine.T + step.var * eye
        for i in [i for i, noise in left.items() if s.ratio <= noise * (1 + 1e-9)]:
            variance = max(s.alpha**2 * (left.pop(i) ** 2 - s.ratio**2), kappa)
            row = dense.V[i]
            gain = P @ row / (row @ P @ row + variance)
            mean = mean + gain * (s.alpha * coordinates[i] - row @ mean)
            P = P - torch.outer(gain, row @ P)
    return mean, P


# -- exact in the limit ----------------------------------------------------------------------------

FIRST = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
PAIR = Dense(FIRST, torch.eye(1).double(), torch.tensor([1.0, 0.0]).double(), torch.eye(2).double())
SEEN = torch.tensor([1.0, 0.0], dtype=torch.float64)


def _sliced_distance(x: Tensor, log_weight: Tensor, mean: Tensor, covariance: Tensor) -> float:
    """The sliced Wasserstein distance of weighted points ``(N, K, 2)`` to a Gaussian, as the root
    of the mean square over 8 directions and the ``N`` runs."""
    u = (torch.arange(2000).double() + 0.5) / 2000
    weights, squares = log_weight.softmax(1), []
    for angle in torch.arange(8) * math.pi / 8:
        direction = torch.stack([angle.cos(), angle.sin()]).double()
        values, order = (x @ direction).sort(1)
        at = torch.searchsorted(
            weights.gather(1, order).cumsum(1).contiguous(), u.expand(len(x), -1).contiguous()
        ).clamp_max(x.shape[1] - 1)
        exact = mean @ direction + (
            direction @ covariance @ direction
        ).sqrt() * torch.special.ndtri(u)
        squares.append((values.gather(1, at) - exact).square().mean().item())
    return math.sqrt(sum(squares) / len(squares))


def _distances(sigma: float, runs: int, g2, observe, seeded_noise) -> list[float]:
    """The distance to the posterior of the discretised prior, with 16, 64 and 256 particles."""
    prior, obs = g2("vp"), _noisy(observe((True, False), rows=runs), sigma)
    exact = _exact(prior, prior.grid(30), PAIR, SEEN, sigma, 1e-4)
    found = []
    for particles in (16, 64, 256):
        solver = MCGDiff(30, particles, together=particles)
        x, log_weight = solver.ensemble(obs, prior, seeded_noise(range(runs)))
        found.append(_sliced_distance(x.flatten(2).double(), log_weight.double(), *exact))
    return found


@pytest.mark.parametrize(
    ("runs", "slack"),
    [(60, 0.35), pytest.param(600, 0.2, marks=pytest.mark.slow)],
    ids=["few", "many"],
)
@pytest.mark.parametrize("sigma", [0.0, 0.1, 0.5])
def test_the_error_falls_as_that_of_independent_draws(
    sigma, runs, slack, g2, observe, seeded_noise
):
    """Four times the particles halve the sliced Wasserstein distance to the exact posterior.

    The distance of ``K`` independent draws is near ``spread / sqrt(K)``.
    """
    distances = _distances(sigma, runs, g2, observe, seeded_noise)
    for more, fewer in pairwise(distances):
        assert more / fewer == pytest.approx(2, rel=slack)
    assert distances[-1] < 0.13


def test_modes_get_their_weights_as_particles_grow(observe, seeded_noise):
    rows, y, prior = 800, 0.15, two_modes(spread=0.4)
    exact = prior.posterior(FIRST, torch.tensor([y]), 0.1).weights[0].item()
    solver = MCGDiff(40, 24, together=24)
    x = solver.draw(_noisy(observe((True, False), y, rows=rows)), prior, seeded_noise(range(rows)))
    assert (x[..., 1] > 0).double().mean().item() == pytest.approx(exact, abs=0.05)


@pytest.mark.parametrize("sigma", [0.0, 0.005])
def test_the_last_weight_by_hand(sigma, g2, observe, double_noise, monkeypatch):
    """The density of ``y`` at the predicted pixel, over that of the last state in the forward law
    from ``y``."""
    prior, seen = g2("vp").view("vp"), []
    denoise = prior.denoise
    monkeypatch.setattr(
        prior, "denoise", lambda z, *given: seen.append((z, denoise(z, *given))) or seen[-1][1]
    )
    monkeypatch.setattr(prior, "view", lambda kind: prior)
    obs = _noisy(observe((True, False), 0.8), sigma)
    _, log_weight = MCGDiff(12, 5, kappa=0.01).ensemble(obs, prior, double_noise(1))
    (z, x0), t = seen[-1], prior.grid(12)[-2]
    end = max(sigma**2, 0.01)
    law = torch.distributions.Normal(t.alpha * 0.8, (t.sigma**2 + t.alpha**2 * end) ** 0.5)
    likelihood = torch.distributions.Normal(0.8, end**0.5)
    expected = (likelihood.log_prob(x0) - law.log_prob(z))[:, 0, 0, 0]
    torch.testing.assert_close(
        log_weight[0] - log_weight[0, 0], expected - expected[0], atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("sigma", [0.05, 0.5])
def test_many_levels_lead_to_the_posterior(sigma, g2):
    """What the particles lead to is the exact posterior but for the levels, with an error of
    first order."""
    prior, errors = g2("vp"), []
    exact = prior.posterior(FIRST, torch.ones(1), sigma)
    for steps in (100, 300):
        mean, P = _exact(prior, prior.grid(steps), PAIR, SEEN, sigma, 1e-6)
        errors.append(
            max((mean - exact.mean).abs().max(), (P - exact.covariance).abs().max()).item()
        )
    assert errors[1] < 0.02 and errors[1] < 0.6 * errors[0]


@pytest.mark.parametrize("name", ["mask", "super-resolution", "blur"])
def test_the_posterior_of_16_pixels(name, seeded_noise):
    """Means of 300 runs with 64 particles, where several singular values have levels of their
    own; the posterior is 0.3 to 0.6 wide."""
    sigma, rows = 0.4, 300
    obs, prior, _ = problem(name, sigma, "vp")
    y = obs.y[:1].expand(rows, *obs.y.shape[1:])
    solver = MCGDiff(20, 64, together=64)
    many = Observation(y.float(), operator(name, sigma, rows))
    x = solver.draw(many, prior, seeded_noise(range(rows))).flatten(1).double()
    dense = Dense.of(obs.operator, RCOND.get(name, 0.0))
    seen = dense.solution(obs.y)[0]
    mean, P = _exact(prior, prior.grid(20), dense, seen, sigma, 1e-4)
    assert (x.mean(0) - mean).square().mean().sqrt() < 0.07
    assert (x.var(0) - P.diagonal()).square().mean().sqrt() < 0.06
    # the prior has the mean 0 and the variance 0.5
    assert mean.square().mean().sqrt() > 0.2 and (0.5 - P.diagonal()).mean() > 0.1


# means, variance of the first pixel, covariance, variance of the second, of 4000 runs of the
# released code; it has 0.01 for the noise of its last level, where it takes the measurement
RELEASED = (0.9992, 0.9310, 0.0004, 0.0004, 0.1016)


@pytest.mark.parametrize(
    ("rows", "tolerance"),
    [(600, 0.05), pytest.param(8000, 0.015, marks=pytest.mark.slow)],
    ids=["few", "many"],
)
def test_law_on_a_gaussian(rows, tolerance, g2, observe, seeded_noise, monkeypatch):
    """The levels of the released code, which ends at the first training step."""
    prior = g2("vp")
    levels = prior.grid(20, "index", end=prior.level_at_index(0))
    view = prior.view("vp")
    monkeypatch.setattr(view, "grid", lambda *given: levels)
    monkeypatch.setattr(prior, "view", lambda kind: view)
    obs = observe((True, False), rows=rows)
    x = MCGDiff(20, 64, together=64).draw(obs, prior, seeded_noise(range(rows))).flatten(1)
    covariance = x.T.cov()
    found = [*x.mean(0).tolist(), *covariance.flatten().tolist()[:2], covariance[1, 1].item()]
    assert found == pytest.approx(RELEASED, abs=tolerance)


# -- the law of the measurement --------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.0, 0.3])
def test_the_law_is_that_of_a_noisier_measurement(sigma, g2, observe):
    """A state at ``tau`` with variance ``kappa``, noised up to ``t``: the coefficients of
    ``q(z_t | z_tau)``."""
    prior, kappa, y = g2("vp"), 1e-2, 0.8
    tau = prior.level(sigma) if sigma > 0 else Level(1.0, 0.0)
    levels = sorted([*prior.grid(9, "logsnr"), tau], key=lambda t: -t.ratio)
    obs = _noisy(observe((True, False), y), sigma)
    data = _Measured.of(obs, obs.operator.spectrum(obs.y), levels, kappa)
    for t in levels:
        leads = t.ratio >= tau.ratio
        assert data.leads(t).flatten().tolist() == [leads, False]
        if not leads:
            continue
        a = t.alpha / tau.alpha
        variance = t.sigma**2 - (a * tau.sigma) ** 2 + a**2 * kappa
        states = torch.linspace(-2, 2, 5).double().view(1, 5, 1, 1, 1).expand(1, 5, 1, 1, 2)
        expected = -((states[..., 0] - a * tau.alpha * y) ** 2) / (2 * (variance + 0.5))
        found = data.log_law(states, 0.5, t)
        torch.testing.assert_close(found[..., 0], expected, atol=1e-9, rtol=1e-9)
        assert not found[..., 1].any()


@pytest.mark.parametrize("sigma", [0.0, 0.2, 3.0, 1e4])
def test_the_law_between_levels_is_a_likelihood(sigma, g2, observe):
    """At its level, which is not noisier, the state and the rest of the noise make ``y``."""
    prior, kappa = g2("vp"), 1e-9
    levels, obs = prior.grid(9), _noisy(observe((True, False), 0.8), sigma)
    data = _Measured.of(obs, obs.operator.spectrum(obs.y), levels, kappa)
    s = next(s for s in levels if s.ratio <= sigma)
    variance = max(s.alpha**2 * (sigma**2 - s.ratio**2), kappa)
    state = torch.full((1, 1, 1, 1, 2), 0.5).double()
    expected = -((0.5 - s.alpha * 0.8) ** 2) / (2 * variance)
    assert data.log_law(state, 0.0, s)[..., 0].item() == pytest.approx(expected, rel=1e-6)
    assert [data.leads(t).flatten()[0].item() for t in levels] == [
        t.ratio >= s.ratio for t in levels
    ]


def test_a_single_particle_meets_the_measurement_as_kappa_falls(g2, observe, double_noise):
    """A step that is narrower than ``kappa`` is led no more."""
    y, away = torch.linspace(-1, 1, 40), []
    for kappa in (1e-2, 1e-4, 1e-8):
        obs = observe((True, False), y, rows=40)
        x = MCGDiff(100, 1, kappa=kappa).draw(obs, g2("ve"), double_noise(40))
        away.append((x[:, 0, 0, 0] - y).square().mean().sqrt().item())
    assert away[0] > 2 * away[1] > 6 * away[2]
    assert away[2] < 0.003


@pytest.mark.parametrize("kind", ["vp", "ve"])
def test_nothing_observed_is_ancestral_sampling(kind, g2, observe, double_noise):
    class Plain:
        """The normals of one particle as those of an image, without the uniforms in between."""

        def __init__(self):
            self.base = double_noise(4)

        def normal(self, shape):
            return self.base.normal(shape)

        def uniform(self, shape):
            return torch.zeros(4, *shape)

    nothing, prior = observe((False, False), rows=4), g2(kind)
    x = MCGDiff(25, 1).draw(nothing, prior, Plain())
    free = PriorSamples(25).draw(nothing, prior, double_noise(4))
    torch.testing.assert_close(x, free, atol=1e-9, rtol=0)


def test_nothing_observed_has_equal_weights(g2, observe, double_noise):
    _, log_weight = MCGDiff(10, 6).ensemble(
        observe((False, False), rows=3), g2("ve"), double_noise(3)
    )
    assert not log_weight.any()


# -- rows, settings --------------------------------------------------------------------------------


def test_how_many_particles_go_together_changes_nothing(g2, observe, double_noise):
    obs = _noisy(observe((True, False), torch.linspace(-1, 1, 3), rows=3))
    runs = [MCGDiff(15, 6, k).draw(obs, g2("ve"), double_noise(3)) for k in (1, 4, 100)]
    torch.testing.assert_close(runs[0], runs[1], atol=1e-9, rtol=0)
    torch.testing.assert_close(runs[0], runs[2], atol=1e-9, rtol=0)


def test_cost(g2, observe, double_noise, monkeypatch):
    prior = g2("vp")
    with prior.metered() as meter:
        x = MCGDiff(12, 5, together=2).draw(
            _noisy(observe((True, False), rows=3)), prior, double_noise(3)
        )
    assert (meter.nfe, meter.nge) == (3 * 5 * 12, 0)
    assert not x.requires_grad


def test_a_row_does_not_depend_on_its_batch(g2, observe, seeded_noise):
    prior, solver, y = g2("ve"), MCGDiff(20, 5), torch.linspace(-1, 1, 5)
    batch = solver.draw(observe((True, False), y, rows=5), prior, seeded_noise(range(5)))
    alone = solver.draw(observe((True, False), y[3:4]), prior, seeded_noise([3]))
    torch.testing.assert_close(batch[3:4], alone, atol=1e-5, rtol=0)


def test_a_broken_row_breaks_no_other(g2, observe, double_noise):
    y = torch.tensor([0.1, torch.nan, 0.3])
    x = MCGDiff(10, 4).draw(observe((True, False), y, rows=3), g2("ve"), double_noise(3))
    assert x.isnan().flatten(1).any(1).tolist() == [False, True, False]


def test_condition_and_guidance_reach_the_prior(asked):
    cond, seen = asked(MCGDiff(3, 2, together=1, guidance=2.5))
    assert len(seen) == 6
    assert all(
        torch.equal(given.values["label"], cond.values["label"]) and g == 2.5 for given, g in seen
    )


@pytest.mark.parametrize("name", ["particles", "together", "kappa"])
def test_settings_that_are_not_positive_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be positive, got 0"):
        replace(MCGDiff(), **{name: 0})


def test_shipped_presets_are_complete(presets):
    built = presets("mcgdiff")
    assert built["fast"].steps * built["fast"].particles <= 200
    assert built["authors"] == MCGDiff()
