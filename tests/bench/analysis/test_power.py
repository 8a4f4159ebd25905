"""How many images are needed: against published numbers, scipy and simulated studies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from tests.bench.analysis.test_compare import cell

from posterior_bench.bench.analysis import families, paired, power
from posterior_bench.bench.analysis.pilot import Wish, answer, images_of_pilot
from posterior_bench.bench.core.errors import UserError


@pytest.mark.parametrize(("effect", "images"), [(0.2, 199), (0.5, 34), (0.8, 15)])
def test_images_of_textbooks(effect: float, images: int) -> None:
    """G*Power 3.1 and Cohen's tables: paired t-test, two-sided 5 %, power 80 %."""
    assert power.images_needed(effect, 1.0) == images
    assert power.images_needed(-10 * effect, 10.0) == images


@pytest.mark.parametrize("pairs", [1, 10, 780])
@pytest.mark.parametrize(("n", "difference"), [(6, 1.0), (12, 0.7), (40, -0.4), (300, 0.2)])
def test_power_is_that_of_the_noncentral_t(n: int, difference: float, pairs: int) -> None:
    critical = scipy.stats.t.ppf(1 - 0.05 / pairs / 2, n - 1)
    law = scipy.stats.nct(n - 1, difference * np.sqrt(n) / 2.0)
    expected = law.sf(critical) + law.cdf(-critical)
    assert power.power_of(n, difference, 2.0, pairs) == pytest.approx(expected, rel=1e-6)


def test_so_many_images_are_enough_and_one_fewer_are_not() -> None:
    for pairs in (1, 45):
        n = int(power.images_needed(0.3, 1.0, pairs, 0.9))
        assert power.power_of(n - 1, 0.3, 1.0, pairs) < 0.9 <= power.power_of(n, 0.3, 1.0, pairs)


def test_the_t_test_finds_the_difference_as_often_as_said() -> None:
    rng, repeats = np.random.default_rng(0), 20_000
    found = paired.paired_t(rng.normal(0.9, 1.5, size=(repeats, 24))) <= 0.05
    error = np.sqrt(0.16 / repeats)
    assert found.mean() == pytest.approx(power.power_of(24, 0.9, 1.5), abs=4 * error)


def test_a_table_finds_a_difference_with_so_many_images() -> None:
    """Four solvers, six pairs, one solver apart: the sign-flip test keeps the promised power."""
    rng, repeats = np.random.default_rng(1), 400
    n = int(power.images_needed(1.8, np.sqrt(2), pairs=6))
    assert n < 14  # so that all signs are tried, which is quick
    truth = np.array([[1.8], [0.0], [0.0], [0.0]])
    tested = [families.family(truth + rng.normal(size=(4, n)), "k") for _ in range(repeats)]
    found = np.mean([each.differ[0, 1] for each in tested])
    # Bonferroni is a little cautious
    assert 0.8 - 3 * 0.02 < found < 0.95


def test_nothing_is_out_of_reach_but_no_difference() -> None:
    assert power.images_needed(0.0, 1.0) == np.inf
    assert power.images_needed(0.1, np.nan) == np.inf
    assert power.images_needed(1e-9, 1.0) == np.inf
    assert power.images_needed(0.1, 0.0) == power.images_needed(50.0, 1.0) == 6


# --- variance components ---


def test_components_by_hand() -> None:
    """Means 1 and 5 vary by 8, draws by 2: images by 8 - 2 / 2."""
    parts = power.components(np.array([[0.0, 2.0], [4.0, 6.0]]))
    assert (parts.image, parts.draw) == (7, 2)
    assert parts.spread(2) == pytest.approx(np.sqrt(8))
    assert parts.spread(8) == pytest.approx(np.sqrt(7.25))
    assert parts.spread(np.inf) == pytest.approx(np.sqrt(7))


def test_components_of_a_known_law() -> None:
    rng = np.random.default_rng(0)
    values = 2 * rng.normal(size=(20_000, 1)) + 3 * rng.normal(size=(20_000, 4))
    parts = power.components(values)
    assert (parts.image, parts.draw) == (pytest.approx(4, rel=0.05), pytest.approx(9, rel=0.05))


def test_components_that_a_pilot_does_not_tell() -> None:
    one_draw, shared = np.ones((8, 1)), np.arange(8.0)[:, None] * np.ones(3)
    for values in (one_draw, shared, np.where(shared == 2, np.nan, shared)):
        assert np.isnan(power.components(values).draw)
    # draws that explain more than there is leave nothing to images, and never a negative variance
    parts = power.components(np.array([[0.0, 4.0], [4.0, 0.0], [1.0, 5.0]]))
    assert parts.image == pytest.approx(0) and parts.draw == pytest.approx(2 / 3)


