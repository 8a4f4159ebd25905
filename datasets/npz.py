"""Read NPZ files: batches of images as NumPy arrays."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from typing_extensions import override

from posterior_bench.datasets.limits import demand_array
from posterior_bench.datasets.source import Layout, Source, only_file

_Header = tuple[tuple[int, ...], np.dtype[Any]]
_LABELS = {"images": "labels", "arr_0": "arr_1", "data": "labels"}


class NPZ(Source):
    """Images of one NPZ file; ids are the row numbers.

    An array is read whole at first use. The name of the array decides between three kinds:
    ``images`` ``(N, 3, H, W)`` in 0..255 with ``labels`` (VIPaint); ``arr_0`` ``(N, H, W, 3)``
    uint8 (ADM); ``data`` ``(N, 3 H W)`` uint8 with ``labels`` (downsampled ImageNet of Chrabaszcz,
    Loshchilov and Hutter, 2017). The labels of the last kind are ILSVRC ids from 1 on; the others
    are class indices.

    Parameters
    ----------
    path : Path
        The NPZ file.
    classes : Callable[[], Sequence[int]]
        Function that returns the class index of each ILSVRC id; called only for the last kind.

    Raises
    ------
    ValueError
        If the file cannot be read, or holds arrays of other names, shapes or types.
    """

    def __init__(self, path: Path, classes: Callable[[], Sequence[int]]):
        self.path, self._classes = path, classes
        headers = _headers(path)
        self._key = next((key for key in _LABELS if key in headers), "")
        if not self._key:
            raise ValueError(
                f"{path} holds the arrays {', '.join(headers)}; needed: {', '.join(_LABELS)}"
            )
        self._check(headers)
        count = headers[self._key][0][0]
        self.ids = tuple(f"{i:08d}" for i in range(count))
        self.labelled = _LABELS[self._key] in headers

    def _check(self, headers: Mapping[str, _Header]) -> None:
        """Raise ValueError for images or labels of another shape or type."""
        path, shapes = self.path, {name: shape for name, (shape, _) in headers.items()}
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
                f"the array '{labels}' in {path} has the shape {shapes[labels]} "
                f"for {shape[0]} images"
            )
        wanted = ((self._key, "buif", "numbers"), (labels, "iuf", "whole numbers"))
        for name, kinds, words in wanted:
            if name in headers and headers[name][1].kind not in kinds:
                raise ValueError(
                    f"the array '{name}' in {path} holds {headers[name][1]}; give {words}"
                )

    @override
    def open(self, image: str) -> Image.Image:
        return Image.fromarray(self._pixels[int(image)])

    def stored(self, image: str) -> bytes:
        """Return the pixels and their shape: the file may store them in other types and orders."""
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
                f"'{self.where(image)}' has the label {label}; ILSVRC ids run "
                f"from 1 to {len(classes)}"
            )
        return classes[label - 1]

    @cached_property
    def _pixels(self) -> NDArray[np.uint8]:
        """Return all images, uint8 ``(N, H, W, 3)``."""
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
    """Return the layout of an NPZ file, or of a folder that holds one.

    ``classes`` is called if labels are ILSVRC ids, see :class:`NPZ`.
    """

    def find(root: Path) -> Source | None:
        path = only_file(root, "*.npz")
        return None if path is None else NPZ(path, classes)

    return Layout(f"an NPZ file with {_WANTED}", find)


def _header(member: IO[bytes]) -> _Header:
    version, header = np.lib.format.read_magic(member), np.lib.format
    read = header.read_array_header_1_0 if version == (1, 0) else header.read_array_header_2_0
    shape, _, dtype = read(member)
    return shape, dtype


def _headers(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Read shape and type of every array from its header, and compare them with its stored size."""
    headers = {}
    try:
        with zipfile.ZipFile(path) as file:
            for info in file.infolist():
                with file.open(info) as member:
                    shape, dtype = _header(member)
                name = info.filename.removesuffix(".npy")
                if not dtype.hasobject:  # an array of objects is refused when it is read
                    demand_array(info, math.prod(shape) * dtype.itemsize, f"the array '{name}'")
                headers[name] = shape, dtype
    except (OSError, ValueError, zlib.error, zipfile.BadZipFile, RuntimeError) as error:
        raise ValueError(f"cannot read {path} as NPZ: {error}; fetch it again") from error
    return headers
