"""Give the mask of random pixels of the tables of PnP-Flow and FLOWER."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from posterior_bench.masks.base import MaskGenerator

_SEED, _HIDDEN = 42, 0.7


@dataclass(frozen=True)
class PnPFlowPixels(MaskGenerator):
    """Random pixels of PnP-Flow (Martin et al., ICLR 2025): each is hidden with probability 0.7.

    The released code sets NumPy's seed to 42 before every batch and draws one mask per image of the
    batch. The first mask of a batch is the one here. With batches of one image, as in the benchmark
    of FLOWER (Pourya et al. 2026), it is the mask of every image. It depends neither on the image
    nor on the study seed.

    Notes
    -----
    The mask is drawn as in the released code, with NumPy's legacy generator, whose numbers are the
    same in every version of NumPy.
    """

    @override
    def generate(self, rng: np.random.Generator, height: int, width: int) -> NDArray[np.bool_]:
        legacy = np.random.RandomState(_SEED)
        return legacy.binomial(1, 1 - _HIDDEN, (height, width)).astype(bool)
