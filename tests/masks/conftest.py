"""Shared by the mask tests."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

import numpy as np
import pytest
from numpy.typing import NDArray

from posterior_bench.masks.base import MaskGenerator

Mask = NDArray[np.bool_]


@pytest.fixture
def rng() -> Callable[[int], np.random.Generator]:
    """A generator with a known seed."""
    return lambda seed: np.random.Generator(np.random.PCG64(seed))


@pytest.fixture
def hidden(rng: Callable[[int], np.random.Generator]) -> Callable[..., NDArray[np.float64]]:
    """Hidden fractions of masks with different seeds."""

    def fractions(
        masks: MaskGenerator, height: int, width: int, seeds: Iterable[int]
    ) -> NDArray[np.float64]:
        return np.array([1 - masks.generate(rng(seed), height, width).mean() for seed in seeds])

    return fractions


@pytest.fixture
def fingerprint() -> Callable[[Mask], str]:
    """sha256 of a mask's bits."""
    return lambda mask: hashlib.sha256(np.packbits(mask).tobytes()).hexdigest()
