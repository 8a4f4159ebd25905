"""DPS, against closed forms on Gaussian priors."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from posterior_bench.operators.inpainting import Inpainting
from posterior_bench.priors.mixture import MixturePrior
from posterior_bench.priors.process import VE
from posterior_bench.solvers.base import Observation
from posterior_bench.solvers.dps import DPS

TOP = 80.0  # the noisiest level of the VE prior


def _one_step(prior: MixturePrior, z: Tensor, y: Tensor, zeta: float) -> Tensor:
    """DPS with one step from ``sigma = TOP`` to clean, first pixel observed, written out by
    hand."""
    S = prior.covariances[0]
    K = S @ torch.linalg.inv(S + TOP**2 * torch.eye(2, dtype=torch.float64))
    x0 = z @ K
    slope = -torch.sign(y - x0[:, :1]) * K[:1]  # grad |y - e1' K z|
    return x0 - zeta * slope


@pytest.mark.parametrize("zeta", [0.0, 3.0])
def test_a_single_step_in_closed_form(zeta, g2, observe, double_noise):
    y = torch.linspace(-1, 1, 6, dtype=torch.float64)
    x = DPS(1, zeta, clip=False).draw(observe((True, False), y, rows=6), g2("ve"), double_noise(6))
    z = TOP * double_noise(6).normal((2,))
    torch.testing.assert_close(x.flatten(1), _one_step(g2("ve"), z, y[:, None], zeta))


@pytest.mark.parametrize("kind", ["vp", "ve"])
@pytest.mark.parametrize("clip", [False, True])
def test_no_guidance_is_ancestral_sampling_bit_for_bit(kind, clip, g2, observe, double_noise):
    prior, noise = g2(kind), double_noise(4)
    levels = prior.grid(40)
    z = levels[0].sigma * noise.normal((1, 1, 2))
    for t, s in pairwise(levels):
        x0 = prior.denoise(z, t)
        z = prior.process.bridge(
            z, x0.clamp(-1, 1) if clip else x0, t, s, 1.0, noise.normal((1, 1, 2))
        )
    assert torch.equal(
        DPS(40, 0.0, clip=clip).draw(observe((True, False), rows=4), prior, double_noise(4)), z
    )


def test_nothing_observed_is_no_guidance_bit_for_bit(g2, observe, double_noise):
    prior, obs = g2("ve"), observe((False, False), rows=4)
    assert torch.equal(
        DPS(30, 5.0).draw(obs, prior, double_noise(4)),
        DPS(30, 0.0).draw(obs, prior, double_noise(4)),
    )


@pytest.mark.parametrize(("kind", "var"), [("vp", 0.9690), ("ve", 0.9585)])
def test_no_guidance_has_the_law_of_unconditional_sampling(kind, var, g2, law):
    mean, covariance = law(DPS(250, 0.0, clip=False), g2(kind))
    assert mean.tolist() == [0, 0]
    assert covariance[1, 1].item() == pytest.approx(var, abs=1e-4)


@pytest.mark.parametrize("zeta", [0.5, 2.0])
def test_a_fixed_step_leaves_a_residual_of_half_a_step(zeta, ar64, double_noise):
    rows, observed = 48, 32
    prior = ar64("ve")
    mask = (torch.arange(64) < observed).view(1, 1, 8, 8).expand(rows, 1, 8, 8)
    normal = torch.randn(
        1, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    truth = prior.sample(torch.zeros(1), normal).expand(rows, 1, 8, 8)
    obs = Observation(Inpainting(mask).A(truth), Inpainting(mask))
    x = DPS(400, zeta, clip=False).draw(obs, prior, double_noise(rows))
    residual = torch.linalg.vector_norm(obs.operator.residual(x, obs.y).flatten(1), dim=1)
    assert residual.mean().item() == pytest.approx(zeta / 2, rel=0.05)
    assert residual.square().mean().div(observed).sqrt().item() == pytest.approx(
        zeta / (2 * observed**0.5), rel=0.06
    )


def test_everything_observed_ends_within_a_step_of_the_observation(g2, observe, double_noise):
    obs = observe((True, True), 0.4, rows=20)
    x = DPS(300, 0.2, clip=False).draw(obs, g2("ve"), double_noise(20))
    assert torch.linalg.vector_norm((x - obs.y).flatten(1), dim=1).max() < 0.25
    assert torch.equal(obs.operator.paste(x, obs.y), obs.y)


def test_twice_the_step_is_the_squared_norm_over_the_norm(g2, observe, double_noise):
    """``2 zeta grad |r|`` equals ``(zeta / |r|) grad |r|^2``, the form of other implementations."""
    prior, noise, zeta = g2("ve"), double_noise(5), 0.3
    obs = observe((True, False), 0.5, rows=5)
    levels = prior.grid(25)
    z = levels[0].sigma * noise.normal((1, 1, 2))
    for t, s in pairwise(levels):
        z = z.detach().requires_grad_()
        x0 = prior.denoise(z, t)
        squared = (obs.y - obs.operator.A(x0)).square().flatten(1).sum(1)
        slope = torch.autograd.grad((squared / squared.detach().sqrt()).sum(), z)[0]
        z = prior.process.bridge(z, x0, t, s, 1.0, noise.normal((1, 1, 2))).detach() - zeta * slope
    torch.testing.assert_close(
        DPS(25, 2 * zeta, clip=False).draw(obs, prior, double_noise(5)), z, atol=1e-9, rtol=0
    )


def test_a_step_in_vp_coordinates_is_a_longer_one_in_ve(g2, observe, double_noise):
    """``z_ve = c z_vp`` with ``c = sqrt(1 + sigma^2)``, so one step to clean needs ``c`` times the
    zeta."""
    prior, obs = g2("ve"), observe((True, False), 0.5, rows=5)
    in_vp = DPS(1, 0.3, view="vp", clip=False).draw(obs, prior, double_noise(5))
    in_ve = DPS(1, 0.3 * math.sqrt(1 + TOP**2), view="ve", clip=False).draw(
        obs, prior, double_noise(5)
    )
    torch.testing.assert_close(in_vp, in_ve, atol=1e-7, rtol=0)


def test_a_view_changes_the_coordinates_and_not_the_grid(g2):
    prior = g2("vp")
    native, view = prior.grid(20), prior.view("ve").grid(20)
    assert [level.ratio for level in view] == pytest.approx(
        [level.ratio for level in native], rel=1e-9
    )
    assert all(level.alpha == 1 for level in view)


def test_no_guidance_does_not_depend_on_the_view(g2, observe, double_noise):
    prior, obs = g2("vp"), observe((True, False), rows=3)
    native = DPS(40, 0.0).draw(obs, prior, double_noise(3))
    torch.testing.assert_close(
        DPS(40, 0.0, view="ve").draw(obs, prior, double_noise(3)), native, atol=1e-6, rtol=0
    )


def test_a_row_does_not_depend_on_its_batch(g2, observe, seeded_noise):
    prior, solver, y = g2("ve"), DPS(30), torch.linspace(-1, 1, 8)
    batch = solver.draw(observe((True, False), y, rows=8), prior, seeded_noise(range(8)))
    for i in (0, 5):
        alone = solver.draw(observe((True, False), y[i : i + 1]), prior, seeded_noise([i]))
        torch.testing.assert_close(batch[i : i + 1], alone, atol=1e-6, rtol=0)


def test_released_norm_shares_one_step_among_the_batch(g2, observe, double_noise):
    prior, zeta = g2("ve"), 2.0
    free, own, shared = (
        DPS(1, step, clip=False, compat=compat).draw(
            observe((True, False), rows=9), prior, double_noise(9)
        )
        for step, compat in ((0.0, "none"), (zeta, "none"), (zeta, "released"))
    )
    residual = 1 - free[:, 0, 0, 0]
    share = residual / torch.linalg.vector_norm(residual)
    torch.testing.assert_close(
        shared - free, (own - free) * share.abs().view(-1, 1, 1, 1), atol=1e-12, rtol=1e-6
    )


def test_a_broken_row_breaks_no_other(g2, observe, double_noise):
    prior, y = g2("ve"), torch.tensor([0.1, torch.nan, 0.3])
    x = DPS(20).draw(observe((True, False), y, rows=3), prior, double_noise(3))
    assert x.isnan().flatten(1).any(1).tolist() == [False, True, False]


def test_one_network_call_and_one_backward_per_step_even_without_grad_mode(
    g2, observe, double_noise
):
    prior = g2("ve")
    with prior.metered() as meter, torch.no_grad():
        x = DPS(30, view="vp").draw(observe((True, False), rows=4), prior, double_noise(4))
    assert (meter.nfe, meter.nge) == (4 * 30, 4 * 30)
    assert not x.requires_grad


def test_saturated_predictions_get_no_gradient(observe, double_noise):
    """A prior that knows the image is 3 everywhere: clipped to 1, its residual cannot move the
    state."""
    certain = MixturePrior(
        VE(), torch.ones(1), torch.full((1, 2), 3.0), 1e-6 * torch.eye(2)[None], (1, 1, 2)
    )
    moved, still = (
        DPS(1, 1e9, clip=clip).draw(observe((True, False), 0.0), certain, double_noise(1))
        for clip in (False, True)
    )
    torch.testing.assert_close(still, torch.ones_like(still))
    assert (moved - 3).abs().max() > 1e-3


def test_the_mean_of_absolute_residuals_counts_hidden_pixels(g2, observe, double_noise):
    """With one of two pixels observed the mean is half the norm; its step is half as long."""
    prior, obs = g2("ve"), observe((True, False), torch.linspace(-1, 1, 5), rows=5)
    mean = DPS(20, 0.6, loss="l1", clip=False).draw(obs, prior, double_noise(5))
    torch.testing.assert_close(
        mean, DPS(20, 0.3, clip=False).draw(obs, prior, double_noise(5)), atol=1e-9, rtol=0
    )


def test_a_perceptual_distance_joins_the_loss_of_measured_images(latent_g2, observe, double_noise):
    """With |A x - y| itself as the distance: zeta (1 + weight) of plain latent DPS, and images of
    equal shape."""
    seen = []

    def distance(x: Tensor, y: Tensor) -> Tensor:
        seen.append((x.detach(), y))
        return torch.linalg.vector_norm((x - y).flatten(1), dim=1)

    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]])
    prior, obs = latent_g2("vp", turn), observe((True, False), torch.linspace(-1, 1, 5), rows=5)
    solver = DPS(20, 0.2, perceptual="lpips_vgg", perceptual_weight=1.5)
    x = solver.draw(replace(obs, perceptual=distance), prior, double_noise(5))
    torch.testing.assert_close(x, DPS(20, 0.5).draw(obs, prior, double_noise(5)), atol=1e-9, rtol=0)
    assert len(seen) == 20
    assert all(
        y is obs.y and (x[..., 1] == 0).all() for x, y in seen
    )  # the hidden pixel is zero in both


def test_a_perceptual_setting_without_a_distance_is_refused(g2, observe, double_noise):
    with pytest.raises(ValueError, match="no perceptual distance; set perceptual=none"):
        DPS(2, perceptual="stlpips").draw(observe((True, False)), g2("ve"), double_noise(1))


def test_latent_calls_and_gradients_by_hand(latent_g2, observe, double_noise):
    prior = latent_g2("vp")
    with prior.metered() as meter:
        DPS(12).draw(observe((True, False), rows=3), prior, double_noise(3))
    counts = {"nfe": 12, "nge": 12, "decode": 13, "decode_grad": 12, "encode": 0, "encode_grad": 0}
    assert meter.counts() == {name: 3 * count for name, count in counts.items()}


def test_the_step_of_latents_is_one_in_the_latent_of_a_residual_of_images(
    latent_g2, observe, double_noise
):
    """A decoder that doubles doubles the gradient: zeta on latents of half the size is 4 zeta on
    the images."""
    prior, obs = latent_g2("vp", 2 * torch.eye(2)), observe((True, False), 0.8, rows=4)
    x = DPS(1, 0.1).draw(obs, prior, double_noise(4))
    free = DPS(1, 0.0).draw(obs, prior, double_noise(4))
    plain = latent_g2("vp")
    same = DPS(1, 0.1).draw(
        replace(obs, y=1e6 * obs.y), plain, double_noise(4)
    )  # far away: the same direction
    far = DPS(1, 0.0).draw(obs, plain, double_noise(4))
    sign = torch.sign(obs.y - free)[..., :1]
    torch.testing.assert_close(x - free, 4 * (same - far) * sign, atol=1e-9, rtol=0)


class Doubling(MixturePrior):
    """A latent prior whose decoder multiplies by two."""

    is_latent = True

    def decode(self, z: Tensor) -> Tensor:
        return 2 * z


def test_latents_are_compared_as_images_and_never_clipped(observe, double_noise):
    covariance = torch.tensor([[[1.0, 0.9], [0.9, 1.0]]])
    prior = Doubling(VE(), torch.ones(1), torch.full((1, 2), 4.0), covariance, (1, 1, 2))
    obs = observe((True, False), 9.0, rows=5)
    assert (
        DPS(20, 0.0, clip=True).draw(obs, prior, double_noise(5)).min() > 4
    )  # the images are near 8
    x = DPS(300, 0.2, clip=True).draw(obs, prior, double_noise(5))
    # a step of zeta in the latent moves the image by 2 zeta, along a gradient twice as long
    assert (x[..., 0] - 9).abs().max() < 4 * 0.2


def test_condition_and_guidance_reach_the_prior(asked):
    cond, seen = asked(DPS(3, guidance=2.5))
    assert len(seen) == 3
    assert all(given is cond and guidance == 2.5 for given, guidance in seen)


@pytest.mark.parametrize("field", ["loss", "view", "compat"])
def test_an_unknown_name_is_refused_with_the_valid_ones(field):
    with pytest.raises(ValueError, match=f"unknown {field} 'odd'; valid: "):
        replace(DPS(), **{field: "odd"})


def test_the_released_norm_knows_one_loss():
    with pytest.raises(
        ValueError, match="compat=released goes with loss=norm and perceptual=none only"
    ):
        DPS(perceptual="stlpips", compat="released")


def test_shipped_presets_are_complete(presets):
    built = presets("dps")
    assert built["authors"] == DPS()
    assert built["vipaint_paper"].zeta == 5
    paper = built["vipaint_paper_perceptual"]
    # twice 100 mean|r| / (2 0.566^2) + 100 LPIPS
    assert paper.zeta == pytest.approx(2 * 100 / (2 * 0.566**2), rel=1e-4)
    assert paper.zeta * paper.perceptual_weight == pytest.approx(2 * 100, rel=1e-4)
