"""Inpainting, against dense linear algebra."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from posterior_bench.operators.inpainting import Inpainting

N, C, H, W = 3, 2, 4, 5
SHAPE = (N, C, H, W)


def _random(seed: int, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def operator() -> Inpainting:
    """A different mask for each image, the last one all hole."""
    mask = torch.rand((N, 1, H, W), generator=torch.Generator().manual_seed(0)) < 0.6
    mask[-1] = False
    return Inpainting(mask=mask, sigma=0.3)


def _dense(operator: Inpainting) -> Tensor:
    """The matrix of each image, ``(N, CHW, CHW)``, column by column."""
    basis = (
        torch.eye(C * H * W, dtype=torch.float64).reshape(-1, 1, C, H, W).expand(-1, N, -1, -1, -1)
    )
    return torch.stack([operator.A(e).flatten(1) for e in basis], 2)


def test_measurement_by_hand() -> None:
    mask = torch.tensor([[[[True, False], [False, True]]]])
    x = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [7.0, 8.0]]]])
    assert Inpainting(mask=mask).A(x).tolist() == [[[[1, 0], [0, 4]], [[5, 0], [0, 8]]]]


def test_adjoint(operator: Inpainting) -> None:
    x, y = _random(1), _random(2)
    left, right = (operator.A(x) * y).flatten(1).sum(1), (x * operator.At(y)).flatten(1).sum(1)
    torch.testing.assert_close(left, right)
    matrix = _dense(operator)
    torch.testing.assert_close(
        (matrix.mT @ y.flatten(1)[..., None])[..., 0], operator.At(y).flatten(1)
    )


def test_projection(operator: Inpainting) -> None:
    x = _random(3)
    once = operator.At(operator.A(x))
    assert torch.equal(operator.At(operator.A(once)), once)
    matrix = _dense(operator)
    gram = matrix.mT @ matrix
    assert torch.equal(gram @ gram, gram) and torch.equal(gram, gram.mT)


def test_pseudo_inverse(operator: Inpainting) -> None:
    y = _random(4)
    expected = torch.linalg.pinv(_dense(operator)) @ y.flatten(1)[..., None]
    torch.testing.assert_close(operator.pinv(y).flatten(1), expected[..., 0])


@pytest.mark.parametrize("rho", [1e-3, 0.7, 40.0])
def test_prox_solves_the_normal_equations(operator: Inpainting, rho: float) -> None:
    x, y, matrix = _random(5), operator.A(_random(6)), _dense(operator)
    left = matrix.mT @ matrix + rho * torch.eye(C * H * W, dtype=torch.float64)
    right = (matrix.mT @ y.flatten(1)[..., None])[..., 0] + rho * x.flatten(1)
    torch.testing.assert_close(operator.prox(x, y, rho).flatten(1), torch.linalg.solve(left, right))


def test_prox_with_a_weight_per_image(operator: Inpainting) -> None:
    x, y = _random(5), operator.A(_random(6))
    weights = torch.tensor([0.1, 1.0, 10.0], dtype=torch.float64)
    together = operator.prox(x, y, weights.view(-1, 1, 1, 1))
    for i, rho in enumerate(weights.tolist()):
        torch.testing.assert_close(together[i], operator.prox(x, y, rho)[i])


def test_prox_limits(operator: Inpainting) -> None:
    x, y = _random(7), operator.A(_random(8))
    torch.testing.assert_close(operator.prox(x, y, 1e12), x)
    assert torch.equal(operator.prox(x, y, 0.0), operator.paste(x, y))


def test_noise_reaches_observed_pixels_only(operator: Inpainting) -> None:
    x, noise = _random(9), _random(10)
    y = operator.observe(x, noise)
    mask = operator.mask.expand(SHAPE)
    torch.testing.assert_close(y[mask], (x + 0.3 * noise)[mask])
    assert not y[~mask].any()


def test_noise_has_the_level_asked_for() -> None:
    operator = Inpainting(
        mask=torch.rand((1, 1, 200, 200), generator=torch.Generator().manual_seed(1)) < 0.5,
        sigma=0.05,
    )
    x = _random(11, (1, 1, 200, 200))
    residual = operator.residual(x, operator.observe(x, _random(12, (1, 1, 200, 200))))[
        operator.mask
    ]
    assert residual.std().item() == pytest.approx(0.05, rel=4 / math.sqrt(2 * residual.numel()))


def test_without_noise_the_observation_is_the_measurement() -> None:
    operator = Inpainting(
        mask=torch.rand((N, 1, H, W), generator=torch.Generator().manual_seed(2)) < 0.5
    )
    x = _random(13)
    assert torch.equal(operator.observe(x, _random(14)), operator.A(x))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_value_in_the_hole_stays_there(operator: Inpainting, bad: float) -> None:
    hole = ~operator.mask.expand(SHAPE)
    x, y = _random(15), operator.A(_random(16))
    spoilt = x.masked_fill(hole, bad)
    assert torch.equal(operator.A(spoilt), operator.A(x))
    assert torch.equal(operator.observe(spoilt, torch.zeros(SHAPE)), operator.A(x))
    assert torch.equal(operator.residual(spoilt, y), operator.residual(x, y))
    assert torch.equal(operator.prox(spoilt, y, 0.5)[~hole], operator.prox(x, y, 0.5)[~hole])
    assert torch.equal(operator.prox(x, y.masked_fill(hole, bad), 0.5), operator.prox(x, y, 0.5))
    assert torch.equal(operator.paste(x, y.masked_fill(hole, bad)), operator.paste(x, y))


def test_gradients_are_zero_in_the_hole(operator: Inpainting) -> None:
    hole = ~operator.mask.expand(SHAPE)
    x = _random(17).masked_fill(hole, math.nan).requires_grad_()
    operator.residual(x, operator.A(_random(18))).square().sum().backward()
    assert x.grad is not None and not x.grad[hole].any() and x.grad[~hole].all()


def test_residual_and_paste(operator: Inpainting) -> None:
    x, y = _random(19), operator.A(_random(20))
    mask = operator.mask.expand(SHAPE)
    pasted = operator.paste(x, y)
    assert torch.equal(pasted[mask], y[mask]) and torch.equal(pasted[~mask], x[~mask])
    assert not operator.residual(pasted, y).any()


def test_repeat_keeps_copies_together(operator: Inpainting) -> None:
    x = _random(21)
    repeated = operator.repeat(4)
    assert repeated.mask.shape == (4 * N, 1, H, W) and repeated.sigma == operator.sigma
    assert torch.equal(repeated.A(x.repeat_interleave(4, 0)), operator.A(x).repeat_interleave(4, 0))
    assert operator.mask.shape[0] == N


def test_to_keeps_everything(operator: Inpainting) -> None:
    moved = operator.to("meta")
    assert (
        moved.mask.device.type == "meta"
        and moved.sigma == operator.sigma
        and operator.mask.device.type == "cpu"
    )


def test_capabilities() -> None:
    assert (
        Inpainting.caps == {"linear", "mask", "projection", "pinv", "prox", "svd"}
        and Inpainting.takes_mask
    )
