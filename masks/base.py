"""Mask generators: geometry from a random generator, True = observed."""

from __future__ import annotations

import numpy as np


class MaskGenerator:
    """One family of masks; parameters are dataclass fields of the subclass."""

    def generate(self, rng: np.random.Generator, height: int, width: int) -> np.ndarray:
        """One mask: bool ``(height, width)``, True = observed. The same generator state gives the same mask."""
        raise NotImplementedError
