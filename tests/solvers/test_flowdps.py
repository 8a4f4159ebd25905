"""FlowDPS, against a run of the released loop on two pixels, closed forms and counts by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from tests.solvers.moments import OneGenerator, first_seen, moments

from posterior_bench.operators.super_resolution import SuperResolution
from posterior_bench.priors.mixtures import g2
from posterior_bench.solvers.base import Observation
from posterior_bench.solvers.flowdps import FlowDPS, shifted_grid

ROWS = 20_000


@pytest.mark.parametrize("kind", ["flow", "vp", "ve"])
@pytest.mark.parametrize(
    ("steps", "step", "published"),
    [
        (20, 0.1, (0.4278, 0.2813, 0.6733, 0.5769)),
        (20, 0.3, (0.8233, 0.5987, 0.3595, 0.3584)),
        (20, 0.0, (0.004, 0.004, 0.8216, 0.6759)),
        (28, 0.1, (0.4692, 0.3238, 0.6595, 0.5704)),
    ],
)
def test_moments_of_the_released_loop(kind, steps, step, published):
    """Their own error over 200 000 runs is 0.002; ours is 0.006."""
    found = moments(FlowDPS(steps, step, grid="shifted"), g2(kind), ROWS)
    assert found == pytest.approx(published, abs=0.02)


def test_the_released_grid():
    levels = shifted_grid(g2("flow"), 28)
    first, last = levels[:4], levels[-5:]
    assert [level.sigma for level in first] == pytest.approx([1, 0.9905, 0.9805, 0.9698], abs=5e-5)
    expected = [0.3393, 0.2498, 0.1426, 0.0119, 0]
    assert [level.sigma for level in last] == pytest.approx(expected, abs=5e-5)
    assert len(levels) == 29


def test_the_grid_of_the_loop_is_the_one_that_was_asked_for(observe, double_noise, monkeypatch):
    prior, seen = g2("flow"), []
    denoise = prior.denoise
    monkeypatch.setattr(
        prior, "denoise", lambda z, t, *more: seen.append(t.sigma) or denoise(z, t, *more)
    )
    for grid in ("shifted", "uniform_time"):
        FlowDPS(4, 0.1, grid=grid).draw(observe((True, False)), prior, double_noise(1))
    expected = [level.sigma for level in shifted_grid(prior, 4)[:-1]]
    assert seen == pytest.approx([*expected, 1, 0.75, 0.5, 0.25])


def test_a_single_step_in_closed_form(latent_g2, double_noise):
    """One level below the top: x0 = K z, two unit steps back through the decoder, all of the noise
    that is left comes from the prediction."""
    matrix = torch.tensor([[1.2, 0.3], [-0.4, 0.8]], dtype=torch.float64)
    prior, one = latent_g2("ve", matrix), torch.eye(2, dtype=torch.float64)
    t, s = prior.level(3.0), prior.level(1.0)
    prior.grid = lambda *_: [t, s]
    S = prior.covariances[0]
    K = S @ torch.linalg.inv(S + 9 * one)
    noise = double_noise(5)
    z, xi = (noise.normal((2,)) for _ in range(2))
    z = 3 * z
    x0 = c = z @ K
    for _ in range(2):
        r = 1 - (c @ matrix.T)[:, :1]
        c = c + 0.7 * r.sign() * matrix[:1]
    mixed = 0.25 * x0 + 0.75 * c
    eps = math.sqrt(0.5) * (z - x0) / 3 + math.sqrt(0.5) * xi
    expected = (mixed + eps) @ matrix.T
    solver = FlowDPS(1, 0.7, data_steps=2)
    x = solver.draw(first_seen(5), prior, double_noise(5)).flatten(1)
    torch.testing.assert_close(x, expected)
    full = replace(solver, mix="full").draw(first_seen(5), prior, double_noise(5)).flatten(1)
    torch.testing.assert_close(full, (c + eps) @ matrix.T)


def test_without_steps_it_samples_the_prior_with_less_spread(double_noise):
    """The recursion of the covariance: both parts of a step are linear in the state."""
    prior, steps = g2("flow"), 20
    S, one = prior.covariances[0], torch.eye(2, dtype=torch.float64)
    levels = shifted_grid(prior, steps)
    C = one
    for t, s in pairwise(levels):
        K = t.alpha * S @ torch.linalg.inv(t.alpha**2 * S + t.sigma**2 * one)
        M = s.alpha * K + s.sigma * math.sqrt(s.sigma) * (one - t.alpha * K) / t.sigma
        C = M @ C @ M.T + s.sigma**2 * (1 - s.sigma) * one
    x = FlowDPS(steps, 0.0, grid="shifted").draw(first_seen(ROWS), prior, OneGenerator(ROWS))
    torch.testing.assert_close(x.flatten(1).T.cov(), C, atol=0.02, rtol=0)
    assert C[1, 1] < 0.7


@pytest.mark.parametrize("residual", ["pinv", "adjoint"])
def test_the_norm_of_the_released_code_is_taken_of_an_image(residual, unet_prior, seeded_noise):
    """By super-resolution the pseudo-inverse repeats what the adjoint spreads: the same direction
    for one measured value, another one for many."""
    prior, operator = unet_prior(latent=True), SuperResolution((1, 16, 16), 4)
    y = operator.A(torch.linspace(-1, 1, 2 * 256).view(2, 1, 16, 16))
    solvers = [FlowDPS(2, 0.3, residual=name) for name in ("plain", residual)]
    plain, other = (
        solver.draw(Observation(y, operator), prior, seeded_noise(range(2))) for solver in solvers
    )
    assert (plain - other).abs().max() > 1e-5


def test_for_a_mask_all_residuals_are_one(observe, double_noise):
    obs, prior = observe((True, False), torch.linspace(-1, 1, 4), rows=4), g2("flow")
    plain, *others = (
        FlowDPS(8, 0.1, residual=name).draw(obs, prior, double_noise(4))
        for name in ("plain", "pinv", "adjoint")
    )
    assert all(torch.equal(other, plain) for other in others)


def test_what_a_residual_needs():
    has = frozenset({"grad", "linear"})
    lacking = {
        name: FlowDPS(residual=name).lacks(has, 0.0) for name in ("plain", "pinv", "adjoint")
    }
    assert lacking == {"plain": frozenset(), "pinv": {"pinv"}, "adjoint": frozenset()}
    assert FlowDPS(residual="adjoint").lacks(frozenset({"grad"}), 0.0) == {"linear"}


def test_calls_through_a_decoder(latent_g2, observe, double_noise):
    prior = latent_g2("vp", torch.tensor([[1.2, 0.3], [-0.4, 0.8]]))
    with prior.metered() as meter, torch.no_grad():
        x = FlowDPS(20, 0.1).draw(observe((True, False), rows=3), prior, double_noise(3))
    expected = {"nfe": 3 * 20, "nge": 0, "decode": 3 * (3 * 20 + 1), "decode_grad": 3 * 3 * 20}
    assert meter.counts() == {**expected, "encode": 0, "encode_grad": 0}
    assert not x.requires_grad


def test_a_row_does_not_depend_on_its_batch(observe, seeded_noise):
    prior, solver, y = g2("flow"), FlowDPS(10, 0.1), torch.linspace(-1, 1, 5)
    batch = solver.draw(observe((True, False), y, rows=5), prior, seeded_noise(range(5)))
    alone = solver.draw(observe((True, False), y[3:4]), prior, seeded_noise([3]))
    torch.testing.assert_close(batch[3:4], alone, atol=1e-9, rtol=0)


def test_a_broken_row_breaks_no_other(observe, seeded_noise):
    y, good = torch.tensor([0.1, torch.nan, 0.3]), torch.tensor([0.1, 0.2, 0.3])
    x, clean = (
        FlowDPS(10, 0.1).draw(
            observe((True, False), value, rows=3), g2("flow"), seeded_noise(range(3))
        )
        for value in (y, good)
    )
    assert x.isnan().flatten(1).any(1).tolist() == [False, True, False]
    assert torch.equal(x[[0, 2]], clean[[0, 2]])


def test_condition_and_guidance_reach_the_prior(asked):
    cond, seen = asked(FlowDPS(3, 0.1, guidance=2.5))
    assert len(seen) == 3
    assert all(given is cond and guidance == 2.5 for given, guidance in seen)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("residual", "odd", "unknown residual 'odd'; valid: plain, pinv, adjoint"),
        ("mix", "odd", "unknown mix 'odd'; valid: time, full"),
        ("step", -1.0, "step must be 0 or more, got -1.0"),
        ("data_steps", -1, "data_steps must be 0 or more, got -1"),
    ],
)
def test_bad_settings_are_refused(setting, value, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        replace(FlowDPS(), **{setting: value})


def test_shipped_presets(presets):
    shipped = presets("flowdps")
    assert shipped["authors"] == FlowDPS(28, 15.0, 3, guidance=2.0, grid="shifted")
    assert shipped["authors_sr"] == replace(shipped["authors"], residual="pinv")
    assert shipped["authors_deblur"] == replace(shipped["authors"], residual="adjoint")
    assert shipped["authors_unguided"] == FlowDPS(grid="shifted")
