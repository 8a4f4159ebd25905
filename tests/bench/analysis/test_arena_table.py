"""The tables of the arena: common cells, paired intervals, what they look like."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from posterior_bench.bench.analysis import arena_table
from posterior_bench.bench.analysis.arena_table import arena_markdown, arena_means, common_cells


def images(*values: float) -> pd.Series:
    return pd.Series(values, index=[f"i{k}" for k in range(len(values))])


VALUES = {
    ("exact", "easy"): images(0.0, 0.2),
    ("exact", "hard"): images(0.1, 0.3),
    ("good", "easy"): images(0.2, 0.4),
    ("good", "hard"): images(1.1, 1.3),
    ("masks", "easy"): images(0.3, 0.5),
}


def test_solvers_are_averaged_over_the_cells_that_all_have():
    assert common_cells(VALUES, ["exact", "good"]) == ["easy", "hard"]
    assert common_cells(VALUES, ["exact", "good", "masks"]) == ["easy"]
    everywhere = arena_means(VALUES, ["exact", "good"], ["easy", "hard"])
    assert everywhere.mean.to_dict() == pytest.approx({"exact": 0.15, "good": 0.75})
    common = arena_means(VALUES, ["exact", "good", "masks"], ["easy"])
    # over its one easy cell alone, `masks` looked better than `good`
    assert common.mean.to_dict() == pytest.approx({"exact": 0.1, "good": 0.3, "masks": 0.4})


def test_the_difference_is_paired_image_by_image():
    found = arena_means(VALUES, ["exact", "good"], ["easy", "hard"])
    # every image of a cell is worse by the same, so no resample changes the difference: 0.2 and 1.0
    ends = (found.difference["good"], found.difference_lo["good"], found.difference_hi["good"])
    assert ends == pytest.approx((0.6, 0.6, 0.6))
    assert found.lo["good"] < 0.75 < found.hi["good"]
    assert (found.difference["exact"], found.difference_lo["exact"]) == (0, 0)


def test_the_interval_is_that_of_a_mean_of_means():
    rng = np.random.default_rng(0)
    values = {("exact", cell): pd.Series(rng.normal(size=60)) for cell in ("a", "b")}
    found = arena_means(values, ["exact"], ["a", "b"])
    error = sum(values["exact", cell].var(ddof=0) / 60 for cell in ("a", "b")) ** 0.5 / 2
    assert found.hi["exact"] - found.lo["exact"] == pytest.approx(2 * 1.96 * error, rel=0.06)


def test_an_image_without_a_value_is_left_out_for_all():
    values = {("exact", "c"): images(1.0, 2.0, np.nan), ("x", "c"): images(3.0, np.nan, 5.0)}
    assert arena_means(values, ["exact", "x"], ["c"]).mean.to_dict() == {"exact": 1, "x": 3}
    values["x", "c"] = images(np.nan, np.nan, 5.0)
    with pytest.raises(ValueError, match="no image of the cell 'c'"):
        arena_means(values, ["exact", "x"], ["c"])


def test_the_tables_show_everywhere_and_common_cells(monkeypatch):
    everything = {arena_table.HEADLINE: VALUES, "mean_error": VALUES, "cov_error": {}, "c2st": {}}
    monkeypatch.setattr(arena_table, "arena_values", lambda study, metrics: everything)
    first, second = arena_markdown("study").split("\n\nAll solvers")
    assert "in every cell (2: easy, hard)" in first and "masks" not in first
    assert "| good | 0.750 |" in first and "| 0.600 | [0.600, 0.600] | 0.750 |" in first
    assert "(1: easy)" in second and second.index("| good |") < second.index("| masks |")
