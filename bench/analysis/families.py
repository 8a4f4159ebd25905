"""Test all pairs of the solvers of a table together (single-step max-T).

An image has the same sign in all pairs, and the largest statistic over the pairs is what every pair
must exceed (Westfall and Young, "Resampling-Based Multiple Testing", 1993).
"""

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

    Parameters
    ----------
    values : array (solvers, n)
        Finite values, paired by column.
    p : array (solvers, solvers)
        The p values of the pairs, adjusted over all pairs.
    critical : float
        What the statistic of a pair, ``|sum d| / sqrt(n sum d^2)``, must exceed: a pair exceeds it
        if and only if ``p <= 0.05``.
    equal_critical: float
        The same at 10 %, for :meth:`equal`: a test in one direction at 5 %.
    """

    values: Array
    p: Array
    critical: float
    equal_critical: float

    @property
    def differ(self) -> NDArray[np.bool_]:
        """Return which pairs can be told apart at 5 %, all pairs together."""
        return self.p <= ALPHA

    def interval(self, i: int, j: int) -> tuple[float, float]:
        """Return the simultaneous 95 % interval of the mean of ``i`` minus that of ``j``.

        It excludes zero if and only if the two differ, because it has the critical value of the
        verdict, as a quantile of Student's t. All intervals of a table hold their true differences
        together in about 95 % of studies.
        """
        return self._interval(i, j, self.critical)

    def equal_interval(self, i: int, j: int) -> tuple[float, float]:
        """Return the simultaneous 90 % interval of the mean of ``i`` minus that of ``j``."""
        return self._interval(i, j, self.equal_critical)

    def equal(self, i: int, j: int, margin: float) -> bool:
        """Return whether the means of ``i`` and ``j`` are equal within ``margin``, tested at 5 %.

        Two tests in one direction each say that the difference is above ``-margin`` and below
        ``margin`` (Schuirmann, J. Pharmacokin. Biopharm. 1987). Both do if and only if the 90 %
        interval lies within the margin.
        """
        lo, hi = self.equal_interval(i, j)
        return -margin < lo and hi < margin

    def _interval(self, i: int, j: int, r: float) -> tuple[float, float]:
        d = self.values[i] - self.values[j]
        n = len(d)
        if r >= 1:
            return (-np.inf, np.inf)
        half = r * np.sqrt((n - 1) / (1 - r * r)) * d.std(ddof=1) / np.sqrt(n)
        return (float(d.mean() - half), float(d.mean() + half))


def families(tables: Sequence[Array], key: str) -> list[Family]:
    """Test all pairs of each table.

    Parameters
    ----------
    tables : sequence of array (solvers, n)
        The values; ``n`` is the same for all.
    key : str
        Seeds the signs where they are random.

    Raises
    ------
    ValueError
        For fewer than :data:`bench.analysis.statistics.FEWEST` images.
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
    """Test all pairs of one table; see :func:`families`."""
    return families([values], key)[0]


def _statistics(values: Array) -> tuple[Array, Array]:
    """Return per pair ``r = |sum d| / sqrt(n sum d^2)``, and the factor of ``|sum d|`` in it."""
    solvers, n = values.shape
    sums, root = np.empty((solvers, solvers)), np.empty((solvers, solvers))
    for i in range(solvers):
        d = values[i] - values
        d[np.abs(d).max(axis=1) <= _ROUNDING * np.abs(values).max()] = 0.0
        sums[i], root[i] = np.abs(d.sum(axis=1)), np.sqrt(n * np.sum(d * d, axis=1))
    scale = np.divide(1.0, root, out=np.zeros_like(root), where=root > 0)
    return sums * scale, scale


def _largest(sums: Array, scale: Array) -> Array:
    """Return the largest statistic over all pairs ``(B,)`` from signed sums ``(B, solvers)``."""
    largest = np.zeros(len(sums))
    for i in range(sums.shape[1] - 1):
        of_pairs = np.abs(sums[:, i : i + 1] - sums[:, i + 1 :]) * scale[i, i + 1 :]
        np.maximum(largest, of_pairs.max(axis=1), out=largest)
    return largest


def _family(values: Array, observed: Array, largest: Array) -> Family:
    """Return p values and the critical value from the same numbers, so that they always agree."""
    bars = np.sort(largest) + TIE
    count = len(bars)
    p = np.minimum((count - np.searchsorted(bars, observed, "left")) / count, 1.0)
    np.fill_diagonal(p, 1.0)
    # p <= ALPHA says that at most so many bars are as high, so the next one is lower
    critical, equal_critical = (float(bars[-1 - int(a * count)]) for a in (ALPHA, 2 * ALPHA))
    return Family(values, p, critical, equal_critical)
