"""The four masks of LanPaintBench at 256 x 256 pixels, and checkerboards, against hand counts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from posterior_bench.bench.config.catalog import option
from posterior_bench.bench.config.masks import build_masks
from posterior_bench.masks.checkerboard import Checkerboard

Make = Callable[[int], np.random.Generator]
Mask = NDArray[np.bool_]


def _centre() -> Mask:
    box = np.zeros((256, 256), dtype=bool)
    box[64:192, 64:192] = True
    return box


def _left() -> Mask:
    seen = np.zeros((256, 256), dtype=bool)
    seen[:, :128] = True
    return seen


def _board() -> Mask:
    board = np.zeros((256, 256), dtype=bool)
    for row in range(16):
        for column in range(16):
            if (row + column) % 2 == 0:
                board[16 * row : 16 * row + 16, 16 * column : 16 * column + 16] = True
    return board


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("box_centre", ~_centre()),
        ("outpaint", _centre()),
        ("half", _left()),
        ("checkerboard", _board()),
    ],
)
def test_masks_of_the_benchmark(name: str, expected: Mask, rng: Make) -> None:
    masks = build_masks(option("mask", name).content)
    assert np.array_equal(masks.generate(rng(0), 256, 256), expected)


def test_small_checkerboards(rng: Make) -> None:
    assert Checkerboard(squares=2).generate(rng(0), 3, 4).astype(int).tolist() == [
        [1, 1, 0, 0],
        [1, 1, 0, 0],
        [0, 0, 1, 1],
    ]
    hidden_first = Checkerboard(squares=2, first="hidden").generate(rng(0), 3, 4)
    assert np.array_equal(hidden_first, ~Checkerboard(squares=2).generate(rng(0), 3, 4))
    # 28 pixels for 16 squares: of one or two pixels each
    row = Checkerboard().generate(rng(0), 28, 28)[0]
    lengths = np.diff(np.flatnonzero(np.diff(row, prepend=~row[:1], append=~row[-1:])))
    assert len(lengths) == 16 and {*lengths} == {1, 2}


def test_bad_checkerboards(rng: Make) -> None:
    with pytest.raises(ValueError, match="squares=1: give at least 2"):
        Checkerboard(squares=1)
    with pytest.raises(ValueError, match="unknown first 'seen'; valid: observed, hidden"):
        Checkerboard(first="seen")
    with pytest.raises(ValueError, match="16 squares do not fit along the sides of 8 x 64 pixels"):
        Checkerboard().generate(rng(0), 8, 64)
