"""A rectangle at a fixed place."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from posterior_bench.bench.config.catalog import option
from posterior_bench.bench.config.masks import build_masks
from posterior_bench.masks.rectangle import Rectangle

Make = Callable[[int], np.random.Generator]


def test_the_box_of_flair(rng: Make) -> None:
    """``mask: [128, 640, 384, 640]`` at 768 pixels in its configuration: rows, then columns."""
    expected = np.ones((768, 768), dtype=bool)
    expected[128:640, 384:640] = False
    given = build_masks(option("mask", "box_flair").content).for_image("a", 0)
    for masks in (given, Rectangle()):
        assert np.array_equal(masks.generate(rng(0), 768, 768), expected)
        assert np.array_equal(masks.generate(rng(1), 768, 768), expected)


def test_other_sizes_keep_the_proportions(rng: Make) -> None:
    mask = Rectangle(rows=(0, 0.25), columns=(0.5, 1)).generate(rng(0), 8, 12)
    assert set(zip(*np.nonzero(~mask), strict=True)) == {
        (r, c) for r in (0, 1) for c in range(6, 12)
    }


def test_what_is_no_rectangle_is_refused(rng: Make) -> None:
    with pytest.raises(ValueError, match=r"rows=\[0.5, 0.5\]: give the fractions"):
        Rectangle(rows=(0.5, 0.5))
    with pytest.raises(ValueError, match=r"columns=\[-0.1, 0.5\]"):
        Rectangle(columns=(-0.1, 0.5))
    with pytest.raises(ValueError, match="hide nothing or all of 4 x 4 pixels"):
        Rectangle(rows=(0, 1), columns=(0, 1)).generate(rng(0), 4, 4)
    with pytest.raises(ValueError, match="hide nothing or all"):
        Rectangle(rows=(0.5, 0.52)).generate(rng(0), 4, 4)
