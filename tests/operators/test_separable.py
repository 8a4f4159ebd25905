"""What super-resolution, Gaussian and motion blur share, against dense linear algebra."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from posterior_bench.operators.base import Operator
from posterior_bench.operators.box_blur import BoxBlur
from posterior_bench.operators.gaussian_blur import GaussianBlur
from posterior_bench.operators.motion_blur import MotionBlur
from posterior_bench.operators.separable import Separable
from posterior_bench.operators.super_resolution import SuperResolution

N, SHAPE = 3, (2, 8, 12)
SIZE = 8 * 12
LINEAR = [
    SuperResolution(shape=SHAPE),
    SuperResolution(shape=SHAPE, factor=2),
    GaussianBlur(shape=SHAPE),
    GaussianBlur(shape=SHAPE, kernel=5, deviation=0.8),
    MotionBlur(shape=SHAPE, kernel=7),
    MotionBlur(shape=SHAPE, kernel=31, seed=4),
    SuperResolution(shape=SHAPE, reduction="average"),
    GaussianBlur(shape=SHAPE, border="circular", deviation=(0.7, 2.0)),
    BoxBlur(shape=SHAPE, border="reflect"),
    MotionBlur(shape=SHAPE, kernel=7, border="circular"),
    GaussianBlur(shape=SHAPE, border="zero"),
    BoxBlur(shape=SHAPE, kernel=3),
    MotionBlur(shape=SHAPE, kernel=7, border="zero"),
]
SEPARABLE = [operator for operator in LINEAR if isinstance(operator, Separable)]


def _random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _dense(operator: Operator) -> Tensor:
    """The matrix of one channel, column by column."""
    basis = torch.eye(SIZE, dtype=torch.float64).view(SIZE, 1, *SHAPE[1:])
    return operator.A(basis).flatten(1).T


@pytest.mark.parametrize("operator", LINEAR, ids=repr)
def test_adjoint(operator: Operator) -> None:
    x = _random(1, N, *SHAPE)
    y = _random(2, *operator.A(x).shape)
    torch.testing.assert_close((operator.A(x) * y).sum(), (x * operator.At(y)).sum())
    expected = y.flatten(2) @ _dense(operator)
    torch.testing.assert_close(operator.At(y).flatten(2), expected)
    left, right = (
        (operator.A(x.float()) * y.float()).sum(),
        (x.float() * operator.At(y.float())).sum(),
    )
    assert abs(left - right) < 1e-5 * y.norm() * x.norm()


@pytest.mark.parametrize("operator", LINEAR, ids=repr)
def test_gradients_are_the_adjoint_and_types_stay(operator: Operator) -> None:
    x = _random(3, N, *SHAPE).float().requires_grad_()
    y = operator.A(x)
    (gradient,) = torch.autograd.grad(y.square().sum() / 2, x)
    assert y.dtype == gradient.dtype == torch.float32
    torch.testing.assert_close(gradient, operator.At(y.detach()))


@pytest.mark.parametrize("operator", LINEAR, ids=repr)
def test_constants_keep_their_value_unless_zeros_surround_them(operator: Operator) -> None:
    y = operator.A(torch.full((1, *SHAPE), 0.7, dtype=torch.float64))
    if getattr(operator, "border", "reflect") == "zero":
        # darker at the corners
        assert y.max() <= 0.7 + 1e-12 and y[..., 0, 0].max() < 0.6
    else:
        torch.testing.assert_close(y, torch.full_like(y, 0.7))


@pytest.mark.parametrize("operator", LINEAR, ids=repr)
def test_channels_are_equal_and_apart(operator: Operator) -> None:
    grey = _random(8, N, 1, *SHAPE[1:]).expand(N, *SHAPE)
    y = operator.A(grey)
    torch.testing.assert_close(y[:, 0], y[:, 1], rtol=0, atol=1e-14)
    one = grey.clone()
    one[:, 1] = 0
    assert not operator.A(one)[:, 1].any() and not operator.At(operator.A(one))[:, 1].any()


@pytest.mark.parametrize("border", ["reflect", "circular", "zero"])
def test_a_window_stands_on_its_pixel(border: str) -> None:
    shape = (1, 31, 33)
    pixel = torch.zeros(1, *shape, dtype=torch.float64)
    pixel[..., 15, 16] = 1
    down, across = (torch.arange(size, dtype=torch.float64) - size // 2 for size in shape[1:])
    for operator in (GaussianBlur(shape, border=border), BoxBlur(shape, border=border)):
        window = operator.A(pixel)[0, 0]
        assert window.sum().item() == pytest.approx(1.0)
        assert abs((down[:, None] * window).sum()) < 1e-12
        assert abs((across * window).sum()) < 1e-12
    motion = MotionBlur(shape, kernel=7, border=border)
    # a correlation turns the kernel around
    expected = torch.zeros_like(pixel)
    expected[..., 12:19, 13:20] = motion.weights.flip(0, 1)
    torch.testing.assert_close(motion.A(pixel), expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("operator", SEPARABLE, ids=repr)
@pytest.mark.parametrize(
    "rho", [1e-2, 0.7, torch.tensor([0.1, 1.0, 9.0]).view(N, 1, 1, 1)], ids=["small", "1", "own"]
)
def test_prox_solves_the_normal_equations(operator: Separable, rho: float | Tensor) -> None:
    matrix, x = _dense(operator), _random(4, N, *SHAPE)
    y = _random(5, *operator.A(x).shape)
    for i, weight in enumerate(
        rho.double().flatten().tolist() if isinstance(rho, Tensor) else [rho] * N
    ):
        left = matrix.T @ matrix + weight * torch.eye(SIZE, dtype=torch.float64)
        expected = torch.linalg.solve(
            left, matrix.T @ y[i].flatten(1).T + weight * x[i].flatten(1).T
        ).T
        torch.testing.assert_close(operator.prox(x, y, rho)[i].flatten(1), expected)


@pytest.mark.parametrize("operator", SEPARABLE, ids=repr)
def test_singular_values_are_products(operator: Separable) -> None:
    lines = [torch.linalg.svdvals(operator.line(SHAPE[1 + axis], axis)) for axis in (0, 1)]
    products = torch.outer(*lines).flatten().sort(descending=True).values
    torch.testing.assert_close(torch.linalg.svdvals(_dense(operator)), products)


@pytest.mark.parametrize("operator", LINEAR, ids=repr)
def test_channels_and_images_do_not_mix(operator: Operator) -> None:
    x = _random(6, N, *SHAPE)
    alone = operator.A(x[1:2, 1:])
    torch.testing.assert_close(operator.A(x)[1:2, 1:], alone)
    torch.testing.assert_close(
        operator.prox(x, operator.A(x), 0.5) if operator in SEPARABLE else x, x
    )


@pytest.mark.parametrize("operator", LINEAR, ids=repr)
def test_nothing_is_observed_directly(operator: Operator) -> None:
    x = _random(7, N, *SHAPE)
    assert (
        operator.mask is None
        and operator.paste(x, operator.A(x)) is x
        and operator.repeat(2) is operator
    )
    assert not operator.caps & {"mask", "projection", "nonlinear"} and operator.takes_shape
