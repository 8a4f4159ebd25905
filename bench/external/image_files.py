"""Find one PNG for every image and draw, in a directory or a Parquet file, and read it."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from hashlib import sha256
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from posterior_bench.bench.core.errors import UserError
from posterior_bench.datasets.folder import EXTENSIONS
from posterior_bench.priors.base import Shape

Place = tuple[str, int]
"""An image id and a draw."""


COLUMNS = {"image_id": "texts", "draw": "whole numbers", "png": "bytes"}


@dataclass(frozen=True)
class ImageFiles:
    """One PNG for every image and draw.

    Parameters
    ----------
    where : str
        The directory or Parquet file.
    names : mapping of (image id, draw) to str
        The name of each image in ``where``.
    read : callable
        Returns the bytes of the PNG of an (image id, draw).
    unused : sequence of str, default ()
        Names that belong to no image or draw.
    """

    where: str
    names: Mapping[Place, str]
    read: Callable[[Place], bytes] = field(compare=False)
    unused: Sequence[str] = ()

    @classmethod
    def find(cls, path: Path, ids: tuple[str, ...], draws: int) -> ImageFiles:
        """Find the images in a directory or Parquet file.

        Raises
        ------
        UserError
            If an image is missing or ambiguous.
        """
        if path.is_dir():
            return _in_directory(path, ids, draws)
        if path.is_file():
            return _in_parquet(path, ids, draws)
        raise UserError(f"solver.path={path}: there is no such directory or Parquet file")

    def check(self, shape: Shape) -> None:
        """Check that every image can be read and has the right shape.

        Raises
        ------
        UserError
            If one does not; the first is named and the others are counted.
        """
        problems = [
            f"{self.names[place]} {problem}"
            for place in self.names
            if (problem := self._problem(place, shape))
        ]
        if problems:
            raise UserError(f"{self.where}: {and_more(problems)}")

    def _problem(self, place: Place, shape: Shape) -> str:
        try:
            decode_png(self.read(place), shape)
        except ValueError as error:
            return str(error)
        return ""

    @cached_property
    def sha256(self) -> str:
        """Return a hash of all images with their ids and draws, wherever the files lie."""
        whole = sha256()
        for image, draw in sorted(self.names):
            content = sha256(self.read((image, draw))).hexdigest()
            whole.update(f"{image}\x1f{draw}\x1f{content}\n".encode())
        return whole.hexdigest()


def decode_png(png: bytes, shape: Shape) -> NDArray[np.uint8]:
    """Return the 8-bit pixels ``(C, H, W)`` of a PNG file.

    RGB counts as grey where its channels are equal.

    Raises
    ------
    ValueError
        For anything but an opaque 8-bit PNG of that shape; the text follows the name of the file.
    """
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as file:
            mode, transparent, pixels = file.mode, file.has_transparency_data, file.convert("RGB")
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError):
        raise ValueError("cannot be read as a PNG file") from None
    if transparent or mode not in ("1", "L", "P", "RGB"):
        raise ValueError(
            f"has the mode {mode}{' with transparency' * transparent}; give opaque 8-bit grey or "
            "RGB"
        )
    channels, height, width = shape
    if pixels.size != (width, height):
        raise ValueError(
            f"has {pixels.width} x {pixels.height} pixels (width x height), the data {width} x "
            f"{height}"
        )
    array = np.asarray(pixels).transpose(2, 0, 1)
    if channels == 1 and (array != array[:1]).any():
        raise ValueError("is in colour, but the data are grey")
    return array[:channels].copy()


def answer_names(ids: Sequence[str]) -> dict[str, list[str]]:
    """Return the names that the files of every image may have, without ``.png``.

    They are the id, and the id without the ending of an image file.
    """
    short = {
        i: str(PurePosixPath(i).with_suffix("")) if i.lower().endswith(EXTENSIONS) else i
        for i in ids
    }
    used = Counter([*short.values(), *(i for i in ids if short[i] != i)])
    return {i: [i] if short[i] == i or used[short[i]] > 1 else [short[i], i] for i in ids}


def _in_directory(root: Path, ids: tuple[str, ...], draws: int) -> ImageFiles:
    paths = (p.relative_to(root) for p in root.rglob("*") if p.is_file())
    there = {p.as_posix() for p in paths if not any(part.startswith(".") for part in p.parts)}
    stems = answer_names(ids)
    plain = {f"{name}.png" for names in stems.values() for name in names}
    found: dict[Place, str] = {}
    problems = []
    for image in ids:
        for draw in range(draws):
            names = [
                f"{stem}{end}.png" for stem in stems[image] for end in (f"_{draw}", f"/{draw}")
            ]
            if draws == 1:
                # cat_0.png is the image cat_0, if there is one, and only else draw 0 of cat
                names = [
                    *(f"{stem}.png" for stem in stems[image]),
                    *(name for name in names if name not in plain),
                ]
            here = [name for name in names if name in there]
            if len(here) == 1:
                found[image, draw] = here[0]
            else:
                problems.append(
                    f"{' and '.join(here)} are one draw" if here else f"{names[0]} is missing"
                )
    if problems:
        single = draws > 1 and not found and any(f"{stem}.png" in there for stem in stems[ids[0]])
        hint = (
            "with one image per id, give draws=1"
            if single
            else "PNG files are <image_id>.png (draws=1), "
        )
        hint += "" if single else "<image_id>_<draw>.png or <image_id>/<draw>.png, draws from 0"
        raise UserError(f"{root}: {and_more(problems)}; {hint}")
    unused = sorted(there.difference(found.values()))
    return ImageFiles(str(root), found, lambda place: (root / found[place]).read_bytes(), unused)


def _in_parquet(path: Path, ids: tuple[str, ...], draws: int) -> ImageFiles:
    wanted = {(image, draw) for image in ids for draw in range(draws)}
    rows: dict[Place, tuple[int, int]] = {}
    unused, problems = [], []
    file = _parquet(path)
    for group in range(file.num_row_groups):
        table = file.read_row_group(group, columns=["image_id", "draw"])
        for row, place in enumerate(
            zip(*(table[c].to_pylist() for c in ("image_id", "draw")), strict=True)
        ):
            if place not in wanted:
                unused.append(_row_name(place))
            elif place in rows:
                problems.append(f"{_row_name(place)} is there twice")
            rows.setdefault(place, (group, row))
    problems += [f"{_row_name(place)} is missing" for place in sorted(wanted - rows.keys())]
    if problems:
        raise UserError(f"{path}: {and_more(problems)}; draws count from 0")

    @lru_cache(maxsize=1)
    def images(group: int) -> pa.ChunkedArray:
        return file.read_row_group(group, columns=["png"])["png"]

    def read(place: Place) -> bytes:
        group, row = rows[place]
        return images(group)[row].as_py() or b""

    return ImageFiles(
        str(path), {place: _row_name(place) for place in sorted(wanted)}, read, unused
    )


def _parquet(path: Path) -> pq.ParquetFile:
    """Open the file and check its columns.

    Raises
    ------
    UserError
        If the file is no Parquet file, or a column is missing or has another type.
    """
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError):
        raise UserError(f"solver.path={path} is neither a directory nor a Parquet file") from None
    types = {
        name: file.schema_arrow.field(name).type
        for name in COLUMNS
        if name in file.schema_arrow.names
    }
    fits = {
        "image_id": lambda t: pa.types.is_string(t) or pa.types.is_large_string(t),
        "draw": pa.types.is_integer,
        "png": lambda t: pa.types.is_binary(t) or pa.types.is_large_binary(t),
    }
    for name, what in COLUMNS.items():
        if name not in types or not fits[name](types[name]):
            is_now = f"holds {types[name]}" if name in types else "is missing"
            raise UserError(
                f"{path}: the column '{name}' must hold {what}, but {is_now}; needed: "
                f"{', '.join(COLUMNS)}"
            )
    return file


def _row_name(place: Place) -> str:
    return f"image_id {place[0]} draw {place[1]}"


def and_more(texts: Iterable[str]) -> str:
    """Return the first text, and how many others there are."""
    first, *others = texts
    return first + (f" (and {len(others)} more)" if others else "")


def demand_content(wanted: str | None, found: str, path: Path) -> None:
    """Raise UserError unless the content of a file is the wanted one; None wants nothing."""
    if wanted not in (None, found):
        raise UserError(
            f"the content of {path} has sha256 {found}, not {wanted}: it has changed since"
        )
