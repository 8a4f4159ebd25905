"""Is one solver better than another? Statistics over pairs: two values of the same image, draws
averaged before.

Solvers differ far less on one image than images differ from each other, so the difference of every
image is looked at, never two clouds of values. One procedure gives the verdicts, the rank letters
and the intervals of differences, so that these cannot contradict each other: a sign-flip
permutation test of the studentised mean difference. Where two solvers are equally good, each
difference of an image is as likely to have the other sign, and the signs of all images are flipped
to see what chance alone does. All pairs of a table are tested at once: an image has the same sign
in all of them, and the largest statistic over the pairs is what every pair must exceed
("single-step max-T": Westfall and Young, "Resampling-Based Multiple Testing", 1993).
docs/statistics.md explains it at length.
"""

from __future__ import annotations

import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import nctdtrinc, stdtr, stdtrit

from posterior_bench.bench.analysis.statistics import FEWEST, Array, generator

ALPHA, POWER = 0.05, 0.8

EXACT, FLIPS = 16, 9999
"""Up to so many images every combination of signs is tried, with more images that many random ones.
"""

_TIE = 1e-9
"""Statistics, which are at most 1, that differ by less are equal: sums differ by their rounding."""

_ROUNDING = 1e-9
"""Differences below this share of the largest value are rounding, and taken as zero."""

_BLOCK = 4_000_000


@dataclass(frozen=True)
class Comparison:
    """Two solvers on the same ``n`` images; every difference is the first minus the second.

    ``p_flip`` (sign-flip permutation), ``p_t`` and ``p_wilcoxon`` are two-sided tests of this pair
    alone, adjusted for nothing. ``effect_size`` is Cohen's d_z, the mean difference in standard
    deviations of the differences (Cohen, "Statistical Power Analysis", 1988). ``lower`` and
    ``higher`` count the images where the first has the smaller and the larger value.
    ``detectable`` is the true difference that the t-test of this pair alone finds in 80 % of
    studies with so many images.
    """

    n: int
    mean_a: float
    mean_b: float
    difference: float
    p_flip: float
    p_t: float
    p_wilcoxon: float
    effect_size: float
    lower: int
    higher: int
    detectable: float


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
    for signs in _signs(n, key):
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


