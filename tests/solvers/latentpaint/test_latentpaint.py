"""LatentPaint: what it reduces to where the mask says all or nothing, its policies and its
costs."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from posterior_bench.operators.inpainting import Inpainting
from posterior_bench.priors.base import BudgetExceeded
from posterior_bench.solvers.base import Observation
from posterior_bench.solvers.blended import Blended
from posterior_bench.solvers.latentpaint import LatentPaint
from posterior_bench.solvers.latentpaint.propagation import (
    propagation_channels,
    propagation_modules,
)


def observation(prior, rows: int, mask: torch.Tensor | None = None) -> Observation:
    """Random images, the left half observed or what ``mask`` says."""
    if mask is None:
        mask = (torch.arange(16) < 8).expand(16, 16)
    operator = Inpainting(mask.expand(rows, 1, 16, 16))
    x = torch.rand(rows, 1, 16, 16, generator=torch.Generator().manual_seed(3)) * 2 - 1
    return Observation(operator.A(x), operator, prior.condition(torch.arange(rows) % 3))


def modules(prior, scale: float):
    """Propagation modules whose last layer is ``scale`` times random."""
    found = propagation_modules(propagation_channels(prior))
    for module in found.values():
        weight = module.phi[-1].weight
        weight.data = scale * torch.randn(weight.shape, generator=torch.Generator().manual_seed(4))
    return dict(found.requires_grad_(False).items())


@pytest.mark.parametrize("policy", ["every_step", "every_k"])
@pytest.mark.parametrize("observed", [False, True])
def test_all_or_nothing_observed_is_blended_sampling(policy, observed, unet_prior, seeded_noise):
    """The features mixed in are then those of the state itself, or none at all."""
    prior = unet_prior()
    obs = observation(prior, 2, torch.tensor(observed))
    x = LatentPaint(6, policy, every=1).draw(obs, prior, seeded_noise(range(2)))
    expected = Blended(6, clip=True).draw(obs, prior, seeded_noise(range(2)))
    torch.testing.assert_close(x, expected, atol=1e-4, rtol=1e-4)


def test_features_change_what_is_drawn_in_the_hole(unet_prior, seeded_noise):
    prior = unet_prior()
    obs = observation(prior, 2)
    x = LatentPaint(6).draw(obs, prior, seeded_noise(range(2)))
    blended = Blended(6, clip=True).draw(obs, prior, seeded_noise(range(2)))
    assert (x - blended)[..., 8:].abs().max() > 1e-3


def test_every_single_step_is_every_step_and_one_step_is_once(unet_prior, seeded_noise):
    prior = unet_prior()
    obs = observation(prior, 2)

    def draw(*settings, **more):
        return LatentPaint(*settings, **more).draw(obs, prior, seeded_noise(range(2)))

    torch.testing.assert_close(
        draw(5, "every_k", every=1), draw(5, "every_step"), atol=1e-4, rtol=1e-4
    )
    torch.testing.assert_close(draw(1, "once"), draw(1, "every_step"), atol=1e-4, rtol=1e-4)
    assert torch.equal(draw(5, "every_k", every=5), draw(5, "once"))
    assert (draw(5, "every_k", every=2) - draw(5, "once")).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("policy", "calls"), [("every_step", 500), ("every_k", 275), ("once", 251)]
)
def test_network_calls_of_250_steps(policy, calls, unet_prior, seeded_noise, monkeypatch):
    prior = unet_prior()
    monkeypatch.setattr(prior.net, "forward", lambda x, t, cond: torch.zeros_like(x))
    monkeypatch.setattr("posterior_bench.solvers.latentpaint.hooks.feature_sites", lambda prior: {})
    with prior.metered() as meter:
        LatentPaint(250, policy).draw(observation(prior, 1), prior, seeded_noise([0]))
    assert (meter.nfe, meter.nge) == (calls, 0)


@pytest.mark.parametrize("policy", ["every_step", "once"])
def test_guidance_counts_twice(policy, unet_prior, seeded_noise):
    prior = unet_prior()
    with prior.metered() as meter:
        x = LatentPaint(3, policy, guidance=2.0).draw(
            observation(prior, 2), prior, seeded_noise(range(2))
        )
    assert meter.nfe == 2 * 2 * (6 if policy == "every_step" else 4)
    assert x.isfinite().all()


def test_a_row_does_not_depend_on_its_batch(unet_prior, seeded_noise):
    prior = unet_prior()
    obs = observation(prior, 3)
    batch = LatentPaint(4).draw(obs, prior, seeded_noise(range(3)))
    alone = replace(
        obs,
        y=obs.y[1:2],
        operator=Inpainting(obs.operator.mask[1:2]),
        cond=obs.cond.map(lambda v: v[1:2]),
    )
    one = LatentPaint(4).draw(alone, prior, seeded_noise([1]))
    torch.testing.assert_close(batch[1:2], one, atol=1e-4, rtol=1e-4)


def test_untrained_modules_change_nothing_and_others_do(unet_prior, seeded_noise):
    prior = unet_prior()
    obs, solver = observation(prior, 2), LatentPaint(4, modules="somewhere")
    free = LatentPaint(4).draw(obs, prior, seeded_noise(range(2)))
    untrained, trained = (
        solver.draw(replace(obs, modules=modules(prior, scale)), prior, seeded_noise(range(2)))
        for scale in (0.0, 1.0)
    )
    assert torch.equal(untrained, free)
    assert (trained - free)[..., 8:].abs().max() > 1e-3


def test_modules_are_never_left_out_silently(unet_prior, seeded_noise):
    prior = unet_prior()
    with pytest.raises(ValueError, match="the setting 'modules' and the modules of"):
        LatentPaint(2, modules="somewhere").draw(observation(prior, 1), prior, seeded_noise([0]))


@pytest.mark.parametrize("policy", ["every_step", "once"])
def test_a_latent_prior(policy, unet_prior, seeded_noise):
    prior = unet_prior(latent=True)
    with prior.metered() as meter:
        x = LatentPaint(5, policy).draw(observation(prior, 2), prior, seeded_noise(range(2)))
    assert x.shape == (2, 1, 16, 16) and x.isfinite().all()
    assert (meter.encode, meter.decode) == (2, 2)


def test_no_hook_outlives_a_draw_that_runs_out_of_budget(unet_prior, seeded_noise):
    prior = unet_prior()
    with pytest.raises(BudgetExceeded), prior.metered(limit=3):
        LatentPaint(10).draw(observation(prior, 1), prior, seeded_noise([0]))
    assert not any(module._forward_hooks for module in prior.net.modules())


def test_wrong_settings_are_refused():
    with pytest.raises(
        ValueError, match="unknown features 'odd'; valid: every_step, every_k, once"
    ):
        LatentPaint(features="odd")
    with pytest.raises(ValueError, match="every must be at least 1, got 0"):
        LatentPaint(every=0)


def test_shipped_presets_are_complete(presets):
    trained, free = presets("latentpaint"), presets("latentpaint_free")
    assert free["authors"] == LatentPaint()
    assert free.keys() - trained.keys() == {"fast_faces"}  # no modules are trained for the faces
    assert all(
        replace(trained[name], modules=None) == free[name] for name in free if name in trained
    )
    assert all(solver.modules for solver in trained.values())
