"""Crops, against resampling written here and torch's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn.functional import interpolate

from posterior_bench.datasets.crops import CROPS, bicubic, bilinear, edm, guided


def _noise(height: int, width: int, channels: int = 3, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


# --- the centre crop of ADM
# ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("height", "width", "top", "left"),
    [(8, 8, 0, 0), (8, 11, 0, 1), (8, 12, 0, 2), (13, 8, 2, 0), (8, 15, 0, 3)],
)
def test_crop_offsets(height: int, width: int, top: int, left: int) -> None:
    """With the short side at its size nothing is resampled: the crop starts at floor((n - size) /
    2)."""
    pixels = _noise(height, width)
    assert np.array_equal(
        np.asarray(guided(Image.fromarray(pixels), 8)), pixels[top : top + 8, left : left + 8]
    )


def _halved(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Means of 2 x 2 blocks, rounded half up after the columns and again after the rows, as Pillow
    does."""
    wide = pixels.astype(np.int64)
    columns = (wide[:, ::2] + wide[:, 1::2] + 1) // 2
    return ((columns[::2] + columns[1::2] + 1) // 2).astype(np.uint8)


@pytest.mark.parametrize("factor", [2, 4])
def test_powers_of_two_are_block_means(factor: int) -> None:
    pixels = _noise(8 * factor, 12 * factor)
    expected = _halved(pixels) if factor == 2 else _halved(_halved(pixels))
    assert np.array_equal(np.asarray(guided(Image.fromarray(pixels), 8)), expected[:, 2:10])


def test_odd_sides_are_halved_rounding_down() -> None:
    """17 x 23 becomes 8 x 11: each new pixel is the mean of the old ones whose centres it
    covers."""
    pixels = _noise(17, 23, 1)

    def cover(old: int, new: int) -> NDArray[np.float64]:
        edges, centres = np.arange(new + 1) * old / new, np.arange(old) + 0.5
        inside = (edges[:-1, None] < centres) & (centres <= edges[1:, None])
        return inside / inside.sum(1, keepdims=True)

    expected = cover(17, 8) @ pixels[..., 0].astype(float) @ cover(23, 11).T
    found = np.asarray(guided(Image.fromarray(pixels[..., 0]), 8), dtype=float)
    assert found.shape == (8, 8)
    assert np.abs(found - expected[:, 1:9]).max() <= 1


@pytest.mark.parametrize(
    ("height", "width", "size"), [(13, 19, 8), (15, 15, 8), (30, 47, 16), (100, 37, 24), (9, 7, 16)]
)
def test_bicubic_against_torch(height: int, width: int, size: int) -> None:
    """Less than a factor two is left to one bicubic step; torch's antialiased bicubic uses the same
    kernel."""
    # far enough from black and white that no pass is clipped
    pixels = 96 + _noise(height, width) // 4
    scale = size / min(height, width)
    resized = interpolate(
        torch.from_numpy(pixels).permute(2, 0, 1)[None].double(),
        (round(height * scale), round(width * scale)),
        mode="bicubic",
        antialias=True,
    ).clamp(0, 255)[0]
    top, left = (resized.shape[1] - size) // 2, (resized.shape[2] - size) // 2
    expected = resized[:, top : top + size, left : left + size].permute(1, 2, 0).numpy()
    found = np.asarray(guided(Image.fromarray(pixels), size), dtype=float)
    assert found.shape == (size, size, 3)
    assert np.abs(found - expected).max() < 1.6  # Pillow rounds after each of the two passes


def test_halving_happens_before_bicubic() -> None:
    """40 x 40 to 16: halved once to 20, then bicubic; one bicubic step from 40 would give something
    else."""
    pixels = _noise(40, 40)
    image = Image.fromarray(pixels)
    expected = Image.fromarray(_halved(pixels)).resize((16, 16), Image.Resampling.BICUBIC)
    found = np.asarray(guided(image, 16))
    assert np.array_equal(found, np.asarray(expected))
    assert not np.array_equal(found, np.asarray(image.resize((16, 16), Image.Resampling.BICUBIC)))


# --- the centred square
# -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("crop", [edm, bicubic])
@pytest.mark.parametrize(
    ("height", "width", "top", "left"),
    [(8, 8, 0, 0), (8, 11, 0, 1), (8, 12, 0, 2), (13, 8, 2, 0), (8, 15, 0, 3)],
)
def test_centred_square(crop, height: int, width: int, top: int, left: int) -> None:
    """Nothing is resampled at size; ``dataset_tool.py`` takes rows (h - c) // 2 to (h + c) // 2 of
    the short side c."""
    pixels = _noise(height, width)
    short = min(height, width)
    rows, columns = (slice((n - short) // 2, (n + short) // 2) for n in (height, width))
    found = np.asarray(crop(Image.fromarray(pixels), 8))
    assert np.array_equal(found, pixels[rows, columns])
    assert np.array_equal(found, pixels[top : top + 8, left : left + 8])


def _lanczos(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.abs(x) < 3, np.sinc(x) * np.sinc(x / 3), 0)


def _catmull(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' cubic with a = -1/2."""
    x = np.abs(x)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0))


def _weights(old: int, new: int, kernel) -> NDArray[np.float64]:
    """``(new, old)``: a kernel stretched by the factor of reduction around the centre of every new
    pixel."""
    factor = max(old / new, 1)
    centres = (np.arange(new) + 0.5) * old / new
    weights = kernel((np.arange(old) + 0.5 - centres[:, None]) / factor)
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize(("crop", "kernel"), [(edm, _lanczos), (bicubic, _catmull)])
@pytest.mark.parametrize(
    ("height", "width", "size"), [(40, 47, 16), (33, 17, 8), (9, 7, 16), (64, 100, 8)]
)
def test_one_step_of_resampling(crop, kernel, height: int, width: int, size: int) -> None:
    # far enough from black and white that no pass is clipped
    pixels = 96 + _noise(height, width, 1)[..., 0] // 4
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = pixels[top : top + side, left : left + side].astype(float)
    weights = _weights(side, size, kernel)
    found = np.asarray(crop(Image.fromarray(pixels), size), dtype=float)
    # Pillow rounds after each of the two passes
    assert np.abs(found - weights @ square @ weights.T).max() < 1.1


@pytest.mark.parametrize(("height", "width"), [(41, 57), (60, 33), (20, 31), (24, 24)])
def test_bilinear_is_torchvisions_resize_and_centre_crop_of_a_tensor(
    height: int, width: int
) -> None:
    from torchvision.transforms import CenterCrop, Compose, Resize, ToTensor

    image = Image.fromarray(_noise(height, width))
    expected = Compose([ToTensor(), Resize(24, antialias=True), CenterCrop(24)])(image) * 255
    found = torch.from_numpy(np.asarray(bilinear(image, 24)).copy()).movedim(2, 0).double()
    # Pillow rounds after each of the two passes, torch never
    assert (found - expected).abs().max() < 1.1


def test_crops_are_not_interchangeable() -> None:
    image = Image.fromarray(_noise(53, 71))
    found = [np.asarray(crop(image, 16), dtype=int) for crop in CROPS.values()]
    assert list(CROPS) == ["guided", "edm", "bicubic", "bilinear", "square_bilinear"]
    assert all(np.abs(found[i] - found[j]).max() > 8 for i in range(3) for j in range(i))
