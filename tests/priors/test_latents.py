from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from posterior_bench.priors.base import Prior
from posterior_bench.priors.latents import KL, VQ, Latent
from posterior_bench.priors.low_precision import tf32
from posterior_bench.priors.nets import UNet2D
from posterior_bench.priors.process import VP

TINY = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": [8, 8],
    "norm_num_groups": 4,
    "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D"],
}


def _seeded(build: type[Latent], config: dict[str, object], **more: object) -> Latent:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(config, **more).eval().requires_grad_(False)


@pytest.fixture
def kl() -> KL:
    return _seeded(KL, TINY)


@pytest.fixture
def vq() -> VQ:
    latent = _seeded(VQ, {**TINY, "num_vq_embeddings": 16})
    # diffusers spreads the codes over [-1/16, 1/16]; over [-1, 1] the nearest one is not the latent
    # itself
    latent.autoencoder.quantize.embedding.weight.mul_(16)
    return latent


def _normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# -- shapes, shift and scale -----------------------------------------------------------------------


def test_an_image_goes_there_and_back_in_shape(kl, vq):
    x = _normal(2, 3, 16, 24)
    for latent in (kl, vq):
        z = latent.encode(x)
        assert z.shape[1:] == latent.shape((3, 16, 24)) == (4, 8, 12)
        assert latent.decode(z).shape == x.shape


@pytest.mark.parametrize("size", [(15, 16), (16, 15)])
def test_sides_the_factor_does_not_divide_are_refused(kl, size):
    with pytest.raises(
        ValueError, match=f"images of {size[0]} x {size[1]} pixels are no multiple of .* factor 2"
    ):
        kl.shape((3, *size))


def test_the_latent_of_an_image_is_the_librarys_mean_shifted_and_scaled_per_channel(
    kl,
):
    shift, scale = [0.1, -0.2, 0.3, 0.0], [2.0, 0.5, 1.0, 3.0]
    moved = _seeded(KL, TINY, shift=shift, scale=scale)
    x = _normal(2, 3, 16, 16)
    law = kl.autoencoder.encode(x).latent_dist

    def column(values):
        return torch.tensor(values).view(1, 4, 1, 1)

    torch.testing.assert_close(moved.encode(x), (law.mode() - column(shift)) * column(scale))
    xi = _normal(2, 4, 8, 8, seed=2)
    drawn = law.mode() + law.logvar.mul(0.5).exp() * xi
    torch.testing.assert_close(moved.encode(x, xi), (drawn - column(shift)) * column(scale))
    torch.testing.assert_close(
        moved.decode(moved.encode(x)), kl.autoencoder.decode(law.mode()).sample
    )


def test_one_number_is_every_channels(kl):
    x = _normal(1, 3, 16, 16)
    one, each = (
        _seeded(KL, TINY, shift=a, scale=b) for a, b in ((0.5, 2.0), ([0.5] * 4, [2.0] * 4))
    )
    assert torch.equal(one.encode(x), each.encode(x))
    assert torch.equal(one.decode(one.encode(x)), each.decode(each.encode(x)))


def test_both_ways_run_in_float32_below_half_precision(kl, vq):
    x = _normal(1, 3, 16, 16)
    for latent in (kl, vq):
        z = latent.encode(x)
        plain = latent.decode(z)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.mm(x[0, 0], x[0, 0]).dtype == torch.bfloat16
            assert torch.equal(latent.encode(x), z)
            assert torch.equal(latent.decode(z), plain)
        assert latent.encode(x.double()).dtype == latent.decode(z.bfloat16()).dtype == torch.float32


def test_the_gradient_of_a_decoder_is_its_slope(kl):
    kl = copy.deepcopy(kl).double()
    z, v = _normal(1, 4, 8, 8).double(), _normal(1, 4, 8, 8, seed=2).double()
    z.requires_grad_()
    (slope,) = torch.autograd.grad(kl.decoded(z).sum(), z)
    step = 1e-5
    difference = (kl.decoded(z + step * v).sum() - kl.decoded(z - step * v).sum()) / (2 * step)
    assert (slope * v).sum().item() == pytest.approx(difference.item(), rel=1e-6)


# -- three gradients of one VQ decoder -------------------------------------------------------------


def _slope(latent: VQ, z: Tensor, image: Tensor) -> Tensor | None:
    """The gradient of ``<decode(z), image>``; None where there is none."""
    z = z.detach().requires_grad_()
    value = (latent.decode(z) * image).sum()
    return torch.autograd.grad(value, z)[0] if value.requires_grad else None


