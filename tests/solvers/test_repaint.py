"""RePaint, against its exact law on a Gaussian prior and the published call counts."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from posterior_bench.solvers.blended import Blended
from posterior_bench.solvers.repaint import RePaint

# mean and variance of the hidden pixel (truth: 0.9, 0.19): exact propagation of the affine map
GOLDEN = {
    ("vp", 10, 2): (0.7606, 0.2293),
    ("ve", 10, 2): (0.7583, 0.2355),
    ("vp", 10, 5): (0.8504, 0.1894),
    ("ve", 10, 5): (0.8501, 0.1996),
    ("vp", 10, 10): (0.8751, 0.1765),
    ("ve", 10, 10): (0.8768, 0.1889),
}
GOLDEN_MEANS = {
    ("vp", 1, 10): 0.8786,
    ("vp", 5, 10): 0.8777,
    ("vp", 20, 10): 0.8649,
    ("ve", 1, 10): 0.8792,
    ("ve", 5, 10): 0.8787,
    ("ve", 20, 10): 0.8691,
}


LONG = {("vp", 10, 10), ("ve", 10, 10)}
CASES = [pytest.param(*case, marks=[pytest.mark.slow] * (case in LONG)) for case in GOLDEN]


@pytest.mark.parametrize(("kind", "jump_length", "resamples"), CASES)
def test_law_on_a_gaussian(kind, jump_length, resamples, g2, law):
    mean, covariance = law(RePaint(250, jump_length, resamples, clip=False), g2(kind))
    hidden_mean, hidden_var = GOLDEN[kind, jump_length, resamples]
    assert mean[1].item() == pytest.approx(hidden_mean, abs=1e-4)
    assert covariance[1, 1].item() == pytest.approx(hidden_var, abs=1e-4)
    # the raw output is not pasted: observed pixels keep the noise of the cleanest level
    assert covariance[0, 0].sqrt().item() == pytest.approx(
        {"vp": 0.0100, "ve": 0.0020}[kind], abs=1e-4
    )


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "jump_length", "resamples"), GOLDEN_MEANS)
def test_mean_for_other_jump_lengths(kind, jump_length, resamples, g2, law):
    mean, _ = law(RePaint(250, jump_length, resamples, clip=False), g2(kind))
    assert mean[1].item() == pytest.approx(GOLDEN_MEANS[kind, jump_length, resamples], abs=1e-4)


@pytest.mark.slow
def test_law_of_the_256_level_variant(g2, law):
    mean, covariance = law(RePaint(256, 10, 10, clip=False), g2("ve"))
    assert (mean[1].item(), covariance[1, 1].item()) == pytest.approx((0.8770, 0.1891), abs=1e-4)


@pytest.mark.parametrize("kind", ["vp", "ve"])
def test_one_resample_is_blended(kind, g2, law):
    prior, blended, repaint = g2(kind), Blended(100), RePaint(100, 10, 1, clip=False)
    for y in (0.0, 1.0):
        (mean, covariance), (expected_mean, expected_covariance) = (
            law(repaint, prior, y=y),
            law(blended, prior, y=y),
        )
        torch.testing.assert_close(covariance, expected_covariance, atol=1e-9, rtol=0)
        # Blended also replaces at the very first level, where y enters with the small weight
        # alpha_T
        torch.testing.assert_close(mean, expected_mean, atol=1e-9 if y == 0 else 1e-5, rtol=0)


def test_the_first_step_does_not_blend(g2, observe, double_noise):
    prior = g2("ve")
    low, high = (observe((True, False), y, rows=2) for y in (-1.0, 1.0))
    assert torch.equal(
        RePaint(1, 1, 1).draw(low, prior, double_noise(2)),
        RePaint(1, 1, 1).draw(high, prior, double_noise(2)),
    )
    assert not torch.equal(
        RePaint(2, 1, 1).draw(low, prior, double_noise(2)),
        RePaint(2, 1, 1).draw(high, prior, double_noise(2)),
    )


@pytest.mark.parametrize("kind", ["vp", "ve"])
def test_one_jump_has_the_law_of_its_single_steps(kind, g2):
    process, levels = g2(kind).process, g2(kind).grid(250)
    up = levels[219::-1][:11]  # ten single steps from position 219 up to 209
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    gain, variance = 1.0, 0.0
    for s, t in pairwise(up):
        a, v = process.renoise(one, s, t, zero).item(), process.renoise(zero, s, t, one).item() ** 2
        gain, variance = a * gain, a**2 * variance + v
    assert process.renoise(one, up[0], up[-1], zero).item() == pytest.approx(gain, rel=1e-9)
    assert process.renoise(zero, up[0], up[-1], one).item() ** 2 == pytest.approx(
        variance, rel=1e-9
    )


@pytest.mark.parametrize(("steps", "calls"), [(250, 2410), (256, 2506)])
def test_published_settings_cost_what_the_schedule_says(steps, calls, g2, observe, double_noise):
    prior = g2("ve")
    with prior.metered() as meter:
        RePaint(steps, 10, 10).draw(observe((True, False)), prior, double_noise(1))
    assert (meter.nfe, meter.nge) == (calls, 0)


def test_coordinates_do_not_matter(g2, observe, double_noise):
    prior, obs, solver = g2("vp"), observe((True, False), rows=3), RePaint(40, 5, 3, grid="karras")
    native = solver.draw(obs, prior, double_noise(3))
    torch.testing.assert_close(
        solver.draw(obs, prior.view("ve"), double_noise(3)), native, atol=1e-6, rtol=0
    )


def test_everything_observed_gives_the_observation_back(g2, observe, double_noise):
    prior, obs = g2("ve"), observe((True, True), 0.7, rows=4)
    x = RePaint(50, 5, 2).draw(obs, prior, double_noise(4))
    torch.testing.assert_close(x, obs.y, atol=5 * 0.002, rtol=0)
    assert torch.equal(obs.operator.paste(x, obs.y), obs.y)


def test_nothing_observed_ignores_y_and_keeps_the_prior(g2, law):
    mean, covariance = law(RePaint(100, 5, 3, clip=False), g2("ve"), mask=(False, False))
    assert not mean.any()
    # the correlation is the prior's; the variance falls short by discretisation only
    assert (covariance[0, 1] / covariance[0, 0]).item() == pytest.approx(0.9, abs=0.01)
    assert 0.85 < covariance[1, 1].item() < 1


def test_a_row_does_not_depend_on_its_batch(g2, observe, seeded_noise):
    prior, solver, y = g2("ve"), RePaint(20, 5, 2), torch.linspace(-1, 1, 5)
    batch = solver.draw(observe((True, False), y, rows=5), prior, seeded_noise(range(5)))
    alone = solver.draw(observe((True, False), y[3:4]), prior, seeded_noise([3]))
    torch.testing.assert_close(batch[3:4], alone, atol=1e-6, rtol=0)


def test_a_broken_row_breaks_no_other(g2, observe, double_noise):
    prior, y = g2("ve"), torch.tensor([0.1, torch.nan, 0.3])
    x = RePaint(20, 5, 2).draw(observe((True, False), y, rows=3), prior, double_noise(3))
    assert x.isnan().flatten(1).any(1).tolist() == [False, True, False]


def test_clipped_predictions_stay_in_the_image_range(g2, observe, double_noise):
    prior, obs = g2("ve"), observe((False, False), rows=50)
    assert RePaint(20, 5, 2, clip=False).draw(obs, prior, double_noise(50)).abs().max() > 1
    assert RePaint(20, 5, 2).draw(obs, prior, double_noise(50)).abs().max() <= 1


def test_condition_and_guidance_reach_the_prior(asked):
    cond, seen = asked(RePaint(3, 1, 1, guidance=2.5))
    assert len(seen) == 3
    assert all(given is cond and guidance == 2.5 for given, guidance in seen)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"resamples": 0}, "resamples must be at least 1, got 0"),
        ({"compat": "authors"}, "unknown compat 'authors'; valid: none, released"),
    ],
)
def test_impossible_settings_are_refused_when_built(setting, message):
    with pytest.raises(ValueError, match=message):
        RePaint(**setting)


@pytest.mark.parametrize(("steps", "jump_length", "draws"), [(3, 1, 12), (5, 2, 20)])
def test_every_step_but_the_very_first_blends(steps, jump_length, draws, g2, observe):
    """Counts by hand. Of 3 steps with jumps of 1: down 0-1, up, down 0-1-2, up, down 1-2-3. These
    are 5 steps and 2 jumps. A step draws twice, the first one once, a jump once, and so does the
    start."""
    asked = []

    class Counted:
        def normal(self, shape):
            asked.append(shape)
            return torch.zeros(1, *shape, dtype=torch.float64)

    RePaint(steps, jump_length, 2).draw(observe((True, False)), g2("ve"), Counted())
    assert len(asked) == draws


def test_shipped_presets_are_complete(presets):
    built = presets("repaint")
    assert built["authors"] == RePaint()
    assert built["vipaint_paper"].steps == 256
