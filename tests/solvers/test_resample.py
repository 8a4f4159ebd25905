"""ReSample, against closed forms: resampling, guidance, and the calls they make."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from posterior_bench.priors.process import VP
from posterior_bench.solvers import resample as module
from posterior_bench.solvers.resample import ReSample, resample

TURN = torch.tensor(
    [[math.cos(0.7), -math.sin(0.7)], [math.sin(0.7), math.cos(0.7)]], dtype=torch.float64
)
IDLE = {"pixel_iterations": 0, "latent_iterations": 0}
FAST = {
    "steps": 30,
    "every": 5,
    "pixel_iterations": 20,
    "latent_iterations": 20,
    "pixel_lr": 0.1,
    "latent_lr": 0.1,
}


def _double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).view(-1, 1, 1, 1)


# -- stochastic resampling -------------------------------------------------------------------------


def test_resampling_is_the_product_of_two_gaussians():
    """Mean and variance of the product, by summing its density over a fine grid."""
    s, z, target, variance = VP.scheduled("linear", 1e-4, 0.02).level(0.6), -0.3, 0.9, 0.2
    u = torch.linspace(-4, 4, 20001, dtype=torch.float64)
    density = torch.exp(
        -((u - s.alpha * target) ** 2) / (2 * s.sigma**2) - (u - z) ** 2 / (2 * variance)
    )
    mean = (density * u).sum() / density.sum()
    deviation = ((density * (u - mean) ** 2).sum() / density.sum()).sqrt()
    still, moved = (
        resample(_double(z), _double(target), s, variance, _double(xi)).item() for xi in (0.0, 1.0)
    )
    assert still == pytest.approx(mean.item(), abs=1e-9)
    assert moved - still == pytest.approx(deviation.item(), rel=1e-6)


def test_resampling_between_its_limits():
    s, z, target, xi = (
        VP.scheduled("linear", 1e-4, 0.02).level(0.6),
        _double(-0.3),
        _double(0.9),
        _double(0.7),
    )
    assert torch.equal(resample(z, target, s, 0.0, xi), z)
    torch.testing.assert_close(
        resample(z, target, s, 1e12, xi), VP.add_noise(target, s, xi), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize(
    ("i", "variance", "weight", "deviation"),
    [(10, 0.1205, 0.795, 0.157), (170, 0.424, 0.389, 0.509), (330, 0.884, 0.476, 0.681)],
)
def test_released_variances_are_forty_times_the_ancestral_steps(i, variance, weight, deviation):
    """The released formula evaluated on the ImageNet256 schedule with 500 DDIM steps (indices 2 i +
    1)."""
    process = VP.scheduled("scaled_linear", 0.0015, 0.0195)
    t, s = process.level_at_index(2 * i + 1), process.level_at_index(2 * i - 1)
    found = 40 * process.transition(s, t).var
    assert found == pytest.approx(variance, rel=2e-3)
    still, moved = (
        resample(_double(0.0), _double(1.0), s, found, _double(xi)).item() for xi in (0.0, 1.0)
    )
    assert still / s.alpha == pytest.approx(weight, abs=1e-3)
    assert moved - still == pytest.approx(deviation, abs=1e-3)


# -- the chain -------------------------------------------------------------------------------------


def test_without_consistency_and_guidance_it_is_ddim(latent_g2, observe, double_noise):
    prior, levels = latent_g2("vp", TURN), latent_g2("vp").grid(25)
    z = levels[0].sigma * double_noise(2).normal((1, 1, 2))
    for t, s in pairwise(levels):
        z = prior.process.bridge(z, prior.denoise(z, t), t, s, 0.0, None)
    x = ReSample(25, scale=0.0, every=99, **IDLE).draw(
        observe((True, False), rows=2), prior, double_noise(2)
    )
    assert torch.equal(x, prior.decode(z))


@pytest.mark.parametrize("compat", ["none", "released"])
def test_a_guidance_step_in_closed_form(compat, latent_g2, observe, double_noise):
    """One step from the noisiest level to clean: x0 = K z, and the estimate whose residual is taken
    is M z."""
    y, one = torch.linspace(-1, 1, 4, dtype=torch.float64), torch.eye(2, dtype=torch.float64)
    prior = latent_g2("vp")
    t, S = prior.grid(1)[0], prior.covariances[0]
    K = t.alpha * S @ torch.linalg.inv(t.alpha**2 * S + t.sigma**2 * one)
    M = (
        K if compat == "none" else (one - t.sigma * (one - t.alpha * K)) / t.alpha
    )  # sigma^2 eps, not sigma eps
    z = t.sigma * double_noise(4).normal((2,))
    slope = -torch.sign(y[:, None] - (z @ M)[:, :1]) * M[:1]
    x = ReSample(1, scale=2.0, grid="index", compat=compat, **IDLE).draw(
        observe((True, False), y, rows=4), prior, double_noise(4)
    )
    torch.testing.assert_close(x.flatten(1), z @ K - 2.0 * t.alpha**2 * slope)


def test_the_released_schedule_and_its_calls(latent_g2, observe, double_noise, monkeypatch):
    """500 steps: consistency with 330, 320, ..., 10 steps left, in pixels down to 170; 665 network
    calls."""
    levels, seen = latent_g2("vp").grid(500), []

    def spy(z, target, s, c, xi):
        return seen.append((s, c)) or resample(z, target, s, c, xi)

    monkeypatch.setattr(module, "resample", spy)
    prior = latent_g2("vp", TURN)
    solver = ReSample(pixel_iterations=2, latent_iterations=3, tolerance=1e-30)
    with prior.metered() as meter, torch.no_grad():
        x = solver.draw(observe((True, False), rows=2), prior, double_noise(2))
    assert [s for s, _ in seen] == [levels[-i - 1] for i in range(330, 0, -10)]
    t, s = levels[-12], levels[-11]
    beta = (1 - s.alpha**2) / (1 - t.alpha**2) * (1 - t.alpha**2 / s.alpha**2)
    assert seen[-1][1] == pytest.approx(40 * beta, rel=1e-9)
    through = 500 + 17 * 3  # guidance; 16 latent optimisations and the last one
    expected = {
        "nfe": 665,
        "nge": 500,
        "decode": through + 17 + 1,
        "decode_grad": through,
        "encode": 17,
    }
    assert meter.counts() == {
        name: 2 * count for name, count in {**expected, "encode_grad": 0}.items()
    }
    assert not x.requires_grad


def test_the_observation_is_met(latent_g2, observe, double_noise):
    obs = observe((True, False), torch.linspace(-1, 1, 8), rows=8)
    solver = ReSample(**{**FAST, "latent_iterations": 400, "latent_lr": 0.02})
    x = solver.draw(obs, latent_g2("ve", TURN), double_noise(8))
    assert obs.operator.residual(x, obs.y).abs().max() < (2 * 1e-6) ** 0.5
    assert x[:, 0, 0, 1].std() > 0.1  # and the hidden pixel is still drawn


def test_the_state_is_that_of_vp_coordinates_for_every_prior(latent_g2, observe, double_noise):
    obs, solver = observe((True, False), 0.5, rows=3), ReSample(**FAST)
    native = solver.draw(obs, latent_g2("ve"), double_noise(3))
    torch.testing.assert_close(
        native, solver.draw(obs, latent_g2("ve").view("vp"), double_noise(3))
    )


def test_a_row_does_not_depend_on_its_batch(latent_g2, observe, seeded_noise):
    prior, solver = latent_g2("vp", TURN), ReSample(**FAST, tolerance=1e-3)
    five = observe((True, False), torch.linspace(-1, 1, 5), rows=5)
    one = observe((True, False), 0.5)
    five, one = (replace(obs, y=obs.y.float()) for obs in (five, one))
    batch = solver.draw(five, prior, seeded_noise(range(5)))
    alone = solver.draw(one, prior, seeded_noise([3]))
    torch.testing.assert_close(batch[3:4], alone, atol=1e-5, rtol=0)


def test_a_broken_row_breaks_no_other(latent_g2, observe, double_noise):
    y = torch.tensor([0.1, torch.nan, 0.3])
    x = ReSample(**FAST).draw(observe((True, False), y, rows=3), latent_g2("vp"), double_noise(3))
    assert x.isnan().flatten(1).any(1).tolist() == [False, True, False]


def test_condition_and_guidance_reach_the_prior(asked):
    cond, seen = asked(ReSample(steps=6, every=3, lookahead=2, guidance=2.5, **IDLE))
    assert len(seen) == 6 + 2
    assert all(given is cond and guidance == 2.5 for given, guidance in seen)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"every": 0}, "every must be positive, got 0"),
        ({"compat": "odd"}, "unknown compat 'odd'; valid: none, released"),
    ],
)
def test_impossible_settings_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        ReSample(**setting)


def test_shipped_presets_are_complete(presets):
    built = presets("resample")
    assert built["authors"] == ReSample()
    assert built["authors_released"] == ReSample(compat="released")
    assert built["vipaint_paper"].latent_iterations == built["vipaint_paper"].pixel_iterations == 50
