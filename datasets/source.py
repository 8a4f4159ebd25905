"""Where the images of a data set lie: one source per layout, found on disk and read one image at a time."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from PIL import Image

from datasets.pixels import EXTENSIONS

Naming = Callable[[str], str]
"""From the name of a file in its layout to the id of its image."""

Labels = Mapping[str, int] | Callable[[], Mapping[str, int]]


class Source:
    """The images of one layout: ``ids`` in string order, and whether they carry class labels."""

    ids: Sequence[str]
    labelled: bool = False

    def open(self, image: str) -> Image.Image:
        """The image, not yet decoded where its format allows; OSError or ValueError for one that cannot be read."""
        return Image.open(io.BytesIO(self.stored(image)))

    def stored(self, image: str) -> bytes:
        """What is stored of the image: its encoded file, or its pixels; OSError or ValueError as for :meth:`open`."""
        raise NotImplementedError

    def file(self, image: str) -> tuple[str, str]:
        """The path of the file that holds it, and its place within; empty where it is the whole file."""
        raise NotImplementedError

    def where(self, image: str) -> str:
        """Where it lies, for messages."""
        raise NotImplementedError

    def label(self, image: str) -> int:
        """The class of a labelled image; ValueError where it is missing or no number."""
        raise NotImplementedError


@dataclass(frozen=True)
class Layout:
    """A way to lay out files: what it looks for, in words, and how to find it.

    ``find`` gives None where a folder holds no such thing, and raises ValueError where it does but is incomplete.
    """

    wanted: str
    find: Callable[[Path], Source | None]


class Files(Source):
    """Loose image files. ``paths`` has the path below ``root`` of every id.

    ``labels`` has the class of every id, or is called for it when a label is first wanted; None: there are none.
    """

    def __init__(self, root: Path, paths: Mapping[str, str], labels: Labels | None = None):
        self.root, self.paths, self._given = root, paths, labels
        self._folder = f"{root}/"  # to join a Path takes as long as to open a file
        self.ids = tuple(sorted(paths))
        self.labelled = labels is not None

    def stored(self, image: str) -> bytes:
        # read at once: a file that stays open until it is decoded would be one too many in a large batch
        with open(self._folder + self.paths[image], "rb", buffering=0) as file:
            return file.read()

    def file(self, image: str) -> tuple[str, str]:
        return self._folder + self.paths[image], ""

    def where(self, image: str) -> str:
        return str(self.root / self.paths[image])

    def label(self, image: str) -> int:
        try:
            return self._labels[image]
        except KeyError:
            raise ValueError(f"image '{self.where(image)}' has no label") from None

    @cached_property
    def _labels(self) -> Mapping[str, int]:
        return self._given() if callable(self._given) else self._given or {}


def walk(root: Path) -> Iterator[str]:
    """POSIX paths below ``root`` of all its image files.

    Hidden files and folders are left out, links to folders are not followed. Only the folders are read, not the files.
    """
    folders = [""]
    while folders:
        folder = folders.pop()
        with os.scandir(root / folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append(f"{folder}{entry.name}/")
                elif is_image(entry.name) and entry.is_file():
                    yield folder + entry.name


def is_image(name: str) -> bool:
    """Whether a file is called like an image."""
    return name.lower().endswith(EXTENSIONS)


def by_id(names: Iterable[str], naming: Naming) -> dict[str, str]:
    """The names behind their ids; ValueError where two would share one."""
    found: dict[str, str] = {}
    for name in names:
        image = naming(name)
        if image in found:
            first, second = sorted((found[image], name))
            raise ValueError(f"'{first}' and '{second}' would both be the image '{image}'; remove one of them")
        found[image] = name
    return found


def stem(name: str) -> str:
    """A file's name without folders and ending."""
    return PurePosixPath(name).stem


def only_file(root: Path, pattern: str) -> Path | None:
    """``root`` itself, or the one file directly in it, that matches; ValueError where there are several."""
    if root.is_file():
        return root if root.match(pattern) else None
    found = sorted(root.glob(pattern))
    if len(found) > 1:
        raise ValueError(
            f"'{root}' holds {', '.join(path.name for path in found)}; set data.root to one of these files"
        )
    return found[0] if found else None
