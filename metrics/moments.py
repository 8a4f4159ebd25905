"""Compare mean and covariance of the draws with the exact posterior.

The estimates have no bias from a small number of draws.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from posterior_bench.metrics.base import DrawMetric, Draws, MetricCard

SMALLEST = 1e-12
"""Smallest total variance of an exact posterior with which errors are compared."""


class MeanError(DrawMetric):
    """Squared error of the posterior mean, relative to the exact total variance.

    ``|mean - exact mean|^2 / tr(exact covariance)``: an error of 1 is as large as the posterior is
    wide. The estimate is unbiased: the expected difference of the means of ``D`` and ``R``
    independent draws, ``tr(C) / D + tr(C) / R``, is subtracted. Otherwise a method that always
    returns the mean would beat exact draws. So the value may fall below 0 by chance, and its
    average over images is 0 for any number of exact draws. The value is NaN for one draw and if the
    exact posterior has no spread.
    """

    card = MetricCard(
        id="mean_error",
        title="Mean error",
        direction="down",
        unit="",
        range="(-inf, inf); 0 on average for exact draws",
        preprocessing="raw output, not rounded, whole image; squared, relative to "
        "the exact variance; float64",
        level="draws",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"reference"})
    reference: ClassVar[float] = -0.207047

    @override
    def score(self, draws: Draws) -> float:
        n, m = len(draws.x), len(draws.exact)
        # inner products about the exact mean: their average is the squared distance of the means
        own, total = draws.gram[:n, :n], draws.gram[n:, n:].trace() / (m - 1)
        if n < 2 or total < SMALLEST:
            return float("nan")
        variance = (own.trace() - n * own.mean()) / (n - 1)
        return ((own.mean() - variance / n - total / m) / total).item()


class CovarianceError(DrawMetric):
    """Squared relative error of the posterior covariance in the Frobenius norm.

    ``|C - exact C|^2 / |exact C|^2``: 1 for draws that are all equal, 0 for exact draws. Each of
    the three products in ``|C|^2 - 2 <C, exact C> + |exact C|^2`` is estimated without bias.
    Inserting the covariance of a few draws in many dimensions would make exact draws look worse
    than equal ones. So the value may fall below 0 by chance, and its average over images is about 0
    for any number of exact draws. The value is NaN for fewer than four draws and if the exact
    posterior has no spread.
    """

    card = MetricCard(
        id="cov_error",
        title="Covariance error",
        direction="down",
        unit="",
        range="(-inf, inf); 0 on average for exact draws",
        preprocessing="raw output, not rounded, whole image; squared, relative to the "
        "exact covariance; float64",
        source="Himeno, Yamada: Estimations for some functions of covariance "
        "matrix, 2014 (unbiased tr C^2)",
        level="draws",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"reference"})
    reference: ClassVar[float] = 0.247799

    @override
    def score(self, draws: Draws) -> float:
        count = len(draws.x)
        own = _centred(draws.gram[:count, :count])
        exact = _centred(draws.gram[count:, count:])
        cross = _centred(draws.gram[:count, count:])
        if count < 4 or exact.trace() / (len(exact) - 1) < SMALLEST:
            return float("nan")
        product = cross.square().sum() / ((count - 1) * (len(exact) - 1))
        square = _trace_of_square(exact)
        return ((_trace_of_square(own) - 2 * product + square) / square).item()


def _centred(gram: Tensor) -> Tensor:
    """Return the inner products after subtracting the means of rows and columns."""
    return gram - gram.mean(0) - gram.mean(1, keepdim=True) + gram.mean()


def _trace_of_square(gram: Tensor) -> Tensor:
    """Estimate ``tr(C^2)`` without bias from centred inner products of ``n`` draws.

    It holds for any distribution (Himeno and Yamada, 2014).
    """
    n = len(gram)
    squares, total, fourth = gram.square().sum(), gram.trace(), gram.diagonal().square().sum()
    inner = (n - 2) / (n - 1) * squares + total**2 / (n - 1) ** 2 - n / (n - 1) * fourth
    return (n - 1) / (n * (n - 2) * (n - 3)) * inner