def test_the_cautious_spread_is_enough_in_80_percent_of_pilots() -> None:
    pilots = np.random.default_rng(0).normal(size=(20_000, 8)).std(axis=1, ddof=1)
    enough = np.mean([power.cautious_spread(spread, 8) >= 1 for spread in pilots])
    assert enough == pytest.approx(0.8, abs=0.012)


# --- equality ---


def test_images_for_equality_show_it_as_often_as_said() -> None:
    n, rng, repeats = int(power.images_for_equality(0.5, 1.0)), np.random.default_rng(0), 20_000
    d = rng.normal(size=(repeats, n))
    half = scipy.stats.t.ppf(0.95, n - 1) * d.std(axis=1, ddof=1) / np.sqrt(n)
    equal = np.abs(d.mean(axis=1)) + half < 0.5
    assert equal.mean() == pytest.approx(0.8, abs=0.02)
    assert power.images_for_equality(0.5, 1.0, pairs=10) > n
    assert power.images_for_equality(0.5, 0.0) == 6
    assert power.images_for_equality(0.5, np.nan) == np.inf


# --- a pilot ---


def pilot(study: Path) -> dict[str, np.ndarray]:
    return {name: cell(study, name, shift) for name, shift in (("b", 0.0), ("c", 0.02), ("a", 0.1))}


def test_a_pilot_says_how_many_images_its_neighbours_need(tmp_path: Path) -> None:
    values = pilot(tmp_path)
    frame = images_of_pilot(tmp_path, Wish("lpips_vgg", resolve=0.005))
    assert [*frame["better"]] == ["b", "c"] and [*frame["worse"]] == ["c", "a"]
    for (_, line), (one, other) in zip(frame.iterrows(), [("b", "c"), ("c", "a")], strict=True):
        d = values[one] - values[other]
        assert line["spread"] == pytest.approx(d.std(ddof=1))
        assert line["difference"] == pytest.approx(d.mean())
        assert line["needed"] == power.images_needed(0.005, d.std(ddof=1), pairs=3)
        assert line["cautious"] > line["needed"]
        # the draws of the two solvers move together here, so more of them buy nothing
        assert line["with_many"] == line["needed"] and np.isnan(line["equal"])
    observed = images_of_pilot(tmp_path, Wish("lpips_vgg"))
    assert observed["needed"].iloc[1] == power.images_needed(
        frame["difference"].iloc[1], frame["spread"].iloc[1], pairs=3
    )
    two = images_of_pilot(tmp_path, Wish("lpips_vgg", 0.005, 0.02), {"solver": ["a", "b"]})
    d = values["b"] - values["a"]
    assert [*two["needed"]] == [power.images_needed(0.005, d.std(ddof=1), pairs=1)]
    assert [*two["equal"]] == [power.images_for_equality(0.02, d.std(ddof=1))]


def test_other_draws_are_planned_with_the_components() -> None:
    frame = pd.DataFrame({"needed": [10.0, 500.0, np.inf], "with_many": [6.0, np.nan, 7.0]})
    said = answer(frame, Wish("psnr", resolve=0.5), 64)
    assert "64 images resolve a difference of 0.5 by psnr in 1 of 3 adjacent pairs" in said
    assert "half of them take at most 500 images, all > 100000." in said
    assert "does not tell" not in said
    frame["with_many"] = np.nan
    said = answer(frame, Wish("psnr", power=0.9), None)
    assert said.startswith("To resolve the observed difference by psnr in 3 adjacent pairs: half")
    assert "Power 90%" in said and "does not tell" in said and "chance too" in said


def test_pilots_that_say_nothing_are_one_line(tmp_path: Path) -> None:
    for name in ("a", "b"):
        cell(tmp_path / "small", name, 0.0, images=5)
        cell(tmp_path / "broken", name, 0.0, failed=2)
    for study, metric, text in (
        ("small", "lpips_vgg", "has 5 images a cell: fewer than 6"),
        ("broken", "lpips_vgg", "nothing in .*broken is ranked by lpips_vgg"),
        ("small", "lpips_vg", "unknown metric 'lpips_vg'. Did you mean 'lpips_vgg'"),
        ("small", "sbc", "one value from all images"),
        ("none", "lpips_vgg", "not a study folder"),
    ):
        with pytest.raises(UserError, match=text) as refusal:
            images_of_pilot(tmp_path / study, Wish(metric))
        assert "\n" not in str(refusal.value)
    with pytest.raises(UserError, match="no cells with solver=dps as the study has"):
        images_of_pilot(tmp_path / "broken", Wish("lpips_vgg"), {"solver": ["dps"]})
