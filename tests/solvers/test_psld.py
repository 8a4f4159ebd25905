"""PSLD, against latent DPS and closed forms on linear autoencoders."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from posterior_bench.operators.base import Operator
from posterior_bench.operators.gaussian_blur import GaussianBlur
from posterior_bench.operators.inpainting import Inpainting
from posterior_bench.operators.projection import Projection
from posterior_bench.operators.super_resolution import SuperResolution
from posterior_bench.solvers.base import Observation
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


@pytest.mark.parametrize("compat", ["none", "released"])
def test_a_single_step_with_any_matrix_in_closed_form(compat, latent_g2, double_noise):
    """The glue residual is E (D x0 + G' (y - G D x0)) - x0; a matrix has no other transpose."""
    operator = Projection((1, 1, 2), rows=1, seed=3)
    prior, one = latent_g2("ve", DECODER, ENCODER), torch.eye(2, dtype=torch.float64)
    G = operator.A(one.view(2, 1, 1, 2)).T
    y = torch.linspace(-1, 1, 4, dtype=torch.float64)[:, None]
    K = prior.covariances[0] @ torch.linalg.inv(prior.covariances[0] + TOP**2 * one)
    x0 = TOP * double_noise(4).normal((2,)) @ K
    r = y - x0 @ DECODER.T @ G.T
    data = -torch.sign(r) @ G @ DECODER @ K
    glue = (x0 @ DECODER.T + r @ G) @ ENCODER.T - x0
    unit = glue / glue.norm(dim=1, keepdim=True)
    slope = unit @ (ENCODER @ (one - G.T @ G) @ DECODER - one) @ K
    expected = (x0 - 0.7 * data - 1.3 * slope) @ DECODER.T
    x = PSLD(1, 0.7, 1.3, compat=compat).draw(Observation(y, operator), prior, double_noise(4))
    torch.testing.assert_close(x.flatten(1), expected)


GREY = (1, 16, 16)


@pytest.mark.parametrize(
    ("operator", "back"),
    [
        (Inpainting(torch.arange(16).lt(8).expand(2, 1, 16, 16)), lambda r: r),
        (GaussianBlur(GREY, 5, 1.0), lambda r: r),
        (SuperResolution(GREY, 4), lambda r: r.repeat_interleave(4, 2).repeat_interleave(4, 3)),
    ],
    ids=["mask", "blur", "super-resolution"],
)
@pytest.mark.parametrize("compat", ["none", "released"])
def test_what_is_glued(
    compat: str, operator: Operator, back, unet_prior, seeded_noise, monkeypatch
):
    """The adjoint of the residual, or the transpose that the released operators have."""
    prior, decoded, encoded = unet_prior(latent=True), [], []
    decode, encode = prior.decode, prior.encode
    monkeypatch.setattr(prior, "decode", lambda z: decoded.append(decode(z)) or decoded[-1])
    monkeypatch.setattr(prior, "encode", lambda x: encoded.append(x) or encode(x))
    y = operator.A(torch.linspace(-1, 1, 2 * 256).view(2, *GREY))
    PSLD(2, compat=compat).draw(Observation(y, operator), prior, seeded_noise(range(2)))
    assert len(encoded) == 2
    for x, glued in zip(decoded[:-1], encoded, strict=True):
        r = operator.residual(x, y)
        expected = x + (operator.At(r) if compat == "none" else back(r))
        torch.testing.assert_close(glued, expected, atol=1e-6, rtol=0)


def test_the_released_levels_and_what_the_network_is_told(
    latent_g2, observe, double_noise, monkeypatch
):
    """(network time, index of the coefficients): with 1000 steps they differ by one."""
    prior, seen = latent_g2("vp"), []
    denoise, index = prior.denoise, {prior.level_at_index(k).sigma: k for k in range(1000)}

    def spy(z, level, cond=None, guidance=1.0):
        seen.append((level.t, index[level.sigma]))
        return denoise(z, level, cond, guidance)

    monkeypatch.setattr(prior, "denoise", spy)
    for steps in (4, 1000):
        PSLD(steps, compat="released").draw(observe((True, False)), prior, double_noise(1))
    assert seen[:4] == [(k, k) for k in (751, 501, 251, 1)]
    assert seen[4:] == [(k + 1, k) for k in reversed(range(1000))]


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
        ({"compat": "odd"}, "unknown compat 'odd'; valid: none, released"),
        ({"eta": 1.5}, r"eta must be in \[0, 1\], got 1.5"),
    ],
)
def test_impossible_settings_are_refused(setting, message):
    with pytest.raises(ValueError, match=message):
        PSLD(**setting)


def test_shipped_presets_are_complete(presets):
    built = presets("psld")
    assert built["authors"] == PSLD()
    for name in ("authors", "authors_superres", "authors_sd15"):
        assert built[f"{name}_released"] == replace(built[name], compat="released")
    assert (built["vipaint_paper"].weight_data, built["vipaint_paper"].weight_glue) == (0.2, 0.2)
