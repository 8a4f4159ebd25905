"""The rotated window, against Pillow's rotation and hand counts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from posterior_bench.masks.rotated import RotatedWindow

Make = Callable[[int], np.random.Generator]


def _window(rng: Make, angle: float, height: int, width: int) -> NDArray[np.bool_]:
    return RotatedWindow(angle=angle).generate(rng(0), height, width)


def _pillow(side: int, angle: int) -> NDArray[np.bool_]:
    """The upper half of a larger canvas, rotated with nearest neighbours, centre cropped."""
    canvas = np.zeros((side + 100, side + 100), dtype=np.uint8)
    canvas[: (side + 100) // 2] = 255
    turned = Image.fromarray(canvas).rotate(angle, resample=Image.Resampling.NEAREST, fillcolor=0)
    return np.asarray(turned)[50:-50, 50:-50] > 0


@pytest.mark.parametrize("side", [64, 256])
def test_agrees_with_pillow(side: int, rng: Make) -> None:
    differing = [
        np.mean(_window(rng, angle, side, side) != _pillow(side, angle))
        for angle in range(0, 360, 5)
    ]
    assert max(differing) <= 0.6 / side  # less than a pixel along the line
    assert np.mean(differing) <= 0.05 / side


def test_quarter_turns(rng: Make) -> None:
    rows, columns = np.indices((6, 8))
    assert np.array_equal(_window(rng, 0, 6, 8), rows < 3)
    assert np.array_equal(_window(rng, 90, 6, 8), columns < 4)
    assert np.array_equal(_window(rng, 180, 6, 8), rows >= 3)
    assert np.array_equal(_window(rng, 270, 6, 8), columns >= 4)


@pytest.mark.parametrize(("height", "width"), [(28, 28), (64, 64), (31, 45), (7, 7)])
def test_at_least_half_is_hidden_at_every_angle(height: int, width: int, rng: Make) -> None:
    counts = {int((~_window(rng, angle, height, width)).sum()) for angle in range(360)}
    assert counts == {(height * width + 1) // 2}


def test_opposite_angles_are_complements(rng: Make) -> None:
    assert all(
        np.array_equal(_window(rng, a, 20, 30), ~_window(rng, a + 180, 20, 30))
        for a in range(0, 180, 15)
    )


def test_angles_are_uniform_whole_degrees(rng: Make) -> None:
    windows = {_window(rng, angle, 64, 64).tobytes(): angle for angle in range(360)}
    assert len(windows) == 360
    drawn = [windows[RotatedWindow().generate(rng(seed), 64, 64).tobytes()] for seed in range(1000)]
    quarters = np.bincount(np.array(drawn) // 90, minlength=4)
    assert np.abs(quarters - 250).max() < 4 * np.sqrt(1000 * 0.25 * 0.75)


def test_angle_must_be_a_number() -> None:
    with pytest.raises(ValueError, match="angle must be a number of degrees or null"):
        RotatedWindow(angle=float("nan"))
