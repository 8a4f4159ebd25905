"""The nonlinear operators of BIPSDA, against scipy and the stored matrices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from posterior_bench.operators.squared_projection import SquaredProjection
from posterior_bench.operators.xray import XRay

GOLDEN = np.load(Path(__file__).parents[1] / "golden" / "bipsda_golden.npz")
SHAPE = (1, 1, 10)
TRUTH = torch.from_numpy(GOLDEN["x_true"] / 12).view(1, *SHAPE)


def test_expected_counts_are_those_of_the_benchmark() -> None:
    rates = 1000 * np.exp(-GOLDEN["xray_A"].astype(float) @ (GOLDEN["x_true"] + 10))
    np.testing.assert_array_equal(rates.round(), GOLDEN["xray_y"])
    y = XRay(SHAPE).A(TRUTH)
    np.testing.assert_allclose(y[0], 2 * np.sqrt(rates + 0.375), rtol=1e-6)


def test_squares_are_those_of_the_benchmark() -> None:
    y = SquaredProjection(SHAPE).A(TRUTH)
    np.testing.assert_allclose(144 * y[0], GOLDEN["phase_y"], rtol=1e-5, atol=1e-6)


def test_counts_are_quantiles_of_the_poisson_law() -> None:
    operator = XRay(SHAPE)
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(40, *SHAPE, generator=generator) - 0.5).float()
    noise = 2 * torch.randn(40, 15, generator=generator)
    density = 12 * x.flatten(1).double().numpy() + 10
    rates = 1000 * np.exp(-density @ GOLDEN["xray_A"].astype(float).T)
    counts = operator.counts(operator.observe(x, noise))
    expected = stats.poisson.ppf(stats.norm.cdf(noise.double().numpy()), rates)
    np.testing.assert_array_equal(counts, expected)


def test_the_noise_of_transformed_counts_is_nearly_standard() -> None:
    operator, x = XRay(SHAPE), TRUTH.float().expand(4_000, *SHAPE)
    noise = torch.randn(4_000, 15, generator=torch.Generator().manual_seed(1))
    residual = operator.observe(x, noise) - operator.A(x)
    # 4000 draws scatter by 0.011 and 0.016; the mean of a root is 1 / (4 sqrt(m)) too low
    low = 1 / (4 * torch.from_numpy(GOLDEN["xray_y"]).sqrt())
    assert residual.std(0).sub(1).abs().max() < 0.05
    assert (residual.mean(0) + low).abs().max() < 0.07


def test_the_likelihood_is_that_of_the_counts() -> None:
    operator, x = XRay(SHAPE), torch.linspace(-0.5, 0.5, 30).view(3, *SHAPE).double()
    y = operator.A(TRUTH).expand(3, 15)
    rates = 1000 * np.exp(-(12 * x.flatten(1).numpy() + 10) @ GOLDEN["xray_A"].astype(float).T)
    expected = stats.poisson.logpmf(operator.counts(y).numpy(), rates).sum(1)
    found = operator.log_likelihood(x, y).numpy()
    np.testing.assert_allclose(found - found[0], expected - expected[0], rtol=1e-8)


def test_the_likelihood_of_gaussian_noise() -> None:
    operator, x = SquaredProjection(SHAPE, sigma=0.3), torch.linspace(-1, 1, 20).view(2, *SHAPE)
    y = torch.ones(2, 5)
    expected = stats.norm.logpdf(1, operator.A(x.double()).numpy(), 0.3).sum(1)
    found = operator.log_likelihood(x, y).numpy()
    np.testing.assert_allclose(found[1] - found[0], expected[1] - expected[0], rtol=1e-8)
    with pytest.raises(ValueError, match="without noise there is no density"):
        SquaredProjection(SHAPE).log_likelihood(x, y)
    assert SquaredProjection(SHAPE).log_likelihood(x, y, floor=0.3).tolist() == found.tolist()


def test_first_guesses_explain_a_clean_measurement() -> None:
    operator = SquaredProjection(SHAPE)
    y = operator.A(TRUTH)
    torch.testing.assert_close(operator.A(operator.first_guess(y)), y)
    xray = XRay(SHAPE, rows=8)
    y = xray.observe(TRUTH.float(), torch.zeros(1, 8))
    torch.testing.assert_close(xray.A(xray.first_guess(y)), y, rtol=0, atol=1e-3)


@pytest.mark.parametrize("settings", [{"rows": 0}, {"intensity": 0.0}, {"sigma": 0.5}])
def test_impossible_settings_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        XRay(SHAPE, **settings)  # type: ignore[arg-type]


def test_no_rows_and_negative_noise_are_refused() -> None:
    with pytest.raises(ValueError, match="0 rows measure nothing"):
        SquaredProjection(SHAPE, rows=0)
    with pytest.raises(ValueError, match="is not a noise level"):
        SquaredProjection(SHAPE, sigma=-1.0)
