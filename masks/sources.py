"""Find and read the mask of an image in files."""

from __future__ import annotations

import copy
import math
import re
import unicodedata
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import IO, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from typing_extensions import override

from posterior_bench.masks.base import MaskGenerator, Pictures

Array = NDArray[Any]
PAIRS = ("id", "order")
_ENDINGS = (".png", ".npy")
_IMAGE_ENDINGS = (
    *(".png", ".bmp", ".tif", ".tiff", ".gif", ".webp"),
    *(".jpg", ".jpeg", ".jfif", ".avif"),
)
_MASK_ENDINGS = tuple(dict.fromkeys((*_ENDINGS, *_IMAGE_ENDINGS)))  # in the order of the search
_LARGEST = 2**32  # bytes of an array of masks: 65 000 masks of 256 x 256 pixels


class ReadMasks(MaskGenerator):
    """Base class of masks that are read from files.

    A subclass writes :meth:`read`. Masks belong to images, so :meth:`generate` works only on the
    generator that :meth:`for_image` returns.
    """

    pictures: ClassVar[Pictures | None] = None
    """The photographs that the masks were drawn on; set by :meth:`beside`."""

    @override
    def beside(self, pictures: Pictures) -> Self:
        there = copy.copy(self)
        object.__setattr__(there, "pictures", pictures)  # the settings alone are frozen
        return there

    def fitted(self, plane: Array, image_id: str, height: int, width: int, resize: bool) -> Array:
        """Bring a plane from a file to the size of the image.

        A plane of the image's size is returned as it is. A plane of the size of the photograph is
        turned, cropped and resized like the photograph. With ``resize``, a plane of another size is
        resized first if it has the proportions of one of them.

        Parameters
        ----------
        plane : NDArray
            Values ``(H, W)``.
        image_id : str
            Id of the image.
        height : int
            Height of the image in pixels.
        width : int
            Width of the image in pixels.
        resize : bool
            Accept other sizes.

        Returns
        -------
        NDArray
            Values ``(height, width)``; each pixel has the value of the nearest pixel of ``plane``.

        Raises
        ------
        ValueError
            If the plane fits neither the image nor the photograph.
        """
        if plane.shape == (height, width):
            return plane
        frame = self.pictures.frame(image_id) if self.pictures is not None else None
        if frame is not None and plane.shape in (frame.seen, frame.stored):
            return frame.carry(plane)
        if resize and plane.shape[0] * width == plane.shape[1] * height:
            return nearest(plane, height, width)
        if frame is not None and resize and _alike_in_shape(plane.shape, frame.seen):
            return frame.carry(_nearest(plane, *frame.seen))
        known = f"the image {_size(height, width)}"
        if frame is not None:
            known = f"its photograph {_size(*frame.seen)} and {known}"
        if resize:
            remedy = "save it at one of these sizes, or with the proportions of one"
        elif plane.shape[0] * width == plane.shape[1] * height or (
            frame and _alike_in_shape(plane.shape, frame.seen)
        ):
            remedy = "set mask.resize=true to take the nearest pixels"
        else:
            remedy = (
                "save it at one of these sizes; mask.resize=true serves other sizes "
                "of their proportions alone"
            )
        raise ValueError(f"it has {_size(*plane.shape)} pixels (width x height), {known}; {remedy}")

    def read(self, image_id: str, index: int, height: int, width: int) -> NDArray[np.bool_]:
        """Read the mask of one image.

        Parameters
        ----------
        image_id : str
            Id of the image.
        index : int
            Position of the image in its image set, counted from 0.
        height : int
            Height of the image in pixels.
        width : int
            Width of the image in pixels.

        Returns
        -------
        NDArray[bool]
            ``(height, width)``; True = observed.

        Raises
        ------
        ValueError
            If the mask is missing or unusable, as one line that names the file.
        """
        raise NotImplementedError

    @override
    def generate(self, rng: np.random.Generator, height: int, width: int) -> NDArray[np.bool_]:
        raise ValueError(
            "these masks are read from files and belong to images; call for_image first"
        )

    @override
    def for_image(self, image_id: str, index: int) -> MaskGenerator:
        return _OfImage(self, image_id, index)

    @override
    def content(self, ids: Sequence[str], height: int, width: int) -> str:
        whole = sha256()
        for index, image_id in enumerate(ids):
            mask = self.read(image_id, index, height, width)
            whole.update(f"{image_id} {height} {width}\n".encode() + np.packbits(mask).tobytes())
        return whole.hexdigest()

    def hidden(self, ids: Sequence[str], height: int, width: int) -> list[float]:
        """Return the hidden fraction of each image, 0 to 1."""
        return [
            1 - float(self.read(image_id, i, height, width).mean())
            for i, image_id in enumerate(ids)
        ]


