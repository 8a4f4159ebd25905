"""The singular value decomposition of every operator that has one, against dense matrices."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from posterior_bench.operators.base import Operator
from posterior_bench.operators.box_blur import BoxBlur
from posterior_bench.operators.denoising import Denoising
from posterior_bench.operators.gaussian_blur import GaussianBlur
from posterior_bench.operators.inpainting import Inpainting
from posterior_bench.operators.motion_blur import MotionBlur
from posterior_bench.operators.projection import Projection
from posterior_bench.operators.super_resolution import SuperResolution

N, SHAPE = 2, (2, 8, 12)
D = 2 * 8 * 12


def _random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


OPERATORS: list[Operator] = [
    Inpainting(mask=_random(0, 1, 1, *SHAPE[1:]) > 0),
    Denoising(shape=SHAPE),
    SuperResolution(shape=SHAPE),
    SuperResolution(shape=SHAPE, factor=2),
    SuperResolution(shape=SHAPE, reduction="average"),
    GaussianBlur(shape=SHAPE, deviation=1.0),
    GaussianBlur(shape=SHAPE, deviation=0.6, rcond=0.0),
    GaussianBlur(shape=SHAPE, deviation=(0.5, 1.5), border="zero", rcond=0.01),
    GaussianBlur(shape=SHAPE, deviation=1.0, border="circular"),
    BoxBlur(shape=SHAPE, kernel=3),
    BoxBlur(shape=SHAPE, kernel=3, border="circular"),
    MotionBlur(shape=SHAPE, kernel=5, border="circular", rcond=0.2),
    MotionBlur(shape=SHAPE, kernel=15, border="circular", seed=3, rcond=0.01),
    Projection(shape=SHAPE),
    Projection(shape=SHAPE, rows=20),
]
every_operator = pytest.mark.parametrize("operator", OPERATORS, ids=lambda o: type(o).__name__)


def _dense(operator: Operator) -> Tensor:
    """The matrix, column by column."""
    return operator.A(torch.eye(D, dtype=torch.float64).view(D, *SHAPE)).flatten(1).T


def _truncated(operator: Operator) -> tuple[Tensor, Tensor, Tensor]:
    """``U``, ``S`` and ``V^T`` of the dense matrix, without the values that are truncated."""
    U, S, Vt = torch.linalg.svd(_dense(operator), full_matrices=False)
    smallest = max(getattr(operator, "rcond", 0.0), 1e-10) * S.max()
    kept = smallest < S
    return U[:, kept], S[kept], Vt[kept]


@every_operator
def test_coordinates_are_orthogonal(operator: Operator) -> None:
    spectrum = operator.spectrum(torch.zeros(1))
    eye = torch.eye(D, dtype=torch.float64)
    V, Vt = (f(eye.view(D, *SHAPE)).flatten(1).T for f in (spectrum.image, spectrum.coordinates))
    torch.testing.assert_close(V.T @ V, eye, rtol=0, atol=1e-10)
    torch.testing.assert_close(Vt, V.T, rtol=0, atol=1e-10)


@every_operator
def test_the_product_is_the_operator(operator: Operator) -> None:
    matrix, spectrum = _dense(operator), operator.spectrum(torch.zeros(1))
    eye = torch.eye(len(matrix), dtype=torch.float64)
    y = operator.A(torch.zeros(len(matrix), *SHAPE, dtype=torch.float64))
    Ut = spectrum.measured(eye.view(y.shape)).flatten(1).T
    S = spectrum.exact.expand(1, *SHAPE).flatten()
    V = spectrum.image(torch.eye(D, dtype=torch.float64).view(D, *SHAPE)).flatten(1).T
    torch.testing.assert_close((Ut.T * S) @ V.T, matrix, rtol=0, atol=1e-10)
    U = Ut.T[:, S > 0]
    torch.testing.assert_close(U.T @ U, torch.eye(U.shape[1]).double(), rtol=0, atol=1e-10)


@every_operator
def test_kept_values_are_those_of_the_matrix(operator: Operator) -> None:
    values = operator.spectrum(torch.zeros(1)).values
    assert values.dtype == torch.float64 and values.min() >= 0
    kept = values.expand(1, *SHAPE).flatten().sort(descending=True).values
    _, S, _ = _truncated(operator)
    torch.testing.assert_close(kept[: len(S)], S, rtol=0, atol=1e-10)
    assert not kept[len(S) :].any()


@every_operator
def test_pseudo_inverse_and_solution(operator: Operator) -> None:
    U, S, Vt = _truncated(operator)
    y = _random(1, *operator.A(torch.zeros(N, *SHAPE)).shape)
    expected = (y.flatten(1) @ U / S @ Vt).view(N, *SHAPE)
    spectrum = operator.spectrum(y)
    solution = spectrum.solution(y)
    torch.testing.assert_close(spectrum.image(solution), expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(operator.pinv(y), expected, rtol=0, atol=1e-10)
    assert not solution[(spectrum.values == 0).expand_as(solution)].any()


@every_operator
@pytest.mark.parametrize("rho", [1e-6, 1e-2, 7.0])
def test_prox_is_the_optimum(operator: Operator, rho: float) -> None:
    x, y = _random(2, N, *SHAPE), operator.A(_random(3, N, *SHAPE))
    u = operator.prox(x, y, rho)
    gradient = operator.At(operator.A(u) - y) + rho * (u - x)
    assert gradient.abs().max() < 1e-12
    torch.testing.assert_close(operator.prox(x, y, 1e9), x, rtol=0, atol=1e-8)


@every_operator
def test_prox_without_weight_is_the_limit(operator: Operator) -> None:
    x, y = _random(4, N, *SHAPE), operator.A(_random(5, N, *SHAPE))
    expected = x + operator.pinv(y - operator.A(x))
    torch.testing.assert_close(operator.prox(x, y, 0.0), expected, rtol=0, atol=1e-10)
    # one row at the limit and one beside it
    weights = torch.tensor([0.0, 0.3]).view(N, 1, 1, 1)
    both = operator.prox(x, y, weights)
    torch.testing.assert_close(both[0], expected[0], rtol=0, atol=1e-10)
    torch.testing.assert_close(both[1], operator.prox(x, y, 0.3)[1], rtol=0, atol=1e-7)


@every_operator
def test_types_stay(operator: Operator) -> None:
    x = _random(6, N, *SHAPE)
    y = operator.A(x)
    spectrum = operator.spectrum(y)
    pairs = [
        (spectrum.coordinates, x),
        (spectrum.image, x),
        (spectrum.measured, y),
        (spectrum.solution, y),
        (operator.pinv, y),
        (lambda v: operator.prox(v, y.to(v.dtype), 0.1), x),
    ]
    for function, value in pairs:
        single, double = function(value.float()), function(value)
        assert single.dtype == torch.float32 and double.dtype == torch.float64
        torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=1e-5)
