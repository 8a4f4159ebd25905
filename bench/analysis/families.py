"""Tests of all pairs of the solvers of a table together (single-step max-T)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from posterior_bench.bench.analysis.sign_flips import TIE, sign_blocks
from posterior_bench.bench.analysis.statistics import FEWEST, Array

ALPHA, POWER = 0.05, 0.8


_ROUNDING = 1e-9
"""Differences below this share of the largest value are rounding, and taken as zero."""


@dataclass(frozen=True)
class Family:
    """All pairs of the solvers of a table, tested together.

    ``values`` ``(solvers, n)`` are finite and paired by column. ``p`` ``(solvers, solvers)`` are
    the p values of the pairs, adjusted over all pairs. ``critical`` is what the statistic of a
    pair, ``|sum d| / sqrt(n sum d^2)``, must exceed: a pair exceeds it if and only if ``p <=
    0.05``.
    """

    values: Array
    p: Array
    critical: float

    @property
    def differ(self) -> NDArray[np.bool_]:
        """Which pairs can be told apart at 5 %, all pairs together."""
        return self.p <= ALPHA

    def interval(self, i: int, j: int) -> tuple[float, float]:
        """The simultaneous 95 % interval of the mean of ``i`` minus that of ``j``.

        It excludes zero if and only if the two differ: it has the critical value of the verdict, as
        a quantile of Student's t. All intervals of a table hold their true differences together in
        about 95 % of studies.
        """
        d = self.values[i] - self.values[j]
        n, r = len(d), self.critical
        if r >= 1:
            return (-np.inf, np.inf)
        half = r * np.sqrt((n - 1) / (1 - r * r)) * d.std(ddof=1) / np.sqrt(n)
        return (float(d.mean() - half), float(d.mean() + half))


def families(tables: Sequence[Array], key: str) -> list[Family]:
    """Test all pairs of each table; a table holds values ``(solvers, n)``, ``n`` the same for all.

    ``key`` seeds the signs where they are random. Raises ValueError for fewer than
    :data:`bench.analysis.statistics.FEWEST` images.
    """
    if not tables:
        return []
    n = tables[0].shape[1]
    if n < FEWEST:
        raise ValueError(f"{n} images are too few for a verdict; at least {FEWEST} are needed")
    # what all solvers of an image share cancels in every difference, and would only cost digits
    centred = [values - values.mean(axis=0) for values in tables]
    statistics = [_statistics(values) for values in tables]
    ends = np.cumsum([0, *(len(values) for values in tables)])
    columns = np.concatenate(centred).T
    largest: list[list[Array]] = [[] for _ in tables]
    for signs in sign_blocks(n, key):
        sums = signs @ columns
        for k, (_, scale) in enumerate(statistics):
            largest[k].append(_largest(sums[:, ends[k] : ends[k + 1]], scale))
    return [
        _family(values, observed, np.concatenate(flipped))
        for values, (observed, _), flipped in zip(tables, statistics, largest, strict=True)
    ]


def family(values: Array, key: str) -> Family:
    """:func:`families` of one table."""
    return families([values], key)[0]


def _statistics(values: Array) -> tuple[Array, Array]:
    """Per pair ``r = |sum d| / sqrt(n sum d^2)``, and the factor that makes one of ``|sum d|``;
    both 0 for no d.
    """
    solvers, n = values.shape
    sums, root = np.empty((solvers, solvers)), np.empty((solvers, solvers))
    for i in range(solvers):
        d = values[i] - values
        d[np.abs(d).max(axis=1) <= _ROUNDING * np.abs(values).max()] = 0.0
        sums[i], root[i] = np.abs(d.sum(axis=1)), np.sqrt(n * np.sum(d * d, axis=1))
    scale = np.divide(1.0, root, out=np.zeros_like(root), where=root > 0)
    return sums * scale, scale


def _largest(sums: Array, scale: Array) -> Array:
    """The largest statistic over all pairs ``(B,)`` from the signed sums of solvers ``(B,
    solvers)``.
    """
    largest = np.zeros(len(sums))
    for i in range(sums.shape[1] - 1):
        of_pairs = np.abs(sums[:, i : i + 1] - sums[:, i + 1 :]) * scale[i, i + 1 :]
        np.maximum(largest, of_pairs.max(axis=1), out=largest)
    return largest


def _family(values: Array, observed: Array, largest: Array) -> Family:
    """P values and the critical value from the same numbers, so that they agree to the last bit."""
    bars = np.sort(largest) + TIE
    count = len(bars) - np.searchsorted(bars, observed, "left")
    p = np.minimum(count / len(bars), 1.0)
    np.fill_diagonal(p, 1.0)
    # p <= ALPHA says that at most so many bars are as high, so the next one is lower
    return Family(values, p, float(bars[-1 - int(ALPHA * len(bars))]))
