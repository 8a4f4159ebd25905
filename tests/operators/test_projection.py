"""Random projections, against dense linear algebra."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from posterior_bench.operators.projection import Projection

N, SHAPE = 3, (2, 2, 5)


def _random(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _dense(operator: Projection) -> Tensor:
    """The matrix, column by column."""
    return operator.A(torch.eye(20, dtype=torch.float64).view(20, *SHAPE)).T


@pytest.fixture(params=[0.35, 7, 20])
def operator(request) -> Projection:
    return Projection(shape=SHAPE, rows=request.param, sigma=0.3)


def test_entries_are_standard_normal_over_root_d() -> None:
    matrix = Projection(shape=(1, 40, 40), rows=400).A(
        torch.eye(1600, dtype=torch.float64).view(1600, 1, 40, 40)
    )
    # 640 000 entries: the mean has deviation 1 / 32 000, the mean square a relative one of 1 / 566
    assert abs(matrix.mean().item()) < 4 / 32_000
    assert matrix.square().mean().item() * 1600 == pytest.approx(1.0, rel=4 / 566)


@pytest.mark.parametrize(("rows", "count"), [(0.5, 10), (0.01, 1), (1, 1), (20, 20), (0.33, 7)])
def test_number_of_rows(rows: float, count: int) -> None:
    assert Projection(shape=SHAPE, rows=rows).A(torch.zeros(N, *SHAPE)).shape == (N, count)


def test_adjoint_and_pseudo_inverse(operator: Projection) -> None:
    matrix = _dense(operator)
    y = _random(1, N, len(matrix))
    torch.testing.assert_close(operator.At(y).flatten(1), y @ matrix)
    torch.testing.assert_close(operator.pinv(y).flatten(1), y @ torch.linalg.pinv(matrix).T)
    assert torch.equal(operator.first_guess(y), operator.pinv(y))


@pytest.mark.parametrize("rho", [1e-3, 0.7, torch.tensor([0.1, 1.0, 9.0]).view(N, 1, 1, 1)])
def test_prox_solves_the_normal_equations(operator: Projection, rho: float | Tensor) -> None:
    matrix, x = _dense(operator), _random(2, N, *SHAPE)
    y = _random(3, N, len(matrix))
    for i, weight in enumerate(rho.flatten().tolist() if isinstance(rho, Tensor) else [rho] * N):
        left = matrix.T @ matrix + weight * torch.eye(20, dtype=torch.float64)
        expected = torch.linalg.solve(left, matrix.T @ y[i] + weight * x[i].flatten())
        torch.testing.assert_close(
            operator.prox(x, y, rho)[i].flatten(), expected, rtol=1e-5, atol=1e-7
        )


def test_gradients_pass_and_types_stay(operator: Projection) -> None:
    x = _random(4, N, *SHAPE).float().requires_grad_()
    y = operator.A(x)
    (gradient,) = torch.autograd.grad(y.square().sum() / 2, x)
    assert y.dtype == gradient.dtype == torch.float32
    torch.testing.assert_close(gradient, operator.At(y.detach()))


def test_noise_and_paste(operator: Projection) -> None:
    x = _random(5, N, *SHAPE)
    noise = _random(6, *operator.A(x).shape)
    torch.testing.assert_close(operator.observe(x, noise) - operator.A(x), 0.3 * noise)
    assert operator.mask is None and torch.equal(operator.paste(x, operator.A(x)), x)
    assert (
        operator.repeat(2) is operator
        and "mask" not in operator.caps
        and "projection" not in operator.caps
    )


def test_the_seed_is_the_matrix() -> None:
    x = _random(7, N, *SHAPE)
    same, again, other = (Projection(shape=SHAPE, seed=seed).A(x) for seed in (4, 4, 5))
    assert torch.equal(same, again) and not torch.allclose(same, other)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rows": 0}, "give a fraction"),
        ({"rows": 1.5}, "give a fraction"),
        ({"rows": math.inf}, "give a fraction"),
        ({"rows": 21}, "21 rows are more than the 20 values"),
        ({"sigma": -1.0}, "not a noise level"),
    ],
)
def test_bad_settings(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Projection(shape=SHAPE, **settings)  # type: ignore[arg-type]
