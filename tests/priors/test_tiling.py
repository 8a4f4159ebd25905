"""Tiles, against functions that look at one place alone and so have no seams."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from posterior_bench.priors import tiling
from posterior_bench.priors.latents import KL, VQ, Latent
from posterior_bench.priors.tiling import starts, tiled, weights

CODER = {
    "in_channels": 1,
    "out_channels": 1,
    "latent_channels": 2,
    "block_out_channels": [8, 8],
    "norm_num_groups": 4,
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
}


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def latent(kind: type[Latent]) -> Latent:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = kind(CODER, 0.1, 0.5)
    return made.eval().requires_grad_(False)


def test_tiles_are_spread_evenly_and_overlap_by_a_quarter() -> None:
    assert starts(8, 8) == [0] and starts(5, 8) == [0]
    assert starts(14, 8) == [0, 6]
    assert starts(15, 8) == [0, 4, 7]  # two tiles would overlap by 1 only
    assert starts(128, 64) == [0, 32, 64]


@pytest.mark.parametrize("length", [8, 9, 14, 15, 16, 31, 64])
@pytest.mark.parametrize("factor", [1, 4])
def test_weights_add_up_to_one(length: int, factor: int) -> None:
    total = torch.zeros(length * factor)
    for begin, weight in zip(starts(length, 8), weights(length, 8, factor), strict=True):
        total[begin * factor : begin * factor + len(weight)] += weight
    torch.testing.assert_close(total, torch.ones(length * factor))


def test_two_tiles_go_over_in_a_straight_line() -> None:
    first, second = weights(14, 8, 1)  # they share two positions
    torch.testing.assert_close(first, torch.tensor([1.0] * 6 + [0.75, 0.25]))
    torch.testing.assert_close(second, torch.tensor([0.25, 0.75] + [1.0] * 6))


@pytest.mark.parametrize(
    ("function", "step", "factor"),
    [
        (lambda x: x.sin() * 2, 1, 1),
        (lambda x: F.interpolate(x.exp(), scale_factor=4.0), 1, 4),
        (lambda x: F.avg_pool2d(x, 4).square(), 4, 1),
    ],
    ids=["pixels", "decoder", "encoder"],
)
def test_a_function_without_reach_is_itself_with_its_gradient(function, step, factor) -> None:
    x = noise(2, 3, 20 * step, 13 * step).requires_grad_()
    whole, parts = function(x), tiled(function, x, 8, step, factor)
    torch.testing.assert_close(parts, whole)
    slope = noise(*whole.shape)
    a, b = (torch.autograd.grad((y * slope).sum(), x)[0] for y in (whole, parts))
    torch.testing.assert_close(a, b)


@pytest.mark.parametrize("kind", [KL, VQ])
def test_an_image_no_larger_than_a_tile_is_the_same_bit_for_bit(kind: type[Latent]) -> None:
    known = latent(kind)
    x, z = noise(1, 1, 16, 16), noise(1, 2, 8, 8)
    usual = known.encode(x), known.decode(z)
    known.tile = 8
    assert torch.equal(known.encode(x), usual[0]) and torch.equal(known.decode(z), usual[1])


@pytest.mark.parametrize("kind", [KL, VQ])
def test_tiles_that_are_computed_again_have_the_gradient_of_tiles_that_are_kept(
    kind: type[Latent], monkeypatch: pytest.MonkeyPatch
) -> None:
    known, z = latent(kind), noise(1, 2, 10, 8)
    known.tile, results, kept = 8, [], []
    for checkpointed in (True, False):
        if not checkpointed:
            monkeypatch.setattr(tiling, "_kept", lambda function, part: function(part))
        x, sizes = z.clone().requires_grad_(), []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, sizes=sizes: (sizes.append(t.numel()), t)[1], lambda t: t
        ):
            image = known.decode(x)
        kept.append(sum(sizes))
        (gradient,) = torch.autograd.grad(image.square().sum(), x)
        results.append((image.detach(), gradient, known.encode(image.detach())))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)
    assert [part.shape[-2:] for part in results[0]] == [(20, 16), (10, 8), (10, 8)]
    assert kept[0] < kept[1] / 5


def test_a_draw_of_an_encoder_on_tiles_has_its_mean_and_deviation() -> None:
    known, x = latent(KL), noise(1, 1, 20, 16)
    known.tile = 8
    mean, one = known.encode(x), torch.ones(1, 2, 10, 8)
    torch.testing.assert_close(known.encode(x, 0 * one), mean)
    once, twice = (known.encode(x, k * one) - mean for k in (1, 2))
    assert (once > 0).all()
    torch.testing.assert_close(twice, 2 * once)
    with pytest.raises(ValueError, match="no posterior to draw from"):
        latent(VQ).encode(x, one)
