"""Our operators against those of deepinv, where it has the same; skipped where it is not installed.

deepinv's blurs are convolutions, so our kernels are turned for them.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from posterior_bench.operators.base import Operator
from posterior_bench.operators.box_blur import BoxBlur
from posterior_bench.operators.gaussian_blur import GaussianBlur
from posterior_bench.operators.inpainting import Inpainting
from posterior_bench.operators.motion_blur import MotionBlur
from posterior_bench.operators.super_resolution import SuperResolution

SHAPE = (3, 24, 32)
PADDING = {"reflect": "reflect", "circular": "circular", "zero": "constant"}


@pytest.fixture
def physics():
    return pytest.importorskip(
        "deepinv", reason="the optional package deepinv is not installed"
    ).physics


def _random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _kernel(operator: Operator) -> Tensor:
    """The kernel as deepinv takes it: what the operator makes of a pixel far from the border."""
    if isinstance(operator, MotionBlur):
        return operator.weights.flip(0, 1)[None, None].float()
    pixel = torch.zeros(1, 1, 25, 25)
    pixel[..., 12, 12] = 1
    assert isinstance(operator, GaussianBlur | BoxBlur)
    spread = replace(operator, shape=(1, 25, 25), border="zero").A(pixel)
    reach = int(spread[0, 0].nonzero().sub(12).abs().max())
    return spread[..., 12 - reach : 13 + reach, 12 - reach : 13 + reach]


def _blurs(border: str) -> list[Operator]:
    return [
        GaussianBlur(shape=SHAPE, border=border, deviation=1.7),
        GaussianBlur(shape=SHAPE, border=border, kernel=7, deviation=(0.8, 4.0)),
        BoxBlur(shape=SHAPE, border=border),
        MotionBlur(shape=SHAPE, border=border, kernel=9, seed=5),
    ]


def _agree(ours: Operator, theirs: object) -> None:
    x = _random(1, 2, *SHAPE)
    y = theirs.A(x)  # type: ignore[attr-defined]
    torch.testing.assert_close(ours.A(x), y, rtol=0, atol=3e-6)
    y = _random(2, *y.shape)
    adjoint = theirs.A_adjoint(y)  # type: ignore[attr-defined]
    torch.testing.assert_close(ours.At(y), adjoint, rtol=0, atol=3e-6)


@pytest.mark.parametrize("border", PADDING)
@pytest.mark.parametrize("which", range(4))
def test_blurs(physics, border: str, which: int) -> None:
    ours = _blurs(border)[which]
    _agree(ours, physics.Blur(filter=_kernel(ours), padding=PADDING[border]))


@pytest.mark.parametrize("which", range(4))
@pytest.mark.parametrize("gamma", [0.3, 50.0])
def test_circular_blurs_and_their_proximal_steps(physics, which: int, gamma: float) -> None:
    ours = _blurs("circular")[which]
    theirs = physics.BlurFFT(img_size=SHAPE, filter=_kernel(ours))
    _agree(ours, theirs)
    x, y = _random(3, 2, *SHAPE), _random(4, 2, *SHAPE)
    # they minimise gamma |A u - y|^2 + |u - x|^2, both halved
    expected = theirs.prox_l2(x, y, gamma)
    torch.testing.assert_close(ours.prox(x, y, 1 / gamma), expected, rtol=1e-4, atol=1e-4)


def test_singular_values_of_a_circular_blur(physics) -> None:
    ours = MotionBlur(shape=SHAPE, border="circular", kernel=9, seed=5)
    theirs = physics.BlurFFT(img_size=SHAPE, filter=_kernel(ours))
    # they keep the half of the frequencies that a real transform has
    half = ours.spectrum(torch.zeros(1)).exact[:, : SHAPE[2] // 2 + 1]
    torch.testing.assert_close(half, theirs.mask[0, 0, ..., 0].double(), rtol=0, atol=1e-6)


def test_block_average(physics) -> None:
    ours = SuperResolution(shape=SHAPE, reduction="average")
    window = torch.ones(1, 1, 4, 4) / 16
    theirs = physics.Downsampling(img_size=SHAPE, filter=window, factor=4, padding="circular")
    x = _random(5, 2, *SHAPE)
    # an even window has no central pixel, and theirs stands one pixel up and left of a block
    expected = theirs.A(x.roll((-1, -1), (-2, -1)))
    torch.testing.assert_close(ours.A(x), expected, rtol=0, atol=1e-6)


def test_bicubic_reduction(physics) -> None:
    ours = SuperResolution(shape=SHAPE)
    theirs = physics.DownsamplingMatlab(factor=4)
    x = _random(6, 2, *SHAPE)
    torch.testing.assert_close(ours.A(x), theirs.A(x), rtol=0, atol=3e-6)


def test_inpainting(physics) -> None:
    mask = _random(7, 1, 1, *SHAPE[1:]) > 0
    theirs = physics.Inpainting(img_size=SHAPE, mask=mask[0].float())
    _agree(Inpainting(mask=mask), theirs)
    x, y = _random(8, 2, *SHAPE), Inpainting(mask=mask).A(_random(9, 2, *SHAPE))
    expected = theirs.prox_l2(x, y, 2.0)
    torch.testing.assert_close(Inpainting(mask=mask).prox(x, y, 0.5), expected)
