"""Equal within a margin, and neighbours in a ranking: by hand, and in simulated studies."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from tests.bench.analysis.test_compare import cell
from tests.bench.harness import verb

from posterior_bench.bench.analysis import families
from posterior_bench.bench.analysis.adjacent import (
    EQUAL,
    RESOLVED,
    UNDECIDED,
    adjacent,
    adjacent_in_study,
    adjacent_sentence,
)
from posterior_bench.bench.analysis.compare import compare_solvers
from posterior_bench.bench.core.errors import UserError


def test_the_interval_of_equality_by_hand() -> None:
    """Seven images: of 64 combinations of signs at most 6 may be as far out."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 7))
    d = a - b
    flipped = np.sort([abs(np.dot(signs, d)) for signs in product([1, -1], repeat=7)])
    # each combination comes twice, turned round: the seventh largest of 64 is the critical one
    r = flipped[::-1][::2][6] / np.sqrt(7 * np.sum(d * d))
    half = r * np.sqrt(6 / (1 - r * r)) * d.std(ddof=1) / np.sqrt(7)
    lo, hi = families.family(np.stack([a, b]), "k").equal_interval(0, 1)
    assert (lo, hi) == (pytest.approx(d.mean() - half), pytest.approx(d.mean() + half))


def test_with_many_images_it_is_students_interval() -> None:
    a, b = np.random.default_rng(1).normal(size=(2, 200))
    tested = families.family(np.stack([a, b]), "k")
    for level, found in ((0.9, tested.equal_interval(0, 1)), (0.95, tested.interval(0, 1))):
        theirs = scipy.stats.ttest_rel(a, b).confidence_interval(level)
        assert np.ptp(found) == pytest.approx(theirs.high - theirs.low, rel=0.04)


def test_equal_says_that_the_interval_lies_within_the_margin_on_both_sides() -> None:
    values = np.random.default_rng(2).normal(size=(2, 12)) * 0.1
    for shift in (-0.5, 0.0, 0.5):
        tested = families.family(values + np.array([[shift], [0.0]]), "k")
        lo, hi = tested.equal_interval(0, 1)
        for margin in (0.05, 0.2, 0.6, 1.0):
            assert tested.equal(0, 1, margin) == (-margin < lo and hi < margin)
            assert tested.equal(0, 1, margin) == tested.equal(1, 0, margin)
        assert not tested.equal(0, 1, 0.3) or shift == 0
        assert tested.equal(0, 1, 1.0)
    assert families.family(np.ones((2, 8)), "k").equal(0, 1, 1e-9)


@pytest.mark.parametrize("side", [-1, 1])
def test_a_difference_as_large_as_the_margin_is_called_equal_in_five_percent(side: int) -> None:
    rng, repeats, margin = np.random.default_rng(3), 1500, 0.8
    truth = side * margin * np.array([[1.0], [0.0]])
    equal = np.mean(
        [
            families.family(truth + 0.5 * rng.normal(size=(2, 7)), "k").equal(0, 1, margin)
            for _ in range(repeats)
        ]
    )
    assert equal == pytest.approx(0.05, abs=4 * np.sqrt(0.05 * 0.95 / repeats))


def test_any_pair_of_a_table_is_wrongly_called_equal_in_five_percent_at_most() -> None:
    """Five solvers a margin apart from their neighbours: no two are equal within it."""
    rng, repeats = np.random.default_rng(4), 800
    truth = np.arange(5.0)[:, None]
    wrong = 0
    for _ in range(repeats):
        tested = families.family(truth + 0.4 * rng.normal(size=(5, 9)), "k")
        wrong += any(tested.equal(i, i + 1, 1.0) for i in range(4))
    assert wrong / repeats < 0.05 + 3 * np.sqrt(0.05 * 0.95 / repeats)


def table() -> pd.DataFrame:
    """Two equal solvers, one apart from them, and one that varies too much to say anything."""
    rng = np.random.default_rng(5)
    images = rng.normal(size=20)
    noise = 0.01 * rng.normal(size=(4, 20))
    values = {
        "wild": images + 1.2 + 200 * noise[0] - 200 * noise[0].mean(),
        "second": images + noise[1],
        "best": images - 0.002 + noise[2],
        "third": images + 1.0 + noise[3],
    }
    return pd.DataFrame(values)


