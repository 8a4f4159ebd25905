"""The random pixels of PnP-Flow, against what its released code draws."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from posterior_bench.bench.config.catalog import option
from posterior_bench.bench.config.masks import build_masks
from posterior_bench.masks.pnpflow import PnPFlowPixels

Make = Callable[[int], np.random.Generator]


@pytest.mark.parametrize("side", [128, 256])
def test_the_pixels_are_the_first_mask_of_a_batch(side: int, rng: Make) -> None:
    """The released code seeds the global generator and draws one mask per image of a batch."""
    state = np.random.get_state()
    try:
        np.random.seed(42)
        batch = np.random.binomial(n=1, p=1 - 0.7, size=(4, side, side))
    finally:
        np.random.set_state(state)
    mask = PnPFlowPixels().generate(rng(0), side, side)
    assert mask.dtype == np.bool_ and np.array_equal(mask, batch[0] == 1)
    assert not np.array_equal(batch[0], batch[1])
    # 30 % are observed, within four deviations
    assert abs(mask.mean() - 0.3) < 4 * (0.3 * 0.7) ** 0.5 / side


def test_neither_seed_nor_image_matters(rng: Make) -> None:
    masks = build_masks(option("mask", "drop_pnpflow").content)
    before = np.random.get_state()[1]
    first = masks.for_image("a", 0).generate(rng(1), 64, 32)
    assert np.array_equal(masks.for_image("b", 5).generate(rng(2), 64, 32), first)
    assert np.array_equal(np.random.get_state()[1], before)
