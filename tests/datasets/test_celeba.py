"""CelebA: the official partition by number, and the crop of PnP-Flow."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from posterior_bench.datasets.celeba import SPLITS, CelebA
from posterior_bench.datasets.crops import square_bilinear


def _portrait(seed: int) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (218, 178, 3), dtype=np.uint8))


def _write(root: Path, *numbers: int) -> None:
    root.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        content = io.BytesIO()
        _portrait(number).save(content, "PNG")  # the decoders look at the bytes
        (root / f"{number:06d}.jpg").write_bytes(content.getvalue())


def test_a_split_is_the_official_partition(tmp_path: Path) -> None:
    """162 770, 19 867 and 19 962 images, as CelebA states."""
    assert [len(SPLITS[name]) for name in ("train", "val", "test")] == [162_770, 19_867, 19_962]
    assert SPLITS["all"] == range(1, 202_600) and SPLITS["test"][0] == 182_638
    _write(tmp_path / "img_align_celeba", 1, 162_770, 162_771, 182_637, 182_638, 202_599)
    (tmp_path / "list_eval_partition.txt").write_text("000001.jpg 0\n")
    ids = {
        split: list(CelebA(str(tmp_path), split=split, size=8).ids)
        for split in ("train", "val", "test")
    }
    assert ids == {
        "train": ["000001", "162770"],
        "val": ["162771", "182637"],
        "test": ["182638", "202599"],
    }
    assert len(CelebA(str(tmp_path / "img_align_celeba"), split="all").ids) == 6
    with pytest.raises(ValueError, match="unknown split 'dev'; valid: train, val, test, all"):
        CelebA(str(tmp_path), split="dev")


def test_images_are_cropped_as_torchvision_does(tmp_path: Path) -> None:
    """``CenterCrop(178)``, ``Resize(128)`` and the map to [-1, 1], all of torchvision."""
    from torchvision.transforms import CenterCrop, Compose, Normalize, Resize, ToTensor

    _write(tmp_path, 182_638, 182_639)
    data = CelebA(str(tmp_path), size=128)
    steps = [CenterCrop(178), Resize((128, 128)), ToTensor(), Normalize([0.5] * 3, [0.5] * 3)]
    expected = torch.stack([Compose(steps)(_portrait(number)) for number in (182_638, 182_639)])
    torch.testing.assert_close(data.images(data.ids), expected, atol=1e-6, rtol=0)
    assert data.labels(data.ids) is None and data.num_classes == 0


@pytest.mark.parametrize(("height", "width"), [(30, 41), (41, 30), (24, 24)])
def test_the_crop_takes_the_centred_square(height: int, width: int) -> None:
    pixels = np.zeros((height, width), dtype=np.uint8)
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    pixels[top : top + side, left : left + side] = 200
    assert (np.asarray(square_bilinear(Image.fromarray(pixels), 12)) == 200).all()


def test_an_empty_split_says_what_was_looked_for(
    encode: Callable[..., bytes], tmp_path: Path
) -> None:
    _write(tmp_path, 17)
    with pytest.raises(ValueError, match="with n in test"):
        CelebA(str(tmp_path))
