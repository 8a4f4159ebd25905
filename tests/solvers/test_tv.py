"""Total variation, against closed forms and another way to solve the same problem."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from posterior_bench.bench.external.folder import NoPrior
from posterior_bench.operators.gaussian_blur import GaussianBlur
from posterior_bench.operators.inpainting import Inpainting
from posterior_bench.solvers.base import Observation
from posterior_bench.solvers.tv import TV, adjoint, differences


def _image(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator)


def _solved(solver: TV, obs: Observation) -> Tensor:
    x = solver.fit(obs, NoPrior((1, 8, 8)), None).sample([0, 3]).x
    assert torch.equal(x[:, 0].nan_to_num(), x[:, 1].nan_to_num())
    return x[:, 0]


def _inpainting(x: Tensor, mask: Tensor, sigma: float = 0.0) -> Observation:
    operator = Inpainting(mask.expand(len(x), 1, *x.shape[-2:]), sigma)
    return Observation(operator.A(x), operator)


def _variation(x: Tensor) -> Tensor:
    """Total variation of every image, written out pixel by pixel."""
    total = torch.zeros(len(x), dtype=x.dtype)
    for i in range(x.shape[-2]):
        for j in range(x.shape[-1]):
            down = x[..., i + 1, j] - x[..., i, j] if i + 1 < x.shape[-2] else 0 * x[..., i, j]
            across = x[..., i, j + 1] - x[..., i, j] if j + 1 < x.shape[-1] else 0 * x[..., i, j]
            total = total + (down.square() + across.square()).sum(1).sqrt()
    return total


def test_the_adjoint_is_the_adjoint_and_the_step_is_short_enough():
    x, down, across = (_image(2, 3, 5, 7, seed=i) for i in range(3))
    d, a = differences(x)
    assert ((d * down).sum() + (a * across).sum()).item() == pytest.approx(
        (x * adjoint(down, across)).sum().item()
    )
    for _ in range(200):  # the largest eigenvalue by powers
        x = adjoint(*differences(x))
        x = x / x.norm()
    assert 7 < adjoint(*differences(x)).norm() <= 8


@pytest.mark.parametrize("weight", [2.0, 5.0])
def test_denoising_of_an_edge_has_its_closed_form(weight):
    """Two flat halves of n pixels a row: each row of the image moves by sigma^2 weight / n."""
    n, sigma = 4, 0.4
    y = torch.cat([torch.full((1, 1, 3, n), -1.0), torch.full((1, 1, 3, n), 1.0)], -1).double()
    x = _solved(TV(1500, weight), _inpainting(y, torch.ones(1, 1, 3, 2 * n).bool(), sigma))
    moved = sigma**2 * weight / n
    torch.testing.assert_close(x, y - y.sign() * moved, atol=1e-6, rtol=0)


def test_a_flat_strip_is_bridged_and_a_constant_comes_back():
    """Without noise a hole between two equal sides has their value, whatever the weight."""
    mask = torch.ones(1, 1, 6, 9).bool()
    mask[..., 3:6] = False
    y = torch.full((2, 3, 6, 9), 0.3, dtype=torch.float64)
    for weight in (0.1, 10.0):
        x = _solved(TV(1000, weight), _inpainting(y, mask))
        torch.testing.assert_close(x, y, atol=1e-6, rtol=0)


@pytest.mark.parametrize("sigma", [0.0, 0.1])
def test_no_image_nearby_is_better(sigma):
    mask = torch.rand(1, 1, 6, 6, generator=torch.Generator().manual_seed(1)) > 0.4
    obs = _inpainting(0.3 * _image(2, 3, 6, 6), mask, sigma)
    x = _solved(TV(3000), obs)

    def objective(u: Tensor) -> Tensor:
        misfit = obs.operator.residual(u, obs.y).square().flatten(1).sum(1)
        if not sigma:
            assert misfit.max() < 1e-20
            return _variation(u)
        return misfit / (2 * sigma**2) + 5 * _variation(u)

    least = objective(x)
    for seed in range(20):
        step = 0.01 * _image(2, 3, 6, 6, seed=seed)
        other = x + (step if sigma else torch.where(mask, 0, step))
        assert (objective(other) > least - 1e-4).all()


def test_blur_is_undone_better_than_by_the_measurement():
    x = torch.zeros(1, 1, 16, 16)
    x[..., 4:12, 5:11] = 1.0
    operator = GaussianBlur((1, 16, 16), 7, 1.0, sigma=0.02)
    y = operator.observe(x, _image(*operator.A(x).shape).float())
    found = _solved(TV(500), Observation(y, operator))
    assert (found - x).square().mean() < 0.2 * (y - x).square().mean()


def test_rows_do_not_mix():
    mask = _image(3, 1, 6, 6) > 0
    obs = _inpainting(_image(3, 1, 6, 6).float(), mask, 0.1)
    whole = _solved(TV(50), obs)
    broken = obs.y.clone()
    broken[1, mask[1]] = torch.nan
    x = _solved(TV(50), replace(obs, y=broken))
    assert torch.equal(x[[0, 2]], whole[[0, 2]]) and x[1].isnan().any()


def test_it_makes_no_network_call_and_no_budget_changes_it(g2):
    prior = g2("ve")
    with prior.metered() as meter:
        mask = torch.tensor([[[[True, False]]]])
        _ = TV(5).fit(_inpainting(torch.ones(1, 1, 1, 2), mask), prior, None)
    assert not any(meter.counts().values()) and TV().workload == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"iterations": 0}, "iterations must be at least 1, got 0"),
        ({"weight": 0.0}, r"weight must be positive, got 0\.0"),
        ({"weight": math.nan}, "weight must be positive, got nan"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TV(**settings)


def test_shipped_presets_are_complete(presets):
    assert presets("tv")["default"] == TV()
