"""Metrics against exact posterior draws: other libraries, plain loops, closed forms, and exact
draws as the zero."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.distance import cdist

from posterior_bench.metrics.base import Draws, DrawSet, reference_draws
from posterior_bench.metrics.c2st import C2ST
from posterior_bench.metrics.energy import EnergyDistance, EnergyScore, RelativeEnergyDistance
from posterior_bench.metrics.modes import ModeCoverage, ModeWeightsError
from posterior_bench.metrics.moments import CovarianceError, MeanError
from posterior_bench.metrics.ranks import directions
from posterior_bench.metrics.sliced_w2 import PROJECTIONS, SlicedW2, squared_w2

METRICS = [SlicedW2, EnergyDistance, RelativeEnergyDistance, C2ST]
METRICS += [MeanError, CovarianceError, ModeCoverage, ModeWeightsError, EnergyScore]


def draws_of(
    x: np.ndarray, reference: np.ndarray, truth: np.ndarray | None = None, **more
) -> Draws:
    d = x.shape[1]
    truth = np.zeros(d) if truth is None else truth
    vectors = [torch.from_numpy(np.asarray(a, dtype=np.float64)) for a in (x, truth)]
    return Draws(
        *vectors,
        torch.ones(d, dtype=torch.bool),
        torch.zeros(d),
        torch.from_numpy(reference),
        **more,
    )


def gaussian(
    rng: np.random.Generator, n: int, scale: float = 1.0, shift: float = 0.0, d: int = 4
) -> np.ndarray:
    """Independent coordinates with standard deviations ``scale * (1, ..., d)``."""
    return shift + scale * rng.normal(size=(n, d)) * np.arange(1, d + 1)


def average(
    metric: Callable[[Draws], float], draws: int, repeats: int = 300, **change: float
) -> tuple[float, float]:
    """Mean and standard error of a metric over independent sets, the reference unchanged."""
    rng = np.random.default_rng(0)
    sets = [draws_of(gaussian(rng, draws, **change), gaussian(rng, 40)) for _ in range(repeats)]
    values = [metric(one) for one in sets]
    return float(np.mean(values)), float(np.std(values) / math.sqrt(repeats))


@pytest.mark.parametrize(("m", "n"), [(5, 5), (8, 12), (3, 7), (1, 6)])
def test_w2_on_a_line_is_the_cost_of_the_optimal_matching(m, n):
    rng = np.random.default_rng(m)
    a, b = rng.normal(size=(m, 2)), rng.normal(size=(n, 2))
    # repeated to a common number of points, the optimal plan sorts both
    common = math.lcm(m, n)
    expected = [
        np.mean((np.sort(np.repeat(u, common // m)) - np.sort(np.repeat(v, common // n))) ** 2)
        for u, v in zip(a.T, b.T, strict=True)
    ]
    assert squared_w2(torch.from_numpy(a), torch.from_numpy(b)).tolist() == pytest.approx(expected)


def test_w2_of_points_that_do_not_cross_is_the_distance_of_scipy():
    # b lies to the right of a by the same 3 everywhere: W1 = W2
    a = np.array([0.1, 0.4, 0.9])
    b = np.repeat(a, 2) + 3
    found = squared_w2(torch.from_numpy(a)[:, None], torch.from_numpy(b)[:, None]).sqrt().item()
    assert found == pytest.approx(stats.wasserstein_distance(a, b))


def test_sliced_w2_of_a_shift_is_its_length_over_the_root_of_the_dimension():
    x = np.random.default_rng(0).normal(size=(9, 5))
    values = [SlicedW2().score(draws_of(x + shift, x)) for shift in 2 * np.eye(5)]
    # every one of the 128 directions has length 1, so that the squares of all five add up to 2^2
    # exactly
    assert np.square(values).sum() == pytest.approx(4, abs=1e-9)
    assert values == pytest.approx([2 / math.sqrt(5)] * 5, rel=0.11), (
        "128 directions of the exact 1 / d"
    )
    assert SlicedW2().score(draws_of(x, x)) == pytest.approx(0, abs=1e-12)
    assert SlicedW2().score(draws_of(x[:, :1] + 2, x[:, :1])) == pytest.approx(2)


def test_energy_distance_and_score_on_a_line_are_those_of_scipy():
    rng = np.random.default_rng(1)
    x, z = rng.normal(size=(7, 1)), rng.normal(1, 2, size=(11, 1))
    # scipy averages over all pairs, a point with itself too, and takes the root
    own, exact = (cdist(a, a).mean() for a in (x, z))
    unbiased = (
        stats.energy_distance(x[:, 0], z[:, 0]) ** 2 + own - own * 7 / 6 + exact - exact * 11 / 10
    )
    assert EnergyDistance().score(draws_of(x, z)) == pytest.approx(unbiased)
    # the V-statistic of the score is half the squared energy distance to a point mass
    score = stats.energy_distance(x[:, 0], [0.3]) ** 2 / 2 + own / 2 - own / 2 * 7 / 6
    assert EnergyScore().score(draws_of(x, z, np.array([0.3]))) == pytest.approx(score)


def test_the_energy_score_prefers_the_right_distribution():
    rng = np.random.default_rng(2)
    truths = [gaussian(rng, 1)[0] for _ in range(400)]
    candidates = {
        "right": (1.0, 0.0),
        "narrow": (0.3, 0.0),
        "wide": (2.5, 0.0),
        "beside": (1.0, 2.0),
    }
    mean = {
        name: np.mean(
            [
                EnergyScore().score(draws_of(gaussian(rng, 8, *change), np.zeros((1, 4)), t))
                for t in truths
            ]
        )
        for name, change in candidates.items()
    }
    assert min(mean, key=mean.__getitem__) == "right"


@pytest.mark.parametrize(
    ("metric", "expected"),
    [(EnergyDistance, 0.0), (C2ST, 0.5), (MeanError, 0.0), (CovarianceError, 0.0)],
)
@pytest.mark.parametrize("draws", [5, 16])
def test_exact_draws_of_any_number_have_the_value_of_the_card(metric, expected, draws):
    mean, error = average(metric().score, draws)
    assert abs(mean - expected) < 4 * error
    for change in ({"scale": 0.3}, {"scale": 3.0}, {"shift": 3.0}):
        found, error = average(metric().score, draws, **change)
        # another width is no error of the mean, and another mean none of the covariance
        unseen = {MeanError: "scale", CovarianceError: "shift"}.get(metric) in change
        assert unseen or found > expected + 4 * error, change


def test_errors_of_a_shifted_and_of_a_scaled_gaussian_have_their_closed_forms():
    variances = np.arange(1, 5) ** 2
    shifted, error = average(MeanError().score, 16, 400, shift=2.0)
    assert shifted == pytest.approx(4 * 4 / variances.sum(), abs=4 * error + 0.02)
    scaled, error = average(CovarianceError().score, 64, 400, scale=0.5)
    assert scaled == pytest.approx((1 - 0.25) ** 2, abs=4 * error + 0.02)


def test_draws_that_are_all_alike_have_lost_the_whole_covariance():
    rng = np.random.default_rng(3)
    alike = np.repeat(gaussian(rng, 1), 6, axis=0)
    assert CovarianceError().score(draws_of(alike, gaussian(rng, 30))) == pytest.approx(1)


def test_c2st_sees_narrow_draws_in_many_dimensions():
    rng = np.random.default_rng(4)
    narrow, reference = 0.6 * rng.normal(size=(16, 200)), rng.normal(size=(64, 200))
    assert C2ST().score(draws_of(narrow, reference)) > 0.9


def test_c2st_of_one_mode_out_of_two_is_three_quarters():
    rng = np.random.default_rng(5)
    reference = 0.1 * rng.normal(size=(80, 2)) + np.repeat([[-5, 0], [5, 0]], 40, axis=0)
    found = C2ST().score(
        draws_of(0.1 * rng.normal(size=(16, 2)) + [5, 0], reference[rng.permutation(80)])
    )
    assert found == pytest.approx(0.75, abs=0.02), (
        "all draws are right, and the half of the reference far away"
    )


def two_modes(rng: np.random.Generator, n: int, d: int, stratified: bool = False) -> np.ndarray:
    side = np.where(np.arange(n) % 2, 1.0, -1.0) if stratified else rng.choice([-1.0, 1.0], n)
    return rng.normal(size=(n, d)) + 3 * side[:, None]


@pytest.mark.parametrize("d", [2, 64])
@pytest.mark.parametrize("modes", [1, 2])
def test_the_relative_energy_distance_is_zero_for_exact_draws_and_worse_for_others(d, modes):
    rng, relative = np.random.default_rng(d + modes), RelativeEnergyDistance()
    draw = (lambda n: rng.normal(size=(n, d))) if modes == 1 else (lambda n: two_modes(rng, n, d))
    values: dict[float, list[float]] = {1.0: [], 0.9: [], 1.1: []}
    for _ in range(400):
        x, reference = draw(16), draw(64)
        for factor, found in values.items():
            found.append(relative.score(draws_of(factor * x, reference)))
    exact = np.array(values[1.0])
    assert abs(exact.mean()) < 3 * exact.std() / 20
    for factor in (0.9, 1.1):
        worse = np.array(values[factor]) - exact
        assert worse.mean() > 3 * worse.std() / 20, factor


def test_narrow_draws_lower_sliced_w2_but_not_the_relative_energy_distance():
    rng, better = np.random.default_rng(0), {SlicedW2: [], RelativeEnergyDistance: []}
    for _ in range(60):
        x, reference = rng.normal(size=(16, 64)), rng.normal(size=(128, 64))
        for metric, found in better.items():
            found.append(
                metric().score(draws_of(0.9 * x, reference))
                - metric().score(draws_of(x, reference))
            )
    assert np.mean(better[SlicedW2]) < 0 < np.mean(better[RelativeEnergyDistance])


def test_draws_that_repel_each_other_fall_below_zero_by_the_bound_of_the_docstring():
    """Two points, one draw in each: a pair of 16 draws differs with probability 8 / 15, not 1 /
    2."""
    x = np.repeat([[0.0], [1.0]], 8, axis=0)
    reference = np.repeat([[0.0], [1.0]], 400, axis=0)
    # 2 * 1/2 - 8/15 - 1/2, over 1/2
    assert RelativeEnergyDistance().score(draws_of(x, reference)) == pytest.approx(
        -1 / 15, abs=3e-3
    )


def responsible(shares: list[list[float]], weights: list[float]) -> Draws:
    share, x = torch.tensor(shares, dtype=torch.float64), np.zeros((len(shares), 2))
    return draws_of(
        x, x, mode_weights=torch.tensor(weights, dtype=torch.float64), assign=lambda: share
    )


def test_modes_counted_by_hand():
    one = responsible([[1, 0, 0], [1, 0, 0], [0, 1, 0], [1, 0, 0]], [0.5, 0.3, 0.2])
    assert ModeCoverage().score(one) == pytest.approx(0.8)
    assert ModeWeightsError().score(one) == pytest.approx((0.25 + 0.05 + 0.2) / 2)
    # two draws that are between two modes: each is reached with probability 3/4
    assert ModeCoverage().score(responsible([[0.5, 0.5], [0.5, 0.5]], [0.5, 0.5])) == pytest.approx(
        0.75
    )
    assert ModeWeightsError().score(
        responsible([[0.5, 0.5], [0.5, 0.5]], [0.5, 0.5])
    ) == pytest.approx(0)


def test_exact_draws_reach_modes_as_often_as_the_docstring_says():
    rng, weights, draws = np.random.default_rng(6), np.array([0.6, 0.3, 0.1]), 6
    sets = [
        responsible(np.eye(3)[rng.choice(3, draws, p=weights)].tolist(), list(weights))
        for _ in range(2000)
    ]
    expected = (weights * (1 - (1 - weights) ** draws)).sum()
    assert np.mean([ModeCoverage().score(one) for one in sets]) == pytest.approx(expected, abs=0.01)


def test_too_few_draws_and_a_posterior_without_spread_have_no_value():
    rng = np.random.default_rng(7)
    one, reference = gaussian(rng, 1), gaussian(rng, 9)
    for metric in (EnergyDistance, C2ST, MeanError, CovarianceError, EnergyScore):
        assert math.isnan(metric().score(draws_of(one, reference)))
    for metric in (MeanError, CovarianceError, RelativeEnergyDistance):
        assert math.isnan(metric().score(draws_of(gaussian(rng, 6), np.zeros((9, 4)))))
    for metric in (ModeCoverage, ModeWeightsError):
        assert math.isnan(metric().score(responsible([[1.0], [1.0]], [1.0])))
    all_seen = draws_of(gaussian(rng, 6), reference)
    assert math.isnan(EnergyScore("known").score(all_seen))


def test_a_metric_of_the_exact_posterior_says_what_it_lacks():
    x = torch.zeros(4, 2, dtype=torch.float64)
    bare = Draws(x, x[0], torch.ones(2, dtype=torch.bool), torch.zeros(2))
    with pytest.raises(ValueError, match="exact posterior draws, and there are none"):
        SlicedW2().score(bare)
    with pytest.raises(ValueError, match="choose a mixture prior"):
        ModeCoverage().score(bare)


def split(draws: DrawSet) -> list[DrawSet]:
    """A set as sets of one image."""
    return [
        DrawSet(
            *(
                part if part is None else part[i : i + 1]
                for part in (draws.x, draws.truth, draws.mask, draws.y)
            ),
            *(
                part if part is None else part[i : i + 1]
                for part in (draws.reference, draws.mode_weights)
            ),
            draws.assign,
        )
        for i in range(len(draws.x))
    ]


@pytest.mark.parametrize("metric", METRICS)
def test_a_value_does_not_depend_on_the_batch(metric):
    draws = reference_draws()
    assert metric()(draws).tolist() == [metric()(one).item() for one in split(draws)]
    assert len(set(metric()(draws).tolist())) == len(draws.x) or metric is C2ST


def loops(draws: Draws) -> dict[str, float]:
    """The definitions, one pair at a time, in NumPy; covariances by U-statistics over distinct
    draws."""
    x, z, truth = draws.x.numpy(), draws.exact.numpy(), draws.truth.numpy()

    def within(a: np.ndarray) -> float:
        return float(np.mean([np.linalg.norm(p - q) for p, q in itertools.permutations(a, 2)]))

    def mean_product(a: np.ndarray) -> float:
        return float(np.mean([p @ q for p, q in itertools.permutations(a, 2)]))

    def trace_of_square(a: np.ndarray) -> float:
        fours = itertools.permutations(a, 4)
        return float(
            np.mean([((p - q) @ (r - s)) * ((p - q) @ (r - s)) / 4 for p, q, r, s in fours])
        )

    hidden = draws.hidden.numpy()
    total = np.trace(np.cov(z.T))
    squared_mean = mean_product(x) - 2 * x.mean(0) @ z.mean(0) + mean_product(z)
    product = np.trace(np.cov(x.T) @ np.cov(z.T))
    exact_square = trace_of_square(z)
    weights, shares = draws.mode_weights.numpy(), draws.responsibilities.numpy()

    def pair(a, b):
        return cdist(a, b).mean()

    wide = [
        np.repeat(v, 24 // len(v), axis=0) @ directions(PROJECTIONS, 6).numpy().T for v in (x, z)
    ]
    accuracy: dict[bool, list[float]] = {True: [], False: []}
    for is_draw, points in ((True, x), (False, z)):
        for i, point in enumerate(points):
            a, b = (
                np.array([v for j, v in enumerate(group) if j % 4 != i % 4]) for group in (x, z)
            )
            threshold = (within(b) - within(a)) / 2
            witness = cdist(point[None], b).mean() - cdist(point[None], a).mean()
            accuracy[is_draw].append((witness > threshold) == is_draw)
    return {
        "sliced_w2": float(
            np.sqrt(np.mean((np.sort(wide[0], axis=0) - np.sort(wide[1], axis=0)) ** 2))
        ),
        "c2st": float(np.mean(accuracy[True]) + np.mean(accuracy[False])) / 2,
        "energy_distance": 2 * pair(x, z) - within(x) - within(z),
        "energy_distance_rel": (2 * pair(x, z) - within(x) - within(z)) / within(z),
        "energy_score": pair(x, truth[None]) - within(x) / 2,
        "energy_score_hole": pair(x[:, hidden], truth[None, hidden]) - within(x[:, hidden]) / 2,
        "mean_error": squared_mean / total,
        "cov_error": (trace_of_square(x) - 2 * product + exact_square) / exact_square,
        "mode_coverage": float(weights @ [1 - np.prod(1 - share) for share in shares.T]),
        "mode_weights_error": float(np.abs(shares.mean(0) - weights).sum() / 2),
    }


def test_reference_values_are_those_of_plain_loops():
    expected = loops(reference_draws().images[0])
    found = {m().card.id: m.reference for m in METRICS if m is not EnergyScore}
    found |= {
        "energy_score": EnergyScore.references["whole"],
        "energy_score_hole": EnergyScore.references["hole"],
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    "metric", [*METRICS, lambda: EnergyScore("hole"), lambda: EnergyScore("known")]
)
def test_the_installation_check_passes_and_can_fail(metric, monkeypatch):
    one = metric()
    one.check()
    monkeypatch.setattr(type(one), "score", lambda self, draws: 0.123)
    with pytest.raises(RuntimeError, match=one.card.id):
        one.check()
