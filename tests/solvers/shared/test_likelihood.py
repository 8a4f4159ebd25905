"""Data terms, against torch.distributions and hand-made numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from posterior_bench.operators.base import Operator
from posterior_bench.operators.inpainting import Inpainting
from posterior_bench.solvers.base import Observation
from posterior_bench.solvers.shared.likelihood import (
    gaussian_nll,
    gradient,
    laplace_nll,
    observed_count,
    residual_norm,
    squares,
)


@pytest.fixture
def case() -> tuple[Tensor, Observation]:
    """Three colour images, a different mask for each, the last one hiding everything."""
    rng = torch.Generator().manual_seed(0)
    x, truth = (torch.randn(3, 3, 5, 4, generator=rng, dtype=torch.float64) for _ in range(2))
    mask = torch.rand(3, 1, 5, 4, generator=rng) < torch.tensor([0.3, 0.8, 0.0]).view(3, 1, 1, 1)
    operator = Inpainting(mask)
    return x, Observation(operator.A(truth), operator)


def _reference(distribution, obs: Observation) -> Tensor:
    observed = obs.operator.mask.expand_as(obs.y)
    return -(distribution.log_prob(obs.y) * observed).flatten(1).sum(1)


@pytest.mark.parametrize("scale", [0.05, 0.56])
def test_laplace_is_the_summed_log_density(case, scale):
    x, obs = case
    expected = _reference(torch.distributions.Laplace(x, scale), obs)
    torch.testing.assert_close(laplace_nll(x, obs, scale), expected)


@pytest.mark.parametrize("sigma", [0.05, 2.0])
def test_gaussian_is_the_summed_log_density(case, sigma):
    x, obs = case
    torch.testing.assert_close(
        gaussian_nll(x, obs, sigma), _reference(torch.distributions.Normal(x, sigma), obs)
    )


def test_laplace_gradient_is_the_sign_over_the_scale_and_nothing_in_the_hole(case):
    x, obs = case
    x.requires_grad_()
    slope = gradient(laplace_nll(x, obs, 0.5), x)
    expected = torch.where(obs.operator.mask, torch.sign(x.detach() - obs.y) / 0.5, 0.0)
    torch.testing.assert_close(slope, expected)


def test_squares_are_zero_in_the_hole(case):
    x, obs = case
    expected = torch.where(obs.operator.mask, (x - obs.y) ** 2, 0.0)
    torch.testing.assert_close(squares(x, obs), expected)


def test_residual_norm_of_a_three_four_five_triangle():
    mask = torch.tensor([True, True, False]).view(1, 1, 1, 3)
    obs = Observation(torch.tensor([3.0, 4.0, 0.0]).view(1, 1, 1, 3), Inpainting(mask))
    x = torch.tensor([0.0, 0.0, 7.0]).view(1, 1, 1, 3).requires_grad_()
    value = residual_norm(x, obs)
    assert value.tolist() == [5.0]
    torch.testing.assert_close(gradient(value, x).flatten(), torch.tensor([-0.6, -0.8, 0.0]))


def test_gradient_of_a_perfect_fit_is_zero_not_nan(case):
    _, obs = case
    x = obs.y.clone().requires_grad_()
    assert not gradient(residual_norm(x, obs), x).any()


def test_nothing_observed_costs_nothing(case):
    x, obs = case
    assert (
        residual_norm(x, obs)[2] == laplace_nll(x, obs, 0.1)[2] == gaussian_nll(x, obs, 0.1)[2] == 0
    )


def test_a_broken_row_breaks_no_other(case):
    x, obs = case
    clean = x.clone().requires_grad_()
    broken = x.clone()
    broken[0] = torch.nan
    broken.requires_grad_()
    for loss in (
        residual_norm,
        lambda x, obs: laplace_nll(x, obs, 0.1),
        lambda x, obs: gaussian_nll(x, obs, 0.1),
    ):
        torch.testing.assert_close(loss(broken, obs)[1:], loss(clean, obs)[1:])
        assert loss(broken, obs)[0].isnan()
        expected = gradient(loss(clean, obs), clean)
        torch.testing.assert_close(gradient(loss(broken, obs), broken)[1:], expected[1:])


def test_an_operator_without_a_mask_observes_all_its_measurements():
    class EverySecondColumn(Operator):
        def A(self, x: Tensor) -> Tensor:
            return x[..., ::2]

    x = torch.linspace(-1, 1, 24).view(2, 1, 3, 4)
    obs = Observation(torch.zeros(2, 1, 3, 2), EverySecondColumn())
    assert observed_count(obs).tolist() == [6, 6]
    expected = -torch.distributions.Laplace(x[..., ::2], 0.3).log_prob(obs.y).flatten(1).sum(1)
    torch.testing.assert_close(laplace_nll(x, obs, 0.3), expected)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan")])
def test_a_scale_that_is_not_positive_is_refused(case, value):
    x, obs = case
    with pytest.raises(ValueError, match=r"scale .* positive"):
        laplace_nll(x, obs, value)
    with pytest.raises(ValueError, match=r"sigma .* positive"):
        gaussian_nll(x, obs, value)