def test_neighbours_are_resolved_equal_or_undecided() -> None:
    found = adjacent(table(), "down", margin=0.05)
    assert [*found["better"]] == ["best", "second", "third"]
    assert [*found["worse"]] == ["second", "third", "wild"]
    assert [*found["verdict"]] == [EQUAL, RESOLVED, UNDECIDED]
    assert [*found["within"]] == [True, False, False]
    d = table()["second"] - table()["third"]
    line = found.iloc[1]
    assert line["difference"] == pytest.approx(d.mean()) and line["images"] == 20
    assert line["effect_size"] == pytest.approx(d.mean() / d.std())
    assert line["lo"] < line["equal_lo"] < d.mean() < line["equal_hi"] < line["hi"] < 0
    assert adjacent_sentence(found, "psnr", 0.05) == (
        "Of 3 adjacent pairs by psnr, 1 are resolved, 1 equal within 0.05, 1 undecided."
    )


def test_without_a_margin_none_are_equal_and_up_turns_the_order() -> None:
    found = adjacent(table(), "up")
    assert [*found["better"]] == ["wild", "third", "second"]
    assert [*found["verdict"]] == [UNDECIDED, RESOLVED, UNDECIDED] and not found["within"].any()
    assert adjacent_sentence(found, "psnr") == (
        "Of 3 adjacent pairs by psnr, 1 are resolved, 2 undecided."
    )


def test_a_small_difference_that_is_found_is_resolved_and_within() -> None:
    rng = np.random.default_rng(6)
    frame = pd.DataFrame({"a": rng.normal(size=30)}).assign(b=lambda f: f["a"] + 0.01)
    line = adjacent(frame, "down", margin=0.5).iloc[0]
    assert line["verdict"] == RESOLVED and line["within"]


def test_missing_values_and_few_images_are_refused() -> None:
    with pytest.raises(ValueError, match="missing or infinite"):
        adjacent(table().replace(table().iloc[0, 0], np.nan), "down")
    with pytest.raises(ValueError, match="too few"):
        adjacent(table().head(5), "down")


def study(folder: Path) -> None:
    for name, shift in (("dps", 0.0), ("ddnm", 0.001), ("tv", 0.2)):
        cell(folder, name, shift)


def test_compare_says_better_equal_or_neither(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study(tmp_path)

    def said(a: str, b: str, margin: float | None) -> str:
        return compare_solvers(tmp_path, a, b, "lpips_vgg", {}, margin).text()

    assert "dps and ddnm are equal within 0.05." in said("dps", "ddnm", 0.05)
    assert "Equality at 5 %: the simultaneous 90 % interval [" in said("dps", "ddnm", 0.05)
    open_ = "cannot be told apart, and they are not shown to be equal."
    assert open_ in said("dps", "ddnm", 0.001)
    assert "cannot be told apart." in said("dps", "ddnm", None)
    assert "Equality" not in said("dps", "ddnm", None)
    assert "dps is better than tv, by less than 0.5." in said("tv", "dps", 0.5)
    assert "dps is better than tv." in said("tv", "dps", 0.05)
    assert verb("compare", tmp_path, "a=dps", "b=ddnm", "metric=lpips_vgg", "margin=0.05") == 0
    assert "equal within 0.05" in capsys.readouterr().out
    for wrong in ("0", "-1", "x", "inf"):
        with pytest.raises(UserError, match="margin takes a number above 0"):
            verb("compare", tmp_path, "a=dps", "b=tv", "metric=psnr", f"margin={wrong}")
    with pytest.raises(UserError, match="margin=-1"):
        adjacent_in_study(tmp_path, "psnr", -1)


def test_the_leaderboard_lists_neighbours(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study(tmp_path)
    found = adjacent_in_study(tmp_path, "lpips_vgg", 0.05, {"mask": "comod"})
    assert [*found["verdict"]] == [EQUAL, RESOLVED] and {*found["data"]} == {"imagenet64"}
    assert verb("leaderboard", tmp_path, "metric=lpips_vgg", "margin=0.05") == 0
    text = capsys.readouterr().out
    assert "Of 2 adjacent pairs by lpips_vgg, 1 are resolved, 1 equal within 0.05, 0 und" in text
    written = pd.read_csv(tmp_path / "adjacent_lpips_vgg.csv")
    assert [*written["better"]] == ["dps", "ddnm"] and [*written["verdict"]] == [EQUAL, RESOLVED]
    with pytest.raises(UserError, match="give metric=NAME too"):
        verb("leaderboard", tmp_path, "margin=0.05")
    with pytest.raises(UserError, match="unknown mask 'x'"):
        adjacent_in_study(tmp_path, "lpips_vgg", None, {"mask": "x"})
