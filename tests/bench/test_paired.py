"""Paired statistics against scipy, and against examples small enough to work out by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis.extra.numpy import arrays

from bench import paired


def sample(n: int, shift: float = 0.3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two solvers on the same ``n`` images, whose difficulty they share."""
    rng = np.random.default_rng(seed)
    difficulty = 3 * rng.normal(size=n)
    return difficulty + rng.normal(size=n) + shift, difficulty + rng.normal(size=n)


@pytest.mark.parametrize("n", [2, 6, 13, 49, 200])
def test_tests_agree_with_scipy(n: int) -> None:
    a, b = sample(n, seed=n)
    result = paired.compare(a, b, "k")
    assert result.p_t == pytest.approx(scipy.stats.ttest_rel(a, b).pvalue, rel=1e-9)
    assert result.p_wilcoxon == pytest.approx(scipy.stats.wilcoxon(a, b).pvalue, rel=1e-9)
    assert result.effect_size == pytest.approx(np.mean(a - b) / np.std(a - b, ddof=1))
    assert (result.n, result.lower + result.higher) == (n, n)
    assert result.lower == np.sum(a < b)
    assert result.difference == pytest.approx(result.mean_a - result.mean_b)


def test_printed_numbers_of_fig_10_are_consistent() -> None:
    # VIPaint prints one-sided p = 4.133e-05 for 100 images and a difference of 0.018, so t(99) = 4.11
    p = paired.paired_t(with_moments(100, -0.018, 0.018 * 10 / 4.11))
    assert p / 2 == pytest.approx(4.133e-05, rel=0.02)


def with_moments(n: int, mean: float, spread: float) -> np.ndarray:
    values = np.random.default_rng(0).normal(size=n)
    return mean + spread * (values - values.mean()) / values.std(ddof=1)


def test_interval_agrees_with_scipy() -> None:
    a, b = sample(60)
    result = paired.compare(a, b, "k")
    theirs = scipy.stats.bootstrap((a - b,), np.mean, method="BCa", rng=np.random.default_rng(1)).confidence_interval
    # ours expands the tails for 60 images by about 2 %, and both ends are random
    assert (result.lo, result.hi) == pytest.approx([*theirs], abs=0.05 * (theirs.high - theirs.low))


def test_swapping_the_solvers_turns_the_signs() -> None:
    a, b = sample(30)
    one, other = paired.compare(a, b, "k"), paired.compare(b, a, "k")
    assert (one.p_t, one.p_wilcoxon, one.detectable) == pytest.approx((other.p_t, other.p_wilcoxon, other.detectable))
    assert (one.difference, one.effect_size) == pytest.approx((-other.difference, -other.effect_size))
    assert (one.lower, one.higher) == (other.higher, other.lower)
    assert (one.lo, one.hi) == pytest.approx((-other.hi, -other.lo), abs=0.02 * (one.hi - one.lo))


def test_pairs_see_what_two_clouds_hide() -> None:
    a, b = sample(40, shift=0.7)
    assert paired.compare(a, b, "k").p_t < 0.01 < 0.05 < scipy.stats.ttest_ind(a, b).pvalue


def test_equal_values_one_image_and_a_constant_difference() -> None:
    a, _ = sample(8)
    same = paired.compare(a, a, "k")
    assert (same.p_t, same.p_wilcoxon, same.effect_size, same.lo, same.hi) == (1, 1, 0, 0, 0)
    assert paired.paired_t(np.full(8, 0.5)) == 0
    one = paired.compare(np.array([2.0]), np.array([1.0]), "k")
    assert (one.n, one.difference) == (1, 1.0)
    assert np.isnan([one.lo, one.hi, one.p_t, one.p_wilcoxon, one.effect_size, one.detectable]).all()


def test_infinite_values_and_no_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="1 of 3 images have an infinite value"):
        paired.compare(np.array([1.0, np.inf, 2.0]), np.zeros(3), "k")
    with pytest.raises(ValueError, match="no image"):
        paired.compare(np.zeros(0), np.zeros(0), "k")


def test_pairing_is_by_id_and_never_by_order() -> None:
    a = pd.Series({"x": 1.0, "y": 2.0, "z": np.nan})
    b = pd.Series({"y": 20.0, "x": 10.0})
    first, second = paired.pair(a, b)
    assert (first.tolist(), second.tolist()) == ([1.0, 2.0], [10.0, 20.0])


def test_other_images_are_refused_in_one_line() -> None:
    a, b = pd.Series({"x": 1.0, "y": 2.0, "w": 3.0}), pd.Series({"x": 1.0, "z": 2.0})
    with pytest.raises(ValueError, match="2 only in the first, 1 only in the second, for example 'w'") as caught:
        paired.pair(a, b)
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(ValueError, match="'x' comes twice"):
        paired.pair(pd.Series([1.0, 2.0], index=["x", "x"]), b)


def test_detectable_effect_of_published_tables() -> None:
    # Faul et al. (G*Power): 34 pairs for d_z = 0.5 and 199 for d_z = 0.2, two-sided 5 %, power 80 %
    for effect, pairs in ((0.5, 34), (0.2, 199), (0.8, 15)):
        assert paired.detectable_effect(pairs) <= effect < paired.detectable_effect(pairs - 1)


