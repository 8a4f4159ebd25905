"""Means over images and how sure they are.

The unit of resampling is the image: draws of one image share its difficulty, so they are averaged
before. Intervals are BCa bootstrap intervals (Efron, "Better bootstrap confidence intervals", JASA
1987): corrected for median bias and for skewness, which perceptual distances and PSNR have. With
few images a plain bootstrap is too sure of itself (a "95 %" interval of 8 images holds the true
mean 86 to 88 % of the time), so tails are expanded as in Hesterberg, "What Teachers Should Know
About the Bootstrap", The American Statistician 2015, which brings that to 92 to 94 %. Fewer than
:data:`FEWEST` images have no interval at all: with two images such a "95 %" interval holds the true
mean half of the time. docs/statistics.md has the simulated coverage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtrit

Array = NDArray[np.float64]

Reduce = Callable[[Array, Array], Array]
"""A statistic of all images: features ``(n, ...)`` and weights ``(B, n)`` to values ``(B,)``."""

LEVEL = 0.95
RESAMPLES = 9999

FEWEST = 6
"""With fewer images no table claims a 95 % interval, and no solver is called better or worse than
another."""

_BLOCK = 2_000_000


@dataclass(frozen=True)
class Means:
    """Means of columns and their 95 % intervals.

    Parameters
    ----------
    mean, lo, hi : array
        Per column, the mean and the ends of its interval.
    n : array
        The number of images with a finite value, which are in the mean.
    infinite : array
        The number of images with an infinite value, which are not.
    """

    mean: Array
    lo: Array
    hi: Array
    n: NDArray[np.int64]
    infinite: NDArray[np.int64]


def generator(key: str) -> np.random.Generator:
    """Return a generator that depends on ``key`` alone, so that a table can be rebuilt."""
    return np.random.default_rng(
        int.from_bytes(blake2b(key.encode(), digest_size=16).digest(), "big")
    )


def means_over_images(columns: Sequence[Array], key: str) -> Means:
    """Return means of columns, one value per image ``(images,)`` each, with 95 % intervals.

    NaN is an image without a value (its draws failed, or the metric is undefined there): it is left
    out and not counted in ``n``, never taken as zero. An infinite value (PSNR of a perfect answer)
    is left out too, and counted in ``infinite``; the mean of a column whose values are all infinite
    is infinite. Fewer than :data:`FEWEST` images have no interval (NaN). Columns with the same
    ``n`` share their resamples, seeded by ``key`` and ``n``.
    """
    kept = [column[np.isfinite(column)] for column in columns]
    n = np.array([len(column) for column in kept], dtype=np.int64)
    infinite = np.array([np.isinf(column).sum() for column in columns], dtype=np.int64)
    out = np.full((3, len(kept)), np.nan)
    for size in np.unique(n[n > 0]):
        where = np.flatnonzero(n == size)
        sample = np.stack([kept[i] for i in where], axis=1)
        out[0, where] = sample.mean(axis=0)
        if size >= FEWEST:
            out[1:, where] = bootstrap_interval(sample, generator(f"{key}\x1f{size}"))
    for i in np.flatnonzero((n == 0) & (infinite > 0)).tolist():
        values = columns[i][np.isinf(columns[i])]
        out[0, i] = values[0] if np.all(values == values[0]) else np.nan
    return Means(out[0], out[1], out[2], n, infinite)


def bootstrap_interval(
    sample: Array, rng: np.random.Generator, level: float = LEVEL, resamples: int = RESAMPLES
) -> Array:
    """Return the expanded BCa interval of the mean of every column, ``(2, columns)``: lo, hi.

    Ends are order statistics without interpolation; with 9999 resamples they are exact percentiles.
    One image has no interval (NaN); equal values have one of width zero. With fewer than
    :data:`FEWEST` images the interval holds the true mean much less often than ``level`` says, and
    no table prints it.

    Parameters
    ----------
    sample : array (n, columns)
        Finite values.
    rng : numpy.random.Generator
        Draws the resamples.
    level : float, default LEVEL
        How often the interval shall hold the true mean.
    resamples : int, default RESAMPLES
        How many resamples are drawn.
    """
    n, columns = sample.shape
    if n < 2:
        return np.full((2, columns), np.nan)
    means = np.sort(_resampled_means(sample, rng, resamples), axis=1)
    probability = _corrected(sample, means, level)
    lo = np.floor(probability[0] * (resamples + 1) + 1e-9)
    hi = np.ceil(probability[1] * (resamples + 1) - 1e-9)
    ranks = np.clip(np.stack([lo, hi]).astype(np.int64), 1, resamples) - 1
    ends = np.take_along_axis(means, ranks.T, axis=1).T
    equal = np.all(sample == sample[0], axis=0)
    return np.where(equal, sample[0], ends)


def statistic_over_images(reduce: Reduce, features: Array, key: str) -> tuple[float, float, float]:
    """Return a statistic of all images with its 95 % interval: value, lo, hi.

    BCa over resamples of images, the acceleration by leaving out each image in turn, tails expanded
    as for means. A statistic that chance can only make larger is larger still in resamples; the
    interval then reaches down from the value, which it always holds. Fewer than :data:`FEWEST`
    images have no interval; resamples without a value are left out.

    Parameters
    ----------
    reduce : callable
        Features and weights ``(B, n)`` to values ``(B,)``.
    features : array (n, ...)
        One entry per image.
    key : str
        Seeds the resamples.
    """
    n = len(features)
    if n == 0:
        return (np.nan, np.nan, np.nan)
    value = float(reduce(features, np.ones((1, n)))[0])
    if n < FEWEST or not np.isfinite(value):
        return (value, np.nan, np.nan)
    blocks = _counts(n, generator(f"{key}\x1f{n}"), RESAMPLES)
    resampled = np.concatenate([reduce(features, counts) for counts in blocks])
    resampled = np.sort(resampled[~np.isnan(resampled)])
    without = reduce(features, 1.0 - np.eye(n))
    skew = _acceleration(without[np.isfinite(without)])
    edge = 1 / (len(resampled) + 1)
    less, at_most = (
        np.searchsorted(resampled, value, "left"),
        np.searchsorted(resampled, value, "right"),
    )
    bias = ndtri(np.clip((less + at_most) / 2 * edge, edge, 1 - edge))
    tail = max(_expanded_tail((1 - LEVEL) / 2, n), edge)
    lo, hi = (
        _order_statistic(resampled, ndtr(bias + _stretched(bias + z, skew)))
        for z in ndtri([tail, 1 - tail])
    )
    return (value, min(lo, value), max(hi, value))


def _acceleration(without: Array) -> float:
    """Return the acceleration from the values without each image (Efron 1987, eq. 6.6)."""
    deviation = without.mean() - without if len(without) else np.zeros(1)
    spread = float(np.sum(deviation**2)) ** 1.5
    return float(np.sum(deviation**3)) / (6 * spread) if spread > 0 else 0.0


def _stretched(shifted: float, skew: float) -> float:
    # beyond its pole, which few and very skewed images reach, the formula would turn round
    return shifted / max(1 - skew * shifted, 1e-9)


def _order_statistic(ordered: Array, probability: float) -> float:
    rank = round(probability * (len(ordered) + 1))
    return float(ordered[min(max(rank, 1), len(ordered)) - 1])


def _resampled_means(sample: Array, rng: np.random.Generator, resamples: int) -> Array:
    """Return means ``(columns, resamples)``; every resample is drawn once, for all columns."""
    n, columns = sample.shape
    means = np.empty((columns, resamples))
    done = 0
    for counts in _counts(n, rng, resamples):
        means[:, done : done + len(counts)] = (counts @ sample / n).T
        done += len(counts)
    return means


def _counts(n: int, rng: np.random.Generator, resamples: int) -> Iterator[Array]:
    """Yield how often each image is in each resample, in blocks to bound memory."""
    size = max(1, _BLOCK // n)
    for start in range(0, resamples, size):
        rows = min(size, resamples - start)
        drawn = rng.integers(n, size=(rows, n)) + n * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n).astype(np.float64)


def _expanded_tail(tail: float, n: int) -> float:
    """Return ``Phi(sqrt(n / (n - 1)) t_{n-1}(tail))``.

    It makes up for the bootstrap's variance, which is too small by (n - 1) / n.
    """
    return float(ndtr(np.sqrt(n / (n - 1)) * stdtrit(n - 1, tail)))


def _corrected(sample: Array, means: Array, level: float) -> Array:
    """Return the two probabilities ``(2, columns)`` of the BCa ends (Efron 1987, eq. 3.9)."""
    edge = 1 / (means.shape[1] + 1)
    tail = max(_expanded_tail((1 - level) / 2, len(sample)), edge)
    z = ndtri(np.array([[tail], [1 - tail]]))
    centre = sample.mean(axis=0)
    deviation = sample - centre
    # sums of the same numbers in another order differ in the last digits: those means are equal
    rounding = 1e-10 * np.abs(deviation).max(axis=0)
    less = (means < (centre - rounding)[:, None]).mean(axis=1)
    at_most = (means <= (centre + rounding)[:, None]).mean(axis=1)
    bias = ndtri(np.clip((less + at_most) / 2, edge, 1 - edge))
    spread = np.sum(deviation**2, axis=0) ** 1.5
    skew = np.divide(
        np.sum(deviation**3, axis=0), 6 * spread, out=np.zeros_like(spread), where=spread > 0
    )
    shifted = bias + z
    # beyond its pole, which few and very skewed images reach, the formula would turn round
    stretched = shifted / np.maximum(1 - skew * shifted, 1e-9)
    return np.asarray(ndtr(bias + stretched))