@dataclass(frozen=True)
class _OfImage(MaskGenerator):
    masks: ReadMasks
    image_id: str
    index: int

    def generate(self, rng: np.random.Generator, height: int, width: int) -> NDArray[np.bool_]:
        return self.masks.read(self.image_id, self.index, height, width)


def check_pair(pair: str) -> None:
    """Check how files are matched with images.

    Raises
    ------
    ValueError
        Unless ``pair`` is one of :data:`PAIRS`.
    """
    if pair not in PAIRS:
        raise ValueError(f"unknown pair '{pair}'; valid: {', '.join(PAIRS)}")


def file_of(path: Path, pair: str, image_id: str, index: int) -> Path:
    """Find the mask file of an image.

    With ``pair="id"`` the file is called ``<id>.png`` or ``<id>.npy``, or has another image ending.
    The id's own image ending may be left out, the case of the ending does not matter, and accented
    letters may be composed or decomposed. With ``pair="order"`` the ``.png`` and ``.npy`` files (if
    there are none, the other images) are taken in string order of their names, starting again when
    all are used.

    Parameters
    ----------
    path : Path
        A file, which is returned as it is, or a folder.
    pair : str
        ``id`` or ``order``.
    image_id : str
        Id of the image.
    index : int
        Position of the image in its image set, counted from 0.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        If there is no such file, or two names look alike.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise ValueError(f"there is no file or folder '{path}'; set path to one")
    if pair == "order":
        files = _sorted_files(path, path.stat().st_mtime_ns)
        if not files:
            raise ValueError(f"no {' or '.join(_ENDINGS)} file lies in {path}, and no other image")
        return files[index % len(files)]
    known = Path(image_id)
    names = [
        image_id,
        *([known.with_suffix("").as_posix()] if known.suffix.lower() in _IMAGE_ENDINGS else []),
    ]
    for name in names:
        for ending in _ENDINGS:
            if (path / f"{name}{ending}").is_file():
                return path / f"{name}{ending}"
    # names that look the same: endings in any case, accents composed (Linux, Windows) or
    # decomposed (macOS)
    for name in names:
        if (found := _alike(path, name)) is not None:
            return found
    raise ValueError(
        f"image '{image_id}' has no file '{names[-1]}.png' or .npy in {path}; "
        "add it, or set pair=order"
    )


def _alike(folder: Path, name: str) -> Path | None:
    """Return the one file below ``folder`` whose name looks like ``name`` with a known ending."""
    if not (parts := Path(name).parts):
        return None
    *parents, last = parts
    for parent in parents:
        inner = [path for path in _listed(folder).get(_shown(parent), ()) if path.is_dir()]
        if len(inner) != 1:
            return None
        folder = inner[0]
    listed = _listed(folder)
    for ending in _MASK_ENDINGS:
        found = [path for path in listed.get(_shown(f"{last}{ending}"), ()) if path.is_file()]
        if len(found) > 1:
            raise ValueError(
                f"{found[0].name!a} and {found[1].name!a} in {folder} look like one name; keep one"
            )
        if found:
            return found[0]
    return None


def _shown(name: str) -> str:
    """Return a name with composed letters and its ending in lower case."""
    stem, dot, ending = unicodedata.normalize("NFC", name).rpartition(".")
    return f"{stem}{dot}{ending.lower()}"


def _listed(folder: Path) -> dict[str, list[Path]]:
    return _names(folder, folder.stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _names(folder: Path, _changed: int) -> dict[str, list[Path]]:
    names: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        names.setdefault(_shown(path.name), []).append(path)
    return names


@lru_cache(maxsize=4)
def _sorted_files(folder: Path, _changed: int) -> tuple[Path, ...]:
    files = sorted(p for p in folder.iterdir() if not p.name.startswith(".") and p.is_file())
    usual = tuple(p for p in files if p.suffix.lower() in _ENDINGS)
    return usual or tuple(p for p in files if p.suffix.lower() in _IMAGE_ENDINGS)


def pixels_of(path: Path, indexed: bool = False) -> Array:
    """Read an image file as numbers.

    Parameters
    ----------
    path : Path
        PNG or another image file.
    indexed : bool, default False
        Return the indices of a palette instead of grey values.

    Returns
    -------
    NDArray
        ``(H, W)``.

    Raises
    ------
    ValueError
        If the file cannot be read or is transparent, and for colour if ``indexed``.
    """
    try:
        with Image.open(path) as image:
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            mode = "transparent" if "transparency" in image.info and not indexed else image.mode
            if mode in ("1", "L", "I", "I;16", *(("P",) if indexed else ())):
                return np.asarray(image)
            if mode in ("RGB", "P") and not indexed:
                return np.asarray(image.convert("L"))
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise ValueError(f"cannot read '{path}': {error}; repair it") from error
    wanted = "one channel of label numbers" if indexed else "grey or colour without transparency"
    raise ValueError(f"'{path}' is an image of mode {mode}; save it with {wanted}")


def stack_of(path: Path, height: int, width: int) -> Array:
    """Read the planes of a NumPy file.

    A ``.npy`` file has the shape ``(H, W)``, ``(n, H, W)``, ``(n, 1, H, W)`` or, for images of
    exactly ``height`` and ``width``, ``(n, H W)`` (VIPaint). An ``.npz`` file has the array
    ``masks``, or ``m`` and ``shape`` for packed bits of three equal channels (RED-diff), or a
    single array of any name.

    Parameters
    ----------
    path : Path
        The file.
    height : int
        Height of the images in pixels.
    width : int
        Width of the images in pixels.

    Returns
    -------
    NDArray
        ``(n, H, W)``.

    Raises
    ------
    ValueError
        If the file cannot be read or has another type or shape.
    """
    try:
        array = _load(path, path.stat().st_mtime_ns)
    except Exception as error:  # damaged bytes surface as almost any error of the decoder
        raise ValueError(
            f"cannot read '{path}': {error or type(error).__name__}; repair it"
        ) from error
    if array.dtype.kind not in "buif":
        raise ValueError(f"'{path}' holds values of type {array.dtype}; give numbers or booleans")
    if array.ndim == 4 and array.shape[1] == 1:
        array = array[:, 0]
    elif array.ndim == 2 and array.shape != (height, width) and array.shape[1] == height * width:
        array = array.reshape(-1, height, width)
    elif array.ndim == 2:
        array = array[None]
    if array.ndim != 3 or array.shape[-1] <= 4 < array.shape[1] or 0 in array.shape:
        raise ValueError(
            f"'{path}' has the shape {array.shape}; give (H, W), (n, H, W) or (n, 1, H, W)"
        )
    return array


def _demand_sound(path: Path) -> None:
    """Check the headers of an array file before any memory is allocated.

    Raises
    ------
    ValueError
        If an array is shorter than its header claims, or larger than masks or memory can be.
    """
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            claimed = _claimed(file)
            stored = path.stat().st_size - file.tell()
        if claimed > stored:
            raise ValueError(f"its header claims {claimed} bytes, and {stored} follow")
        return
    with zipfile.ZipFile(path) as whole:
        for info in whole.infolist():
            with whole.open(info) as member:
                claimed = _claimed(member)
            if claimed > info.file_size:
                raise ValueError(
                    f"the header of '{info.filename}' claims {claimed} bytes of {info.file_size}"
                )
            if info.file_size > (most := min(_LARGEST, _free_memory())):
                raise ValueError(
                    f"'{info.filename}' unpacks to {info.file_size / 2**30:.1f} GiB, and up to "
                    f"{most / 2**30:.1f} GiB are read; split it"
                )


def _claimed(file: IO[bytes]) -> int:
    """Return the number of bytes that the header of an array claims."""
    version = np.lib.format.read_magic(file)
    header = np.lib.format
    read = header.read_array_header_1_0 if version == (1, 0) else header.read_array_header_2_0
    shape, _, dtype = read(file)
    return math.prod(shape) * int(dtype.itemsize)


def _free_memory() -> int:
    try:
        text = Path("/proc/meminfo").read_text(encoding="utf-8")
    except OSError:
        return _LARGEST
    match = re.search(r"MemAvailable:\s+(\d+)", text)
    return 1024 * int(match.group(1)) if match else _LARGEST


@lru_cache(maxsize=4)
def _load(path: Path, _changed: int) -> Array:
    _demand_sound(path)
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return loaded
    with loaded:
        if "m" in loaded.files and "shape" in loaded.files:
            shape = np.asarray(loaded["shape"])
            if shape.ndim != 1 or shape.dtype.kind not in "iu":
                raise ValueError(
                    f"its array 'shape' holds {shape.dtype} values; give a list of whole numbers"
                )
            return _unpacked(loaded["m"], tuple(shape.tolist()))
        names = ["masks"] if "masks" in loaded.files else loaded.files
        if len(names) != 1:
            raise ValueError(f"it holds {', '.join(names)}; name the right array 'masks'")
        array: Array = loaded[names[0]]
        return array


def _unpacked(bits: Array, shape: tuple[int, ...]) -> Array:
    """Unpack bits ``(n, 3 s s)``, as RED-diff stores them, to bool ``(n, s, s)``."""
    count, values = shape[0], math.prod(shape[1:])
    side = math.isqrt(values // 3)
    if 3 * side * side != values:
        raise ValueError(f"shape {shape} is not that of square masks in three channels")
    planes = np.unpackbits(bits)[: count * values].reshape(count, 3, side, side).astype(bool)
    if not (planes == planes[:, :1]).all():
        raise ValueError("its channels differ; a mask hides a pixel in all channels")
    return planes[:, 0]


def nearest(array: Array, height: int, width: int) -> Array:
    """Resize values to another size of the same proportions.

    Parameters
    ----------
    array : NDArray
        ``(H, W)``.
    height : int
        New height in pixels.
    width : int
        New width in pixels.

    Returns
    -------
    NDArray
        ``(height, width)``; each pixel has the value of the old pixel in which its centre lies.

    Raises
    ------
    ValueError
        If the proportions differ.
    """
    old_height, old_width = array.shape
    if old_height * width != old_width * height:
        raise ValueError(
            f"{old_height} x {old_width} pixels cannot become {height} x {width}, which has other "
            "proportions; crop the file as the images are cropped"
        )
    return _nearest(array, height, width)


def _nearest(array: Array, height: int, width: int) -> Array:
    old_height, old_width = array.shape
    rows = (2 * np.arange(height) + 1) * old_height // (2 * height)
    columns = (2 * np.arange(width) + 1) * old_width // (2 * width)
    return array[rows[:, None], columns]


def _alike_in_shape(size: tuple[int, ...], other: tuple[int, int]) -> bool:
    """Tell whether two sizes have the same proportions, apart from rounding to whole pixels."""
    height, width = size
    return abs(height * other[1] - width * other[0]) < max(other)


def _size(height: int, width: int) -> str:
    return f"{width} x {height}"
