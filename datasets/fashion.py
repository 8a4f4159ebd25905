"""Read Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017): grey images of clothes, ten classes."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from posterior_bench.datasets.base import ImageSet

_ASSETS = Path(__file__).parent / "assets"
_DEBIAN = Path("/usr/share/datasets/fashion-mnist")
_CLASSES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)

# the rows that each split reads; the prior is trained on the split train alone
_ROWS = {
    "test": (0, 512),
    "tune": (59_000, 60_000),
    "validation": (58_000, 59_000),
    "train": (0, 58_000),
}
_EMBEDDED = ("fashion-test512-images-idx3-ubyte", "fashion-test512-labels-idx1-ubyte")
_TRAINING = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
_LARGEST = 48_000_000  # bytes; the images of the training files take 47 million
_SHA256 = {  # of the uncompressed files
    _EMBEDDED[0]: "d2223cd325784a5e01e09112cd7f626cfc3c78e2f26b81e1c3ac5152ced7be9f",
    _EMBEDDED[1]: "673e491a4e3bc9ee3e19141f2f57173a1a1707a7d15ffac6adbbe7f985e2264e",
    _TRAINING[0]: "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    _TRAINING[1]: "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
}


@dataclass
class Fashion(ImageSet):
    """One split of Fashion-MNIST with ten classes.

    Images have the shape ``(1, 28, 28)``, larger with ``pad``. Ids such as ``test-00000`` count
    within the split.

    Parameters
    ----------
    split : str, default 'test'
        ``test``: the first 512 of the 10 000 test images, which this package includes. The others
        are parts of the 60 000 training images: ``train`` (rows 0 to 57999), ``validation`` (58000
        to 58999) and ``tune`` (59000 to 59999).
    root : str | None, default None
        A folder with the training files, compressed or not, or with torchvision's
        ``FashionMNIST/raw``. None looks where the Debian package ``dataset-fashion-mnist`` puts
        them. Ignored for ``test``.
    pad : int, default 0
        Number of black pixels added at every border. 2 makes images ``(1, 32, 32)``, which
        autoencoders can halve. The padded images are a data set of another name.

    Raises
    ------
    ValueError
        For an unknown split or id, a negative pad, and files with other contents.
    FileNotFoundError
        If the training files are missing.
    """

    split: str = "test"
    root: str | None = None
    pad: int = 0

    def __post_init__(self) -> None:
        if self.split not in _ROWS:
            raise ValueError(f"unknown split '{self.split}'; valid: {', '.join(_ROWS)}")
        if self.pad < 0:
            raise ValueError(
                f"pad={self.pad}: give the number of black pixels to add at every border, 0 or more"
            )
        side = 28 + 2 * self.pad
        name = f"fashion{side}" if self.pad else "fashion"
        self.name = name if self.split == "test" else f"{name}-{self.split}"
        self.shape = (1, side, side)
        self.num_classes = len(_CLASSES)
        self.class_names = _CLASSES
        first, last = _ROWS[self.split]
        self.ids = tuple(f"{self.split}-{i:05d}" for i in range(last - first))
        self._row = {name: i for i, name in enumerate(self.ids)}
        self._files = _find(self.split, self.root)

    @override
    def images(self, ids: Sequence[str]) -> Tensor:
        images = torch.from_numpy(self._pixels[self._rows(ids), None]).float() / 127.5 - 1
        return F.pad(images, [self.pad] * 4, value=-1.0)

    @override
    def labels(self, ids: Sequence[str]) -> Tensor:
        return torch.from_numpy(self._classes[self._rows(ids)]).long()

    def _rows(self, ids: Sequence[str]) -> list[int]:
        unknown = [name for name in ids if name not in self._row]
        if unknown:
            raise ValueError(
                f"{self.name} has no image '{unknown[0]}'; ids run from "
                f"{self.ids[0]} to {self.ids[-1]}"
            )
        return [self._row[name] for name in ids]

    @cached_property
    def _pixels(self) -> NDArray[np.uint8]:
        return _read(self._files[0])[slice(*_ROWS[self.split])]

    @cached_property
    def _classes(self) -> NDArray[np.uint8]:
        return _read(self._files[1])[slice(*_ROWS[self.split])]


def _find(split: str, root: str | None) -> tuple[Path, Path]:
    """Find the image file and the label file of a split."""
    if split == "test":
        return _ASSETS / f"{_EMBEDDED[0]}.gz", _ASSETS / f"{_EMBEDDED[1]}.gz"
    base = _DEBIAN if root is None else Path(root)
    for folder in (base, base / "FashionMNIST" / "raw", base / "raw"):
        images, labels = (_present(folder, name) for name in _TRAINING)
        if images and labels:
            return images, labels
    raise FileNotFoundError(
        f"{_TRAINING[0]}.gz and {_TRAINING[1]}.gz are not in {base}; install the Debian package "
        "dataset-fashion-mnist, or run torchvision.datasets.FashionMNIST(DIR, "
        "download=True) and set data.root=DIR"
    )


def _present(folder: Path, name: str) -> Path | None:
    """Return the file of that name, compressed or not, or None."""
    return next((path for path in (folder / f"{name}.gz", folder / name) if path.is_file()), None)


def _read(path: Path) -> NDArray[np.uint8]:
    """Read the array in an idx file after comparing its checksum."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read(_LARGEST)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"cannot read {path}: {error}; fetch it again") from error
    if hashlib.sha256(content).hexdigest() != _SHA256[path.name.removesuffix(".gz")]:
        raise ValueError(
            f"{path} is not the Fashion-MNIST file of that name (its "
            "sha256 differs); fetch it again"
        )
    # idx: two zero bytes, the type, the number of dimensions, each dimension as big-endian int32,
    # then the values
    start = 4 + 4 * content[3]
    shape = np.frombuffer(content[4:start], dtype=">u4").astype(int)
    return np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape)
