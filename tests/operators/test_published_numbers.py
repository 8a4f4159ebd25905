"""Operators against numbers that other code computed: the authors' operators, and DiffPIR's solver.

All in float64, on one test image of 256 or 32 pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
import scipy.ndimage
import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.operators.base import Operator
from posterior_bench.operators.borders import blur_line
from posterior_bench.operators.box_blur import BoxBlur
from posterior_bench.operators.gaussian_blur import GaussianBlur
from posterior_bench.operators.motion_blur import MotionBlur
from posterior_bench.operators.separable import Separable
from posterior_bench.operators.super_resolution import SuperResolution

PRINTED = 6e-8
"""Three times the largest difference to a printed number, which has eight decimals."""


def image(size: int) -> Tensor:
    """The test image, ``(1, 3, size, size)``."""
    rows = torch.arange(size, dtype=torch.float64)[:, None]
    columns = torch.arange(size, dtype=torch.float64)
    channels = torch.arange(3, dtype=torch.float64)[:, None, None]
    slow = torch.sin(2 * math.pi * (3 * rows + 5 * columns) / size + 0.7 * channels)
    return (0.5 * slow + 0.4 * torch.cos(0.9 * (channels + 1) * rows + 0.3 * columns))[None]


def test_the_image() -> None:
    assert image(256).norm().item() == pytest.approx(200.758329, abs=1e-6)
    assert image(32).norm().item() == pytest.approx(25.089184, abs=1e-6)


def _operators(size: int) -> dict[str, Operator]:
    shape = (3, size, size)
    return {
        "bicubic": SuperResolution(shape=shape),
        "average": SuperResolution(shape=shape, reduction="average"),
        "gauss": GaussianBlur(shape=shape),
        "gauss, zero": GaussianBlur(shape=shape, border="zero"),
        "gauss, circular": GaussianBlur(shape=shape, border="circular"),
        "uniform": BoxBlur(shape=shape),
        "gauss of 5": GaussianBlur(shape=shape, kernel=5, deviation=10.0, border="zero"),
    }


@pytest.mark.parametrize(
    ("name", "size", "norm", "error"),
    [
        ("bicubic", 256, 39.60095036, PRINTED),
        ("bicubic", 32, 1.39445887, PRINTED),
        # torch's avg_pool2d and scipy's gaussian_filter agree with ours to 1e-12 and not with these
        # two, which come from code in float32
        ("average", 256, 40.07436129, 1e-4),
        ("gauss", 32, 1.27021821, 5e-5),
        ("average", 32, 2.38834082, PRINTED),
        ("gauss", 256, 143.25718800, PRINTED),
        ("gauss, zero", 256, 140.86629116, PRINTED),
        ("gauss, zero", 32, 0.64066665, PRINTED),
        ("gauss, circular", 256, 142.99331370, PRINTED),
        ("gauss, circular", 32, 0.96266678, PRINTED),
        ("uniform", 256, 144.85898781, PRINTED),
        ("gauss of 5", 256, 155.22953783, PRINTED),
    ],
)
def test_measurements(name: str, size: int, norm: float, error: float) -> None:
    y = _operators(size)[name].A(image(size))
    assert y.norm().item() == pytest.approx(norm, abs=error)


@dataclass(frozen=True)
class _Taps(Separable):
    """The window that DDRM applies: the last weight is left out, as is the centring."""

    shape: tuple[int, int, int]
    deviations: tuple[float, float]
    sides: tuple[int, int]

    @override
    def line(self, size: int, axis: int) -> Tensor:
        side = self.sides[axis]
        taps = torch.arange(side, dtype=torch.float64) - side // 2
        weights = torch.exp(-0.5 * (taps / self.deviations[axis]) ** 2)
        weights = weights / weights.sum()
        weights[-1] = 0
        return blur_line(weights, size, "zero")


@pytest.mark.parametrize(
    ("deviations", "side", "size", "norm"),
    [
        ((math.inf, math.inf), 9, 256, 116.26386240),
        ((math.inf, math.inf), 9, 32, 1.48934245),
        ((10.0, 10.0), 5, 256, 102.48190587),
        ((1.0, 20.0), 9, 256, 137.09799484),
    ],
)
def test_blurs_of_ddrm_without_its_mixed_channels(
    deviations: tuple[float, float], side: int, size: int, norm: float
) -> None:
    operator = _Taps((3, size, size), deviations, (side, side))
    assert operator.A(image(size)).norm().item() == pytest.approx(norm, abs=PRINTED)


@pytest.mark.parametrize(
    ("name", "largest", "smallest"),
    [
        ("bicubic", 0.5, 0.348517),
        ("average", 0.5, 0.5),
        ("gauss", 1.002208, 1.24e-7),
        ("gauss, zero", 0.999341, 3.96e-8),
        ("gauss, circular", 1.0, 2.6e-8),
    ],
)
def test_singular_values_of_a_line(name: str, largest: float, smallest: float) -> None:
    operator = _operators(256)[name]
    assert isinstance(operator, Separable)
    values = torch.linalg.svdvals(operator.line(256, 0))
    assert values[0].item() == pytest.approx(largest, abs=1e-6)
    assert values[-1].item() == pytest.approx(smallest, rel=0.01)


@pytest.mark.parametrize(
    ("name", "threshold", "count"),
    [
        ("bicubic", 3e-2, 64),
        ("gauss", 3e-2, 72),
        ("gauss", 1e-2, 83),
        ("gauss", 1e-3, 101),
        ("gauss, zero", 3e-2, 73),
        ("gauss, circular", 3e-2, 71),
    ],
)
def test_number_of_values_above_a_threshold(name: str, threshold: float, count: int) -> None:
    operator = _operators(256)[name]
    assert isinstance(operator, Separable)
    assert int((torch.linalg.svdvals(operator.line(256, 0)) >= threshold).sum()) == count


def test_values_of_the_image() -> None:
    average = _operators(256)["average"].spectrum(torch.zeros(1)).values
    assert int((average > 0).sum()) == 4096
    torch.testing.assert_close(average[average > 0], torch.full((4096,), 0.25).double())
    circular = _operators(256)["gauss, circular"].spectrum(torch.zeros(1)).exact
    below = [(circular < level).double().mean().item() for level in (1e-2, 1e-3)]
    assert below == pytest.approx([0.918, 0.878], abs=1e-3)


@dataclass(frozen=True)
class _Given(MotionBlur):
    """The kernel of DiffPIR's golden numbers, turned: ours is a correlation."""

    @property
    @override
    def weights(self) -> Tensor:
        return torch.arange(25.0, 0.0, -1.0, dtype=torch.float64).view(5, 5) / 325


def test_proximal_step_of_diffpir() -> None:
    operator, x = _Given(shape=(3, 32, 32), kernel=5, border="circular"), image(32)
    y = operator.A(x)
    convolved = scipy.ndimage.convolve(
        x[0, 0].numpy(), operator.weights.flip(0, 1).numpy(), mode="wrap"
    )
    torch.testing.assert_close(y[0, 0], torch.from_numpy(convolved))
    assert y.norm().item() == pytest.approx(7.00667282, abs=PRINTED)
    assert operator.spectrum(x).exact.min().item() == pytest.approx(0.0018681246, abs=1e-10)
    u = operator.prox(0.3 * x, y, 0.05)
    assert u.norm().item() == pytest.approx(17.11287042, abs=PRINTED)
    assert u[0, 0, 0, 0].item() == pytest.approx(0.1757069044, abs=1e-10)
