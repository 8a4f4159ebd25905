"""How many images tell two solvers apart, or show that they are equal within a margin.

The test is Student's t of paired differences. With ``m`` pairs in a table it is made at 5 % / m
(Bonferroni). The sign-flip test of the tables (:mod:`bench.analysis.families`) needs as many
images for one pair, and a few percent fewer for many, because it knows how pairs depend on each
other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import chdtri, nctdtr, stdtrit

from posterior_bench.bench.analysis.families import ALPHA, POWER
from posterior_bench.bench.analysis.statistics import FEWEST, Array

MOST = 10_000_000
"""No more images are counted: beyond them a difference is out of reach."""

_SURE = 0.8
"""How sure :func:`cautious_spread` is."""


@dataclass(frozen=True)
class Components:
    """The two parts of the variance of a difference.

    Parameters
    ----------
    image : float
        The variance between images, which more draws do not lower.
    draw : float
        The variance between the draws of an image; NaN where a pilot does not tell.
    """

    image: float
    draw: float

    def spread(self, draws: float) -> float:
        """Return the standard deviation of a mean over so many draws of an image."""
        return float(np.sqrt(self.image + self.draw / draws))


def components(differences: Array) -> Components:
    """Split the variance of differences ``(n, draws)`` of ``n`` images into its two parts.

    One-way analysis of variance: the mean square within images is the variance between draws, and
    what it does not explain of the variance of the means of images is that between images (Searle,
    Casella and McCulloch, "Variance Components", 1992, section 3.6). Neither is negative. With one
    draw, or a metric that has one value for all draws of an image, the parts are NaN.
    """
    n, draws = differences.shape
    within = differences.var(axis=1, ddof=1) if draws > 1 else np.zeros(n)
    if not np.isfinite(differences).all() or not within.any():
        return Components(np.nan, np.nan)
    between = float(differences.mean(axis=1).var(ddof=1))
    draw = min(float(within.mean()), draws * between)
    return Components(between - draw / draws, draw)


def cautious_spread(spread: float, n: int) -> float:
    """Return the standard deviation that the true one is below with 80 % confidence.

    A pilot of ``n`` images finds the standard deviation within a wide range only. Browne
    (Statistics in Medicine 1995) plans with this upper limit, so that a study has its power in 80 %
    of pilots and not in half of them.
    """
    return float(spread * np.sqrt((n - 1) / chdtri(n - 1, _SURE)))


def power_of(n: int, difference: float, spread: float, pairs: int = 1) -> float:
    """Return the power of the two-sided t-test of ``n`` images at 5 % / ``pairs``.

    Parameters
    ----------
    n : int
        The number of images, at least 2.
    difference : float
        The true difference.
    spread : float
        The standard deviation of the differences of images.
    pairs : int, default 1
        The number of pairs in the table.
    """
    if spread == 0:
        return float(difference != 0)
    critical, centre = (
        stdtrit(n - 1, 1 - ALPHA / (2 * pairs)),
        abs(difference) * np.sqrt(n) / spread,
    )
    lower = nctdtr(n - 1, centre, -critical)
    return float(1 - nctdtr(n - 1, centre, critical) + (lower if np.isfinite(lower) else 0))


def images_needed(difference: float, spread: float, pairs: int = 1, power: float = POWER) -> float:
    """Return the fewest images that find a true difference; infinity for more than :data:`MOST`.

    Never fewer than :data:`bench.analysis.statistics.FEWEST`. The parameters are those of
    :func:`power_of`, and ``power`` is the share of studies that shall find it.
    """
    if difference == 0 or not np.isfinite(spread):
        return np.inf
    return _fewest(lambda n: power_of(n, difference, spread, pairs) >= power)


def images_for_equality(
    margin: float, spread: float, pairs: int = 1, power: float = POWER
) -> float:
    """Return the fewest images that show two solvers equal within ``margin``, if they are equal.

    Each of the two one-sided t-tests at 5 % / ``pairs`` misses in at most half of ``1 - power``
    (Chow, Shao and Wang, "Sample Size Calculations in Clinical Research", 2008, section 3.1).
    """
    if not np.isfinite(spread):
        return np.inf

    def enough(n: int) -> bool:
        if spread == 0:
            return True
        critical = stdtrit(n - 1, 1 - ALPHA / pairs)
        return bool(1 - nctdtr(n - 1, margin * np.sqrt(n) / spread, critical) >= (1 + power) / 2)

    return _fewest(enough)


def _fewest(enough: Callable[[int], bool]) -> float:
    """Return the smallest number of images, from :data:`FEWEST` on, that is enough."""
    low, high = FEWEST - 1, FEWEST
    while not enough(high):
        if high > MOST:
            return np.inf
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high