def _signs(n: int, key: str) -> Iterator[Array]:
    """Blocks ``(B, n)`` of signs, +1 and -1, the first row all +1: what was observed is one of
    them.

    All combinations up to :data:`EXACT` images, up to the sign of the whole, which no statistic
    sees.
    """
    size = max(1, _BLOCK // n)
    if n <= EXACT:
        for start in range(0, 2 ** (n - 1), size):
            numbers = np.arange(start, min(start + size, 2 ** (n - 1)))
            yield _as_signs(numbers[:, None] >> np.arange(n) & 1)
        return
    yield np.ones((1, n))
    rng = generator(f"{key}\x1fsigns\x1f{n}")
    for start in range(0, FLIPS, size):
        rows = min(size, FLIPS - start)
        # a bit a sign, and whole words a row: so the signs do not depend on the size of a block
        drawn = np.frombuffer(rng.bytes(rows * 4 * -(-n // 32)), dtype=np.uint8).reshape(rows, -1)
        yield _as_signs(np.unpackbits(drawn, axis=1, count=n))


def _as_signs(bits: NDArray[np.integer]) -> Array:
    return np.where(bits == 0, 1.0, -1.0)


def _family(values: Array, observed: Array, largest: Array) -> Family:
    """P values and the critical value from the same numbers, so that they agree to the last bit."""
    bars = np.sort(largest) + _TIE
    count = len(bars) - np.searchsorted(bars, observed, "left")
    p = np.minimum(count / len(bars), 1.0)
    np.fill_diagonal(p, 1.0)
    # p <= ALPHA says that at most so many bars are as high, so the next one is lower
    return Family(values, p, float(bars[-1 - int(ALPHA * len(bars))]))


def sign_flip(differences: Array, key: str) -> Array:
    """Two-sided p values of the sign-flip test of one pair alone; ``differences`` ``(..., n)`` to
    ``(...)``.

    ``n`` may be any number here, but below 6 images no p value is below 0.05.
    """
    n = differences.shape[-1]
    flat = differences.reshape(-1, n)
    scale = np.abs(flat).max(axis=1)
    shares = np.divide(flat, scale[:, None], out=np.zeros_like(flat), where=scale[:, None] > 0)
    observed = np.abs(shares.sum(axis=1)) - _TIE
    count, total = np.zeros(len(flat)), 0
    for signs in _signs(n, key):
        count += (np.abs(signs @ shares.T) >= observed).sum(axis=0)
        total += len(signs)
    return np.asarray((count / total).reshape(differences.shape[:-1]))


def pair(a: pd.Series, b: pd.Series) -> tuple[Array, Array]:
    """The values of the same images in the same order, each ``(n,)``, from two series indexed by
    image id.

    An image without a value (NaN) is not there. Raises ValueError if the ids differ or one comes
    twice.
    """
    a, b = a.dropna().sort_index(), b.dropna().sort_index()
    for ids in (a.index, b.index):
        if ids.has_duplicates:
            raise ValueError(
                f"image '{ids[ids.duplicated()][0]}' comes twice; average the draws of an image "
                f"first"
            )
    alone = a.index.symmetric_difference(b.index)
    if len(alone):
        only_a = int(alone.isin(a.index).sum())
        raise ValueError(
            f"image ids differ: {only_a} only in the first, {len(alone) - only_a} only in the "
            f"second, for example "
            f"'{alone[0]}'; run both on the same images (retry=true runs failed rows again)"
        )
    return a.to_numpy(float), b.to_numpy(float)


def compare(a: Array, b: Array, key: str) -> Comparison:
    """Everything about the differences of paired values ``(n,)`` of two solvers alone; ``key``
    seeds the signs.

    One pair of values has means and no more (NaN). Raises ValueError without pairs, or if a value
    is not finite.
    """
    if not len(a):
        raise ValueError("no image has a value of both")
    infinite = int((~np.isfinite(a) | ~np.isfinite(b)).sum())
    if infinite:
        raise ValueError(
            f"{infinite} of {len(a)} images have an infinite value and no difference; take another "
            f"metric"
        )
    differences, n = a - b, len(a)
    spread = float(differences.std(ddof=1)) if n > 1 else np.nan
    return Comparison(
        n=n,
        mean_a=float(a.mean()),
        mean_b=float(b.mean()),
        difference=float(differences.mean()),
        p_flip=float(sign_flip(differences, key)) if n > 1 else np.nan,
        p_t=float(paired_t(differences)),
        p_wilcoxon=_wilcoxon(differences),
        effect_size=float(_ratio(differences.mean(), np.array(spread))),
        lower=int((differences < 0).sum()),
        higher=int((differences > 0).sum()),
        detectable=detectable_effect(n) * spread,
    )


def paired_t(differences: Array) -> Array:
    """Two-sided p values of Student's paired t-test; ``differences`` ``(..., n)`` to ``(...)``. NaN
    for one pair.

    Differences that are all zero have p = 1, and equal ones that are not have p = 0.
    """
    n = differences.shape[-1]
    if n < 2:
        return np.full(differences.shape[:-1], np.nan)
    t = _ratio(differences.mean(axis=-1), differences.std(axis=-1, ddof=1) / np.sqrt(n))
    return np.asarray(2 * stdtr(n - 1, -np.abs(t)))


def detectable_effect(n: int) -> float:
    """The smallest d_z that the two-sided 5 % paired t-test of ``n`` pairs finds with 80 % power;
    NaN for one pair.
    """
    if n < 2:
        return np.nan
    critical = stdtrit(n - 1, 1 - ALPHA / 2)
    return float(nctdtrinc(n - 1, 1 - POWER, critical) / np.sqrt(n))


def ranks(family: Family, direction: str) -> list[str]:
    """Rank letters of the solvers of a family; ``a`` has the best mean.

    ``direction`` is ``up`` or ``down``. Two solvers share a letter if and only if they cannot be
    told apart.
    """
    means = family.values.mean(axis=1)
    order = np.argsort(-means if direction == "up" else means, kind="stable")
    named = dict(zip(order.tolist(), letters(family.differ[np.ix_(order, order)]), strict=True))
    return [named[i] for i in range(len(means))]


def letters(differ: NDArray[np.bool_]) -> list[str]:
    """Compact letter display: items ``i`` and ``j`` share a letter if and only if not ``differ[i,
    j]``, for ``i < j``.

    Items come best first, and letters are given in their order. A letter is a group of items none
    of which differ. There may be exponentially many such groups (Moon and Moser 1965), but no more
    than one for each pair is needed: each pair that has none yet gets one, grown item by item as
    long as no two differ, and groups whose pairs all have another one are dropped ("Algorithms for
    compact letter displays", Gramm et al. 2007, calls this a clique cover). So the time is
    polynomial, ``O(n^4)`` at most. Numbers, where letters run out.
    """
    count = len(differ)
    upper = np.triu(~np.asarray(differ, dtype=bool), 1)
    alike = upper | upper.T | np.eye(count, dtype=bool)
    covered = np.zeros((count, count), dtype=np.int64)
    groups: list[NDArray[np.intp]] = []
    for i in range(count):
        for j in np.flatnonzero(alike[i]).tolist():
            if j >= i and not covered[i, j] and not (i == j and alike[i].sum() > 1):
                group = _grown(alike, covered, i, j)
                covered[np.ix_(group, group)] += 1
                groups.append(group)
    groups.sort(key=lambda group: group.tolist())
    for k in range(len(groups) - 1, -1, -1):
        block = np.ix_(groups[k], groups[k])
        if (covered[block] > 1).all():
            covered[block] -= 1
            del groups[k]
    symbols = string.ascii_letters if len(groups) <= len(string.ascii_letters) else None
    names = [symbols[k] if symbols else str(k + 1) for k in range(len(groups))]
    join = "".join if symbols else ",".join
    return [
        join(name for name, group in zip(names, groups, strict=True) if i in group)
        for i in range(count)
    ]


def _grown(
    alike: NDArray[np.bool_], covered: NDArray[np.int64], i: int, j: int
) -> NDArray[np.intp]:
    """A largest group of items around ``i`` and ``j``: first what brings most new pairs, then the
    better item.
    """
    members = np.zeros(len(alike), dtype=bool)
    members[[i, j]] = True
    while (free := np.flatnonzero(alike[members].all(axis=0) & ~members)).size:
        fresh = (covered[np.ix_(free, np.flatnonzero(members))] == 0).sum(axis=1)
        members[free[np.argmax(fresh)]] = True
    return np.flatnonzero(members)


def share(a: str, b: str) -> bool:
    """Whether two of the names that :func:`letters` gives have a letter, or a number, in common."""
    if a[:1].isdigit():
        return not {*a.split(",")}.isdisjoint(b.split(","))
    return not {*a}.isdisjoint(b)


def _wilcoxon(differences: Array) -> float:
    """Two-sided p of the signed-rank test; zeros are left out (Wilcoxon 1945), and nothing else
    than zeros is p = 1.
    """
    from scipy.stats import wilcoxon  # slow to import, and tables do without

    if len(differences) < 2:
        return np.nan
    return float(wilcoxon(differences).pvalue) if differences.any() else 1.0


def _ratio(mean: Array, spread: Array) -> Array:
    """``mean / spread``, where nothing over nothing is zero."""
    mean = np.asarray(mean, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where((mean == 0) & (spread == 0), 0.0, mean / spread)
