"""PSLD, against latent DPS and closed forms on linear autoencoders."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from posterior_bench.solvers.dps import DPS
from posterior_bench.solvers.psld import PSLD

TOP = 80.0  # the noisiest level of the VE prior
TURN = torch.tensor(
    [[math.cos(0.7), -math.sin(0.7)], [math.sin(0.7), math.cos(0.7)]], dtype=torch.float64
)
DECODER = torch.tensor([[1.2, 0.3], [-0.4, 0.8]], dtype=torch.float64)
ENCODER = torch.tensor([[0.7, 0.1], [0.2, 1.1]], dtype=torch.float64)  # not the decoder's inverse


@pytest.mark.parametrize("kind", ["vp", "ve"])
@pytest.mark.parametrize("decoder", [None, TURN], ids=["identity", "orthogonal"])
def test_with_an_isometric_autoencoder_it_is_latent_dps_with_the_sum_of_both_weights(
    kind, decoder, latent_g2, observe, double_noise
):
    obs = observe((True, False), torch.linspace(-1, 1, 5), rows=5)
    prior = latent_g2(kind, decoder)
    x = PSLD(40, weight_data=0.3, weight_glue=0.5, eta=1.0).draw(obs, prior, double_noise(5))
    torch.testing.assert_close(
        x, DPS(40, zeta=0.8).draw(obs, prior, double_noise(5)), atol=1e-9, rtol=0
    )


def test_without_glue_it_is_latent_dps_for_any_autoencoder(latent_g2, observe, double_noise):
    obs, prior = observe((True, False), 0.5, rows=3), latent_g2("vp", DECODER, ENCODER)
    x = PSLD(30, 0.4, weight_glue=0.0, eta=1.0).draw(obs, prior, double_noise(3))
    torch.testing.assert_close(
        x, DPS(30, 0.4).draw(obs, prior, double_noise(3)), atol=1e-12, rtol=0
    )
    glued = PSLD(30, 0.2, weight_glue=0.2, eta=1.0).draw(obs, prior, double_noise(3))
    assert (glued - x).abs().max() > 1e-3  # the identity above is one of isometries alone


def test_a_single_step_in_closed_form(latent_g2, observe, double_noise):
    """x0 = K z; the glue residual is E (m y + (1 - m) D x0) - x0, affine in z."""
    y = torch.linspace(-1, 1, 4, dtype=torch.float64)
    prior, one = latent_g2("ve", DECODER, ENCODER), torch.eye(2, dtype=torch.float64)
    m = torch.diag(torch.tensor([1.0, 0.0], dtype=torch.float64))
    K = prior.covariances[0] @ torch.linalg.inv(prior.covariances[0] + TOP**2 * one)
    z = TOP * double_noise(4).normal((2,))
    x0 = z @ K
    r = y[:, None] * one[:1] - x0 @ DECODER.T @ m
    data = -(r / r.norm(dim=1, keepdim=True)) @ m @ DECODER @ K
    glue = (y[:, None] * one[:1] + x0 @ DECODER.T @ (one - m)) @ ENCODER.T - x0
    slope = (glue / glue.norm(dim=1, keepdim=True)) @ (ENCODER @ (one - m) @ DECODER - one) @ K
    expected = (x0 - 0.7 * data - 1.3 * slope) @ DECODER.T
    x = PSLD(1, 0.7, 1.3).draw(observe((True, False), y, rows=4), prior, double_noise(4))
    torch.testing.assert_close(x.flatten(1), expected)


def test_where_nothing_is_observed_a_perfect_autoencoder_gets_no_gradient(
    latent_g2, observe, double_noise
):
    obs, prior = observe((False, False), rows=3), latent_g2("ve")
    x = PSLD(30, 2.0, 2.0, eta=1.0).draw(obs, prior, double_noise(3))
    assert torch.equal(x, PSLD(30, 0.0, 0.0, eta=1.0).draw(obs, prior, double_noise(3)))


def test_without_weights_it_is_ddim(latent_g2, observe, double_noise):
    prior, levels = latent_g2("vp", TURN), latent_g2("vp").grid(25)
    z = levels[0].sigma * double_noise(2).normal((1, 1, 2))
    for t, s in pairwise(levels):
        z = prior.process.bridge(z, prior.denoise(z, t), t, s, 0.0, None)
    x = PSLD(25, 0.0, 0.0).draw(observe((True, False), rows=2), prior, double_noise(2))
    assert torch.equal(x, prior.decode(z))


def test_calls_and_gradients_by_hand(latent_g2, observe, double_noise):
    prior = latent_g2("ve", DECODER, ENCODER)
    with prior.metered() as meter, torch.no_grad():
        x = PSLD(12).draw(observe((True, False), rows=3), prior, double_noise(3))
    steps = 3 * 12
    expected = {"nfe": steps, "nge": steps, "decode": steps + 3, "decode_grad": steps}
    assert meter.counts() == {**expected, "encode": steps, "encode_grad": steps}
    assert not x.requires_grad


def test_a_real_latent_prior_runs_and_leaves_its_networks_without_gradients(
    unet_prior, seeded_noise
):
    from posterior_bench.operators.inpainting import Inpainting
    from posterior_bench.solvers.base import Observation

    prior = unet_prior(latent=True)
    operator = Inpainting(torch.arange(16).view(1, 1, 1, 16).lt(8).expand(2, 1, 16, 16))
    obs = Observation(
        operator.A(torch.full((2, 1, 16, 16), 0.3)), operator, prior.condition(torch.tensor([0, 2]))
    )
    x = PSLD(3).draw(obs, prior, seeded_noise(range(2)))
    assert x.shape == (2, 1, 16, 16) and x.isfinite().all()
    assert all(p.grad is None for module in (prior.net, prior.latent) for p in module.parameters())
    far = PSLD(3, weight_data=0.0, weight_glue=0.0).draw(obs, prior, seeded_noise(range(2)))
    assert (x - far).abs().max() > 1e-4


def test_a_row_does_not_depend_on_its_batch(latent_g2, observe, seeded_noise):
    prior, solver, y = (
        latent_g2("ve", DECODER, ENCODER),
        PSLD(20, eta=0.5),
        torch.linspace(-1, 1, 6),
    )
    batch = solver.draw(observe((True, False), y, rows=6), prior, seeded_noise(range(6)))
    alone = solver.draw(observe((True, False), y[4:5]), prior, seeded_noise([4]))
    torch.testing.assert_close(batch[4:5], alone, atol=1e-6, rtol=0)


def test_a_broken_row_breaks_no_other(latent_g2, observe, double_noise):
    y = torch.tensor([0.1, torch.nan, 0.3])
    x = PSLD(10).draw(observe((True, False), y, rows=3), latent_g2("ve"), double_noise(3))
    assert x.isnan().flatten(1).any(1).tolist() == [False, True, False]


def test_condition_and_guidance_reach_the_prior(asked):
    cond, seen = asked(PSLD(3, guidance=2.5))
    assert len(seen) == 3
    assert all(given is cond and guidance == 2.5 for given, guidance in seen)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"view": "odd"}, "unknown view 'odd'; valid: native, vp, ve"),
        ({"eta": 1.5}, r"eta must be in \[0, 1\], got 1.5"),
    ],
)
def test_impossible_settings_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        PSLD(**setting)


def test_shipped_presets_are_complete(presets):
    built = presets("psld")
    assert built["authors"] == PSLD()
    assert (built["vipaint_paper"].weight_data, built["vipaint_paper"].weight_glue) == (0.2, 0.2)
