"""TDS, against exact posteriors, which its weights lead to, and against its proposal written
out."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from posterior_bench.priors.base import Prior
from posterior_bench.priors.mixture import MixturePrior
from posterior_bench.priors.mixtures import two_modes
from posterior_bench.priors.process import VE, Flow
from posterior_bench.solvers.base import Observation
from posterior_bench.solvers.tds import TDS


def _noisy(obs: Observation, sigma: float = 0.1) -> Observation:
    return replace(obs, operator=replace(obs.operator, sigma=sigma))


@pytest.mark.parametrize(
    ("rows", "tolerance"),
    [(400, 0.035), pytest.param(6000, 0.02, marks=pytest.mark.slow)],
    ids=["few", "many"],
)
def test_law_on_a_gaussian(rows, tolerance, g2, observe, seeded_noise):
    """64 particles on 100 levels, by simulation; the exact posterior has means 0.990 and 0.891,
    variance 0.198."""
    x = TDS(100, 64, together=64).draw(
        _noisy(observe((True, False), rows=rows)), g2("ve"), seeded_noise(range(rows))
    )
    assert x.flatten(1).mean(0).tolist() == pytest.approx([0.981, 0.874], abs=tolerance)
    assert x.flatten(1).var(0)[1].item() == pytest.approx(0.176, abs=tolerance)


def test_modes_get_their_weights_as_particles_grow(observe, seeded_noise):
    """Guidance alone puts 0.55 on the likelier mode; the weights move it to the 0.63 of the
    posterior."""
    rows, y, prior = 1000, 0.15, two_modes(spread=0.4)
    exact = prior.posterior(torch.tensor([[1.0, 0.0]]), torch.tensor([y]), 0.1).weights[0].item()
    found = {}
    for particles in (1, 16):
        solver = TDS(40, particles, together=16)
        x = solver.draw(
            _noisy(observe((True, False), y, rows=rows)), prior, seeded_noise(range(rows))
        )
        found[particles] = (x[..., 1] > 0).double().mean().item()
    assert exact - found[1] > 0.05
    assert found[16] == pytest.approx(exact, abs=0.035)


def test_one_particle_is_guided_ancestral_sampling(g2, observe, double_noise):
    """``x0`` moved by ``sigma^2 / alpha`` times the slope of the log twist; on a Gaussian all of it
    is linear."""
    prior, noise, obs = g2("vp"), double_noise(4), _noisy(observe((True, False), 0.7, rows=4), 0.3)
    *levels, _ = prior.grid(12)
    z = levels[0].sigma * noise.normal((1, 1, 1, 2)).flatten(1)
    S = prior.covariances[0]
    for t, s in pairwise(levels):
        K = t.alpha * S @ torch.linalg.inv(t.alpha**2 * S + t.sigma**2 * torch.eye(2).double())
        slope = (
            (0.7 - (z @ K)[:, :1]) * K[:1] / (0.3**2 + t.sigma**2)
        )  # r^2 = sigma^2 for alpha^2 + sigma^2 = 1
        noise.uniform((1,))
        z = prior.process.bridge(
            z,
            z @ K + t.sigma**2 / t.alpha * slope,
            t,
            s,
            1.0,
            noise.normal((1, 1, 1, 2))[:, 0, 0, 0],
        )
    K = (
        levels[-1].alpha
        * S
        @ torch.linalg.inv(
            levels[-1].alpha ** 2 * S + levels[-1].sigma ** 2 * torch.eye(2).double()
        )
    )
    x = TDS(12, 1).draw(obs, prior, double_noise(4))
    torch.testing.assert_close(x.flatten(1), z @ K, atol=1e-9, rtol=0)


def test_nothing_observed_has_the_law_of_ancestral_sampling(g2, observe, seeded_noise):
    """Equal weights: the resampling is blind. 50 ancestral levels fall short of the variance of 1
    by 0.17."""
    rows, prior = 1500, g2("ve")
    x = (
        TDS(50, 4)
        .draw(observe((False, False), rows=rows), prior, seeded_noise(range(rows)))
        .flatten(1)
    )
    gain = torch.eye(2).double()
    covariance = prior.grid(50)[0].sigma ** 2 * gain
    for t, s in pairwise(prior.grid(50)):
        K = prior.covariances[0] @ torch.linalg.inv(prior.covariances[0] + t.sigma**2 * gain)
        step = prior.process.transition(s, t)
        affine = step.c0 * K + step.ct * gain
        covariance = affine @ covariance @ affine.T + step.var * gain
    assert x.mean(0).tolist() == pytest.approx([0, 0], abs=0.08)
    torch.testing.assert_close(x.T.cov().double(), covariance, atol=0.09, rtol=0)


def test_how_many_particles_go_together_changes_nothing(g2, observe, double_noise):
    obs = _noisy(observe((True, False), torch.linspace(-1, 1, 3), rows=3))
    runs = [TDS(15, 6, together=k).draw(obs, g2("ve"), double_noise(3)) for k in (1, 4, 100)]
    torch.testing.assert_close(runs[0], runs[1], atol=1e-9, rtol=0)
    torch.testing.assert_close(runs[0], runs[2], atol=1e-9, rtol=0)


def test_a_network_call_has_no_more_particles_than_asked_for(
    g2, observe, double_noise, monkeypatch
):
    prior, seen = g2("ve"), []
    denoise = prior.denoise
    monkeypatch.setattr(
        prior, "denoise", lambda z, *given: seen.append(len(z)) or denoise(z, *given)
    )
    TDS(2, 7, together=3).draw(observe((True, False), rows=2), prior, double_noise(2))
    assert seen == [6, 6, 2] * 2


def test_coordinates_do_not_matter(g2, observe, double_noise):
    """The twist sees the clean image and a variance of ``r_t`` that depends on the ratio alone."""
    prior, obs, solver = g2("vp"), _noisy(observe((True, False), rows=3)), TDS(20, 5, grid="karras")
    native = solver.draw(obs, prior, double_noise(3))
    torch.testing.assert_close(
        solver.draw(obs, prior.view("ve"), double_noise(3)), native, atol=1e-6, rtol=0
    )


def test_a_flow_starts_where_its_pull_is_finite(g2, observe, seeded_noise):
    prior = MixturePrior(Flow(), torch.ones(1), torch.zeros(1, 2), g2("ve").covariances, (1, 1, 2))
    x = TDS(40, 8, grid="flow").draw(
        _noisy(observe((True, False), rows=300)), prior, seeded_noise(range(300))
    )
    assert x.flatten(1).mean(0).tolist() == pytest.approx([0.99, 0.89], abs=0.1)


def test_a_row_does_not_depend_on_its_batch(g2, observe, seeded_noise):
    prior, solver, y = g2("ve"), TDS(20, 5), torch.linspace(-1, 1, 5)
    batch = solver.draw(observe((True, False), y, rows=5), prior, seeded_noise(range(5)))
    alone = solver.draw(observe((True, False), y[3:4]), prior, seeded_noise([3]))
    torch.testing.assert_close(batch[3:4], alone, atol=1e-5, rtol=0)


def test_a_broken_row_breaks_no_other(g2, observe, double_noise):
    y = torch.tensor([0.1, torch.nan, 0.3])
    x = TDS(10, 4).draw(observe((True, False), y, rows=3), g2("ve"), double_noise(3))
    assert x.isnan().flatten(1).any(1).tolist() == [False, True, False]


def test_cost_even_without_grad_mode(g2, observe, double_noise):
    prior = g2("ve")
    with prior.metered() as meter, torch.no_grad():
        x = TDS(12, 5, together=2).draw(observe((True, False), rows=3), prior, double_noise(3))
    # no state is proposed from the last level, so it needs no gradient
    assert (meter.nfe, meter.nge) == (3 * 5 * 12, 3 * 5 * 11)
    assert not x.requires_grad


class Doubling(MixturePrior):
    """A latent prior whose decoder multiplies by two."""

    is_latent = True

    def decode(self, z: Tensor) -> Tensor:
        return 2 * z


def test_latents_are_compared_as_images_and_never_clipped(observe, double_noise):
    prior: Prior = Doubling(
        VE(), torch.ones(1), torch.full((1, 2), 4.0), 0.01 * torch.eye(2)[None], (1, 1, 2)
    )
    obs = _noisy(observe((True, False), 8.4, rows=40), 0.05)
    x = TDS(40, 8, data_std=0.1, clip=True).draw(obs, prior, double_noise(40))
    # images have N(8, 0.2^2) and the measurement N(8.4, 0.05^2)
    assert x[..., 0].mean().item() == pytest.approx(8 + 0.4 * 0.04 / (0.04 + 0.0025), abs=0.03)
    assert x[..., 1].mean().item() == pytest.approx(8, abs=0.09)


def test_condition_and_guidance_reach_the_prior(asked):
    cond, seen = asked(TDS(3, 2, together=1, guidance=2.5))
    assert len(seen) == 6
    assert all(
        torch.equal(given.values["label"], cond.values["label"]) and g == 2.5 for given, g in seen
    )


@pytest.mark.parametrize("name", ["particles", "together", "data_std", "sigma_floor"])
def test_settings_that_are_not_positive_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be positive, got 0"):
        replace(TDS(), **{name: 0})


def test_shipped_presets_are_complete(presets):
    built = presets("tds")
    assert built["fast"].steps * built["fast"].particles <= 300
    assert built["authors"].particles == 64
