"""VIPaint in latent spaces: against itself in pixels through isometries, a Gaussian likelihood, and
hand counts."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from posterior_bench.operators.inpainting import Inpainting
from posterior_bench.priors.base import Prior
from posterior_bench.priors.latents import VQ
from posterior_bench.priors.mixture import MixturePrior
from posterior_bench.priors.process import VP
from posterior_bench.solvers.base import Observation
from posterior_bench.solvers.vipaint import VIPaint

QUARTER = torch.tensor(
    [[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64
)  # swaps the pixels and one sign
TURN = torch.tensor(
    [[math.cos(0.7), -math.sin(0.7)], [math.sin(0.7), math.cos(0.7)]], dtype=torch.float64
)
Y = torch.linspace(-1, 1, 3, dtype=torch.float64)


def square(a: Tensor, b: Tensor) -> Tensor:
    """A perceptual distance whose gradient is known."""
    return (a - b).square().flatten(1).sum(1)


def small(**more: object) -> VIPaint:
    common = {
        "iterations": 6,
        "monte_carlo": 2,
        "prior_levels": 10,
        "refine_steps": 8,
        "refine_scale": 0.1,
    }
    return VIPaint(keypoints=(5.0, 2.0), **{**common, "scale": 0.3, **more})  # type: ignore[arg-type]


PERCEPTUAL = {"perceptual": "stlpips", "refine_term": "nll", "perceptual_weight": 0.7}


# -- isometries ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["vp", "ve"])
@pytest.mark.parametrize(
    "more", [{}, {"refine_order": "before"}, PERCEPTUAL], ids=["norm", "before", "perceptual"]
)
def test_a_swap_of_pixels_changes_nothing(kind, more, isometry, observe):
    """Fit and refinement in the latent space equal those in pixels: a posterior of independent
    numbers survives."""
    obs = replace(observe((True, False), Y, rows=3), perceptual=square)
    latent, pixel = (
        small(**more).fit(obs, prior, noise).sample([0, 1])
        for prior, noise in isometry(kind, QUARTER, 3)
    )
    torch.testing.assert_close(latent.x, pixel.x, rtol=0, atol=1e-9)
    torch.testing.assert_close(latent.trace["loss"], pixel.trace["loss"], rtol=1e-9, atol=0)


@pytest.mark.parametrize("kind", ["vp", "ve"])
def test_a_rotation_keeps_the_loss_its_slope_and_the_refinement(kind, isometry, observe):
    """Before it is fitted the posterior is isotropic, and so in every coordinate system the
    same."""
    obs, solver = observe((True, False), Y, rows=3), small(iterations=0)
    slopes, losses, samples = [], [], []
    for prior, noise in isometry(kind, TURN, 3):
        samples.append(solver.fit(obs, prior, noise).sample([0, 1]).x)
        chain = solver._start(obs, prior, noise)
        losses.append(solver._loss(chain, obs.repeat(2), prior, noise)[0])
        slopes.append(torch.autograd.grad(losses[-1].sum(), chain.mu)[0])
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-9, atol=0)
    torch.testing.assert_close(slopes[0] @ TURN.T, slopes[1], rtol=0, atol=1e-9)
    torch.testing.assert_close(samples[0], samples[1], rtol=0, atol=1e-9)


# -- the perceptual distance -----------------------------------------------------------------------


def test_a_square_distance_is_a_gaussian_likelihood(latent_g2, observe, seeded_noise):
    """``w n |r|^2`` beside ``|r|^2 / (2 s^2)``, with n = 2 scalars in y: a smaller s, for fit and
    refinement."""
    obs, prior = observe((True, False), Y, rows=3), latent_g2("vp", TURN)
    weight, s = 0.4, 0.5
    common = {"likelihood": "gaussian", "refine_term": "nll"}
    both = small(scale=s, perceptual="stlpips", perceptual_weight=weight, **common)
    alone = small(scale=(1 / s**2 + 4 * weight) ** -0.5, **common)
    given = both.fit(replace(obs, perceptual=square), prior, seeded_noise(range(3))).sample([0, 1])
    expected = alone.fit(obs, prior, seeded_noise(range(3))).sample([0, 1])
    torch.testing.assert_close(given.x, expected.x, rtol=0, atol=1e-9)
    offset = given.trace["loss"] - expected.trace["loss"]  # of their normalisers
    torch.testing.assert_close(offset, offset[:1, :1].expand_as(offset))


def test_the_norm_is_refined_without_the_distance(latent_g2, observe, seeded_noise):
    obs, prior = (
        replace(observe((True, False), Y, rows=3), perceptual=square),
        latent_g2("vp", TURN),
    )
    x = [
        small(iterations=0, **m).fit(obs, prior, seeded_noise(range(3))).sample([0]).x
        for m in ({}, {"perceptual": "stlpips"})
    ]
    assert torch.equal(x[0], x[1])
    fitted = small(**{**PERCEPTUAL, "refine_term": "norm"}).fit(obs, prior, seeded_noise(range(3)))
    assert (
        fitted.losses[-1] - small().fit(obs, prior, seeded_noise(range(3))).losses[-1]
    ).abs().max() > 0.1


def test_the_distance_sees_both_images_with_the_hole_at_zero(latent_g2, observe, seeded_noise):
    obs, seen = observe((True, False), Y, rows=3), []

    def distance(a: Tensor, b: Tensor) -> Tensor:
        seen.append((a.detach(), b))
        return square(a, b)

    solver = small(iterations=1, **PERCEPTUAL)
    solver.fit(
        replace(obs, perceptual=distance), latent_g2("vp", TURN), seeded_noise(range(3))
    ).sample([0])
    assert len(seen) == 1 + 7
    assert all(not a[..., 1].any() and a[..., 0].any() for a, _ in seen)
    assert torch.equal(seen[0][1], obs.repeat(2).y) and torch.equal(seen[-1][1], obs.y)


def test_a_missing_distance_is_refused_in_one_line(latent_g2, observe, seeded_noise):
    with pytest.raises(ValueError, match="no perceptual distance; set perceptual=none") as caught:
        small(perceptual="lpips_vgg").fit(
            observe((True, False), rows=3), latent_g2("vp"), seeded_noise(range(3))
        )
    assert "\n" not in str(caught.value)


def test_a_distance_needs_a_mask():
    has = frozenset({"grad", "latent", "linear"})
    assert small().lacks(has, 0.0) == set()
    assert small(perceptual="stlpips").lacks(has, 0.0) == {"mask"}
    assert small(perceptual="stlpips").lacks(has | {"mask"}, 0.0) == set()


# -- cost and real networks ------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["after", "before"])
def test_calls_by_hand(order, latent_g2, observe, seeded_noise):
    """Three images, two rows each in the fit, two draws each after it; two keypoints; eight levels
    below them."""
    prior, solver = latent_g2("vp", TURN), small(refine_order=order)
    with prior.metered() as meter:
        fitted = solver.fit(observe((True, False), Y, rows=3), prior, seeded_noise(range(3)))
    assert (meter.encode, meter.encode_grad) == (3, 0)
    assert meter.decode == meter.decode_grad == 6 * 3 * 2
    assert meter.nfe == meter.nge == 3 * meter.decode
    with prior.metered() as meter:
        fitted.sample([0, 1])
    assert (meter.decode, meter.decode_grad, meter.encode) == (8 * 6, 7 * 6, 0)
    assert (meter.nfe, meter.nge) == ((1 + 8 + (7 if order == "before" else 0)) * 6, 7 * 6)


def grey(shape: tuple[int, int]) -> Observation:
    """Two even images, of which the left half is observed."""
    operator = Inpainting(torch.arange(shape[1]).lt(shape[1] // 2).expand(2, 1, *shape))
    return Observation(operator.A(torch.full((2, 1, *shape), 0.3)), operator, perceptual=square)


def test_a_real_latent_prior_runs_and_leaves_its_networks_without_gradients(
    unet_prior, seeded_noise
):
    prior = unet_prior(latent=True)
    obs = replace(grey((16, 16)), cond=prior.condition(torch.tensor([0, 2])))
    solver = small(iterations=2, refine_steps=3, guidance_sample=2.0, **PERCEPTUAL)
    fitted = solver.fit(obs, prior, seeded_noise(range(2)))
    x = fitted.sample([0]).x
    assert fitted.chain.mu.shape == (2, 2, *prior.latent_shape)
    assert x.shape == (2, 1, 1, 16, 16) and x.isfinite().all() and not x.requires_grad
    assert all(p.grad is None for module in (prior.net, prior.latent) for p in module.parameters())


def test_the_gradient_of_a_quantising_decoder_is_the_priors_choice(seeded_noise):
    """Same start; straight through, the fit follows the decoder at the nearest codes, unquantised
    at the latent."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = {
            "in_channels": 1,
            "out_channels": 1,
            "latent_channels": 2,
            "vq_embed_dim": 2,
            "num_vq_embeddings": 16,
        }
        blocks = {
            "down_block_types": ["DownEncoderBlock2D"] * 2,
            "up_block_types": ["UpDecoderBlock2D"] * 2,
        }
        latent = VQ({**config, **blocks, "block_out_channels": [8, 8], "norm_num_groups": 4})
    law = torch.zeros(1, 32), torch.eye(32)[None]
    prior: Prior = MixturePrior(VP.scheduled("linear", 1e-4, 0.02), torch.ones(1), *law, (2, 4, 4))
    prior.latent, prior.image_shape = latent, (1, 8, 8)
    means = []
    for mode in ("straight_through", "unquantised"):
        latent.gradient = mode
        fitted = small(iterations=3).fit(grey((8, 8)), prior, seeded_noise(range(2)))
        x = fitted.sample([0]).x
        assert x.shape == (2, 1, 1, 8, 8) and x.isfinite().all()
        means.append(fitted.chain.mu.detach())
    assert (means[0] - means[1]).abs().max() > 1e-3
