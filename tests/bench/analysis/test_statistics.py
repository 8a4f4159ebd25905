from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from posterior_bench.bench.analysis.statistics import (
    bootstrap_interval,
    generator,
    means_over_images,
    statistic_over_images,
)


def expanded(level: float, n: int) -> float:
    """The level whose plain bootstrap has the tails of Hesterberg's expanded one."""
    return 1 - 2 * scipy.stats.norm.cdf(
        np.sqrt(n / (n - 1)) * scipy.stats.t.ppf((1 - level) / 2, n - 1)
    )


@pytest.mark.parametrize(("n", "level"), [(12, 0.8), (40, 0.95), (200, 0.95)])
def test_ends_agree_with_scipy(n: int, level: float) -> None:
    sample = np.random.default_rng(n).exponential(size=n)
    ours = bootstrap_interval(sample[:, None], np.random.default_rng(1), level)[:, 0]
    theirs = scipy.stats.bootstrap(
        (sample,),
        np.mean,
        confidence_level=expanded(level, n),
        method="BCa",
        rng=np.random.default_rng(2),
    ).confidence_interval
    # both ends are random: their error with 9999 resamples is about 2 % of the width
    assert ours == pytest.approx([*theirs], abs=0.05 * (theirs.high - theirs.low))


def test_skewed_samples_get_a_skewed_interval() -> None:
    sample = np.random.default_rng(0).exponential(size=(30, 1)) ** 2
    lo, hi = bootstrap_interval(sample, np.random.default_rng(1))[:, 0]
    assert hi - sample.mean() > 1.2 * (sample.mean() - lo)


@pytest.mark.parametrize(("n", "repeats"), [(10, 400)])
def test_coverage_of_a_few_images(n: int, repeats: int) -> None:
    assert 0.90 <= coverage(n, repeats, 999) <= 0.985


@pytest.mark.slow
@pytest.mark.parametrize(("n", "lowest"), [(8, 0.91), (16, 0.925), (64, 0.935)])
def test_coverage(n: int, lowest: float) -> None:
    assert lowest <= coverage(n, 4000, 3999) <= 0.965


def coverage(n: int, repeats: int, resamples: int) -> float:
    """How often the 95 % interval holds the true mean of normal samples; standard error 1.1 % for
    400 repeats."""
    rng = np.random.default_rng(n)
    hits = 0
    for block in range(repeats // 50):
        sample = rng.normal(3.0, 2.0, size=(n, 50))
        lo, hi = bootstrap_interval(sample, np.random.default_rng(block), resamples=resamples)
        hits += int(((lo <= 3.0) & (hi >= 3.0)).sum())
    return hits / repeats


def test_the_same_key_gives_the_same_interval() -> None:
    sample = np.random.default_rng(0).normal(size=20)
    first, again, other = (
        means_over_images([sample], key) for key in ("fashion", "fashion", "celeba")
    )
    assert (first.lo[0], first.hi[0]) == (again.lo[0], again.hi[0])
    assert first.lo[0] != other.lo[0]
    assert (
        generator("a").integers(2**60)
        == generator("a").integers(2**60)
        != generator("b").integers(2**60)
    )


def test_a_column_does_not_depend_on_its_neighbours() -> None:
    a, b, c = np.random.default_rng(0).normal(size=(3, 16))
    c[:4] = np.nan
    alone, together = means_over_images([a], "k"), means_over_images([b, c, a], "k")
    assert together.lo[2] == pytest.approx(alone.lo[0], rel=1e-12)
    assert together.hi[2] == pytest.approx(alone.hi[0], rel=1e-12)


def test_nan_is_left_out_and_not_counted() -> None:
    six = [1.0, 3.0, 8.0, 2.0, 4.0, 6.0]
    values = np.array([np.nan, *six[:3], np.nan, *six[3:]])
    with_holes, without = means_over_images([values], "k"), means_over_images([np.array(six)], "k")
    assert (with_holes.mean[0], with_holes.n[0]) == (4.0, 6)
    assert (with_holes.lo[0], with_holes.hi[0]) == (without.lo[0], without.hi[0])


def test_one_image_has_a_mean_and_no_interval_and_none_has_neither() -> None:
    means = means_over_images([np.array([2.5]), np.array([np.nan]), np.array([])], "k")
    assert means.n.tolist() == [1, 0, 0]
    assert means.mean[0] == 2.5
    assert np.isnan([*means.lo, *means.hi, *means.mean[1:]]).all()


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6])
def test_fewer_than_six_images_claim_no_interval(n: int) -> None:
    """An interval of 2, 3 and 5 normal images holds the true mean in 51, 76 and 92 % of studies,
    not in 95 %."""
    values = np.random.default_rng(0).normal(size=(n, 2))
    values[:, 1] = 2.0
    means = means_over_images(
        [*values.T, np.append(values[:, 0], np.nan), np.append(values[:, 0], np.inf)], "k"
    )
    assert np.isfinite(means.mean).all() and means.n.tolist() == [n] * 4

    def reduce(f, w):
        return w @ f[:, 0] / w.sum(1)

    value, *ends = statistic_over_images(reduce, values, "k")
    assert value == pytest.approx(values[:, 0].mean())
    assert np.isnan([*means.lo, *means.hi, *ends]).all() == (n < 6)
    assert np.isfinite([*means.lo, *means.hi, *ends]).all() == (n >= 6)


def test_equal_values_have_an_interval_of_width_zero() -> None:
    means = means_over_images([np.full(9, 0.1)], "k")
    assert (means.lo[0], means.hi[0]) == (0.1, 0.1)


def test_infinite_values_are_counted_and_not_averaged_away() -> None:
    values = np.array([10.0, 12.0, 14.0, 16.0, 18.0, 20.0, np.inf, np.nan])
    means = means_over_images(
        [values, -values, values[:6], np.full(3, np.inf), np.array([np.inf, -np.inf])], "k"
    )
    assert means.infinite.tolist() == [1, 1, 0, 3, 2]
    assert means.n.tolist() == [6, 6, 6, 0, 0]
    # the mean and interval of the six finite values; all infinite have an infinite mean, unless the
    # signs differ
    assert means.mean[:4].tolist() == [15.0, -15.0, 15.0, np.inf] and np.isnan(means.mean[4])
    assert (means.lo[0], means.hi[0]) == (means.lo[2], means.hi[2])
    assert np.isnan([*means.lo[3:], *means.hi[3:]]).all()


def test_zeros_and_ones_stay_in_their_range() -> None:
    values = np.array([1.0] * 19 + [0.0])
    lo, hi = bootstrap_interval(values[:, None], np.random.default_rng(0))[:, 0]
    assert 0 <= lo < 0.95 < hi <= 1
