"""DING, against its law on a Gaussian prior and its equations."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from posterior_bench.priors.mixtures import g2 as named_g2
from posterior_bench.priors.process import Level
from posterior_bench.solvers.ding import DING

# mean and variance of the hidden pixel on a rectified flow, by simulation: good to 0.02
GOLDEN = {
    (28, False): (0.775, 0.225),
    (50, False): (0.831, 0.208),
    (250, False): (0.892, 0.192),
    (28, True): (0.905, 0.197),
}


@pytest.mark.parametrize(("steps", "delayed"), GOLDEN)
def test_law_on_a_gaussian(steps, delayed, law):
    mean, covariance = law(DING(steps, delayed=delayed), named_g2("flow"))
    assert (mean[1].item(), covariance[1, 1].item()) == pytest.approx(
        GOLDEN[steps, delayed], abs=0.02
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["flow", "vp", "ve"])
def test_many_steps_reach_the_posterior(kind, law):
    """The one method of its kind without a bias: N(0.9, 0.19) as the steps grow."""
    mean, covariance = law(DING(1000), named_g2(kind))
    assert (mean[1].item(), covariance[1, 1].item()) == pytest.approx((0.9, 0.19), abs=0.01)


@pytest.mark.parametrize(("kind", "delayed"), [("flow", False), ("vp", False), ("vp", True)])
def test_steps_follow_the_equations(kind, delayed, observe, double_noise):
    """Pixel by pixel, the product of two Gaussians by its precisions, for measurement noise 0.3."""
    prior, noise, y, sigma_y = named_g2(kind), double_noise(1), 0.7, 0.3
    levels = prior.grid(8, "flow")[:7]

    def tensor(z):
        return torch.tensor(z, dtype=torch.float64).view(1, 1, 1, 2)

    z = (levels[0].sigma * noise.normal((1, 1, 2))).flatten().tolist()
    for t, s in pairwise(levels):
        x0 = prior.denoise(tensor(z), t).flatten().tolist()
        e = [(v - t.alpha * d) / t.sigma for v, d in zip(z, x0, strict=True)]
        sd = s.sigma * (1 - s.alpha)
        m = [s.alpha * d + math.sqrt(s.sigma**2 - sd**2) * n for d, n in zip(x0, e, strict=True)]
        if not delayed:
            guess = [
                v + sd * n
                for v, n in zip(m, noise.normal((1, 1, 2)).flatten().tolist(), strict=True)
            ]
            again = prior.denoise(tensor(guess), s).flatten().tolist()
            e = [(v - s.alpha * d) / s.sigma for v, d in zip(guess, again, strict=True)]
        xi = noise.normal((1, 1, 2)).flatten().tolist()
        p, q = 1 / sd**2, 1 / (s.alpha * sigma_y) ** 2
        seen = (p * m[0] + q * (s.alpha * y + s.sigma * e[0])) / (p + q) + xi[0] / math.sqrt(p + q)
        z = [seen, m[1] + sd * xi[1]]
    clean = observe((True, False), y)
    obs = replace(clean, operator=replace(clean.operator, sigma=sigma_y))
    x = DING(8, delayed=delayed).draw(obs, prior, double_noise(1))
    torch.testing.assert_close(x, prior.denoise(tensor(z), levels[-1]), atol=1e-9, rtol=0)


@pytest.mark.parametrize("schedule", ["square", "default"])
@pytest.mark.parametrize("delayed", [False, True])
def test_nothing_observed_is_bridge_sampling(schedule, delayed, law):
    """The law of z_s = alpha x0 + sqrt(sigma^2 - sd^2) eps + sd xi, per eigendirection of the
    covariance."""
    prior = named_g2("flow")
    levels = prior.grid(20, "flow")[:19]

    def gain(lam, t):
        return t.alpha * lam / (t.alpha**2 * lam + t.sigma**2)

    expected = []
    for lam in (1.9, 0.1):
        var = levels[0].sigma ** 2
        for t, s in pairwise(levels):
            sd = s.sigma * (1 - s.alpha if schedule == "square" else math.sqrt(1 - s.alpha))
            k = gain(lam, t)
            var = (
                s.alpha * k + math.sqrt(s.sigma**2 - sd**2) * (1 - t.alpha * k) / t.sigma
            ) ** 2 * var + sd**2
        expected.append(gain(lam, levels[-1]) ** 2 * var)
    _, covariance = law(DING(20, schedule=schedule, delayed=delayed), prior, mask=(False, False))
    turn = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64) / math.sqrt(2)
    torch.testing.assert_close(
        turn @ covariance @ turn, torch.tensor(expected, dtype=torch.float64).diag()
    )


def test_a_measurement_without_noise_fixes_observed_pixels(observe, double_noise):
    """sigma_y = 0: z_s = alpha_s y + sigma_s e where observed, whatever the fresh noise."""
    obs, noise = observe((True, False), 0.7), double_noise(1)
    mean, y_s, fresh = (noise.normal((1, 1, 2)) for _ in range(3))
    values = obs.operator.spectrum(obs.y).values
    z = DING(sigma_floor=0.0)._product(mean, 0.25, y_s, Level(0.5, 0.5), obs, values, fresh)
    assert z[..., 0] == y_s[..., 0]
    assert z[..., 1] == mean[..., 1] + 0.25 * fresh[..., 1]


def test_the_noise_of_the_measurement_replaces_the_floor(observe, double_noise):
    clean = observe((True, False), rows=3)
    noisy = replace(clean, operator=replace(clean.operator, sigma=0.4))
    by_operator = DING(20).draw(noisy, named_g2("vp"), double_noise(3))
    by_floor = DING(20, sigma_floor=0.4).draw(clean, named_g2("vp"), double_noise(3))
    assert torch.equal(by_operator, by_floor)


def test_a_ve_prior_is_seen_in_vp_coordinates(g2, observe, double_noise):
    """Its own step deviation would be zero; a VP prior shown in VE coordinates gives back what it
    gives itself."""
    prior, obs = g2("vp"), observe((True, False), rows=3)
    native = DING(30).draw(obs, prior, double_noise(3))
    torch.testing.assert_close(
        DING(30).draw(obs, prior.view("ve"), double_noise(3)), native, atol=1e-6, rtol=0
    )
    ve = g2("ve")
    torch.testing.assert_close(
        DING(30).draw(obs, ve, double_noise(3)),
        DING(30).draw(obs, ve.view("vp"), double_noise(3)),
        atol=0,
        rtol=0,
    )


@pytest.mark.parametrize(("delayed", "steps", "calls"), [(False, 28, 53), (True, 100, 99)])
def test_network_calls(delayed, steps, calls, g2, observe, double_noise):
    prior = g2("ve")
    with prior.metered() as meter:
        DING(steps, delayed=delayed).draw(observe((True, False), rows=4), prior, double_noise(4))
    assert (meter.nfe, meter.nge) == (4 * calls, 0)


def test_a_row_does_not_depend_on_its_batch(g2, observe, seeded_noise):
    prior, solver, y = g2("ve"), DING(20), torch.linspace(-1, 1, 5)
    batch = solver.draw(observe((True, False), y, rows=5), prior, seeded_noise(range(5)))
    alone = solver.draw(observe((True, False), y[3:4]), prior, seeded_noise([3]))
    torch.testing.assert_close(batch[3:4], alone, atol=1e-6, rtol=0)


def test_a_broken_row_breaks_no_other(g2, observe, double_noise):
    y = torch.tensor([0.1, torch.nan, 0.3])
    x = DING(20).draw(observe((True, False), y, rows=3), g2("ve"), double_noise(3))
    assert x.isnan().flatten(1).any(1).tolist() == [False, True, False]


def test_clipped_predictions_stay_in_the_image_range(g2, observe, double_noise):
    prior, obs = g2("ve"), observe((False, False), rows=50)
    assert DING(20, clip=False).draw(obs, prior, double_noise(50)).abs().max() > 1
    assert DING(20, clip=True).draw(obs, prior, double_noise(50)).abs().max() <= 1


def test_condition_and_guidance_reach_the_prior(asked):
    cond, seen = asked(DING(4, guidance=2.5))
    assert len(seen) == 5
    assert all(given is cond and guidance == 2.5 for given, guidance in seen)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"skip": 0}, "skip must be at least 1 and below steps, got 0 of 50"),
        ({"steps": 2}, "skip must be at least 1 and below steps, got 2 of 2"),
        ({"sigma_floor": -0.1}, "sigma_floor must not be negative, got -0.1"),
        ({"schedule": "cube"}, "unknown schedule 'cube'; valid: square, default"),
    ],
)
def test_impossible_settings_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        DING(**setting)


def test_shipped_presets_are_complete(presets):
    assert presets("ding")["authors"].steps == 28
