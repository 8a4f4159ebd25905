"""Motion blur, against scipy's correlation and the published distribution of kernels."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
import torch
from torch import Tensor

from posterior_bench.operators.motion_blur import MotionBlur

# what scipy calls the borders; its "mirror" is numpy's "reflect"
MODES = {"reflect": "mirror", "circular": "wrap", "zero": "constant"}


@pytest.mark.parametrize(("height", "width", "kernel"), [(40, 30, 15), (28, 28, 61), (6, 9, 7)])
@pytest.mark.parametrize("border", MODES)
def test_against_scipy(height: int, width: int, kernel: int, border: str) -> None:
    operator = MotionBlur(shape=(1, height, width), kernel=kernel, seed=2, border=border)
    x = np.random.default_rng(0).uniform(-1, 1, (height, width))
    # correlation, not convolution: the kernel is not turned
    expected = scipy.ndimage.correlate(x, operator.weights.numpy(), mode=MODES[border])
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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kernel": 4}, "odd number"),
        ({"kernel": 1}, "from 3 on"),
        ({"intensity": 1.5}, "outside"),
        ({"border": "constant"}, "unknown border 'constant'. Valid: reflect, circular, zero"),
        ({"sigma": -1.0}, "not a noise level"),
        ({"rcond": 1.0}, r"outside \[0, 1\)"),
        ({"tolerance": 0.0}, "no relative residual"),
        ({"iterations": 0}, "give 1 or more"),
    ],
)
def test_bad_settings(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MotionBlur(shape=(1, 28, 28), **settings)  # type: ignore[arg-type]


def _random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_capabilities_follow_the_border() -> None:
    shape = (1, 8, 8)
    circular = MotionBlur(shape=shape, border="circular")
    assert circular.caps == {"linear", "pinv", "prox", "svd"}
    assert MotionBlur.caps_with({"border": "circular"}) == circular.caps
    for operator in (MotionBlur(shape=shape), MotionBlur(shape=shape, border="zero")):
        assert operator.caps == MotionBlur.caps == MotionBlur.caps_with({}) == {"linear", "prox"}
        with pytest.raises(NotImplementedError, match="has no spectrum"):
            operator.spectrum(torch.zeros(1))
        y = _random(0, 1, *shape)
        with pytest.raises(ValueError, match="give a positive rho"):
            operator.prox(y, y, 0.0)
        assert torch.equal(operator.first_guess(y), operator.At(y))


@pytest.mark.parametrize("border", ["reflect", "zero"])
@pytest.mark.parametrize("rho", [1e-3, 0.3])
def test_prox_solves_the_normal_equations(border: str, rho: float) -> None:
    operator = MotionBlur(shape=(2, 9, 11), kernel=7, border=border, seed=1)
    matrix = operator.A(torch.eye(99).double().view(99, 1, 9, 11)).flatten(1).T
    x, y = _random(1, 3, 2, 9, 11), _random(2, 3, 2, 9, 11)
    left = matrix.T @ matrix + rho * torch.eye(99).double()
    right = y.flatten(2) @ matrix + rho * x.flatten(2)
    expected = torch.linalg.solve(left, right.flatten(0, 1).T).T
    found = operator.prox(x, y, rho).flatten(2).flatten(0, 1)
    # an error of 1e-8 in the residual is one of up to 1e-8 / rho in the solution
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-8 / rho)


def test_rows_of_a_proximal_step_do_not_mix() -> None:
    operator = MotionBlur(shape=(1, 12, 12), kernel=5)
    x, y = _random(3, 3, 1, 12, 12).float(), _random(4, 3, 1, 12, 12).float()
    y[0] *= 0.01  # the rows need different numbers of iterations
    x[0] *= 0.01
    weights = torch.tensor([1e-3, 1.0, 1e-2]).view(3, 1, 1, 1)
    together = operator.prox(x, y, weights)
    other = operator.prox(x.flip(0), y.flip(0), weights.flip(0)).flip(0)
    assert torch.equal(together, other)
    y[1] = torch.nan
    beside = operator.prox(x, y, weights)
    assert torch.equal(beside[[0, 2]], together[[0, 2]]) and beside[1].isnan().all()
    # a product of matrices may round otherwise in a batch of another size, and no more than that
    alone = torch.cat([operator.prox(x[i : i + 1], y[i : i + 1], weights[i]) for i in (0, 2)])
    torch.testing.assert_close(alone, together[[0, 2]], rtol=1e-6, atol=1e-6)


def test_the_largest_number_of_iterations_ends_a_proximal_step() -> None:
    x, y = torch.zeros(1, 1, 12, 12).double(), _random(5, 1, 1, 12, 12)
    operator = MotionBlur(shape=(1, 12, 12), kernel=5, iterations=1)
    # one step of steepest descent, by hand
    right = operator.At(y)
    image = operator.At(operator.A(right)) + 0.1 * right
    step = right.square().sum() / (right * image).sum()
    torch.testing.assert_close(operator.prox(x, y, 0.1), step * right)
