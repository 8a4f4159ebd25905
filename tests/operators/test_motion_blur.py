"""Motion blur, against scipy's correlation and the published distribution of kernels."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
import torch
from torch import Tensor

from posterior_bench.operators.motion_blur import MotionBlur


@pytest.mark.parametrize(("height", "width", "kernel"), [(40, 30, 15), (28, 28, 61), (6, 9, 7)])
def test_against_scipy(height: int, width: int, kernel: int) -> None:
    operator = MotionBlur(shape=(1, height, width), kernel=kernel, seed=2)
    x = np.random.default_rng(0).uniform(-1, 1, (height, width))
    # correlation, not convolution: the kernel is not turned; "mirror" is numpy's "reflect"
    expected = scipy.ndimage.correlate(x, operator.weights.numpy(), mode="mirror")
    np.testing.assert_allclose(
        operator.A(torch.from_numpy(x)[None, None])[0, 0].numpy(), expected, atol=1e-12
    )


@pytest.mark.parametrize(
    ("size", "side"), [(28, 7), (32, 7), (64, 15), (256, 61), (512, 121), (4, 3)]
)
def test_the_kernel_grows_with_the_image(size: int, side: int) -> None:
    operator = MotionBlur(shape=(1, size, size + 8))
    assert operator.side == side and operator.weights.shape == (side, side)


def _extent(weights: Tensor) -> float:
    """The larger side of the box around what is above 5 % of the peak."""
    places = (weights > 0.05 * weights.max()).nonzero()
    return float((places.amax(0) - places.amin(0) + 1).max())


def test_published_distribution() -> None:
    kernels = [MotionBlur(shape=(1, 256, 256), seed=seed).weights for seed in range(1000)]
    above = [float((weights > 0.05 * weights.max()).sum()) for weights in kernels]
    # 300 kernels of the published sampler have medians of 102 pixels and 33 pixels, with standard
    # errors of 4.9 and 1.5 by bootstrap; those of 1000 kernels have 2.5 and 0.8
    assert np.median(above) == pytest.approx(102, abs=3 * np.hypot(4.9, 2.5))
    assert np.median([_extent(weights) for weights in kernels]) == pytest.approx(
        33, abs=3 * np.hypot(1.5, 0.8)
    )


def test_kernels_are_densities() -> None:
    for seed in range(5):
        weights = MotionBlur(shape=(1, 64, 64), seed=seed).weights
        assert weights.min() >= 0 and weights.sum().item() == pytest.approx(1.0)


def test_without_intensity_the_path_is_straight() -> None:
    weights = MotionBlur(shape=(1, 256, 256), intensity=0.0, seed=1).weights
    places = (weights > 0.5 * weights.max()).nonzero().double()
    values = torch.linalg.svdvals(places - places.mean(0))
    assert values[1] < 0.2 * values[0]


def test_the_seed_is_the_kernel() -> None:
    x = torch.rand(1, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    state = np.random.get_state()[1].copy()
    same, again, other = (MotionBlur(shape=(1, 28, 28), seed=seed).A(x) for seed in (4, 4, 5))
    assert torch.equal(same, again) and not torch.allclose(same, other)
    assert np.array_equal(np.random.get_state()[1], state)
    assert MotionBlur.caps == {"linear"}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kernel": 4}, "odd number"),
        ({"kernel": 1}, "from 3 on"),
        ({"intensity": 1.5}, "outside"),
        ({"sigma": -1.0}, "not a noise level"),
    ],
)
def test_bad_settings(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MotionBlur(shape=(1, 28, 28), **settings)  # type: ignore[arg-type]
