"""Where the images of a data set lie: one source per layout, found on disk and read one image at a
time.
"""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from PIL import Image
from typing_extensions import override

from posterior_bench.datasets.limits import demand_moderate
from posterior_bench.datasets.pixels import EXTENSIONS

Naming = Callable[[str], str]
"""From the name of a file in its layout to the id of its image."""

Labels = Mapping[str, int] | Callable[[], Mapping[str, int]]

LeftOut = Counter[str]
"""How many files were left out, by reason: an ending, or words such as ``broken link``."""

_SYSTEM = {
    *(
        "@eadir",
        "@__thumb",
        "__macosx",
        "thumbs.db",
        "desktop.ini",
        "#recycle",
        "@recycle",
        "$recycle.bin",
    ),
    *("lost+found", "system volume information"),
}
"""Files and folders that storage boxes and operating systems put beside pictures: thumbnails and
bins."""

_SEVERAL = {
    "broken link": "broken links",
    "link to a folder": "links to folders",
    "special file": "special files",
    "hidden image": "hidden images",
    "image of another name": "images of other names",
    "file without an ending": "files without an ending",
    "name that is not UTF-8": "names that are not UTF-8",
}


class Source:
    """The images of one layout: ``ids`` in string order, and whether they carry class labels.

    ``left_out`` counts the files that lie beside the images and are not read.
    """

    ids: Sequence[str]
    labelled: bool = False
    left_out: Mapping[str, int] = MappingProxyType({})

    def open(self, image: str) -> Image.Image:
        """The image, not yet decoded where its format allows; OSError or ValueError for one that
        cannot be read.
        """
        return Image.open(io.BytesIO(self.stored(image)))

    def head(self, image: str) -> Image.Image:
        """The image to look at its size and tags, without reading more than that where it is
        possible.
        """
        return self.open(image)

    def stored(self, image: str) -> bytes:
        """What is stored of the image: its encoded file, or its pixels; OSError or ValueError as
        for :meth:`open`.
        """
        raise NotImplementedError

    def file(self, image: str) -> tuple[str, str]:
        """The path of the file that holds it, and its place within; empty where it is the whole
        file.
        """
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

    ``find`` gives None where a folder holds no such thing, and raises ValueError where it does but
    is incomplete.
    """

    wanted: str
    find: Callable[[Path], Source | None]


class Files(Source):
    """Loose image files. ``paths`` has the path below ``root`` of every id.

    ``labels`` has the class of every id, or is called for it when a label is first wanted; None:
    there are none.
    """

    def __init__(
        self,
        root: Path,
        paths: Mapping[str, str],
        labels: Labels | None = None,
        left_out: LeftOut | None = None,
    ):
        self.root, self.paths, self._given = root, paths, labels
        self.left_out = left_out or {}
        self._folder = f"{root}/"  # to join a Path takes as long as to open a file
        self.ids = tuple(sorted(paths))
        self.labelled = labels is not None

    @override
    def stored(self, image: str) -> bytes:
        # read at once: a file that stays open until it is decoded would be one too many in a large
        # batch
        with open(self._folder + self.paths[image], "rb", buffering=0) as file:
            demand_moderate(os.fstat(file.fileno()).st_size, "it")
            return file.read()

    @override
    def head(self, image: str) -> Image.Image:
        return Image.open(self._folder + self.paths[image])

    @override
    def file(self, image: str) -> tuple[str, str]:
        return self._folder + self.paths[image], ""

    @override
    def where(self, image: str) -> str:
        return str(self.root / self.paths[image])

    @override
    def label(self, image: str) -> int:
        try:
            return self._labels[image]
        except KeyError:
            raise ValueError(f"image '{self.where(image)}' has no label") from None

    @cached_property
    def _labels(self) -> Mapping[str, int]:
        return self._given() if callable(self._given) else self._given or {}


def walk(root: Path, left_out: LeftOut | None = None, deep: bool = True) -> Iterator[str]:
    """POSIX paths of all image files below ``root``, or unless ``deep`` of those directly in it.

    Hidden files and folders and those of :data:`_SYSTEM` are left out, links to folders are not
    followed; ``left_out`` counts them and all other files. Only the folders are read, not the
    files. ValueError for one that cannot be.
    """
    counts = Counter[str]() if left_out is None else left_out
    folders = [""]
    while folders:
        folder = folders.pop()
        try:
            with os.scandir(root / folder) as listing:
                entries = list(listing)
        except OSError as error:
            raise ValueError(
                f"cannot read the folder '{root / folder}': {error.strerror or error}"
            ) from None
        for entry in entries:
            reason = why_left_out(entry.name)
            if reason is None:
                reason = _why_not_read(entry)
            if reason is None and entry.is_dir(follow_symlinks=False):
                if deep:
                    folders.append(f"{folder}{entry.name}/")
            elif reason is None:
                yield folder + entry.name
            elif reason:
                counts[reason] += 1


def walk_named(root: Path, fits: Callable[[str], bool], left_out: LeftOut) -> list[str]:
    """The image files below ``root`` whose name without folders and ending fits; none where there
    is no such folder.
    """
    names = list(walk(root, left_out)) if root.is_dir() else []
    found = [name for name in names if fits(stem(name))]
    if found and len(found) < len(names):
        left_out["image of another name"] = len(names) - len(found)
    return found


def why_left_out(name: str) -> str | None:
    """Why a file or folder of this name holds no image of the user's; None where it may, '' where
    nobody asks.
    """
    if name.lower() in (*_SYSTEM, ".thumbnails"):
        return name
    if name.startswith("."):
        return "hidden image" if is_image(name) else ""
    try:
        name.encode()
    except UnicodeEncodeError:  # bytes that are no text in UTF-8, as every id must be
        return "name that is not UTF-8"
    return None


def _why_not_read(entry: os.DirEntry[str]) -> str | None:
    """Why an entry of a folder is neither a folder to go into nor an image; None where it is
    one.
    """
    try:
        if entry.is_dir(follow_symlinks=False):
            return None
        if entry.is_symlink() and entry.is_dir():
            return "link to a folder"
        if not entry.is_file():
            return "broken link" if entry.is_symlink() else "special file"
    except OSError:  # a link that leads to itself
        return "broken link"
    return None if is_image(entry.name) else _ending_of(entry.name)


def members(names: Iterable[str], left_out: LeftOut, beside: tuple[str, ...] = ()) -> list[str]:
    """The names of the images in an archive; ``left_out`` counts the others but those that end like
    ``beside``.
    """
    found = []
    for name in names:
        reasons = [reason for part in name.split("/") if (reason := why_left_out(part)) is not None]
        if not reasons and not is_image(name):
            reasons = ["" if name.endswith(("/", *beside)) else _ending_of(name)]
        if not reasons:
            found.append(name)
        elif reasons[0]:
            left_out[reasons[0]] += 1
    return found


def in_words(left_out: Mapping[str, int]) -> str:
    """``3 .heic, 2 broken links, 1 link to a folder``: what was left out, the most frequent
    first.
    """
    counts = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(
        f"{n} {_SEVERAL.get(reason, reason) if n > 1 else reason}" for reason, n in counts
    )


def _ending_of(name: str) -> str:
    return PurePosixPath(name).suffix.lower() or "file without an ending"


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
            raise ValueError(
                f"'{first}' and '{second}' would both be the image '{image}'; remove one of them"
            )
        found[image] = name
    return found


def stem(name: str) -> str:
    """A file's name without folders and ending."""
    return PurePosixPath(name).stem


def only_file(root: Path, pattern: str) -> Path | None:
    """``root`` itself, or the one file directly in it, that matches; ValueError where there are
    several.
    """
    if root.is_file():
        return root if root.match(pattern) else None
    found = sorted(root.glob(pattern))
    if len(found) > 1:
        raise ValueError(
            f"'{root}' holds {', '.join(path.name for path in found)}; set data.root to one of "
            f"these files"
        )
    return found[0] if found else None
