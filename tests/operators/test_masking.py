"""A kept pixel has the bits that ``torch.where`` gives it, in values and gradients."""

import math

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from posterior_bench.operators.inpainting import Inpainting
from posterior_bench.operators.masking import PixelMask

SHAPE = (2, 3, 96, 96)
STRANGE = (math.nan, -math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-42, -1e-42)


def where(mask: Tensor, x: Tensor) -> Tensor:
    return torch.where(mask, x, torch.zeros((), dtype=x.dtype))


def strange(dtype: torch.dtype, seed: int) -> Tensor:
    """Return numbers of every kind, in the hole and outside."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(SHAPE, generator=generator, dtype=dtype)
    kinds = torch.tensor(STRANGE, dtype=dtype)
    picks = torch.randint(len(STRANGE), SHAPE, generator=generator)
    return torch.where(torch.rand(SHAPE, generator=generator) < 0.3, kinds[picks], x)


def same_bits(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(
        a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8)
    )


@pytest.fixture
def mask() -> Tensor:
    return torch.rand(2, 1, 96, 96, generator=torch.Generator().manual_seed(1)) < 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bits_of_values_and_gradients(mask: Tensor, dtype: torch.dtype) -> None:
    x, slope = strange(dtype, 2), strange(dtype, 3)
    results = []
    for keep in (PixelMask(mask).kept, lambda x: where(mask, x)):
        leaf = x.clone().requires_grad_()
        out = keep(leaf)
        results.append((out.detach(), torch.autograd.grad(out, leaf, slope)[0]))
    (ours, our_slope), (theirs, their_slope) = results
    assert type(PixelMask(mask).kept(x.requires_grad_()).grad_fn).__name__ == "_KeptBackward"
    assert same_bits(ours, theirs)
    assert same_bits(our_slope, their_slope)


def layouts(seed: int) -> tuple[Tensor, ...]:
    x = strange(torch.float32, seed)
    channels_last = x.contiguous(memory_format=torch.channels_last)
    return x, channels_last, x[:, :1].expand(SHAPE), x.transpose(2, 3)


def test_layouts_of_images_and_gradients(mask: Tensor) -> None:
    """Sums over pixels depend on the layout of memory, so it must be the same too."""
    for x in layouts(4):
        for slope in layouts(5):
            results = []
            for keep in (PixelMask(mask).kept, lambda x: where(mask, x)):
                leaf = x.detach().requires_grad_()
                out = keep(leaf)
                results.append((out.detach(), torch.autograd.grad(out, leaf, slope)[0]))
            for ours, theirs in zip(*results, strict=True):
                assert same_bits(ours, theirs)
                assert ours.stride() == theirs.stride()


def test_second_derivatives_and_tangents(mask: Tensor) -> None:
    pixels, x = PixelMask(mask), torch.randn(SHAPE, dtype=torch.float64).requires_grad_()
    slope = torch.autograd.grad(pixels.kept(x).pow(3).sum(), x, create_graph=True)[0]
    second = torch.autograd.grad(slope.sum(), x)[0]
    assert torch.equal(second, where(mask, 6 * x.detach()))
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x.detach(), x.detach().cos())
        assert torch.equal(
            forward_ad.unpack_dual(pixels.kept(dual)).tangent, where(mask, x.detach().cos())
        )


def test_transforms_of_functions(mask: Tensor) -> None:
    pixels, x = PixelMask(mask), torch.randn(3, *SHAPE)
    slopes = torch.func.vmap(torch.func.grad(lambda x: pixels.kept(x).square().sum()))(x)
    assert torch.equal(slopes, 2 * torch.where(mask, x, 0.0))


def test_small_images_half_precision_and_other_shapes_work_too(mask: Tensor) -> None:
    pixels = PixelMask(mask)
    for x in (torch.randn(1, 3, 96, 96), strange(torch.float32, 5).half()):
        assert same_bits(pixels.kept(x), where(mask, x))
    small = PixelMask(mask[..., :4, :4])
    assert same_bits(small.kept(torch.ones(2, 1, 4, 4)), mask[..., :4, :4].float())


def test_an_operator_makes_its_words_once(mask: Tensor) -> None:
    operator, x = Inpainting(mask), torch.randn(SHAPE)
    operator.A(x)
    words = operator._pixels._as_words(torch.float32)
    assert operator.spectrum(x).mask._as_words(torch.float32) is words
    assert words.shape == mask.shape
