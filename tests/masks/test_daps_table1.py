"""The two masks of DAPS Table 1, against what its released code draws."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from posterior_bench.bench.config.catalog import option
from posterior_bench.bench.config.masks import build_masks
from posterior_bench.masks.daps_table1 import DAPSTable1

Make = Callable[[int], np.random.Generator]


def test_the_box(rng: Make) -> None:
    """Top 70, left 83, 128 x 128 pixels: printed by the released code, run with its seed."""
    expected = np.ones((256, 256), dtype=bool)
    expected[70 : 70 + 128, 83 : 83 + 128] = False
    assert np.array_equal(DAPSTable1().generate(rng(0), 256, 256), expected)


def test_the_pixels(rng: Make) -> None:
    """p = 0.70375 and 46 120 hidden pixels: printed by the released code, run with its seed."""
    mask = DAPSTable1("pixels").generate(rng(0), 256, 256)
    assert (~mask).sum() == 46_120 == int(0.70375 * 256 * 256)
    # the places, drawn once more with the global generator, which the released code uses
    state = np.random.get_state()
    try:
        np.random.seed(42)
        p = np.random.uniform(0.70, 0.71)
        places = np.random.choice(256 * 256, int(256 * 256 * p), replace=False)
    finally:
        np.random.set_state(state)
    assert p == pytest.approx(0.70375, abs=5e-6)
    assert set(np.flatnonzero(~mask)) == set(places)


@pytest.mark.parametrize("name", ["box_daps_table1", "drop_daps_table1"])
def test_no_seed_and_no_other_size(name: str, rng: Make) -> None:
    masks = build_masks(option("mask", name).content)
    state = np.random.get_state()[1]
    first = masks.generate(rng(1), 256, 256)
    assert np.array_equal(masks.generate(rng(2), 256, 256), first)
    assert np.array_equal(np.random.get_state()[1], state)
    other = "box_daps" if name == "box_daps_table1" else "drop70"
    with pytest.raises(
        ValueError, match=f"at 256 x 256 pixels only, not at 64 x 64; mask={other} mask.shared=true"
    ):
        masks.generate(rng(0), 64, 64)


def test_unknown_kind() -> None:
    with pytest.raises(ValueError, match="unknown kind 'disc'; valid: box, pixels"):
        DAPSTable1("disc")
