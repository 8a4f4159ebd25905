"""Diagnostics of chains, against processes whose correlations are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.signal import lfilter
from torch import Tensor

from posterior_bench.solvers.shared.chains import effective_size, split_rhat


def autoregression(correlation: float, chains: int = 4, length: int = 4000) -> Tensor:
    """Two numbers per state, of stationary chains; the effective share is (1 - c) / (1 + c)."""
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((chains, length, 2))
    noise[:, 0] /= np.sqrt(1 - correlation**2)
    return torch.from_numpy(lfilter([1.0], [1.0, -correlation], noise, axis=1))


@pytest.mark.parametrize("correlation", [-0.3, 0.0, 0.5, 0.9])
def test_effective_size_of_an_autoregression(correlation: float) -> None:
    size = effective_size(autoregression(correlation))
    expected = 16_000 * (1 - correlation) / (1 + correlation)
    assert size.shape == (2,)
    np.testing.assert_allclose(size, expected, rtol=0.15)


def test_rhat_by_its_formula() -> None:
    x = autoregression(0.9, length=100) + torch.arange(4.0).view(4, 1, 1)
    halves = x.unflatten(1, (2, 50)).flatten(0, 1).numpy()
    within = halves.var(axis=1, ddof=1).mean(0)
    between = 50 * halves.mean(axis=1).var(axis=0, ddof=1)
    expected = np.sqrt((49 / 50 * within + between / 50) / within)
    np.testing.assert_allclose(split_rhat(x), expected)
    assert (split_rhat(x) > 1.05).all()


def test_mixed_chains_have_an_rhat_near_one() -> None:
    assert (split_rhat(autoregression(0.5)) - 1).abs().max() < 0.01


def test_a_drift_shows_in_one_chain_alone() -> None:
    drift = torch.linspace(0, 5, 4000).view(1, -1, 1)
    assert (split_rhat(autoregression(0.5, chains=1) + drift) > 1.3).all()
    assert (effective_size(autoregression(0.5, chains=1) + drift) < 20).all()


def test_chains_that_stand_still() -> None:
    still = torch.zeros(4, 10, 1)
    assert split_rhat(still).item() == 1 and effective_size(still).item() == 40
    apart = torch.arange(4.0).view(4, 1, 1).expand(4, 10, 1)
    assert split_rhat(apart).isinf().all()


def test_leading_dimensions_are_rows() -> None:
    x = torch.stack([autoregression(0.2, length=50), autoregression(0.8, length=50)])
    for function in (split_rhat, effective_size):
        torch.testing.assert_close(function(x)[1], function(x[1]))


def test_short_chains_are_refused() -> None:
    with pytest.raises(ValueError, match="chains of 3 states are too short"):
        split_rhat(torch.zeros(2, 3, 1))
