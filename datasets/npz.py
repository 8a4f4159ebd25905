"""NPZ files: whole batches of images as arrays of NumPy."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from typing_extensions import override

from posterior_bench.datasets.limits import demand_array
from posterior_bench.datasets.source import Layout, Source, only_file

_LABELS = {"images": "labels", "arr_0": "arr_1", "data": "labels"}


class NPZ(Source):
    """Images of one NPZ file, with their row as id; an array is read when first needed, and then
    whole.

    Three kinds are known by the name of their array: ``images`` (N, 3, H, W) in 0..255 with
    ``labels``, of VIPaint; ``arr_0`` (N, H, W, 3) uint8, of ADM; ``data`` (N, 3 H W) uint8 with
    ``labels``, of downsampled ImageNet (Chrabaszcz, Loshchilov, Hutter 2017). The labels of the
    last one are ILSVRC ids, from 1, and need ``classes``, the class index of each such id; the
    others are class indices.
    """

    def __init__(self, path: Path, classes: Callable[[], Sequence[int]]):
        self.path, self._classes = path, classes
        headers = _headers(path)
        shapes = {name: shape for name, (shape, _) in headers.items()}
        self._key = next((key for key in _LABELS if key in shapes), "")
        if not self._key:
            raise ValueError(
                f"{path} holds the arrays {', '.join(shapes)}; needed: {', '.join(_LABELS)}"
            )
        shape = shapes[self._key]
        side = round((shape[-1] / 3) ** 0.5)
        fits = {
            "images": len(shape) == 4 and shape[1] == 3,
            "arr_0": len(shape) == 4 and shape[3] == 3,
        }
        if not fits.get(self._key, len(shape) == 2 and 3 * side**2 == shape[-1]):
            raise ValueError(
                f"the array '{self._key}' in {path} has the shape {shape}; give {_WANTED}"
            )
        labels = _LABELS[self._key]
        if labels in shapes and shapes[labels] != shape[:1]:
            raise ValueError(
                f"the array '{labels}' in {path} has the shape {shapes[labels]} for {shape[0]} "
                f"images"
            )
        wanted = ((self._key, "buif", "numbers"), (labels, "iuf", "whole numbers"))
        for name, kinds, words in wanted:
            if name in headers and headers[name][1].kind not in kinds:
                raise ValueError(
                    f"the array '{name}' in {path} holds {headers[name][1]}; give {words}"
                )
        self.ids = tuple(f"{i:08d}" for i in range(shape[0]))
        self.labelled = labels in shapes

    @override
    def open(self, image: str) -> Image.Image:
        return Image.fromarray(self._pixels[int(image)])

    def stored(self, image: str) -> bytes:
        """Its pixels and their shape: the file may store them in other types and orders."""
        pixels = self._pixels[int(image)]
        return f"{pixels.shape}".encode() + pixels.tobytes()

    @override
    def file(self, image: str) -> tuple[str, str]:
        return str(self.path), image

    @override
    def where(self, image: str) -> str:
        return f"{self.path}, row {int(image)}"

    @override
    def label(self, image: str) -> int:
        number = self._numbers[int(image)]
        if not np.isfinite(number) or number != np.rint(number):
            raise ValueError(
                f"image '{self.where(image)}' has the label {number}, not a whole number"
            )
        label = int(number)
        if self._key != "data":
            return label
        classes = self._classes()
        if not 1 <= label <= len(classes):
            raise ValueError(
                f"'{self.where(image)}' has the label {label}; ILSVRC ids run from 1 to "
                f"{len(classes)}"
            )
        return classes[label - 1]

    @cached_property
    def _pixels(self) -> NDArray[np.uint8]:
        """uint8 (N, H, W, 3)."""
        array = self._array(self._key)
        if self._key == "data":
            side = round((array.shape[1] / 3) ** 0.5)
            array = array.reshape(-1, 3, side, side)
        if array.dtype != np.uint8:
            if not (np.isfinite(array).all() and array.min() >= 0 and 1 < array.max() <= 255):
                raise ValueError(
                    f"the values of '{self._key}' in {self.path} must be grey levels from 0 to 255"
                )
            array = np.rint(array).astype(np.uint8)
        return np.ascontiguousarray(array if self._key == "arr_0" else array.transpose(0, 2, 3, 1))

    @cached_property
    def _numbers(self) -> NDArray[Any]:
        return self._array(_LABELS[self._key])

    def _array(self, key: str) -> NDArray[Any]:
        try:
            with np.load(self.path, allow_pickle=False) as file:
                return np.asarray(file[key])
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"cannot read the array '{key}': {error}") from error


_WANTED = "images (N, 3, H, W), arr_0 (N, H, W, 3) or data (N, 3 H W)"


def npz(classes: Callable[[], Sequence[int]]) -> Layout:
    """An NPZ file, or a folder that holds one; ``classes`` is called where labels are ILSVRC
    ids.
    """

    def find(root: Path) -> Source | None:
        path = only_file(root, "*.npz")
        return None if path is None else NPZ(path, classes)

    return Layout(f"an NPZ file with {_WANTED}", find)


def _headers(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shape and type of every array, from its header, which must fit what is stored behind it."""
    headers = {}
    try:
        with zipfile.ZipFile(path) as file:
            for info in file.infolist():
                with file.open(info) as member:
                    version = np.lib.format.read_magic(member)
                    read = (
                        np.lib.format.read_array_header_1_0
                        if version == (1, 0)
                        else np.lib.format.read_array_header_2_0
                    )
                    shape, _, dtype = read(member)
                name = info.filename.removesuffix(".npy")
                if not dtype.hasobject:  # such an array is refused when it is asked for
                    demand_array(info, math.prod(shape) * dtype.itemsize, f"the array '{name}'")
                headers[name] = shape, dtype
    except (OSError, ValueError, zlib.error, zipfile.BadZipFile, RuntimeError) as error:
        raise ValueError(f"cannot read {path} as NPZ: {error}; fetch it again") from error
    return headers
