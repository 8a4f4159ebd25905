"""LaMa masks, against statistics measured with the published generator (OpenCV lines, NumPy's
legacy stream)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from posterior_bench.masks.lama import LaMa

Make = Callable[[int], np.random.Generator]

# width, mean and deviation of the hidden fraction, its 5 % and 95 % quantiles, accepted share; at
# 256 pixels
MEASURED = [
    ("thin", 0.287, 0.128, 0.075, 0.473, 0.97),
    ("medium", 0.240, 0.133, 0.018, 0.431, 0.99),
    ("thick", 0.268, 0.131, 0.057, 0.476, 0.65),
]


def _raw(masks: LaMa, side: int, count: int, rng: Make) -> NDArray[np.float64]:
    stream = rng(5)
    return np.array([masks.draw(stream, side, side).mean() for _ in range(count)])


# the masks of 64 and 256 pixels agree, as another test says
@pytest.mark.parametrize("side", [28, 64, pytest.param(256, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("width", "mean", "deviation", "low", "high", "accepted"), MEASURED)
def test_hidden_fraction(
    width: str,
    mean: float,
    deviation: float,
    low: float,
    high: float,
    accepted: float,
    side: int,
    rng: Make,
) -> None:
    count = 400
    raw = _raw(LaMa(width), side, count, rng)
    kept = raw[raw <= 0.5]
    assert len(kept) / count == pytest.approx(
        accepted, abs=4 * np.sqrt(accepted * (1 - accepted) / count) + 0.01
    )
    # four standard errors, and the error of the measured value
    assert kept.mean() == pytest.approx(mean, abs=4 * deviation / np.sqrt(len(kept)) + 0.005)
    assert kept.std() == pytest.approx(
        deviation, abs=4 * deviation / np.sqrt(2 * len(kept)) + 0.005
    )
    assert np.quantile(kept, [0.05, 0.95]) == pytest.approx([low, high], abs=0.035)


def test_settings_of_512_pixels(rng: Make) -> None:
    """Not twice those of 256: medium strokes hide 27.4 % on average."""
    raw = _raw(LaMa("medium", resolution=512), 64, 600, rng)
    assert raw[raw <= 0.5].mean() == pytest.approx(0.274, abs=4 * 0.131 / np.sqrt(500) + 0.005)
    large = LaMa("thick").generate(rng(1), 512, 512)
    assert np.array_equal(
        large, LaMa("thick", resolution=512, scale="native").generate(rng(1), 512, 512)
    )
    small = LaMa("thick").generate(rng(1), 256, 256)
    assert np.array_equal(
        small, LaMa("thick", resolution=256, scale="native").generate(rng(1), 256, 256)
    )


def test_never_more_than_half(hidden: Callable[..., NDArray[np.float64]]) -> None:
    found = hidden(LaMa("thick"), 32, 32, range(300))
    assert found.min() > 0 and found.max() <= 0.5 and np.mean(found > 0.4) > 0.1


def test_native_widths_swamp_small_images(rng: Make) -> None:
    assert _raw(LaMa("thin", scale="native"), 64, 100, rng).mean() > 0.7


def test_same_at_every_size(rng: Make) -> None:
    """At 64 pixels, the mask of 256 pixels seen at the middle of every 4 x 4 block."""
    coarse, fine = (
        ~LaMa("thick").generate(rng(3), 64, 64),
        ~LaMa("thick").generate(rng(3), 256, 256),
    )
    around = fine.reshape(64, 4, 64, 4)[:, 1:3, :, 1:3].mean((1, 3))
    sure = (around == 0) | (around == 1)
    assert sure.mean() > 0.95 and np.array_equal(coarse[sure], around[sure] == 1)


@pytest.mark.parametrize(
    ("width", "golden"),
    [
        ("thin", "7393a73679f432944ea70f5e4f79cf2b6d2a76f315b334d0b8d1749288272949"),
        ("medium", "b66cc97a5d9e8ab52f78ac4a1ff57d707a100399a20b8f5fb81a2b69329e937f"),
        ("thick", "0d5be03934f2f72e79795c31bc953f42c7efd9b5027c1054efa46e11a9b35e67"),
    ],
)
def test_masks_never_change(
    width: str, golden: str, rng: Make, fingerprint: Callable[..., str]
) -> None:
    """A change of these values changes every published result with this mask."""
    assert fingerprint(LaMa(width).generate(rng(2024), 64, 64)) == golden


def test_errors(rng: Make) -> None:
    with pytest.raises(ValueError, match="unknown width 'wide'; valid: thin, medium, thick"):
        LaMa("wide")
    with pytest.raises(ValueError, match="resolution=128: LaMa has settings for 256 and 512"):
        LaMa(resolution=128)
    with pytest.raises(ValueError, match="unknown scale"):
        LaMa(scale="big")
    with pytest.raises(ValueError, match=r"do not fit into 28 x 28 pixels; use scale=proportional"):
        for seed in range(100):
            LaMa("thick", scale="native").draw(rng(seed), 28, 28)


class Decided:
    """A generator whose first number is ``first``: LaMa asks it whether to draw boxes."""

    def __init__(self, rng: np.random.Generator, first: float):
        self.integers, self._first = rng.integers, first

    def random(self) -> float:
        return self._first


@pytest.mark.parametrize("width", ["medium", "thick"])
def test_boxes_are_drawn_in_three_of_thirteen_cases(width: str, rng: Make) -> None:
    """Strokes and boxes are weighted 1 : 0.3, so the share of boxes is 0.3 / 1.3 and not 0.3."""

    def hole(first: float) -> NDArray[np.bool_]:
        return LaMa(width).draw(Decided(rng(7), first), 64, 64)  # type: ignore[arg-type]

    boxes, strokes = hole(0.0), hole(1 - 1e-12)
    assert not np.array_equal(boxes, strokes)
    assert np.array_equal(hole(3 / 13 - 1e-9), boxes) and np.array_equal(
        hole(3 / 13 + 1e-9), strokes
    )


def test_thin_masks_have_no_boxes(rng: Make) -> None:
    few, many = (LaMa("thin").draw(Decided(rng(7), first), 64, 64) for first in (0.0, 0.999))
    assert np.array_equal(few, many)


def test_boxes_fill_their_rectangles_and_hide_few_pixels(rng: Make) -> None:
    """Of one to five boxes one in five is single; medium boxes hide 4.0 % of an image on average,
    strokes 30.1 %."""
    count, single, shares = 300, 0, []
    for seed in range(count):
        hole = LaMa("medium").draw(Decided(rng(seed), 0.0), 256, 256)
        rows, columns = np.flatnonzero(hole.any(1)), np.flatnonzero(hole.any(0))
        extent = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
        single += hole.sum() == extent[0] * extent[1] and min(extent) >= 10 and max(extent) <= 50
        shares.append(hole.mean())
    assert np.mean(shares) == pytest.approx(0.040, abs=3 * np.std(shares) / np.sqrt(count))
    assert single / count == pytest.approx(1 / 5, abs=3 * np.sqrt(0.16 / count))
