"""The laws of increments, against SciPy."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from posterior_bench.priors.increments import BernoulliLaplace, Gauss, Laplace, Law, Student

KNOWN = [
    (Gauss(0.5), stats.norm(scale=0.5)),
    (Laplace(2.0), stats.laplace(scale=2.0)),
    *((Student(1.5, freedom=k), stats.t(k, scale=1.5)) for k in (1, 2, 3)),
]


@pytest.mark.parametrize(("law", "known"), KNOWN)
def test_density_quantiles_and_variance(law: Law, known: Any) -> None:
    u = torch.linspace(-6, 6, 41, dtype=torch.float64)
    np.testing.assert_allclose(law.log_prob(u), known.logpdf(u.numpy()), atol=1e-12)
    p = torch.tensor([1e-9, 1e-3, 0.2, 0.4999, 0.7, 0.999, 1 - 1e-9], dtype=torch.float64)
    np.testing.assert_allclose(law.quantile(p), known.ppf(p.numpy()), rtol=1e-6)
    assert law.quantile(torch.tensor([0.5])).item() == 0
    variance = known.var() if getattr(law, "freedom", 3) == 3 else math.inf
    assert law.variance == pytest.approx(variance)


@pytest.mark.parametrize(("law", "known"), KNOWN)
def test_uniforms_give_draws(law: Law, known: Any) -> None:
    uniform = torch.rand(4000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert stats.kstest(law.quantile(uniform).numpy(), known.cdf).pvalue > 0.01


def test_jumps_are_rare_and_laplace() -> None:
    law = BernoulliLaplace(2.0, jumps=0.25)
    p = (torch.arange(100_000, dtype=torch.float64) + 0.5) / 100_000
    u = law.quantile(p)
    assert (u != 0).double().mean().item() == pytest.approx(0.25, abs=1e-4)
    assert (u.diff() >= 0).all(), "a quantile rises"
    assert u.square().mean().item() == pytest.approx(law.variance, rel=1e-3)
    jumps = u[u != 0].numpy()
    assert stats.kstest(jumps, stats.laplace(scale=2.0).cdf).statistic < 1e-3
    mass, density = law.log_prob(torch.tensor([0.0, 1.0])).exp().tolist()
    assert mass == pytest.approx(0.75)
    assert density == pytest.approx(0.25 * stats.laplace(scale=2.0).pdf(1.0))


@pytest.mark.parametrize("law", [Gauss(), Laplace(), BernoulliLaplace(), Student()])
def test_a_scaled_law_is_that_of_scaled_increments(law: Law) -> None:
    p = torch.linspace(0.01, 0.99, 50, dtype=torch.float64)
    torch.testing.assert_close(law.scaled(3.0).quantile(p), 3 * law.quantile(p))
    assert law.scaled(3.0).variance == pytest.approx(9 * law.variance)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Laplace(0.0), "scale of a law must be positive"),
        (lambda: BernoulliLaplace(jumps=1.0), r"must lie in \(0, 1\)"),
        (lambda: Student(freedom=4), "must be 1, 2 or 3"),
    ],
)
def test_impossible_laws(make, message) -> None:
    with pytest.raises(ValueError, match=message):
        make()