def test_a_detectable_difference_is_found_in_80_percent() -> None:
    n, rng = 12, np.random.default_rng(0)
    p = paired.paired_t(rng.normal(paired.detectable_effect(n), size=(20_000, n)))
    assert np.mean(p < 0.05) == pytest.approx(0.8, abs=0.012)  # four standard errors


def test_holm_by_hand() -> None:
    # sorted 0.01 0.03 0.04 times 3 2 1 is 0.03 0.06 0.04, and none may be below the one before
    assert paired.holm(np.array([0.04, 0.01, 0.03])) == pytest.approx([0.06, 0.03, 0.06])
    assert paired.holm(np.array([0.6, 0.9])) == pytest.approx([1.0, 1.0])
    assert paired.holm(np.empty(0)).tolist() == []


def test_benjamini_hochberg_by_hand_and_against_scipy() -> None:
    # 0.01 * 3 / 1, 0.03 * 3 / 2, 0.04 * 3 / 3; from the largest down none may be above the one after
    assert paired.benjamini_hochberg(np.array([0.04, 0.01, 0.03])) == pytest.approx([0.04, 0.03, 0.04])
    p = np.random.default_rng(0).random(50) ** 2
    assert paired.benjamini_hochberg(p) == pytest.approx(scipy.stats.false_discovery_control(p))


def differ(count: int, *pairs: tuple[int, int]) -> np.ndarray:
    matrix = np.zeros((count, count), dtype=bool)
    for i, j in pairs:
        matrix[i, j] = True
    return matrix


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        (differ(1), ["a"]),
        (differ(3), ["a", "a", "a"]),
        (differ(3, (0, 2)), ["a", "ab", "b"]),
        (differ(3, (0, 1), (0, 2), (1, 2)), ["a", "b", "c"]),
        (differ(4, (0, 3), (1, 3), (0, 2)), ["a", "ab", "bc", "c"]),
        # the best differs from the second and not from the third: no groups of neighbours
        (differ(3, (0, 1)), ["a", "b", "ab"]),
    ],
)
def test_letters_by_hand(matrix: np.ndarray, expected: list[str]) -> None:
    assert paired.letters(matrix) == expected


@settings(max_examples=60, deadline=None)
@given(arrays(bool, (9, 9)))
def test_a_shared_letter_says_exactly_that_two_do_not_differ(matrix: np.ndarray) -> None:
    names = paired.letters(matrix)
    for i, j in zip(*np.triu_indices(9, 1), strict=True):
        assert paired.share(names[i], names[j]) != matrix[i, j]
    assert "a" in names[0]


def test_numbers_where_letters_run_out() -> None:
    names = paired.letters(np.ones((60, 60), dtype=bool))
    assert names == [str(i + 1) for i in range(60)]
    assert not paired.share(names[0], names[9]) and paired.share("1,12", "12,3") and not paired.share("1,12", "2")


def test_ranks_follow_direction_and_difference() -> None:
    rng = np.random.default_rng(0)
    images = rng.normal(size=100)
    values = np.stack([images + shift + 0.1 * rng.normal(size=100) for shift in (1.0, 0.0, 0.001, 2.0)])
    assert paired.ranks(values, "down") == ["b", "a", "a", "c"]
    assert paired.ranks(values, "up") == ["b", "c", "c", "a"]
    with pytest.raises(ValueError, match="5 images are too few"):
        paired.ranks(values[:, :5], "up")


def test_false_rank_differences_stay_below_five_percent() -> None:
    rng = np.random.default_rng(0)
    studies = [rng.exponential(size=(5, 16)) ** 2 for _ in range(800)]
    apart = np.mean([len({*paired.ranks(study, "up")}) > 1 for study in studies])
    # skewed values, no solver better than another; three standard errors above 5 %
    assert apart < 0.073


def test_holm_is_stricter_than_benjamini_hochberg() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=(12, 30)) + 0.08 * np.arange(12)[:, None]
    groups = {adjust: len({*"".join(paired.ranks(values, "up", adjust))}) for adjust in HOW}
    assert groups[paired.holm] < groups[paired.benjamini_hochberg]


HOW = (paired.holm, paired.benjamini_hochberg)


def coverage(n: int, repeats: int) -> float:
    """How often the interval of a pair of skewed solvers holds the true difference, 0.25."""
    rng = np.random.default_rng(n)
    hits = 0
    for repeat in range(repeats):
        difficulty = rng.gamma(4.0, size=n)
        result = paired.compare(difficulty + rng.gamma(2.25, size=n), difficulty + rng.gamma(2.0, size=n), str(repeat))
        hits += result.lo <= 0.25 <= result.hi
    return hits / repeats


def test_coverage_of_the_interval() -> None:
    # three standard errors of 300 repeats are 3.8 %
    assert 0.91 <= coverage(50, 300) <= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("n", [30, 100])
def test_coverage_is_95_percent(n: int) -> None:
    assert coverage(n, 4000) == pytest.approx(0.95, abs=0.015)
