"""High dynamic range, by hand and by exhaustive search."""

from __future__ import annotations

import pytest
import torch

from posterior_bench.operators.hdr import HDR


def test_measurement_and_first_guess_by_hand() -> None:
    x = torch.tensor([-1.0, -0.5, -0.25, 0.0, 0.3, 0.8]).view(1, 1, 2, 3)
    y = HDR().A(x)
    assert torch.equal(y.flatten(), torch.tensor([-1.0, -1.0, -0.5, 0.0, 0.6, 1.0]))
    guess = HDR().first_guess(y)
    assert torch.equal(guess.flatten(), torch.tensor([-0.5, -0.5, -0.25, 0.0, 0.3, 0.5]))
    assert torch.equal(HDR().A(guess), y)


def test_gradient_is_zero_where_saturated() -> None:
    x = torch.tensor([-0.9, -0.2, 0.4, 0.6], requires_grad=True)
    (gradient,) = torch.autograd.grad(HDR().A(x).sum(), x)
    assert gradient.tolist() == [0, 2, 2, 0]


@pytest.mark.parametrize("rho", [0.05, 0.7, 6.0])
@pytest.mark.parametrize("scale", [1.0, 2.0, 3.5])
def test_prox_is_the_best_of_all_values(rho: float, scale: float) -> None:
    grid = torch.linspace(-1.5, 1.5, 61, dtype=torch.float64)
    x, y = (part.reshape(1, 1, 61, 61) for part in torch.meshgrid(grid, 1.2 * grid, indexing="ij"))
    found = HDR(scale=scale).prox(x, y, rho)
    fine = torch.arange(-6000, 6001, 4, dtype=torch.float64).view(-1, 1, 1) / (1000 * scale)
    cost = ((scale * fine).clamp(-1, 1) - y[0]).square() + rho * (fine - x[0]).square()
    own = ((scale * found).clamp(-1, 1) - y).square() + rho * (found - x).square()
    # no value of the grid, which has the edges in it, is better, and it comes as near as its step
    # of 0.004 allows
    best = cost.amin(0)
    assert (own[0, 0] <= best + 1e-12).all() and (best - own[0, 0]).max() < (scale**2 + rho) * (
        0.002 / scale
    ) ** 2 + 1e-9


def test_prox_without_weight_is_the_nearest_solution() -> None:
    x = torch.tensor([0.8, -0.9, 0.1, 0.9, 0.2, -0.7]).view(1, 1, 2, 3)
    y = torch.tensor([1.0, -1.0, 1.0, 0.6, -1.3, -1.3]).view(1, 1, 2, 3)
    # a clipped pixel stays where it is, if its measurement says that it is clipped
    expected = torch.tensor([0.8, -0.9, 0.5, 0.3, -0.5, -0.7])
    torch.testing.assert_close(HDR().prox(x, y, 0.0).flatten(), expected)


def test_prox_with_a_weight_per_image() -> None:
    x, y = (
        torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)
    )
    weights = torch.tensor([0.1, 1.0, 10.0])
    together = HDR().prox(x, y, weights.view(-1, 1, 1, 1))
    for i, rho in enumerate(weights.tolist()):
        torch.testing.assert_close(together[i], HDR().prox(x, y, rho)[i])


def test_noise_is_not_clipped() -> None:
    y = HDR(sigma=0.3).observe(torch.ones(1, 1, 2, 2), torch.full((1, 1, 2, 2), 2.0))
    torch.testing.assert_close(y, torch.full_like(y, 1.6))
    assert HDR.caps == {"nonlinear", "prox"} and not HDR.takes_mask and not HDR.takes_shape


@pytest.mark.parametrize(
    ("settings", "message"), [({"scale": 0.5}, "cuts nothing off"), ({"sigma": -1.0}, "noise")]
)
def test_bad_settings(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HDR(**settings)
