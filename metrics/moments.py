"""Errors of mean and covariance against the exact posterior, without the bias that few draws
bring.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from posterior_bench.metrics.base import DrawMetric, Draws, MetricCard

SMALLEST = 1e-12
"""A total variance below which the exact posterior has no spread that an error could be compared
with."""


class MeanError(DrawMetric):
    """``|mean - exact mean|^2 / tr(exact covariance)``: 1 is an error as large as the posterior is
    wide.

    Estimated without bias: what the means of ``D`` and ``R`` independent draws differ by, ``tr(C) /
    D + tr(C) / R``, is subtracted. Otherwise a method that always gives the mean would beat exact
    draws. So the value may fall below 0 by chance, and its average over images is 0 for exact draws
    of any number. NaN for one draw, and where the exact posterior has no spread.
    """

    card = MetricCard(
        id="mean_error",
        title="Mean error",
        direction="down",
        unit="",
        range="(-inf, inf); 0 on average for exact draws",
        preprocessing="raw output, not rounded, whole image; squared, relative to the exact "
        "variance; float64",
        level="draws",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"exact", "linear"})
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
    """``|C - exact C|^2 / |exact C|^2`` in the Frobenius norm: 1 for draws that are all alike, 0
    for exact ones.

    Estimated without bias, each of the three products of ``|C|^2 - 2 <C, exact C> + |exact C|^2``
    by itself: plugging in the covariance of few draws in many dimensions would make exact draws
    look worse than none at all. So the value may fall below 0 by chance, and its average over
    images is about 0 for exact draws of any number. NaN for fewer than four draws, and where the
    exact posterior has no spread.
    """

    card = MetricCard(
        id="cov_error",
        title="Covariance error",
        direction="down",
        unit="",
        range="(-inf, inf); 0 on average for exact draws",
        preprocessing="raw output, not rounded, whole image; squared, relative to the exact "
        "covariance; float64",
        source="Himeno, Yamada: Estimations for some functions of covariance matrix, 2014 "
        "(unbiased tr C^2)",
        level="draws",
    )
    needs: ClassVar[frozenset[str]] = frozenset({"exact", "linear"})
    reference: ClassVar[float] = 0.247799

    @override
    def score(self, draws: Draws) -> float:
        count = len(draws.x)
        own, exact, cross = (
            _centred(block)
            for block in (
                draws.gram[:count, :count],
                draws.gram[count:, count:],
                draws.gram[:count, count:],
            )
        )
        if count < 4 or exact.trace() / (len(exact) - 1) < SMALLEST:
            return float("nan")
        product = cross.square().sum() / ((count - 1) * (len(exact) - 1))
        square = _trace_of_square(exact)
        return ((_trace_of_square(own) - 2 * product + square) / square).item()


def _centred(gram: Tensor) -> Tensor:
    """Inner products about the means of rows and columns."""
    return gram - gram.mean(0) - gram.mean(1, keepdim=True) + gram.mean()


def _trace_of_square(gram: Tensor) -> Tensor:
    """``tr(C^2)`` without bias from centred inner products of ``n`` draws of any distribution
    (Himeno, Yamada 2014).
    """
    n = len(gram)
    squares, total, fourth = gram.square().sum(), gram.trace(), gram.diagonal().square().sum()
    inner = (n - 2) / (n - 1) * squares + total**2 / (n - 1) ** 2 - n / (n - 1) * fourth
    return (n - 1) / (n * (n - 2) * (n - 3)) * inner
