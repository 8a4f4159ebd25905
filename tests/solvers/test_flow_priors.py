"""Flow-Priors, against a step by hand, moments of the released loop and counts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tests.solvers.moments import first_seen, moments

from posterior_bench.operators.inpainting import Inpainting
from posterior_bench.priors.base import Prior
from posterior_bench.priors.mixture import MixturePrior
from posterior_bench.priors.mixtures import g2
from posterior_bench.priors.process import Flow
from posterior_bench.solvers.flow_priors import FlowPriors

DOUBLE = torch.float64


@pytest.mark.parametrize(
    ("steps", "lr", "rows", "published"),
    [
        (20, 0.01, 20_000, (0.2431, 0.2401, 0.8751, 0.7671)),
        (100, 0.01, 5_000, (0.8035, 0.7344, 0.4465, 0.1776)),
        (20, 0.1, 5_000, (0.9864, 0.9409, 0.1107, 0.1301)),
    ],
)
def test_moments_of_the_released_loop(steps, lr, rows, published):
    found = moments(FlowPriors(steps, lr=lr), g2("flow"), rows)
    assert found == pytest.approx(published, abs=0.03)


class Script:
    """Noise that is given."""

    def __init__(self, *normals: list[float]):
        self.normals = [torch.tensor(v, dtype=DOUBLE).view(1, 1, 1, 2) for v in normals]

    def normal(self, shape):
        return self.normals.pop(0)

    def uniform(self, shape):
        return torch.full((1, *shape), 0.7)


def test_one_step_by_hand():
    """At time 0.5005, with lam 1e4: the gradient, the step by its signs, and the Euler step."""
    prior, obs = g2("flow"), first_seen(1)
    solver, time, dt = FlowPriors(20), 0.001 + 0.999 * 10 / 20, 1 / 20
    u = 1 - time
    level = prior.level(u / (1 - u))
    x, start = (torch.tensor(v, dtype=DOUBLE).view(1, 1, 1, 2) for v in ([0.3, -0.2], [-0.4, 0.7]))
    target = (time + dt) * obs.y + (1 - time - dt) * obs.operator.A(start)
    slope, eps = solver._slope(x, level, target, torch.ones_like(x), obs, prior)
    found = (slope + eps / level.sigma).flatten().tolist()
    assert found == pytest.approx([-1745.70, -102.07], abs=5e-3)
    moved = torch.tensor([0.31, -0.19], dtype=DOUBLE).view(1, 1, 1, 2)
    v, _ = solver._velocity(moved, level, obs, prior)
    assert (moved + dt * v).flatten().tolist() == pytest.approx([0.29140, -0.16767], abs=5e-6)


def test_two_levels_by_hand():
    """The first step has the density of the noise, the second that of the state; with lam 0 and a
    linear denoiser nothing else has a slope. The sign of each decides."""
    prior, S, one = g2("flow"), g2("flow").covariances[0], torch.eye(2, dtype=DOUBLE)
    x, dt = torch.tensor([0.3, -0.2], dtype=DOUBLE), 0.5
    for k, time in enumerate((0.001, 0.5005)):
        u = 1 - time
        K = time * S @ torch.linalg.inv(time**2 * S + u**2 * one)
        slope = x if k == 0 else (x - time * K @ x) / u**2
        x = x - 0.01 * slope.sign()
        x = x + dt * (K @ x - x) / u
    found = FlowPriors(2, lam=0.0).draw(first_seen(1), prior, Script([0.3, -0.2]))
    torch.testing.assert_close(found.flatten(), x, atol=1e-7, rtol=0)


def test_the_trace_has_the_slope_of_the_change_of_volume():
    """Two modes: the trace of dv / dx depends on x. Averaged over all signs, the slope is that of
    the trace itself, by finite differences."""
    means = torch.tensor([[-1.0, -0.5], [0.8, 1.0]], dtype=DOUBLE)
    S = 0.2 * torch.tensor([[1.0, 0.4], [0.4, 1.0]], dtype=DOUBLE).expand(2, 2, 2)
    prior = MixturePrior(Flow(), torch.tensor([0.4, 0.6]), means, S, (1, 1, 2))
    level, solver = prior.level(0.8), FlowPriors(10, lam=0.0)
    obs = first_seen(4)
    x = torch.tensor([0.2, -0.1], dtype=DOUBLE).view(1, 1, 1, 2)
    signs = torch.tensor([[1, 1], [1, -1], [-1, 1], [-1, -1]], dtype=DOUBLE).view(4, 1, 1, 2)
    slope, _ = solver._slope(x.expand(4, -1, -1, -1), level, obs.y, signs, obs, prior)

    def trace(at):
        def v(z):
            return solver._velocity(z.view(1, 1, 1, 2), level, first_seen(1), prior)[0].flatten()

        return torch.autograd.functional.jacobian(v, at).trace()

    h = 1e-5
    steps = h * torch.eye(2, dtype=DOUBLE)
    flat = x.flatten()
    expected = [(trace(flat + d) - trace(flat - d)).item() / (2 * h) / 10 for d in steps]
    assert slope.flatten(1).mean(0).tolist() == pytest.approx(expected, rel=1e-5)
    assert max(abs(e) for e in expected) > 0.01


def test_without_steps_it_is_euler(observe, double_noise):
    prior, noise, n = g2("flow"), double_noise(3), 10
    z = noise.normal((1, 1, 2))
    for k in range(n):
        u = 1 - (0.001 + 0.999 * k / n)
        z = z + (prior.denoise(z, prior.level(u / (1 - u))) - z) / u / n
    x = FlowPriors(n, lr=0.0).draw(observe((True, False), rows=3), prior, double_noise(3))
    torch.testing.assert_close(x, z)


def test_one_inner_step_moves_every_number_by_the_step_size(observe, double_noise):
    """The weight of the residual decides about signs alone: with much of it, more is no change."""
    runs = [
        FlowPriors(10, lam=lam).draw(
            observe((True, True), 0.4, rows=3), g2("flow"), double_noise(3)
        )
        for lam in (1e6, 1e7, 0.0)
    ]
    torch.testing.assert_close(runs[0], runs[1], atol=1e-9, rtol=0)
    assert (runs[0] - runs[2]).abs().max() > 0.01


def test_kept_averages_and_more_steps_come_nearer(observe, double_noise):
    obs = observe((True, True), 0.4, rows=20)
    left = [
        (solver.draw(obs, g2("flow"), double_noise(20)) - 0.4).abs().mean()
        for solver in (FlowPriors(20), FlowPriors(20, inner_steps=4))
    ]
    assert left[1] < 0.5 * left[0]
    kept = FlowPriors(20, optimiser="kept").draw(obs, g2("flow"), double_noise(20))
    fresh = FlowPriors(20).draw(obs, g2("flow"), double_noise(20))
    assert (kept - fresh).abs().max() > 0.01


def test_calls_of_a_network(unet_prior, observe, seeded_noise):
    """Per time: a call with three backward passes for every inner step (the derivative of the trace
    goes back through the call twice), and one call for the Euler step."""
    net = unet_prior()
    prior = Prior(Flow(), net.net, net.image_shape, "flow", num_classes=3, null_label=3)
    obs = first_seen(2)
    mask = torch.arange(16).lt(8).expand(2, 1, 16, 16)
    obs = replace(obs, y=torch.zeros(2, 1, 16, 16), operator=Inpainting(mask))
    with prior.metered() as meter, torch.no_grad():
        x = FlowPriors(3, inner_steps=2).draw(obs, prior, seeded_noise(range(2)))
    assert (meter.nfe, meter.nge) == (2 * 3 * 3, 2 * 3 * 2 * 3)
    assert not x.requires_grad and x.isfinite().all()


def test_a_row_does_not_depend_on_its_batch(observe, seeded_noise):
    prior, solver, y = g2("flow"), FlowPriors(10), torch.linspace(-1, 1, 5)
    batch = solver.draw(observe((True, False), y, rows=5), prior, seeded_noise(range(5)))
    alone = solver.draw(observe((True, False), y[3:4]), prior, seeded_noise([3]))
    torch.testing.assert_close(batch[3:4], alone, atol=1e-9, rtol=0)


def test_a_broken_row_breaks_no_other(observe, seeded_noise):
    y, good = torch.tensor([0.1, torch.nan, 0.3]), torch.tensor([0.1, 0.2, 0.3])
    x, clean = (
        FlowPriors(10).draw(
            observe((True, False), value, rows=3), g2("flow"), seeded_noise(range(3))
        )
        for value in (y, good)
    )
    assert x.isnan().flatten(1).any(1).tolist() == [False, True, False]
    assert torch.equal(x[[0, 2]], clean[[0, 2]])


def test_the_noise_is_not_written_to(observe):
    start = torch.tensor([0.3, -0.2], dtype=DOUBLE).view(1, 1, 1, 2)
    script = Script([0.0, 0.0])
    script.normals = [start]
    FlowPriors(2).draw(observe((True, False)), g2("flow"), script)
    assert start.flatten().tolist() == [0.3, -0.2]


@pytest.mark.parametrize("kind", ["vp", "ve"])
def test_other_coordinates_are_refused(kind, observe, double_noise):
    needs = FlowPriors.needs
    assert needs - g2(kind).caps == {"flow"}
    assert needs <= g2("flow").caps
    with pytest.raises(ValueError, match=f"those of {kind}; choose a flow prior"):
        FlowPriors(2).draw(observe((True, False)), g2(kind), double_noise(1))


def test_condition_and_guidance_reach_the_prior(observe, double_noise, monkeypatch):
    prior, seen = g2("flow"), []
    denoise = prior.denoise

    def spy(z, level, cond=None, guidance=1.0):
        seen.append((cond, guidance))
        return denoise(z, level)

    monkeypatch.setattr(prior, "denoise", spy)
    obs = replace(observe((True, False)), cond="a condition")
    FlowPriors(3, guidance=2.5).draw(obs, prior, double_noise(1))
    assert seen == [("a condition", 2.5)] * 6


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("optimiser", "odd", "unknown optimiser 'odd'; valid: fresh, kept"),
        ("steps", 0, "steps must be at least 1, got 0"),
        ("inner_steps", 0, "inner_steps must be at least 1, got 0"),
        ("lam", -1.0, "lam must be 0 or more, got -1.0"),
        ("lr", -1.0, "lr must be 0 or more, got -1.0"),
    ],
)
def test_bad_settings_are_refused(setting, value, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        replace(FlowPriors(), **{setting: value})


def test_shipped_presets(presets):
    shipped = presets("flow_priors")
    del shipped["fast"]
    assert shipped == {
        "authors": FlowPriors(100, 1e4, 0.01),
        "authors_sr": FlowPriors(100, 1e4, 0.1),
        "authors_deblur": FlowPriors(100, 1e3, 0.01),
        "authors_denoise": FlowPriors(100, 1e2, 0.01),
    }
