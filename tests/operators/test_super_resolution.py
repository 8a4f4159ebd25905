"""Super-resolution, against the published weights and Pillow's bicubic filter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from posterior_bench.operators.super_resolution import SuperResolution

WEIGHTS = [-7, -45, -75, -49, 93, 399, 745, 987, 987, 745, 399, 93, -49, -75, -45, -7]
"""The cubic of Keys at distances (k + 1/2) / 4, worked out by hand, in units of 1 / 4096."""


def _random(*shape: int) -> Tensor:
    return (
        torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    )


def test_weights_by_hand() -> None:
    line = SuperResolution(shape=(1, 64, 64)).line(64, 0)
    expected = torch.tensor(WEIGHTS, dtype=torch.float64) / 4096
    for o in range(2, 14):
        torch.testing.assert_close(line[o, 4 * o - 6 : 4 * o + 10], expected)
        assert line[o].count_nonzero() == 16
    # the first output reaches six pixels out of the image, where -1 - j is j
    first = torch.zeros(10, dtype=torch.float64)
    for place, weight in zip(range(-6, 10), expected.tolist(), strict=True):
        first[place if place >= 0 else -1 - place] += weight
    torch.testing.assert_close(line[0, :10], first)
    torch.testing.assert_close(line[-1], line[0].flip(0))


@pytest.mark.parametrize(
    ("factor", "height", "width"), [(4, 28, 28), (4, 64, 32), (2, 12, 8), (3, 12, 27)]
)
def test_against_pillow(factor: int, height: int, width: int) -> None:
    x = _random(1, 1, height, width)
    # Pillow renormalises its kernel at the border, so the mirrored image is handed in and the
    # border cut off
    wide = np.pad(x[0, 0].float().numpy(), 2 * factor, mode="symmetric")
    size = (wide.shape[1] // factor, wide.shape[0] // factor)
    expected = np.asarray(Image.fromarray(wide).resize(size, Image.Resampling.BICUBIC))[2:-2, 2:-2]
    y = SuperResolution(shape=(1, height, width), factor=factor).A(x)
    np.testing.assert_allclose(y[0, 0].numpy(), expected, atol=1e-6)


@pytest.mark.parametrize(("factor", "shape"), [(4, (2, 8, 12)), (3, (1, 9, 6))])
def test_the_average_is_that_of_torch(factor: int, shape: tuple[int, int, int]) -> None:
    operator = SuperResolution(shape=shape, factor=factor, reduction="average")
    x = _random(3, *shape)
    torch.testing.assert_close(operator.A(x), torch.nn.functional.avg_pool2d(x, factor))
    y = operator.A(x)
    # the pseudo-inverse repeats the mean in its block; the adjoint is that divided by the block
    repeated = torch.nn.functional.interpolate(y, scale_factor=factor, mode="nearest")
    torch.testing.assert_close(operator.pinv(y), repeated)
    torch.testing.assert_close(operator.At(y), repeated / factor**2)


@pytest.mark.parametrize("shape", [(2, 8, 12), (1, 28, 28)])
@pytest.mark.parametrize("reduction", ["bicubic", "average"])
def test_pseudo_inverse(shape: tuple[int, int, int], reduction: str) -> None:
    operator, (_, height, width) = SuperResolution(shape=shape, reduction=reduction), shape
    basis = torch.eye(height * width, dtype=torch.float64).view(-1, 1, height, width)
    matrix = operator.A(basis).flatten(1).T
    y = _random(3, shape[0], height // 4, width // 4)
    expected = y.flatten(2) @ torch.linalg.pinv(matrix).T
    torch.testing.assert_close(operator.pinv(y).flatten(2), expected)
    torch.testing.assert_close(operator.A(operator.pinv(y)), y)
    assert torch.equal(operator.first_guess(y), operator.pinv(y))


@pytest.mark.parametrize(("size", "smallest"), [(256, 0.3485), (64, 0.3522)])
def test_singular_values_of_a_line(size: int, smallest: float) -> None:
    values = torch.linalg.svdvals(SuperResolution(shape=(1, size, size)).line(size, 0))
    assert values[0].item() == pytest.approx(0.5, abs=1e-4) and values[-1].item() == pytest.approx(
        smallest, abs=1e-4
    )


def test_noise() -> None:
    operator, x = SuperResolution(shape=(3, 16, 16), sigma=0.3), _random(2, 3, 16, 16)
    noise = _random(2, 3, 4, 4)
    torch.testing.assert_close(operator.observe(x, noise) - operator.A(x), 0.3 * noise)
    assert operator.caps == {"linear", "pinv", "prox", "svd"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"factor": 0}, "reduces nothing"),
        ({"factor": 5}, "5 does not divide the 28 x 28"),
        ({"reduction": "nearest"}, "unknown reduction 'nearest'. Valid: bicubic, average"),
        ({"sigma": -1.0}, "noise"),
    ],
)
def test_bad_settings(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SuperResolution(shape=(1, 28, 28), **settings)  # type: ignore[arg-type]
