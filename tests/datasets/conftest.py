"""Tiny image files of the kinds real data sets hold."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

Encode = Callable[..., bytes]


@pytest.fixture
def encode() -> Encode:
    """``encode(seed, mode="RGB", form="JPEG", size=(8, 8), **options)``: the bytes of an image of
    random pixels."""

    def make(
        seed: int,
        mode: str = "RGB",
        form: str = "JPEG",
        size: tuple[int, int] = (8, 8),
        **options: object,
    ) -> bytes:
        shape = (size[1], size[0], len(Image.new(mode, (1, 1)).getbands()))
        pixels = np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
        if mode == "CMYK":
            pixels[..., 3] //= 4
        file = io.BytesIO()
        Image.fromarray(pixels.squeeze(), mode=mode).save(file, form, **options)
        return file.getvalue()

    return make
