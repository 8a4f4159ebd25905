"""Image sets that lie on disk: what all layouts have in common."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import UnidentifiedImageError
from torch import Tensor
from typing_extensions import override

from posterior_bench.datasets.base import Frame, ImageSet
from posterior_bench.datasets.contents import content_hash, stored_hashes
from posterior_bench.datasets.crops import CROPS, places
from posterior_bench.datasets.pixels import MODES, UNREADABLE, eight_bit, is_animated, skim
from posterior_bench.datasets.protocols import PROTOCOLS, choose
from posterior_bench.datasets.selection import PARTS, belongs, read_list, shuffled
from posterior_bench.datasets.source import Layout, LeftOut, Source, in_words
from posterior_bench.datasets.turns import UPRIGHT, turn_of, turned_image, turned_size

_TRAINING, _HELD_OUT = ("train", "training"), ("val", "validation", "valid", "test")


@dataclass
class Stored(ImageSet):
    """Image files of one layout, cropped and resized to one size, and the ids a study uses of them.

    Ids are in string order. ``name`` is a hash of the ids in use, so noise and masks stay the same
    when the files move or come in another layout. A subclass names its layouts; see docs/data.md
    for them, for the crops, and for how files that are not 8-bit RGB are read.

    Parameters
    ----------
    root : str
        The folder or file that holds the images.
    layout : str, default 'auto'
        ``auto`` or the name of a layout.
    size : int, default 256
        Both sides of the images, in pixels.
    mode : str, default 'rgb'
        ``rgb`` (3, size, size) or ``grey`` (1, size, size; luma of ITU-R 601).
    crop : str, default 'guided'
        ``guided``, ``edm`` or ``bicubic``, see datasets/crops.py.
    part : str | None, default None
        ``validation`` (a tenth of all) or ``test`` (the others); an image belongs to one of
        them by its id alone, so no two settings mix them; None is both.
    id_list : str | None, default None
        A text file with one id per line, taken in its order.
    subset : int | None, default None
        How many images to choose at random, None is all.
    subset_seed : int, default 0
        Seed of that choice.
    protocol : str | None, default None
        A published choice of images, see datasets/protocols.py. They apply in this order.

    Notes
    -----
    Raises FileNotFoundError for a missing root; ValueError, in one line, where no layout fits or
    files are missing, for unknown settings and ids, and, naming the file, for an image or label
    that cannot be read.
    """

    kind: ClassVar[str]
    what: ClassVar[str]
    classes: ClassVar[int] = 0
    upright: ClassVar[bool] = False
    """Whether EXIF tags turn the images. The code of the published priors ignores them."""

    root: str
    layout: str = "auto"
    size: int = 256
    mode: str = "rgb"
    crop: str = "guided"
    part: str | None = None
    id_list: str | None = None
    subset: int | None = None
    subset_seed: int = 0
    protocol: str | None = None

    def layouts(self) -> dict[str, Layout]:
        """By name, in the order in which ``auto`` looks for them."""
        raise NotImplementedError

    def id_of(self, name: str) -> str:
        """The id of a file, whatever a layout or a published list calls it."""
        return name

    def __post_init__(self) -> None:
        _one_of("mode", self.mode, MODES)
        _one_of("crop", self.crop, CROPS)
        if self.size < 1:
            raise ValueError(f"size={self.size}: images need at least one pixel")
        if self.part is not None:
            _one_of("part", self.part, PARTS)
        if self.protocol is not None:
            _one_of(
                "protocol",
                self.protocol,
                [name for name, p in PROTOCOLS.items() if p.data in (self.kind, "any")],
            )
        self._frames: dict[str, Frame] = {}
        self._animated: set[str] = set()
        self._source = self._find()
        self._known = frozenset(self._source.ids)
        self.shape = (len(MODES[self.mode]), self.size, self.size)
        self.num_classes = self.classes if self._source.labelled else 0
        self.ids = self._choose()
        self.name = (
            f"{self.kind}:{hashlib.sha256(chr(10).join(self.ids).encode()).hexdigest()[:12]}"
        )

    @property
    @override
    def known(self) -> Collection[str]:
        return self._known

    @override
    def images(self, ids: Sequence[str]) -> Tensor:
        return torch.stack([torch.from_numpy(self._load(name)) for name in ids])

    @override
    def labels(self, ids: Sequence[str]) -> Tensor | None:
        if not self.num_classes:
            return None
        return torch.tensor([self._label(name) for name in ids], dtype=torch.int64)

    def content(self, ids: Sequence[str]) -> list[str]:
        """A hash of the bytes of every image's file, or of its part of a larger one, with its
        label.
        """
        hashes = []
        for name in ids:
            self._demand(name)
        try:
            hashes = stored_hashes(self._source, ids, Path(self.root))
        except UNREADABLE as error:
            raise ValueError(
                f"cannot read the images in '{self.root}': {error}; repair or remove them"
            ) from error
        if self.upright:
            turns = {name: self._turn(name) for name in ids}
            # the bytes of a file with a tag once meant the picture as it is stored
            hashes = [
                found
                if turns[name] == UPRIGHT
                else content_hash(found, f"orientation {turns[name]}")
                for found, name in zip(hashes, ids, strict=True)
            ]
        if not self.num_classes:
            return hashes
        return [
            content_hash(found, str(self._label(name)))
            for found, name in zip(hashes, ids, strict=True)
        ]

    @override
    def check(self, ids: Sequence[str]) -> list[str]:
        problems = []
        for name in ids:
            self._demand(name)
            try:
                with self._source.open(name) as image:
                    if is_animated(image):
                        self._animated.add(name)
                    skim(image)
            except UNREADABLE as error:
                problems.append(self._unreadable(name, error))
                continue
            try:
                self.labels([name])
            except ValueError as error:
                problems.append(str(error))
        return problems

    @override
    def frame(self, image: str) -> Frame | None:
        self._demand(image)
        if image not in self._frames:
            try:
                with self._source.head(image) as file:
                    turn = turn_of(file) if self.upright else UPRIGHT
                    stored = file.height, file.width
            except UNREADABLE:
                return None  # whoever reads it says so
            seen = turned_size(stored, turn)
            self._frames[image] = Frame(seen, stored, *places(self.crop, *seen, self.size), turn)
        return self._frames[image]

    @override
    def notes(self) -> list[str]:
        notes = []
        if self._source.left_out:
            notes.append(
                f"{self.root}: left out beside {len(self._source.ids)} images: {self._left_out()}"
            )
        if beside := self._held_out():
            notes.append(
                f"{self.root}: '{beside}' lies beside this folder, which is called like training "
                f"images"
            )
        if self._animated:
            first = self._source.where(min(self._animated))
            notes.append(
                f"{first}: of this animation the first picture is used"
                + _others(len(self._animated))
            )
        return notes

    def _left_out(self) -> str:
        words = in_words(self._source.left_out)
        links = "link to a folder" in self._source.left_out
        return words + (
            " (links to folders are not followed; copy such a folder, or set data.root)"
            if links
            else ""
        )

    def _held_out(self) -> str:
        """The name of a folder with validation images beside the root, if the root is called like
        training ones.
        """
        root = Path(self.root).expanduser().absolute()
        if root.name.lower() not in _TRAINING or not root.is_dir():
            return ""
        return next((name for name in _HELD_OUT if (root.parent / name).is_dir()), "")

    def _turn(self, name: str) -> int:
        with self._source.head(name) as file:
            return turn_of(file)

    def _find(self) -> Source:
        """The images below the root."""
        root, layouts = Path(self.root).expanduser(), self.layouts()
        if self.layout != "auto":
            _one_of("layout", self.layout, ["auto", *layouts])
            layouts = {self.layout: layouts[self.layout]}
        if not _is_there(root):
            elsewhere = (
                ""
                if self.kind == "folder"
                else " (docs/downloads.md says where they are published)"
            )
            raise FileNotFoundError(
                f"there is no folder '{root}'; set data.root to the {self.what}{elsewhere}"
            )
        others: LeftOut = Counter()
        for layout in layouts.values():
            source = layout.find(root)
            if source is not None and source.ids:
                return source
            others |= Counter(source.left_out if source is not None else {})
        looked = "; ".join(f"{name}: {layout.wanted}" for name, layout in layouts.items())
        there = f"; there: {in_words(others)}" if others else ""
        raise ValueError(f"'{root}' holds no {self.what}; looked for {looked}{there}")

    def _choose(self) -> tuple[str, ...]:
        """The ids in use."""
        ids = [i for i in self._source.ids if belongs(i, self.part)]
        if self.id_list is not None:
            listed = read_list(Path(self.id_list), self._known, self.id_of)
            ids = [i for i in listed if belongs(i, self.part)]
        if self.subset is not None:
            if not 0 < self.subset <= len(ids):
                raise ValueError(
                    f"subset={self.subset}: choose from 1 to {len(ids)} images, as many as there "
                    f"are"
                )
            ids = shuffled(ids, self.subset_seed)[: self.subset]
        if self.protocol is not None:
            ids = choose(self.protocol, ids, self._label if self.num_classes else None)
        if not ids:
            raise ValueError(
                f"no image of '{self.root}' is left; part={self.part}, id_list={self.id_list}"
            )
        return tuple(ids)

    def _demand(self, name: str) -> None:
        if name not in self._known:
            raise ValueError(f"there is no image '{name}' in {self.root}")

    def _load(self, name: str) -> NDArray[np.float32]:
        """One image, float32 ``(C, size, size)`` in [-1, 1]."""
        self._demand(name)
        try:
            with self._source.open(name) as file:
                turn = turn_of(file) if self.upright else UPRIGHT
                image = eight_bit(turned_image(file, turn), MODES[self.mode])
        except UNREADABLE as error:
            raise ValueError(self._unreadable(name, error)) from error
        pixels = np.asarray(CROPS[self.crop](image, self.size))
        channels = pixels.reshape(self.size, self.size, -1).transpose(2, 0, 1)
        return channels.astype(np.float32) / np.float32(127.5) - 1

    def _label(self, name: str) -> int:
        self._demand(name)
        label = self._source.label(name)
        if not 0 <= label < self.num_classes:
            raise ValueError(
                f"image '{self._source.where(name)}' has the label {label}; classes are 0 to "
                f"{self.num_classes - 1}, in the order of their names"
            )
        return label

    def _unreadable(self, name: str, error: BaseException) -> str:
        reason = "it is no image" if isinstance(error, UnidentifiedImageError) else error
        return f"cannot read image '{self._source.where(name)}': {reason}; repair or remove it"


def _one_of(setting: str, value: str, valid: Collection[str]) -> None:
    if value not in valid:
        raise ValueError(f"unknown {setting} '{value}'; valid: {', '.join(valid)}")


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long
        return False


def _others(count: int) -> str:
    return f" (and of {count - 1} more)" if count > 1 else ""
