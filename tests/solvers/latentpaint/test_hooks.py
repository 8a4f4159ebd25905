"""Hooks on a U-Net: where they sit, and the identities of mixing features."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.attention_processor import Attention

from posterior_bench.solvers.latentpaint.hooks import (
    Conditioning,
    edited,
    feature_sites,
    propagation_sites,
)
from posterior_bench.solvers.shared.latent_mask import masked_state


def inputs(rows: int = 3):
    """Two batches of states, a time and labels."""
    generator = torch.Generator().manual_seed(0)
    state, other = torch.randn(2, rows, 1, 16, 16, generator=generator).unbind(0)
    return state, other, torch.full((rows,), 0.3), {"label": torch.arange(rows) % 3}


def corner(rows: int, size: int = 5) -> torch.Tensor:
    mask = torch.zeros(rows, 1, 16, 16, dtype=torch.bool)
    mask[:, :, :size, :size] = True
    return mask


def hooks(prior) -> int:
    return sum(len(module._forward_hooks) for module in prior.net.modules())


def test_sites_counted_by_hand(unet_prior):
    sites = feature_sites(unet_prior())
    # first convolution; 2 layers and a downsampler; 2 layers; middle; 3 layers and an upsampler; 3
    # layers
    assert len(sites) == 1 + 3 + 2 + 1 + 4 + 3
    assert isinstance(sites["down1_layer1"], Attention) and isinstance(
        sites["up0_layer2"], Attention
    )
    assert propagation_sites(unet_prior()) == ("down1_layer1", "middle")


def test_sites_run_once_each_in_their_order_and_put_out_tensors(unet_prior):
    prior, seen = unet_prior(), []
    state, _, t, label = inputs()
    with edited(feature_sites(prior), lambda name, h: seen.append((name, h.ndim))):
        prior.net(state, t, label)
    assert seen == [(name, 4) for name in feature_sites(prior)]


def test_all_observed_is_the_network_on_the_condition_and_nothing_observed_the_plain_one(
    unet_prior,
):
    prior = unet_prior()
    state, other, t, label = inputs()
    plain, on_condition = prior.net(state, t, label), prior.net(other, t, label)
    for mask, expected in (
        (torch.ones(3, 1, 16, 16), on_condition),
        (torch.zeros(3, 1, 16, 16), plain),
    ):
        conditioning = Conditioning(prior, mask)
        with conditioning.recorded() as features:
            assert torch.equal(prior.net(other, t, label), on_condition)
        with conditioning.fused(features):
            assert torch.equal(prior.net(state, t, label), expected)
    assert not torch.equal(plain, on_condition)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_one_batched_call_is_two_calls(unet_prior, guidance):
    prior = unet_prior()
    state, other, _, label = inputs()
    cond, level = prior.condition(label["label"]), prior.level(0.7)
    conditioning = Conditioning(prior, corner(3))
    with conditioning.recorded() as features:
        first = prior.denoise(other, level, cond, guidance)
    with conditioning.fused(features):
        second = prior.denoise(state, level, cond, guidance)
    both = cond.map(lambda value: torch.cat([value, value]))
    with conditioning.stacked():
        stacked = prior.denoise(torch.cat([other, state]), level, both, guidance)
    torch.testing.assert_close(stacked, torch.cat([first, second]), atol=5e-6, rtol=0)
    assert (second - prior.denoise(state, level, cond, guidance)).abs().max() > 1e-4


def test_features_are_mixed_by_the_observed_share_of_every_cell(unet_prior):
    prior = unet_prior()
    state, other, t, label = inputs()
    conditioning = Conditioning(prior, corner(3))
    with conditioning.recorded() as plain:
        prior.net(state, t, label)
    with conditioning.recorded() as features:
        prior.net(other, t, label)
    with conditioning.fused(features), conditioning.recorded() as mixed:
        prior.net(state, t, label)
    # 5 x 5 pixels behind an unshuffle of 2: two whole cells, a half one, and a quarter in the
    # corner
    edge = torch.tensor([1, 1, 0.5, 0, 0, 0, 0, 0])
    share = edge[:, None] * edge
    expected = (1 - share) * plain["conv_in"] + share * features["conv_in"]
    torch.testing.assert_close(mixed["conv_in"], expected)
    # at 4 x 4 cells: 2 + 2 + 1 pixels along every side
    edge = torch.tensor([1, 0.25, 0, 0])
    expected = edge[:, None] * edge
    assert torch.equal(mixed["middle"][:, :, 0, 0], features["middle"][:, :, 0, 0])
    assert not torch.equal(mixed["middle"][:, :, 1, 1], features["middle"][:, :, 1, 1])


def test_hooks_are_gone_after_use_and_after_errors(unet_prior):
    prior = unet_prior()
    conditioning = Conditioning(prior, corner(3))
    with conditioning.recorded():
        assert hooks(prior) == len(feature_sites(prior))
    for block in (conditioning.recorded(), conditioning.fused({}), conditioning.stacked()):
        with pytest.raises(RuntimeError, match="inside"), block:
            raise RuntimeError("inside")
        assert hooks(prior) == 0


def test_a_prior_without_a_unet_has_no_features(g2, unet_prior):
    assert "features" in unet_prior().caps and "features" in unet_prior().view("vp").caps
    assert "features" not in g2("ve").caps
    with pytest.raises(ValueError, match="inside a UNet2D alone, not inside NoneType"):
        feature_sites(g2("ve"))


def test_a_latent_cell_is_observed_where_all_of_its_pixels_are(unet_prior):
    y = torch.full((2, 1, 16, 16), 0.5) * corner(2)
    state, mask = masked_state(unet_prior(), y, corner(2))
    assert torch.equal(state, y) and torch.equal(mask, corner(2))
    prior = unet_prior(latent=True)
    state, mask = masked_state(prior, y, corner(2))
    assert mask.shape == (2, 1, 8, 8) and mask[0].sum() == 4 and mask[0, 0, :2, :2].all()
    torch.testing.assert_close(state[..., :2, :2], prior.encode(y)[..., :2, :2])
    assert state.count_nonzero() == 2 * 2 * 4
