"""Draw cartoon faces with DiceBear: eight styles, 64 x 64 pixels, in colour.

An image is a function of its id. The id is the seed that chooses hair, eyes, mouth, glasses and
colours, so there is no end of images, and their distribution is known.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from typing_extensions import override

from posterior_bench.datasets.base import ImageSet
from posterior_bench.datasets.face_drawing import (
    BACKGROUNDS,
    SIDE,
    STYLES,
    averaged,
    definition,
    demand_packages,
    drawn,
)
from posterior_bench.datasets.face_parts import demand_part, drawn_part, embedded_part
from posterior_bench.datasets.face_posterior import FacePosterior

Pixels = NDArray[np.uint8]

PER_STYLE = {"test": 64, "validation": 64, "tune": 64, "train": 5000}
"""Images of a style in every split, before doubles are left out."""

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
    showing : str | None, default None
        Only images that show this part: ``hair``, ``eyes``, ``mouth``, ``glasses`` or ``face``;
        None means all images.

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

    caps: ClassVar[frozenset[str]] = frozenset({"enumerated"})

    split: str = "test"
    root: str | None = None
    showing: str | None = None

    def __post_init__(self) -> None:
        if self.split not in PER_STYLE:
            raise ValueError(f"unknown split '{self.split}'; valid: {', '.join(PER_STYLE)}")
        self.name = "faces" if self.split == "test" else f"faces-{self.split}"
        self.shape = (3, SIDE, SIDE)
        self.num_classes = len(STYLES)
        self.class_names = STYLES
        self._sheets = _sheets(self.split, self.root)
        seeds = _seeds(self.split, range(PER_STYLE[self.split]))
        left_out = self._doubles(seeds) if self.split == "train" else _SHOWN
        self._place = {seed: i for i, seed in enumerate(seeds) if seed not in left_out}
        self.ids = tuple(self._place)
        if self.showing is not None:
            part = self.showing
            self.ids = tuple(seed for seed in self._place if self.part(seed, part).any())

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

    @override
    def demand_posterior(self) -> None:
        demand_packages()

    @override
    def posterior(
        self, y: NDArray[np.floating], mask: NDArray[np.bool_], sigma: float, label: int | None
    ) -> FacePosterior:
        styles = STYLES if label is None else (STYLES[label],)
        return FacePosterior.of(y, mask, sigma, styles)

    def part(self, image: str, name: str) -> NDArray[np.bool_]:
        """Return the pixels that a part of a face changes.

        Parameters
        ----------
        image : str
            Id of the image.
        name : str
            ``hair``, ``eyes``, ``mouth``, ``glasses`` or ``face``, which is all skin that shows and
            what lies on it.

        Returns
        -------
        NDArray[bool]
            ``(64, 64)``; nowhere True if the image does not show the part. The parts of the test
            images are embedded; for others the packages of the extra ``faces`` draw the face twice.
        """
        demand_part(name)
        (place,) = self._places([image])
        if self.split != "test":
            return drawn_part(image, name)
        row, column = divmod(place, len(STYLES))
        return embedded_part(row, column, name)

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
    contents = {name: definition(name) for name in STYLES}
    from dicebear import Style  # an optional package

    styles = {name: Style(content) for name, content in contents.items()}

    def draw(seed: str) -> Pixels:
        options = {"seed": seed, "backgroundColor": list(BACKGROUNDS)}
        return averaged(drawn(styles[seed.partition("_")[0]], options))

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
    tiles = images.reshape(rows, len(STYLES), 3, SIDE, SIDE).transpose(0, 3, 1, 4, 2)
    sheet = Image.fromarray(tiles.reshape(rows * SIDE, len(STYLES) * SIDE, 3))
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
        tiles = pixels.reshape(-1, SIDE, len(STYLES), SIDE, 3).transpose(0, 2, 4, 1, 3)
    except (OSError, SyntaxError, ValueError) as error:
        raise ValueError(f"cannot read {path} ({error}); delete it to draw it again") from error
    images = np.ascontiguousarray(tiles).reshape(-1, 3, SIDE, SIDE)
    if path.parent == _ASSETS and hashlib.sha256(images.tobytes()).hexdigest() != _SHA256:
        raise ValueError(f"{path} does not hold the test images of this version; install it again")
    images.flags.writeable = False
    return images


def _hashes(sheet: Path) -> list[bytes]:
    return [hashlib.sha256(image.tobytes()).digest() for image in _read(sheet)]
