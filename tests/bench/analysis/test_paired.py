"""Paired statistics against scipy, and against examples small enough to work out by hand."""

from __future__ import annotations

import time
from itertools import combinations, product

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from posterior_bench.bench.analysis import families, letters, paired, sign_flips


def sample(n: int, shift: float = 0.3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two solvers on the same ``n`` images, whose difficulty they share."""
    rng = np.random.default_rng(seed)
    difficulty = 3 * rng.normal(size=n)
    return difficulty + rng.normal(size=n) + shift, difficulty + rng.normal(size=n)


@pytest.mark.parametrize("n", [2, 6, 13, 49, 200])
def test_tests_agree_with_scipy(n: int) -> None:
    a, b = sample(n, seed=n)
    result = paired.compare_pair(a, b, "k")
    assert result.p_t == pytest.approx(scipy.stats.ttest_rel(a, b).pvalue, rel=1e-9)
    assert result.p_wilcoxon == pytest.approx(scipy.stats.wilcoxon(a, b).pvalue, rel=1e-9)
    assert result.effect_size == pytest.approx(np.mean(a - b) / np.std(a - b, ddof=1))
    assert (result.n, result.lower + result.higher) == (n, n)
    assert result.lower == np.sum(a < b)
    assert result.difference == pytest.approx(result.mean_a - result.mean_b)


def test_printed_numbers_of_fig_10_are_consistent() -> None:
    # VIPaint prints one-sided p = 4.133e-05 for 100 images and a difference of 0.018, so t(99) =
    # 4.11
    p = paired.paired_t(with_moments(100, -0.018, 0.018 * 10 / 4.11))
    assert p / 2 == pytest.approx(4.133e-05, rel=0.02)


def with_moments(n: int, mean: float, spread: float) -> np.ndarray:
    values = np.random.default_rng(0).normal(size=n)
    return mean + spread * (values - values.mean()) / values.std(ddof=1)


@pytest.mark.parametrize("n", [2, 5, 6, 9, 13])
def test_sign_flips_agree_with_scipy(n: int) -> None:
    """scipy flips all signs too where two samples are paired; here with values that have ties."""
    for seed in range(4):
        rng = np.random.default_rng(seed)
        d = rng.normal(0.4, size=n) if seed % 2 else rng.integers(-3, 5, size=n).astype(float)
        theirs = scipy.stats.permutation_test(
            (d,), np.sum, permutation_type="samples", n_resamples=np.inf
        )
        assert sign_flips.sign_flip(d, "k") == pytest.approx(theirs.pvalue, abs=1e-12)


def test_many_images_take_random_signs_and_count_what_was_observed() -> None:
    d = np.random.default_rng(3).normal(0.25, size=40)
    theirs = scipy.stats.permutation_test(
        (d,), np.sum, permutation_type="samples", n_resamples=40_000, rng=np.random.default_rng(1)
    )
    p = sign_flips.sign_flip(d, "k")
    # four standard errors of both numbers of flips
    assert p == pytest.approx(theirs.pvalue, abs=4 * np.sqrt(p * (1 - p) * (1 / 40_000 + 1 / 9999)))
    # no flip comes near differences that are all equal: only what was observed counts, (0 + 1) /
    # (9999 + 1)
    assert sign_flips.sign_flip(np.full(40, 0.3), "k") == pytest.approx(1e-4)
    assert sign_flips.sign_flip(d, "k") == p != sign_flips.sign_flip(d, "other")


def test_six_equal_differences_are_one_of_32_outcomes() -> None:
    # the t-test calls this certain (p = 0); of the 64 combinations of signs two are as extreme
    assert sign_flips.sign_flip(np.full(6, 0.1), "k") == 2 / 64
    assert families.family(np.stack([np.full(6, 0.1), np.zeros(6)]), "k").p[0, 1] == 2 / 64
    assert sign_flips.sign_flip(np.zeros(6), "k") == 1


def test_swapping_the_solvers_turns_the_signs() -> None:
    a, b = sample(30)
    one, other = paired.compare_pair(a, b, "k"), paired.compare_pair(b, a, "k")
    for name in ("p_flip", "p_t", "p_wilcoxon", "detectable"):
        assert getattr(one, name) == pytest.approx(getattr(other, name))
    assert (one.difference, one.effect_size) == pytest.approx(
        (-other.difference, -other.effect_size)
    )
    assert (one.lower, one.higher) == (other.higher, other.lower)
    both = families.family(np.stack([a, b]), "k")
    assert both.interval(0, 1) == pytest.approx([-end for end in both.interval(1, 0)[::-1]])


def test_pairs_see_what_two_clouds_hide() -> None:
    a, b = sample(40, shift=0.7)
    result = paired.compare_pair(a, b, "k")
    assert max(result.p_t, result.p_flip) < 0.01 < 0.05 < scipy.stats.ttest_ind(a, b).pvalue


def test_equal_values_one_image_and_a_constant_difference() -> None:
    a, _ = sample(8)
    same = paired.compare_pair(a, a, "k")
    assert (same.p_flip, same.p_t, same.p_wilcoxon, same.effect_size) == (1, 1, 1, 0)
    both = families.family(np.stack([a, a]), "k")
    assert (both.p[0, 1], both.interval(0, 1)) == (1, (0, 0))
    assert paired.paired_t(np.full(8, 0.5)) == 0
    one = paired.compare_pair(np.array([2.0]), np.array([1.0]), "k")
    assert (one.n, one.difference) == (1, 1.0)
    assert np.isnan([one.p_flip, one.p_t, one.p_wilcoxon, one.effect_size, one.detectable]).all()


def test_infinite_values_and_no_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="1 of 3 images have an infinite value"):
        paired.compare_pair(np.array([1.0, np.inf, 2.0]), np.zeros(3), "k")
    with pytest.raises(ValueError, match="no image"):
        paired.compare_pair(np.zeros(0), np.zeros(0), "k")


def test_pairing_is_by_id_and_never_by_order() -> None:
    a = pd.Series({"x": 1.0, "y": 2.0, "z": np.nan})
    b = pd.Series({"y": 20.0, "x": 10.0})
    first, second = paired.pair_values(a, b)
    assert (first.tolist(), second.tolist()) == ([1.0, 2.0], [10.0, 20.0])


def test_other_images_are_refused_in_one_line() -> None:
    a, b = pd.Series({"x": 1.0, "y": 2.0, "w": 3.0}), pd.Series({"x": 1.0, "z": 2.0})
    with pytest.raises(
        ValueError, match="2 only in the first, 1 only in the second, for example 'w'"
    ) as caught:
        paired.pair_values(a, b)
    assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(ValueError, match="'x' appears twice"):
        paired.pair_values(pd.Series([1.0, 2.0], index=["x", "x"]), b)


def test_detectable_effect_of_published_tables() -> None:
    # Faul et al. (G*Power): 34 pairs for d_z = 0.5 and 199 for d_z = 0.2, two-sided 5 %, power 80 %
    for effect, pairs in ((0.5, 34), (0.2, 199), (0.8, 15)):
        assert paired.detectable_effect(pairs) <= effect < paired.detectable_effect(pairs - 1)


def test_a_detectable_difference_is_found_in_80_percent() -> None:
    n, rng = 12, np.random.default_rng(0)
    p = paired.paired_t(rng.normal(paired.detectable_effect(n), size=(20_000, n)))
    assert np.mean(p < 0.05) == pytest.approx(0.8, abs=0.012)  # four standard errors


# --- all pairs of a table ---


def adjusted_by_hand(values: np.ndarray) -> dict[tuple[int, int], float]:
    """Single-step max-T with scipy's t statistics, one combination of signs at a time."""
    pairs = list(combinations(range(len(values)), 2))
    d = np.stack([values[i] - values[j] for i, j in pairs])
    signs = np.array(list(product((1.0, -1.0), repeat=d.shape[1])))
    # one image at least must differ from the others, or t has no spread to be measured by
    t = np.abs(scipy.stats.ttest_1samp(signs[:, None, :] * d, 0, axis=2).statistic)
    observed = np.abs(scipy.stats.ttest_1samp(d, 0, axis=1).statistic)
    largest = t.max(axis=1)
    return {
        pair: float(np.mean(largest >= o * (1 - 1e-9)))
        for pair, o in zip(pairs, observed, strict=True)
    }


@pytest.mark.parametrize(("solvers", "n", "seed"), [(2, 6, 0), (3, 7, 1), (4, 8, 2), (5, 9, 3)])
def test_adjusted_p_values_by_hand(solvers: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = (
        5 * rng.normal(size=n) + rng.normal(size=(solvers, n)) + 0.9 * np.arange(solvers)[:, None]
    )
    tested = families.family(values, "k")
    for (i, j), p in adjusted_by_hand(values).items():
        assert tested.p[i, j] == tested.p[j, i] == pytest.approx(p, abs=1e-12)
    # the difference of two solvers alone needs no adjustment
    assert families.family(values[:2], "k").p[0, 1] == sign_flips.sign_flip(
        values[0] - values[1], "k"
    )


def test_p_between_the_adjusted_and_the_unadjusted_level_is_no_difference() -> None:
    """Ten solvers of chance: the smallest of 45 p values is below 5 %, and no pair differs."""
    values = np.random.default_rng(5).normal(size=(10, 12))
    alone = min(
        float(sign_flips.sign_flip(values[i] - values[j], "k"))
        for i, j in combinations(range(10), 2)
    )
    tested = families.family(values, "k")
    assert 0.05 / 45 < alone < 0.05 < tested.p.min()
    assert not tested.differ.any() and letters.ranks(tested, "up") == ["a"] * 10


@settings(max_examples=150, deadline=None)
@given(arrays(float, (4, 7), elements=st.integers(-3, 6).map(float)), st.booleans())
def test_verdict_interval_letters_and_p_never_contradict_each_other(
    values: np.ndarray, fine: bool
) -> None:
    """Also where statistics tie, differences vanish, or all are equal."""
    values = values / 7 if fine else values
    tested = families.family(values, "k")
    names = letters.ranks(tested, "down")
    for i, j in combinations(range(4), 2):
        lo, hi = tested.interval(i, j)
        apart = bool(tested.differ[i, j])
        assert (
            apart
            == (tested.p[i, j] <= 0.05)
            == (lo > 0 or hi < 0)
            == (not letters.share(names[i], names[j]))
        )
        assert lo <= np.mean(values[i] - values[j]) <= hi


def test_p_values_next_to_five_percent_agree_with_their_intervals() -> None:
    """Of 128 outcomes 6 are below 5 % and 7 are not: pairs with just so many decide the critical
    value."""
    found = {6: 0, 7: 0}
    for seed in range(400):
        values = np.random.default_rng(seed).normal(size=(3, 8)) + np.array([[0.0], [0.0], [1.5]])
        tested = families.family(values, "k")
        for i, j in combinations(range(3), 2):
            lo, hi = tested.interval(i, j)
            outcomes = round(128 * tested.p[i, j])
            found[outcomes] = found.get(outcomes, 0) + 1
            assert (lo > 0 or hi < 0) == (outcomes <= 6)
    assert found[6] > 5 and found[7] > 5


def test_tables_tested_together_are_those_tested_alone() -> None:
    rng = np.random.default_rng(0)
    for n in (8, 30):
        tables = [rng.normal(size=(k, n)) + 0.5 * np.arange(k)[:, None] for k in (2, 5, 3)]
        for values, together in zip(tables, families.families(tables, "k"), strict=True):
            alone = families.family(values, "k")
            assert together.p == pytest.approx(alone.p, abs=1e-12)
            assert together.critical == pytest.approx(alone.critical, abs=1e-12)
            # neither the order of the solvers nor what they share matters
            assert families.family(values[::-1] + 1e3, "k").p[::-1, ::-1] == pytest.approx(
                alone.p, abs=1e-12
            )


def test_values_that_differ_by_rounding_are_equal() -> None:
    values = np.random.default_rng(0).normal(30, 3, size=20)
    again = values * (1 + 1e-13)
    assert families.family(np.stack([values, again, values + 5]), "k").p[0, 1] == 1


@pytest.mark.parametrize(("n", "draw"), [(8, "skewed"), (8, "heavy"), (20, "skewed")])
def test_false_verdicts_of_a_table_are_five_percent(n: int, draw: str) -> None:
    """Five equal solvers with skewed values: in how many studies is any pair told apart?"""
    rng = np.random.default_rng(n)
    make = {
        "skewed": lambda: rng.exponential(size=(5, n)) ** 2,
        "heavy": lambda: rng.standard_t(2, size=(5, n)),
    }[draw]
    repeats = 1500 if n == 8 else 400
    apart = np.mean([families.family(make(), "k").differ.any() for _ in range(repeats)])
    error = np.sqrt(0.05 * 0.95 / repeats)
    assert 0.05 - 4 * error < apart < 0.05 + 4 * error


def test_all_intervals_of_a_table_hold_their_differences_together() -> None:
    """Four solvers that differ: normal noise, 12 images, in 95 % of studies all six intervals are
    right."""
    rng, repeats, truth = np.random.default_rng(1), 1000, np.array([0.0, 0.3, 1.0, 2.0])
    hits = 0
    for _ in range(repeats):
        tested = families.family(truth[:, None] + rng.normal(size=(4, 12)), "k")
        ends = {(i, j): tested.interval(i, j) for i, j in combinations(range(4), 2)}
        hits += all(lo <= truth[i] - truth[j] <= hi for (i, j), (lo, hi) in ends.items())
    assert hits / repeats == pytest.approx(0.95, abs=0.025)


def test_25_solvers_64_images_and_20_metrics_take_seconds() -> None:
    rng = np.random.default_rng(0)
    tables = [rng.normal(size=(25, 64)) for _ in range(20)]
    start = time.process_time()
    assert len(families.families(tables, "k")) == 20
    assert time.process_time() - start < 20  # 1.5 s on one core


# --- letters ---


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
    assert letters.letters(matrix) == expected


@settings(max_examples=60, deadline=None)
@given(arrays(bool, (9, 9)))
def test_a_shared_letter_says_exactly_that_two_do_not_differ(matrix: np.ndarray) -> None:
    names = letters.letters(matrix)
    for i, j in zip(*np.triu_indices(9, 1), strict=True):
        assert letters.share(names[i], names[j]) != matrix[i, j]
    assert "a" in names[0]


@settings(max_examples=60, deadline=None)
@example(differ(6, (0, 1), (2, 4), (3, 5), (4, 5)))
@example(differ(7, (0, 5), (1, 3), (3, 6), (4, 6)))
@example(differ(8, (2, 4), (3, 6), (5, 7)))
@given(arrays(bool, (8, 8)))
def test_no_letter_is_redundant_and_none_is_too_small(matrix: np.ndarray) -> None:
    count = len(matrix)
    names = letters.letters(matrix)
    alike = [
        [i == j or not matrix[min(i, j), max(i, j)] for j in range(count)] for i in range(count)
    ]
    for letter in {*"".join(names)}:
        group = [i for i in range(count) if letter in names[i]]
        others = [name.replace(letter, "") for name in names]
        # without the letter a pair that does not differ shares none, or an item that differs from
        # all has none
        assert any(not letters.share(others[i], others[j]) for i in group for j in group)
        assert not [i for i in range(count) if i not in group and all(alike[i][j] for j in group)]


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9, "triples"])
def test_letters_of_40_solvers_take_no_time(share: float | str) -> None:
    """``triples``: solvers of a triple differ and all others do not, so 3^13 groups have no
    differing pair."""
    if share == "triples":
        matrix = np.zeros((40, 40), dtype=bool)
        for k in range(0, 39, 3):
            matrix[k : k + 3, k : k + 3] = True
    else:
        matrix = np.random.default_rng(0).random((40, 40)) < share
    start = time.process_time()
    names = letters.letters(matrix)
    assert time.process_time() - start < 5  # 0.1 s on one core; the former way did not end in 70 s
    for i, j in zip(*np.triu_indices(40, 1), strict=True):
        assert letters.share(names[i], names[j]) != matrix[i, j]


def test_numbers_where_letters_run_out() -> None:
    names = letters.letters(np.ones((60, 60), dtype=bool))
    assert names == [str(i + 1) for i in range(60)]
    assert (
        not letters.share(names[0], names[9])
        and letters.share("1,12", "12,3")
        and not letters.share("1,12", "2")
    )


def test_ranks_follow_direction_and_difference() -> None:
    rng = np.random.default_rng(0)
    images = rng.normal(size=100)
    values = np.stack(
        [images + shift + 0.1 * rng.normal(size=100) for shift in (1.0, 0.0, 0.001, 2.0)]
    )
    tested = families.family(values, "k")
    assert letters.ranks(tested, "down") == ["b", "a", "a", "c"]
    assert letters.ranks(tested, "up") == ["b", "c", "c", "a"]
    with pytest.raises(ValueError, match="5 images are too few"):
        families.family(values[:, :5], "k")
