"""The rows of each split of Fashion-MNIST, on files of its format whose images hold their row."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from posterior_bench.datasets import fashion
from posterior_bench.datasets.fashion import Fashion

COUNT = 60_000
SPLITS = {"train": (0, 58_000), "validation": (58_000, 59_000), "tune": (59_000, 60_000)}


@pytest.fixture(scope="module")
def numbered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files in idx format: image ``i`` begins with the three bytes of ``i``; its label is ``i %
    10``."""
    folder = tmp_path_factory.mktemp("fashion")
    images, rows = np.zeros((COUNT, 784), np.uint8), np.arange(COUNT)
    images[:, :3] = np.stack([rows >> 16, rows >> 8 & 255, rows & 255], 1)
    sizes = np.array([COUNT, 28, 28], ">u4").tobytes()
    (folder / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03" + sizes + images.tobytes())
    labels = (rows % 10).astype(np.uint8).tobytes()
    (folder / "train-labels-idx1-ubyte").write_bytes(b"\0\0\x08\x01" + sizes[:4] + labels)
    return folder


def _rows(data: Fashion) -> NDArray[np.int64]:
    """The row of the file that each image of a split was read from."""
    blocks = [data.ids[i : i + 5000] for i in range(0, len(data.ids), 5000)]
    first = np.concatenate([data.images(block).numpy().reshape(-1, 784)[:, :3] for block in blocks])
    return np.rint((first + 1) * 127.5).astype(int) @ np.array([1 << 16, 1 << 8, 1])


def test_no_image_is_in_two_splits_and_none_is_lost(
    numbered: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prior is trained on the first 58 000 rows alone; the other splits have none of them."""
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in numbered.iterdir()}
    monkeypatch.setattr(fashion, "_SHA256", sums)
    seen = []
    for split, (first, last) in SPLITS.items():
        data = Fashion(split, str(numbered))
        assert _rows(data).tolist() == list(range(first, last))
        assert data.labels(data.ids[:20]).tolist() == [i % 10 for i in range(first, first + 20)]
        seen.extend(range(first, last))
    assert sorted(seen) == list(range(COUNT))