def _nearest(latent: VQ, z: Tensor) -> Tensor:
    """The nearest code of every position, by comparing with all of them."""
    codes = latent.autoencoder.quantize.embedding.weight
    vectors = z.permute(0, 2, 3, 1).unsqueeze(-2)
    return codes[(vectors - codes).square().sum(-1).argmin(-1)].permute(0, 3, 1, 2)


def test_straight_through_is_the_jacobian_at_the_codes(vq):
    z, image = _normal(1, 4, 8, 8), _normal(1, 3, 16, 16, seed=2)
    codes = _nearest(vq, z)
    assert (codes - z).abs().max() > 0.1
    expected_image = vq.autoencoder.decode(codes, force_not_quantize=True).sample
    torch.testing.assert_close(vq.decode(z), expected_image)
    codes = codes.detach().requires_grad_()
    value = (vq.autoencoder.decode(codes, force_not_quantize=True).sample * image).sum()
    torch.testing.assert_close(_slope(vq, z, image), torch.autograd.grad(value, codes)[0])


def test_the_search_for_codes_is_in_float32_and_the_decoder_as_the_run_says(vq):
    """In TensorFloat-32 some codes are others; the switch is for the process, so it is read where
    products are formed."""
    seen: dict[str, bool] = {}
    for name in ("quantize", "decoder"):
        getattr(vq.autoencoder, name).register_forward_pre_hook(
            lambda *_, name=name: seen.update({name: torch.backends.cuda.matmul.allow_tf32})
        )
    z = _normal(1, 4, 8, 8)
    wanted = vq.autoencoder.decode(z).sample
    with tf32(True):
        assert torch.equal(vq.decode(z), wanted)
        assert torch.backends.cuda.matmul.allow_tf32 and torch.backends.cudnn.allow_tf32
    assert seen == {"quantize": False, "decoder": True}


def test_unquantised_decodes_the_latent_itself_and_has_another_gradient(vq):
    z, image = _normal(1, 4, 8, 8), _normal(1, 3, 16, 16, seed=2)
    through = _slope(vq, z, image)
    quantised = vq.decode(z)
    vq.gradient = "unquantised"
    torch.testing.assert_close(
        vq.decode(z), vq.autoencoder.decode(z, force_not_quantize=True).sample
    )
    smooth = _slope(vq, z, image)
    assert vq.differentiable
    assert (vq.decode(z) - quantised).norm() > 0.05 * quantised.norm()
    assert (smooth - through).norm() > 0.1 * through.norm()


def test_hard_decodes_the_codes_and_has_no_gradient(vq):
    z, image = _normal(1, 4, 8, 8), _normal(1, 3, 16, 16, seed=2)
    quantised = vq.decode(z)
    vq.gradient = "hard"
    assert vq.differentiable is False
    assert torch.equal(vq.decode(z), quantised)
    assert _slope(vq, z, image) is None


def test_a_vq_latent_is_not_quantised_and_has_no_draw(vq):
    x = _normal(1, 3, 16, 16)
    z = vq.encode(x)
    torch.testing.assert_close(z, vq.autoencoder.encode(x).latents)
    assert not torch.allclose(z, _nearest(vq, z), atol=1e-3)
    with pytest.raises(ValueError, match="no posterior to draw from; encode without noise"):
        vq.encode(x, _normal(1, 4, 8, 8))


# -- behind a prior --------------------------------------------------------------------------------


def test_a_latent_prior_counts_both_ways_and_their_gradients(kl):
    unet = {
        "sample_size": 8,
        "in_channels": 4,
        "out_channels": 4,
        "block_out_channels": [8],
        "layers_per_block": 1,
    }
    unet |= {
        "down_block_types": ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"],
        "norm_num_groups": 4,
    }
    prior = Prior(VP.scheduled("linear", 1e-4, 0.02), UNet2D(unet, 1), (3, 16, 16), "v", latent=kl)
    assert (prior.latent_shape, prior.is_latent) == ((4, 8, 8), True)
    assert "latent" in prior.caps and "pixel" not in prior.caps
    z = _normal(3, 4, 8, 8).requires_grad_()
    with prior.metered() as meter:
        x = prior.decode(z)
        prior.encode(x).sum().backward()
        prior.decode(z.detach())
    counts = meter.counts()
    assert counts == {
        "nfe": 0,
        "nge": 0,
        "decode": 6,
        "decode_grad": 3,
        "encode": 3,
        "encode_grad": 3,
    }
