"""Calibration: exact draws pass, and each kind of wrong ones is found by the metric that should
find it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from posterior_bench.metrics.base import DrawSet, SetMetric, from_uint8, reference_draws, to_uint8
from posterior_bench.metrics.interval_coverage import IntervalCoverage
from posterior_bench.metrics.rank_histogram import RankHistogram
from posterior_bench.metrics.ranks import (
    FUNCTIONS,
    LEVELS,
    comparable,
    directions,
    rank_intervals,
    share_below,
    uniform_points,
)
from posterior_bench.metrics.sbc import SBC
from posterior_bench.metrics.spread_skill import SpreadSkill
from posterior_bench.metrics.tarp import TARP

SETS = [SBC, TARP, RankHistogram, SpreadSkill]


def correlated(
    n: int = 200, draws: int = 9, seed: int = 0, scale: float = 1.0, shift: float = 0.0
) -> DrawSet:
    """Three pixels ``N(0, 0.1 I + 0.9)``, the first seen: draws of the exact posterior of the
    others, then changed."""
    generator = torch.Generator().manual_seed(seed)
    common, own = torch.randn(n, 1, generator=generator), torch.randn(n, 3, generator=generator)
    truth = math.sqrt(0.9) * common + math.sqrt(0.1) * own
    # given the first: mean 0.9 x_1, covariance 0.1 I + 0.09 over the other two
    factor = torch.linalg.cholesky(0.1 * torch.eye(2) + 0.09)
    hidden = (
        0.9 * truth[:, None, :1]
        + shift
        + scale * torch.randn(n, draws, 2, generator=generator) @ factor.T
    )
    x = torch.cat([truth[:, None, :1].expand(n, draws, 1), hidden], dim=2)
    return observed_first(x, truth)


def ignoring(n: int = 200, draws: int = 9, seed: int = 0) -> DrawSet:
    """Draws of the prior, whatever was measured."""
    generator = torch.Generator().manual_seed(seed)
    x = math.sqrt(0.9) * torch.randn(n, draws + 1, 1, generator=generator)
    x = x + math.sqrt(0.1) * torch.randn(n, draws + 1, 3, generator=generator)
    return observed_first(x[:, 1:], x[:, 0])


def observed_first(x: Tensor, truth: Tensor) -> DrawSet:
    mask = torch.tensor([True, False, False]).expand(len(x), 1, 1, 3)
    truth = truth.view(-1, 1, 1, 3)
    return DrawSet(x.view(*x.shape[:2], 1, 1, 3), truth, mask, torch.where(mask, truth, 0.0))


def value(metric: SetMetric, draws: DrawSet) -> float:
    features = metric.features(draws).double().numpy()
    return float(metric.reduce(features, np.ones((1, len(features))))[0])


NARROW, WIDE, BESIDE = {"scale": 0.4}, {"scale": 2.5}, {"shift": 0.5}


@pytest.mark.parametrize("metric", [SBC, TARP])
@pytest.mark.parametrize("draws", [1, pytest.param(4, marks=pytest.mark.slow), 9])
def test_gaps_of_exact_draws_are_zero_on_average_and_others_are_far_from_it(metric, draws):
    exact = [value(metric(), correlated(60, draws, seed)) for seed in range(30)]
    assert abs(np.mean(exact)) < 4 * np.std(exact) / math.sqrt(30)
    found = {
        "prior": value(metric(), ignoring(400, draws)),
        **{
            str(change): value(metric(), correlated(400, draws, **change))
            for change in (NARROW, WIDE, BESIDE)
        },
    }
    if draws == 1:  # one draw has no width
        del found[str(NARROW)], found[str(WIDE)]
    # the chance of 60 images is more than that of 400
    assert min(found.values()) > 4 * np.std(exact) * 60 / 400, found


def test_the_rank_histogram_is_one_by_chance_and_blind_to_the_measurement():
    exact = [value(RankHistogram(), correlated(50, seed=seed)) for seed in range(40)]
    assert np.mean(exact) == pytest.approx(1, abs=4 * np.std(exact) / math.sqrt(40))
    prior = [value(RankHistogram(), ignoring(50, seed=seed)) for seed in range(40)]
    assert np.mean(prior) == pytest.approx(1, abs=4 * np.std(prior) / math.sqrt(40))
    assert (
        min(value(RankHistogram(), correlated(50, **change)) for change in (NARROW, WIDE, BESIDE))
        > 1.8
    )


def test_the_rank_histogram_is_pearsons_statistic_per_degree_of_freedom():
    draws = correlated(60)
    pixels = draws.x[:, :, 0, 0, 1:].numpy()
    chi = []
    for pixel in (0, 1):
        ranks = (pixels[:, :, pixel] < draws.truth[:, 0, 0, 1 + pixel].numpy()[:, None]).sum(1)
        chi.append(stats.chisquare(np.bincount(ranks, minlength=10)).statistic / 9)
    # 16 pixels evenly over two: eight of each
    assert value(RankHistogram(), draws) == pytest.approx(np.mean(chi))


@pytest.mark.parametrize("draws", [1, pytest.param(4, marks=pytest.mark.slow), 9])
@pytest.mark.parametrize("percent", [50, 90])
def test_intervals_of_exact_draws_cover_what_they_say(draws, percent):
    metric, level = IntervalCoverage(percent), percent / 100
    exact = metric(correlated(800, draws))
    assert exact.mean().item() == pytest.approx(
        level, abs=4 * exact.std().item() / math.sqrt(800) + 1e-9
    )
    if draws > 1:
        assert metric(correlated(800, draws, **NARROW)).mean() < level - 0.05
        assert metric(correlated(800, draws, **WIDE)).mean() > level + 0.03


def test_coverage_counted_by_hand():
    # ranks 0 and 2 of 4 draws: bins [0, 0.2] and [0.4, 0.6] against the central interval [0.05,
    # 0.95]
    x = torch.tensor([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0], [4.0, 4.0]]).view(1, 4, 1, 1, 2)
    draws = DrawSet(x, torch.tensor([0.0, 2.5]).view(1, 1, 1, 2), None, torch.zeros(1, 0))
    assert IntervalCoverage(90)(draws).item() == pytest.approx((0.75 + 1) / 2)
    assert IntervalCoverage(50)(draws).item() == pytest.approx((0 + 1) / 2)


@pytest.mark.parametrize("draws", [2, 9])
def test_spread_and_skill_agree_for_exact_draws_of_any_number(draws):
    assert value(SpreadSkill(), correlated(2000, draws)) == pytest.approx(1, abs=0.05)
    # only the spread is scaled: with many draws the ratio is the scale
    assert value(SpreadSkill(), correlated(1000, 50, scale=0.4)) == pytest.approx(0.4, abs=0.03)


def test_ranks_on_a_line_are_percentiles_of_scipy():
    rng = np.random.default_rng(0)
    values, truth = (
        rng.integers(0, 6, size=(12, 40)).astype(float),
        rng.integers(0, 6, size=40).astype(float),
    )
    found = rank_intervals(torch.from_numpy(values), torch.from_numpy(truth)).numpy()
    strict = [
        stats.percentileofscore(v, t, "strict") / 100 * 12
        for v, t in zip(values.T, truth, strict=True)
    ]
    weak = [
        stats.percentileofscore(v, t, "weak") / 100 * 12
        for v, t in zip(values.T, truth, strict=True)
    ]
    np.testing.assert_allclose(found, np.stack([strict, np.add(weak, 1)], axis=1) / 13)
    assert share_below(np.array([[0.2, 0.4]]), np.array([0.1, 0.25, 0.5])).tolist() == [
        [0, pytest.approx(0.25), 1]
    ]


def test_the_worst_ranks_have_a_gap_of_one():
    same = np.tile([0.0, 1e-9], (6, FUNCTIONS))
    for metric in (SBC, TARP):
        assert metric().reduce(same, np.ones((1, 6))).tolist() == pytest.approx([1])


def test_the_gap_of_ranks_is_that_of_cramer_and_von_mises():
    fractions = np.random.default_rng(3).beta(2, 3, size=80)
    # n W^2 sums all pairs of images, each image with itself too
    alone = ((1 - fractions) ** 3 + fractions**3) / 3
    expected = (
        (80 * stats.cramervonmises(fractions, "uniform").statistic - alone.sum()) / (80 * 79) * 3
    )
    features = np.tile(np.stack([fractions, fractions + 1e-9], axis=1), (1, FUNCTIONS))
    for metric in (SBC, TARP):
        assert metric().reduce(features, np.ones((1, 80)))[0] == pytest.approx(expected, rel=0.1), (
            "a sum over 19 levels"
        )


def test_ranks_of_tarp_are_shares_of_draws_nearer_to_points_around_the_measurement():
    draws = correlated(5)
    seen, hidden, truth = (
        draws.truth[:, 0, 0, 0].numpy(),
        draws.x[..., 1:].numpy()[:, :, 0, 0],
        draws.truth.numpy(),
    )
    noise = uniform_points(FUNCTIONS, 3)[:, 1:].numpy()
    found = TARP().features(draws).view(5, FUNCTIONS, 2)[..., 0].numpy()
    for i, f in ((0, 0), (3, 7), (4, 15)):
        point = seen[i] + (f + 1) / FUNCTIONS * noise[f]
        nearer = [
            np.linalg.norm(x - point) < np.linalg.norm(truth[i, 0, 0, 1:] - point)
            for x in hidden[i]
        ]
        assert found[i, f] == pytest.approx(sum(nearer) / 10)


def test_hidden_pixels_are_guessed_from_their_nearest_neighbour():
    y = torch.arange(1.0, 13).view(1, 1, 3, 4)
    mask = torch.zeros(1, 1, 3, 4, dtype=torch.bool)
    mask[0, 0, 0, 0] = mask[0, 0, 2, 3] = True
    measured = torch.where(mask, y, 0.0)
    image = DrawSet(y[:, None], y, mask, measured).images[0]
    assert image.guess[[0, 1, 4, 5]].eq(1).all() and image.guess[[11, 10, 7, 6]].eq(12).all()
    assert DrawSet(y[:, None], y, None, y).images[0].guess.tolist() == y.flatten().tolist()
    assert not DrawSet(y[:, None], y, None, torch.ones(1, 3)).images[0].guess.any()


def test_eight_bit_truths_tie_with_draws_that_round_to_them():
    grey = from_uint8(to_uint8(torch.tensor([-1.0, -1.0, 0.3]))).view(1, 1, 1, 3)
    x = grey[:, None].expand(1, 5, 1, 1, 3) + 0.001 * torch.arange(-2, 3).view(1, 5, 1, 1, 1)
    image = DrawSet(x, grey, None, torch.zeros(1, 0)).images[0]
    draws, truth = comparable(image)
    assert (draws == truth).all()
    assert rank_intervals(draws, truth).tolist() == [[0, 1]] * 3
    shifted = DrawSet(x + 1e-2, grey + 1e-2, None, torch.zeros(1, 0)).images[0]
    assert torch.equal(comparable(shifted)[0], shifted.x), (
        "a truth between grey levels is not rounded"
    )


@pytest.mark.parametrize("metric", SETS)
def test_features_do_not_depend_on_the_batch_and_need_a_hole(metric):
    draws = reference_draws()
    alone = [
        metric().features(
            DrawSet(*(part[i : i + 1] for part in (draws.x, draws.truth, draws.mask, draws.y)))
        )[0]
        for i in range(6)
    ]
    assert torch.equal(metric().features(draws), torch.stack(alone))
    seen = DrawSet(draws.x, draws.truth, torch.ones_like(draws.mask), draws.truth)
    assert metric().features(seen).isnan().all()
    assert IntervalCoverage()(seen).isnan().all()


@pytest.mark.parametrize("metric", SETS)
def test_weights_are_repetitions_of_images(metric):
    features = metric().features(correlated(12)).double().numpy()
    counts = np.array([[2, 0, 1, 1, 1, 1, 1, 1, 1, 1, 0, 2], [0] + [1] * 11])
    found = metric().reduce(features, counts.astype(float))
    dropped = metric().reduce(features[1:], np.ones((1, 11)))[0]
    assert found[1] == pytest.approx(dropped)
    if metric is SpreadSkill:  # the others leave out pairs of an image with itself
        assert found[0] == pytest.approx(
            metric().reduce(np.repeat(features, counts[0], axis=0), np.ones((1, 12)))[0]
        )


def test_nothing_measured_leaves_metrics_defined():
    draws = correlated(5)
    blind = DrawSet(draws.x, draws.truth, torch.zeros_like(draws.mask), torch.zeros_like(draws.y))
    assert all(metric().features(blind).isfinite().all() for metric in SETS)


def test_an_interval_needs_a_percentage():
    with pytest.raises(ValueError, match="100 % cannot be covered"):
        IntervalCoverage(100)


def plain_reference() -> dict[str, float]:
    """The definitions of spread-skill and coverage, and the rank histogram, in plain loops."""
    draws = reference_draws()
    hidden = ~draws.mask.expand(draws.truth.shape).flatten(1).numpy()
    x, truth = draws.x.flatten(2).double().numpy(), draws.truth.flatten(1).double().numpy()
    variance = np.mean([a[:, h].var(axis=0, ddof=1).mean() for a, h in zip(x, hidden, strict=True)])
    error = np.mean(
        [np.mean((a.mean(0) - t)[h] ** 2) for a, t, h in zip(x, truth, hidden, strict=True)]
    )
    ranks = [(a[:, h] < t[h]).sum(0) for a, t, h in zip(x, truth, hidden, strict=True)]

    def covered(percent: int) -> float:
        low, high = 0.5 - percent / 200, 0.5 + percent / 200
        return float(
            np.mean([max(0, min((r + 1) / 9, high) - max(r / 9, low)) * 9 for r in ranks[0]])
        )

    chosen = np.round(np.linspace(0, 3, 16)).astype(int)
    ratios = []
    for pixel in chosen:
        low, high = (np.array([r[pixel] for r in ranks])[:, None] + k for k in (0, 1))
        bins = np.arange(10)
        inside = np.minimum(high / 9, (bins + 1) / 10) - np.maximum(low / 9, bins / 10)
        m = np.maximum(inside, 0) * 9 - 0.1
        ratios.append((m.sum(0) ** 2).sum() / (m**2).sum())
    noise = uniform_points(FUNCTIONS, 6).numpy()
    lines = directions(8, 6).numpy()
    shares = {"sbc": [], "tarp": []}
    for a, t, h, guess in zip(
        x, truth, hidden, np.repeat(truth[:, [0, 3]], 3, axis=1), strict=True
    ):
        follows = [np.abs(w) * guess for w in uniform_points(8, 6).numpy()]
        shares["sbc"].append([np.mean((a[:, h] @ v[h]) < t[h] @ v[h]) for v in [*lines, *follows]])
        points = [guess + (f + 1) / 16 * noise[f] for f in range(16)]
        nearer = [
            np.linalg.norm(a[:, h] - p[h], axis=1) < np.linalg.norm(t[h] - p[h]) for p in points
        ]
        shares["tarp"].append([np.mean(n) for n in nearer])

    def gap(shares: list[list[float]], pooled: bool) -> float:
        low = np.array(shares) * 8 / 9
        found = np.array(
            [
                [[min(max((level - r) * 9, 0), 1) - level for level in LEVELS] for r in one]
                for one in low
            ]
        )
        found = found.mean(1, keepdims=True) if pooled else found
        pairs = [np.mean(found[i] * found[j]) for i in range(6) for j in range(6) if i != j]
        return float(np.mean(pairs) / np.mean((1 - LEVELS) ** 2))

    return {
        "sbc": gap(shares["sbc"], pooled=False),
        "tarp": gap(shares["tarp"], pooled=True),
        "spread_skill": math.sqrt(9 / 8 * variance / error),
        "coverage_50": covered(50),
        "coverage_90": covered(90),
        "rank_histogram": float(np.mean(ratios)),
    }


def test_reference_values_are_those_of_plain_loops():
    found = {metric.card.id: metric.reference for metric in SETS}
    found |= {
        f"coverage_{percent}": number for percent, number in IntervalCoverage.references.items()
    }
    assert found == pytest.approx(plain_reference(), abs=1e-5)


@pytest.mark.parametrize(
    "metric", [*SETS, lambda: IntervalCoverage(50), lambda: IntervalCoverage(90)]
)
def test_the_installation_check_passes_and_can_fail(metric, monkeypatch):
    one = metric()
    one.check()
    name = "reduce" if isinstance(one, SetMetric) else "score"
    monkeypatch.setattr(
        type(one), name, lambda *arguments: np.array([0.1234]) if name == "reduce" else 0.1234
    )
    with pytest.raises(RuntimeError, match=one.card.id):
        one.check()
