"""CoModGAN masks, against statistics measured with the published generator (Pillow strokes, NumPy's
legacy stream)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pytest
from numpy.typing import NDArray

from posterior_bench.masks.comod import CoMod

Make = Callable[[int], np.random.Generator]
Hidden = Callable[..., NDArray[np.float64]]

# (generator, side, mean and standard deviation of the hidden fraction)
MEASURED = [
    (CoMod(scale="native"), 256, 0.659, 0.106),
    (CoMod(scale="native", low=0.3, high=0.7), 256, 0.558, 0.106),
    (CoMod(scale="native", low=0.3, high=0.7, strokes=False), 256, 0.489, 0.113),
    (CoMod(scale="native"), 512, 0.636, 0.106),
    (CoMod(scale="native"), 64, 0.649, 0.108),
    (CoMod(), 64, 0.657, 0.107),
]


def _check(found: NDArray[np.float64], masks: CoMod, mean: float, deviation: float) -> None:
    assert masks.low < found.min() and found.max() < masks.high
    # four standard errors, and the error of the measured value: it is rounded and comes from some
    # 1000 masks
    assert found.mean() == pytest.approx(mean, abs=4 * deviation / np.sqrt(len(found)) + 0.005)
    assert found.std() == pytest.approx(
        deviation, abs=4 * deviation / np.sqrt(2 * len(found)) + 0.004
    )


@pytest.mark.parametrize(("masks", "side", "mean", "deviation"), MEASURED, ids=str)
def test_hidden_fraction(
    masks: CoMod, side: int, mean: float, deviation: float, hidden: Hidden
) -> None:
    _check(hidden(masks, side, side, range(60)), masks, mean, deviation)


@pytest.mark.slow
@pytest.mark.parametrize(("masks", "side", "mean", "deviation"), MEASURED, ids=str)
def test_hidden_fraction_closely(
    masks: CoMod, side: int, mean: float, deviation: float, hidden: Hidden
) -> None:
    _check(hidden(masks, side, side, range(1500)), masks, mean, deviation)


@pytest.mark.parametrize(("height", "width"), [(28, 28), (48, 40)])
def test_proportional_masks_look_the_same_at_every_size(
    height: int, width: int, hidden: Hidden
) -> None:
    _check(hidden(CoMod(), height, width, range(150)), CoMod(), 0.659, 0.106)


def _raw(masks: CoMod, side: int, rng: Make, seeds: Iterable[int]) -> NDArray[np.float64]:
    return np.array([masks.draw(rng(seed), side, side).mean() for seed in seeds])


@pytest.mark.parametrize(
    ("masks", "side", "accepted", "mean"),
    [
        (CoMod(scale="native"), 256, 0.51, 0.728),
        (CoMod(scale="native"), 64, 0.14, 0.894),
        (CoMod(), 64, 0.51, 0.728),
    ],
    ids=str,
)
def test_before_rejection(masks: CoMod, side: int, accepted: float, mean: float, rng: Make) -> None:
    raw = _raw(masks, side, rng, range(300))
    share = np.mean((masks.low < raw) & (raw < masks.high))
    assert share == pytest.approx(
        accepted, abs=4 * np.sqrt(accepted * (1 - accepted) / len(raw)) + 0.005
    )
    assert raw.mean() == pytest.approx(mean, abs=4 * raw.std() / np.sqrt(len(raw)))


def test_few_boxes_seldom_hide_a_fifth(rng: Make) -> None:
    masks = CoMod(low=0.20, high=0.21, strokes=False)
    raw = _raw(masks, 256, rng, range(4000))
    assert np.mean((masks.low < raw) & (raw < masks.high)) == pytest.approx(
        0.019, abs=4 * np.sqrt(0.019 / 4000)
    )


def test_everything_is_redrawn_after_a_rejection(rng: Make) -> None:
    masks, stream = CoMod(), rng(8)
    holes = (masks.draw(stream, 28, 28) for _ in range(100))
    first = next(hole for hole in holes if 0.4 < hole.mean() < 0.8)
    assert np.array_equal(masks.generate(rng(8), 28, 28), ~first)


def test_boxes_only_are_unions_of_rectangles(rng: Make) -> None:
    """With one small box at most, as a range near zero asks for, the hole is empty or one
    rectangle."""
    masks = CoMod(low=0.0, high=0.2, strokes=False)
    for seed in range(200):
        hole = masks.draw(rng(seed), 40, 40)
        rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
        assert hole.sum() == len(rows) * len(columns) and len(rows) <= 20 and len(columns) <= 20


def test_a_range_that_cannot_be_met(rng: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("posterior_bench.masks.rejection.TRIES", 50)
    with pytest.raises(
        ValueError, match=r"none of 50 masks of 8 x 8 pixels .* 0\.5 and 0\.501: .*widen the range"
    ):
        CoMod(low=0.5, high=0.501).generate(rng(0), 8, 8)


@pytest.mark.parametrize(("low", "high"), [(0.5, 0.5), (0.8, 0.4), (-0.1, 0.5), (0.2, 1.1)])
def test_impossible_ranges(low: float, high: float) -> None:
    with pytest.raises(ValueError, match="0 <= low < high <= 1"):
        CoMod(low=low, high=high)


def test_unknown_scale() -> None:
    with pytest.raises(ValueError, match="unknown scale 'linear'; valid: native, proportional"):
        CoMod(scale="linear")
