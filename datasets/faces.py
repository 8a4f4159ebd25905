"""Draw cartoon faces with DiceBear: eight styles, 64 x 64 pixels, in colour.

An image is a function of its id. The id is the seed that chooses hair, eyes, mouth, glasses and
colours, so there is no end of images, and their distribution is known.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import io
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from typing_extensions import override

from posterior_bench.datasets.base import ImageSet

Pixels = NDArray[np.uint8]

STYLES = (
    *("adventurer", "big-ears", "big-smile", "micah"),
    *("miniavs", "open-peeps", "personas", "toon-head"),
)
"""The styles, in the order of the class labels."""

PER_STYLE = {"test": 64, "validation": 64, "tune": 64, "train": 5000}
"""Images of a style in every split, before doubles are left out."""

_BACKGROUNDS = ("b8e0f2", "bfe8cf", "fbe7a1", "f9c9c4", "d3c7f0", "e6e2dc")
_SIDE = 64
_DRAWN = 128  # side of the drawing; pairs of pixels are then averaged both ways
_ROWS = 64  # rows of a sheet; a row has one image of every style
_ASSETS = Path(__file__).parent / "assets" / "faces"
_RECIPE = "faces-1"  # another recipe, or packages that draw other images, need another name
# of the pixels of the test images
_SHA256 = "c6fa6baf2e0b67c97498978264c3e3bea07ead327e8052e9d116692fc5102a1a"
_SHOWN = frozenset({"miniavs_tune_00038"})
"""Seeds of ``tune`` whose image is in another split; found by drawing them all."""


@dataclass
class Faces(ImageSet):
    """One split of the cartoon faces, with the style as the class.

    Images have the shape ``(3, 64, 64)``. The id of an image, such as ``micah_test_00003``, is the
    seed that it is drawn from. The first eight images show one style each, and so on.

    Parameters
    ----------
    split : str, default 'test'
        ``test``: 512 images, which this package includes. The others are drawn when they are first
        used, and need the packages of the extra ``faces``: ``validation`` and ``tune`` (64 images
        of a style), and ``train`` (5000 of a style). No image is in two splits: ``train`` and
        ``tune`` leave out what is also elsewhere.
    root : str | None, default None
        Folder that keeps drawn images; None means ``faces-1`` in the user's cache folder. Ignored
        for ``test``.

    Raises
    ------
    ImportError
        If images have to be drawn, and a package of the extra is missing.
    ValueError
        For an unknown split or id, packages that draw other images, and a folder that cannot be
        written or holds a damaged file.

    Notes
    -----
    The drawings of the styles belong to eight artists, see ``datasets/assets/LICENSE-faces``.
    """

    split: str = "test"
    root: str | None = None

    def __post_init__(self) -> None:
        if self.split not in PER_STYLE:
            raise ValueError(f"unknown split '{self.split}'; valid: {', '.join(PER_STYLE)}")
        self.name = "faces" if self.split == "test" else f"faces-{self.split}"
        self.shape = (3, _SIDE, _SIDE)
        self.num_classes = len(STYLES)
        self.class_names = STYLES
        self._sheets = _sheets(self.split, self.root)
        seeds = _seeds(self.split, range(PER_STYLE[self.split]))
        left_out = self._doubles(seeds) if self.split == "train" else _SHOWN
        self.ids = tuple(seed for seed in seeds if seed not in left_out)
        self._place = {seed: i for i, seed in enumerate(seeds) if seed not in left_out}

    @override
    def images(self, ids: Sequence[str]) -> Tensor:
        places = self._places(ids)
        pixels = np.empty((len(ids), *self.shape), np.uint8)
        for i, place in enumerate(places):
            sheet, row = divmod(place, _ROWS * len(STYLES))
            pixels[i] = _read(self._sheets[sheet])[row]
        return torch.from_numpy(pixels).float() / 127.5 - 1

    @override
    def labels(self, ids: Sequence[str]) -> Tensor:
        return torch.tensor([place % len(STYLES) for place in self._places(ids)])

    def _places(self, ids: Sequence[str]) -> list[int]:
        unknown = [name for name in ids if name not in self._place]
        if unknown:
            raise ValueError(
                f"{self.name} has no image '{unknown[0]}'; ids run from "
                f"{self.ids[0]} to {self.ids[-1]}"
            )
        return [self._place[name] for name in ids]

    def _doubles(self, seeds: Sequence[str]) -> set[str]:
        """Return the seeds whose image is a test image or a validation image."""
        held_out = {
            digest
            for split in ("test", "validation")
            for sheet in _sheets(split, self.root)
            for digest in _hashes(sheet)
        }
        digests = (digest for sheet in self._sheets for digest in _hashes(sheet))
        return {seed for seed, digest in zip(seeds, digests, strict=True) if digest in held_out}


def _seeds(split: str, rows: range) -> list[str]:
    return [f"{style}_{split}_{row:05d}" for row in rows for style in STYLES]


def _sheets(split: str, root: str | None) -> list[Path]:
    """Return the files with the images of a split, after drawing the ones that are missing."""
    if split == "test":
        return [_ASSETS / "test.png"]
    folder = _cache() if root is None else Path(root).expanduser()
    count, draw = PER_STYLE[split], None
    sheets = []
    for first in range(0, count, _ROWS):
        path = folder / f"{split}-{first:05d}.png"
        if not path.is_file():
            draw = draw or _drawing()
            rows = range(first, min(first + _ROWS, count))
            _write(path, np.stack([draw(seed) for seed in _seeds(split, rows)]))
        sheets.append(path)
    return sheets


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or ""
    try:
        cache = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    except RuntimeError:
        raise ValueError(
            "this user has no home folder to keep drawn faces in; set data.root=DIR"
        ) from None
    return cache / "posterior-bench" / _RECIPE


def _drawing() -> Callable[[str], Pixels]:
    """Return the function that draws the image ``(3, 64, 64)`` of a seed.

    It must draw the first test image of every style as this package includes it.
    """
    try:
        import resvg_py  # optional packages
        from dicebear import Avatar, Style

        folder = importlib.resources.files("dicebear_styles")
    except ImportError as error:
        raise ImportError(
            f"these faces have to be drawn, and a package for it cannot be imported ({error}); "
            'pip install "posterior-bench[faces]"'
        ) from None
    styles = {
        name: Style(json.loads((folder / f"{name}.json").read_text(encoding="utf-8")))
        for name in STYLES
    }

    def draw(seed: str) -> Pixels:
        settings = {"seed": seed, "backgroundColor": list(_BACKGROUNDS)}
        drawing = Avatar(styles[seed.partition("_")[0]], settings).to_string()
        content = resvg_py.svg_to_bytes(svg_string=drawing, width=_DRAWN, height=_DRAWN)
        image = Image.open(io.BytesIO(bytes(content))).convert("RGB")
        return np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.BOX)).transpose(2, 0, 1)

    for seed, expected in zip(_seeds("test", range(1)), _read(_ASSETS / "test.png"), strict=False):
        if not np.array_equal(draw(seed), expected):
            raise ValueError(
                f"the installed packages draw another {seed} than the one of this data set; pip "
                'install "posterior-bench[faces]" installs the versions that belong to it'
            )
    return draw


def _write(path: Path, images: Pixels) -> None:
    """Write images ``(N, 3, 64, 64)`` as a sheet with a column for every style.

    The file appears under its name when it is complete.
    """
    rows = len(images) // len(STYLES)
    tiles = images.reshape(rows, len(STYLES), 3, _SIDE, _SIDE).transpose(0, 3, 1, 4, 2)
    sheet = Image.fromarray(tiles.reshape(rows * _SIDE, len(STYLES) * _SIDE, 3))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, part = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        try:
            with os.fdopen(descriptor, "wb") as file:
                sheet.save(file, "PNG")
            os.replace(part, path)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(part)
    except OSError as error:
        raise ValueError(
            f"cannot keep drawn faces in {path.parent} ({error}); set data.root=DIR to a folder "
            "with 150 MB of space"
        ) from error


@lru_cache(maxsize=4)
def _read(path: Path) -> Pixels:
    """Read the images ``(N, 3, 64, 64)`` of a sheet."""
    try:
        with Image.open(path) as file:
            pixels = np.asarray(file.convert("RGB"))
        tiles = pixels.reshape(-1, _SIDE, len(STYLES), _SIDE, 3).transpose(0, 2, 4, 1, 3)
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"cannot read {path} ({error}); delete it to draw it again") from error
    images = np.ascontiguousarray(tiles).reshape(-1, 3, _SIDE, _SIDE)
    if path.parent == _ASSETS and hashlib.sha256(images.tobytes()).hexdigest() != _SHA256:
        raise ValueError(f"{path} does not hold the test images of this version; install it again")
    images.flags.writeable = False
    return images


def _hashes(sheet: Path) -> list[bytes]:
    return [hashlib.sha256(image.tobytes()).digest() for image in _read(sheet)]
