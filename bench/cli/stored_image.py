"""Read the images that a run has stored in its rows."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def stored_image(png: bytes) -> NDArray[np.float32]:
    """Return a stored PNG as an array ``(C, H, W)`` in [-1, 1]."""
    array = np.atleast_3d(np.asarray(Image.open(io.BytesIO(png)))).astype(np.float32)
    return array.transpose(2, 0, 1) / np.float32(127.5) - 1
