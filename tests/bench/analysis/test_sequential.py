"""Looking at an interval again and again: against scipy, and in simulated cells."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from posterior_bench.bench.analysis.sequential import look
from posterior_bench.bench.config.auto_images import AutoImages
from posterior_bench.bench.core.errors import UserError


def test_the_interval_is_students_at_a_share_of_the_level() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, size=24)
    for looks in (1, 5):
        seen = look(values, looks)
        lo, hi = scipy.stats.ttest_1samp(values, 0).confidence_interval(1 - 0.05 / looks)
        assert (seen.mean - seen.half_width, seen.mean + seen.half_width) == (
            pytest.approx(lo),
            pytest.approx(hi),
        )


def test_images_without_a_value_are_left_out_and_few_or_infinite_say_nothing() -> None:
    values = np.arange(12.0)
    with_gaps = np.concatenate([values, [np.nan, np.nan]])
    assert look(with_gaps, 3) == look(values, 3) and look(with_gaps, 3).n == 12
    assert look(values[:5], 3).half_width == np.inf
    assert look(np.append(values, np.inf), 3).half_width == np.inf
    assert np.isnan(look(np.array([]), 3).mean)


def test_looks_grow_by_halves_and_end_at_the_limit() -> None:
    rule = AutoImages("psnr", 0.5, 100)
    assert rule.looks() == [16, 24, 32, 48, 64, 96, 100]
    assert rule.looks(step=5) == [20, 25, 35, 50, 65, 100]
    assert AutoImages("psnr", 0.5, 16).looks() == [16]
    assert AutoImages("psnr", 0.5, 40).looks(step=64) == [40]


@pytest.mark.parametrize(
    "text", ["auto", "auto:psnr", "auto:psnr:0:64", "auto:psnr:x:64", "auto:psnr:1:8", "auto:::"]
)
def test_a_rule_that_cannot_be_read_is_one_line_with_its_form(text: str) -> None:
    with pytest.raises(UserError, match=r"data\.images=auto:METRIC:HALF_WIDTH:LIMIT"):
        AutoImages.of(text)


def test_a_rule_is_read_and_other_values_are_none() -> None:
    assert AutoImages.of("auto:psnr_hole:0.5:256") == AutoImages("psnr_hole", 0.5, 256)
    assert AutoImages.of(64) is AutoImages.of(None) is AutoImages.of("automatic") is None


LAWS = {
    "normal": lambda rng, size: rng.normal(size=size),
    "skewed": lambda rng, size: rng.exponential(size=size) - 1,
}


def cells(law: str, half_width: float) -> tuple[float, float]:
    """In which share of cells the last interval holds the mean, and in which all of them do."""
    rng, repeats, rule = np.random.default_rng(7), 1000, AutoImages("m", half_width, 128)
    looks = rule.looks()
    ended = together = 0
    for values in LAWS[law](rng, (repeats, rule.limit)):
        seen = [look(values[:n], len(looks)) for n in looks]
        holds = [abs(each.mean) <= each.half_width for each in seen]
        stop = next((i for i, each in enumerate(seen) if each.half_width <= half_width), -1)
        ended += holds[stop]
        together += all(holds)
    return ended / repeats, together / repeats


def test_the_mean_is_held_whenever_it_ends_and_at_all_looks_together() -> None:
    ended, together = cells("normal", 0.45)
    error = np.sqrt(0.05 * 0.95 / 1000)
    assert ended > 0.95 and together > 0.95 - 2 * error


def test_skewed_values_are_held_nearly_as_often() -> None:
    """A single interval of Student's holds .905 at 16 images (docs/statistics.md)."""
    ended, _ = cells("skewed", 0.45)
    assert ended > 0.93
