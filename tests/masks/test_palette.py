"""Small masks, against statistics measured with the published generators."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from posterior_bench.masks.comod import CoMod
from posterior_bench.masks.palette import Palette

Make = Callable[[int], np.random.Generator]
Hidden = Callable[..., NDArray[np.float64]]


@pytest.mark.parametrize("side", [28, 64, 256])
def test_strokes_between_20_and_30_percent(side: int, hidden: Hidden) -> None:
    found = hidden(Palette(), side, side, range(80))
    assert found.min() > 0.2 and found.max() < 0.3
    assert found.mean() == pytest.approx(0.241, abs=4 * found.std() / np.sqrt(80))


@pytest.mark.parametrize("side", [28, 64, 256])
def test_strokes_up_to_30_percent(side: int, hidden: Hidden) -> None:
    found = hidden(Palette(variant="palette_0_30"), side, side, range(300))
    assert found.min() < 0.05 and 0.28 < found.max() < 0.3
    assert found.mean() == pytest.approx(0.142, abs=4 * 0.075 / np.sqrt(300))


@pytest.mark.parametrize("side", [28, 64, 256])
def test_raw_strokes(side: int, hidden: Hidden) -> None:
    found = hidden(Palette(variant="palette_raw"), side, side, range(500))
    assert found.mean() == pytest.approx(0.150, abs=4 * found.std() / np.sqrt(500))
    assert found[found <= 0.3].mean() == pytest.approx(0.142, abs=4 * 0.075 / np.sqrt(500))
    assert np.mean(found <= 0.3) == pytest.approx(0.95, abs=0.04)
    assert np.mean((found > 0.2) & (found < 0.3)) == pytest.approx(
        0.22, abs=4 * np.sqrt(0.22 * 0.78 / 500)
    )
    assert found.min() < 0.04 and 0.36 < found.max() < 0.6


@pytest.mark.parametrize("side", [28, 256])
def test_release_hides_20_to_21_percent_with_boxes(side: int, hidden: Hidden, rng: Make) -> None:
    masks = Palette(variant="vipaint_release")
    found = hidden(masks, side, side, range(60))
    assert found.min() > 0.2 and found.max() < 0.21
    assert found.mean() == pytest.approx(0.205, abs=0.0015)
    boxes = CoMod(low=0.2, high=0.21, strokes=False)
    assert np.array_equal(masks.generate(rng(4), side, side), boxes.generate(rng(4), side, side))


def test_native_strokes_swamp_small_images(rng: Make) -> None:
    raw = [Palette(scale="native").draw(rng(seed), 28, 28).mean() for seed in range(100)]
    assert np.mean(raw) > 0.6


def test_errors() -> None:
    with pytest.raises(
        ValueError,
        match="unknown variant 'tiny'; valid: palette_20_30, palette_0_30, palette_raw, vipaint",
    ):
        Palette(variant="tiny")
    with pytest.raises(ValueError, match="unknown scale"):
        Palette(scale="")
