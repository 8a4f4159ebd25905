"""FlowChef, against the exact law of its run on a Gaussian prior and against its limits."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from posterior_bench.operators.inpainting import Inpainting
from posterior_bench.priors.mixtures import g2 as named_g2
from posterior_bench.solvers.base import Observation
from posterior_bench.solvers.flowchef import FlowChef

# settings, then mean1, mean2, sd1, var2 and cov12 of the released loop, carried as an affine map
GOLDEN = [
    (FlowChef(20, 0.08138), [0.8977, 0.4588, 0.3079, 0.5120, 0.1682]),
    (FlowChef(100, 0.08138), [1.0367, 0.8836, 0.0288, 0.2394, -0.0140]),
    (FlowChef(20, 0.5), [1.0190, 0.9098, 0.0232, 0.1950]),
    (FlowChef(20, 1.0), [1.0026, 0.9186, 0.0055, 0.1720]),
]


@pytest.mark.parametrize(("solver", "golden"), GOLDEN)
@pytest.mark.parametrize("kind", ["flow", "vp", "ve"])
def test_law_on_two_pixels(solver, golden, kind, law):
    mean, covariance = law(solver, named_g2(kind))
    found = [
        *(mean[0].item(), mean[1].item(), covariance[0, 0].sqrt().item()),
        *(covariance[1, 1].item(), covariance[0, 1].item()),
    ]
    # in other coordinates the noisiest level is at a ratio of 157 or 80, not at pure noise
    assert found[: len(golden)] == pytest.approx(golden, abs=1e-3 if kind == "flow" else 3e-3)


def test_without_a_step_it_is_ddim_and_the_euler_method(observe, double_noise):
    prior, noise = named_g2("flow"), double_noise(4)
    levels = prior.grid(15, "uniform_time")
    euler = ddim = levels[0].sigma * noise.normal((1, 1, 2))
    for t, s in pairwise(levels):
        velocity = (euler - prior.denoise(euler, t)) / t.sigma
        euler = euler + (s.sigma - t.sigma) * velocity
        x0 = prior.denoise(ddim, t)
        ddim = s.alpha * x0 + s.sigma * (ddim - t.alpha * x0) / t.sigma
    x = FlowChef(15, 0.0).draw(observe((True, False), rows=4), prior, double_noise(4))
    torch.testing.assert_close(x, euler, atol=1e-9, rtol=0)
    torch.testing.assert_close(x, ddim, atol=1e-9, rtol=0)


def test_two_steps_by_hand(observe, double_noise):
    """From u = 1 to 1/2 with a pull, and on to 0 without one."""
    prior, obs = named_g2("flow"), observe((True, False), 0.7, rows=3)
    noise = double_noise(3).normal((1, 1, 2))
    moved = 0.5 * noise + 0.2 * torch.tensor([0.7, 0.0]).double()  # the prediction at u = 1 is 0
    half = prior.level(1.0)
    expected = prior.denoise(moved, half)
    x = FlowChef(2, 0.2).draw(obs, prior, double_noise(3))
    torch.testing.assert_close(x, expected, atol=1e-8, rtol=0)


@pytest.mark.parametrize("latent", [False, True])
def test_calls(latent, unet_prior, seeded_noise):
    """A step goes through the decoder, and never through the network."""
    prior, mask = unet_prior(latent), torch.ones(2, 1, 16, 16, dtype=torch.bool)
    obs = Observation(torch.zeros(2, 1, 16, 16), Inpainting(mask))
    with prior.metered() as meter, torch.no_grad():
        x = FlowChef(5).draw(obs, prior, seeded_noise(range(2)))
    decoded = {"decode": 2 * 5, "decode_grad": 2 * 4} if latent else {}
    assert meter.counts() == dict.fromkeys(meter.counts(), 0) | {"nfe": 2 * 5} | decoded
    assert not x.requires_grad


def test_on_latents_a_step_is_that_of_the_decoded_image(latent_g2, observe, double_noise):
    """A decoder that doubles has twice the residual's gradient."""
    prior, obs = latent_g2("ve", 2 * torch.eye(2)), observe((True, True), 0.7, rows=3)
    levels, noise = prior.grid(2, "uniform_time"), double_noise(3)
    z = levels[0].sigma * noise.normal((1, 1, 2))
    x0 = prior.denoise(z, levels[0])
    z = prior.process.bridge(z, x0, levels[0], levels[1], 0.0, None)
    z = z + 0.1 * (1 + levels[1].sigma) * 2 * (0.7 - 2 * x0)
    expected = 2 * prior.denoise(z, levels[1])
    x = FlowChef(2, 0.1).draw(obs, prior, double_noise(3))
    torch.testing.assert_close(x, expected, atol=1e-9, rtol=0)


def test_a_row_does_not_depend_on_its_batch(observe, seeded_noise):
    prior, solver, y = named_g2("flow"), FlowChef(20), torch.linspace(-1, 1, 8)
    batch = solver.draw(observe((True, False), y, rows=8), prior, seeded_noise(range(8)))
    for i in (0, 5):
        alone = solver.draw(observe((True, False), y[i : i + 1]), prior, seeded_noise([i]))
        torch.testing.assert_close(batch[i : i + 1], alone, atol=1e-6, rtol=0)


def test_a_broken_row_breaks_no_other(observe, double_noise):
    y = torch.tensor([0.1, torch.nan, 0.3])
    x = FlowChef(20).draw(observe((True, False), y, rows=3), named_g2("ve"), double_noise(3))
    assert x.isnan().flatten(1).any(1).tolist() == [False, True, False]


def test_condition_and_guidance_reach_the_prior(asked):
    cond, seen = asked(FlowChef(3, guidance=2.5))
    assert len(seen) == 3
    assert all(given is cond and guidance == 2.5 for given, guidance in seen)


def test_a_negative_step_is_refused():
    with pytest.raises(ValueError, match=r"coef must be 0 or more, got -0\.1"):
        FlowChef(coef=-0.1)


def test_shipped_presets(presets):
    """The released step is 500 times the gradient of a mean over 64 x 64 colours."""
    authors = presets("flowchef")["authors"]
    assert authors.coef == pytest.approx(2 * 500 / (64 * 64 * 3), abs=1e-4)
    assert authors.steps == 100
