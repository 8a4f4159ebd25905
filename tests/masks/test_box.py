"""Boxes, against hand counts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from posterior_bench.masks.box import Box

Make = Callable[[int], np.random.Generator]


def _corner(hole: NDArray[np.bool_]) -> tuple[int, int]:
    return int(np.flatnonzero(hole.any(1))[0]), int(np.flatnonzero(hole.any(0))[0])


def test_defaults_hide_a_quarter_away_from_the_border(rng: Make) -> None:
    corners = set()
    for seed in range(300):
        mask = Box().generate(rng(seed), 64, 64)
        top, left = _corner(~mask)
        assert (~mask).sum() == 32 * 32 and not mask[top : top + 32, left : left + 32].any()
        corners.add((top, left))
    tops, lefts = ({corner[k] for corner in corners} for k in (0, 1))
    assert tops == lefts == set(range(4, 29))  # a margin of 4 on both sides


def test_centre_window(rng: Make) -> None:
    """A quarter of each side in the centre is seen: CoPaint's expand, RePaint's ex64."""
    mask = Box(side=0.25, margin=0, position="centre", observed="inside").generate(rng(0), 256, 256)
    expected = np.zeros((256, 256), dtype=bool)
    expected[96:160, 96:160] = True
    assert np.array_equal(mask, expected)


def test_pixels_and_fractions(rng: Make) -> None:
    pixels = Box(side=14, margin=3).generate(rng(6), 28, 56)
    assert (~pixels).sum() == 14 * 14
    fraction = Box(side=0.5, margin=0).generate(rng(6), 28, 56)
    assert (~fraction).sum() == 14 * 28
    assert (~Box(side=1, margin=0).generate(rng(6), 28, 28)).sum() == 1


def test_observed_side_is_the_complement(rng: Make) -> None:
    assert np.array_equal(
        Box(observed="inside").generate(rng(9), 40, 30),
        ~Box(observed="outside").generate(rng(9), 40, 30),
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"side": 0}, "side > 0"),
        ({"side": float("inf")}, "side > 0"),
        ({"margin": -1}, "margin >= 0"),
        ({"side": 3.5}, "from 1 on it counts whole pixels"),
        ({"position": "left"}, "unknown position 'left'; valid: centre, random"),
        ({"observed": "both"}, "unknown observed 'both'; valid: outside, inside"),
    ],
)
def test_bad_settings(settings: dict[str, float | str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Box(**settings)  # type: ignore[arg-type]


def test_boxes_that_do_not_fit(rng: Make) -> None:
    with pytest.raises(
        ValueError, match="a box of 30 pixels with a margin of 2 does not fit into 28"
    ):
        Box(side=30).generate(rng(0), 28, 28)
    with pytest.raises(ValueError, match="fills the whole 28 x 28 image"):
        Box(side=28, margin=0).generate(rng(0), 28, 28)
