"""Read image sets from disk: the common part of all layouts."""

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
    """Base class of image sets on disk.

    Images of one layout are cropped and resized to one size. A subclass sets ``kind`` and ``what``
    and names its layouts in :meth:`layouts`. Ids are in string order. The name is a hash of the ids
    in use, so noise and masks stay the same when the files move or change their layout.
    docs/data.md describes the layouts, the crops, and how files that are not 8-bit RGB are read.

    Parameters
    ----------
    root : str
        The folder or file that holds the images.
    layout : str, default 'auto'
        Name of a layout; ``auto`` takes the first layout that fits.
    size : int, default 256
        Both sides of the images in pixels.
    mode : str, default 'rgb'
        ``rgb`` gives ``(3, size, size)``; ``grey`` gives ``(1, size, size)``, the luma of ITU-R
        601.
    crop : str, default 'guided'
        ``guided``, ``edm``, ``bicubic``, ``bilinear`` or ``square_bilinear``, see
        datasets/crops.py.
    part : str | None, default None
        ``validation`` (a tenth of all images), ``test`` (the others) or None (all). The id alone
        decides to which part an image belongs, so other settings never mix the parts.
    id_list : str | None, default None
        A text file with one id per line; the images are used in this order.
    subset : int | None, default None
        Number of images to choose at random; None = all.
    subset_seed : int, default 0
        Seed of the random choice.
    protocol : str | None, default None
        Images of a published paper, see datasets/protocols.py. ``part``, ``id_list``, ``subset``
        and ``protocol`` apply in this order.

    Attributes
    ----------
    kind : str
        Name of the data set, which is part of ``name``.
    what : str
        Description of the images, for messages.
    classes : int
        Number of classes; 0 if the images have no labels.

    Raises
    ------
    FileNotFoundError
        If the root is missing.
    ValueError
        If no layout fits, if files are missing, for unknown settings and ids, and for an image or
        label that cannot be read. The message is one line and names the file.
    """

    kind: ClassVar[str]
    what: ClassVar[str]
    classes: ClassVar[int] = 0
    upright: ClassVar[bool] = False
    """Turn the images according to their EXIF tags. The code of published priors ignores them."""

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
        """Return the layouts by name, in the order in which ``auto`` tries them."""
        raise NotImplementedError

    def id_of(self, name: str) -> str:
        """Return the id of an image from its file name in a layout or in a published list."""
        return name

    def _classes_in_use(self) -> int:
        """Return the number of classes; 0 if the images have no labels, or none are wanted."""
        return self.classes if self._source.labelled else 0

    def __post_init__(self) -> None:
        _one_of("mode", self.mode, MODES)
        _one_of("crop", self.crop, CROPS)
        if self.size < 1:
            raise ValueError(f"size={self.size}: images need at least one pixel")
        if self.part is not None:
            _one_of("part", self.part, PARTS)
        if self.protocol is not None:
            suitable = [name for name, p in PROTOCOLS.items() if p.data in (self.kind, "any")]
            _one_of("protocol", self.protocol, suitable)
        self._frames: dict[str, Frame] = {}
        self._animated: set[str] = set()
        self._source = self._find()
        self._known = frozenset(self._source.ids)
        self.shape = (len(MODES[self.mode]), self.size, self.size)
        self.num_classes = self._classes_in_use()
        self.ids = self._choose()
        digest = hashlib.sha256("\n".join(self.ids).encode()).hexdigest()
        self.name = f"{self.kind}:{digest[:12]}"

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
        """Hash the stored bytes of images, with their labels.

        See :meth:`ImageSet.content`. The bytes are those of the file, or of the image's part of a
        larger file.
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
            # earlier versions ignored the tag: the same file must not keep its old hash
            hashes = [
                old if turns[name] == UPRIGHT else content_hash(old, f"orientation {turns[name]}")
                for old, name in zip(hashes, ids, strict=True)
            ]
        if not self.num_classes:
            return hashes
        return [
            content_hash(image, str(self._label(name)))
            for image, name in zip(hashes, ids, strict=True)
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
                return None  # reading the image will raise the error
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
                f"{self.root}: '{beside}' lies beside this folder, which is "
                "named like training images"
            )
        if self._animated:
            first = self._source.where(min(self._animated))
            others = _others(len(self._animated))
            notes.append(f"{first}: of this animation the first picture is used{others}")
        return notes

    def _left_out(self) -> str:
        words = in_words(self._source.left_out)
        if "link to a folder" not in self._source.left_out:
            return words
        return f"{words} (links to folders are not followed; copy such a folder, or set data.root)"

    def _held_out(self) -> str:
        """Return the name of a folder with held-out images beside a root with training images.

        It is empty if there is none.
        """
        root = Path(self.root).expanduser().absolute()
        if root.name.lower() not in _TRAINING or not root.is_dir():
            return ""
        return next((name for name in _HELD_OUT if (root.parent / name).is_dir()), "")

    def _turn(self, name: str) -> int:
        with self._source.head(name) as file:
            return turn_of(file)

    def _find(self) -> Source:
        """Find the images below the root."""
        root, layouts = Path(self.root).expanduser(), self.layouts()
        if self.layout != "auto":
            _one_of("layout", self.layout, ["auto", *layouts])
            layouts = {self.layout: layouts[self.layout]}
        if not _is_there(root):
            text = f"there is no folder '{root}'; set data.root to the {self.what}"
            if self.kind != "folder":
                text += " (docs/downloads.md says where they are published)"
            raise FileNotFoundError(text)
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
        """Choose the ids in use."""
        ids = [i for i in self._source.ids if belongs(i, self.part)]
        if self.id_list is not None:
            listed = read_list(Path(self.id_list), self._known, self.id_of)
            ids = [i for i in listed if belongs(i, self.part)]
        if self.subset is not None:
            if not 0 < self.subset <= len(ids):
                raise ValueError(
                    f"subset={self.subset}: choose from 1 to {len(ids)} images, "
                    "as many as there are"
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
        """Load one image, float32 ``(C, size, size)`` in [-1, 1]."""
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
