"""Find the images of a data set on disk and read them one at a time, with one source per layout."""

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
"""Function that returns the id of an image for the name of its file."""

Labels = Mapping[str, int] | Callable[[], Mapping[str, int]]

LeftOut = Counter[str]
"""Number of files that are not read, by reason: an ending, or words such as ``broken link``."""

_SYSTEM = {
    *("@eadir", "@__thumb", "__macosx", "thumbs.db", "desktop.ini"),
    *("#recycle", "@recycle", "$recycle.bin", "lost+found", "system volume information"),
}
"""Thumbnails and bins that storage devices and operating systems put beside pictures."""

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
    """Base class of the images of one layout.

    Attributes
    ----------
    ids : Sequence[str]
        Ids of all images in string order.
    labelled : bool
        True if the images have class labels.
    left_out : Mapping[str, int]
        Number of files beside the images that are not read, by reason.
    """

    ids: Sequence[str]
    labelled: bool = False
    left_out: Mapping[str, int] = MappingProxyType({})

    def open(self, image: str) -> Image.Image:
        """Open an image; it is decoded later if its format allows.

        Raises
        ------
        OSError, ValueError
            If the image cannot be read.
        """
        return Image.open(io.BytesIO(self.stored(image)))

    def head(self, image: str) -> Image.Image:
        """Open an image to look at its size and tags.

        No more than these is read where that is possible.
        """
        return self.open(image)

    def stored(self, image: str) -> bytes:
        """Return the stored bytes of an image: its encoded file, or its pixels.

        Raises
        ------
        OSError, ValueError
            If the image cannot be read.
        """
        raise NotImplementedError

    def file(self, image: str) -> tuple[str, str]:
        """Return the path of the file that holds an image, and the member within it.

        The member is empty if the image is the whole file.
        """
        raise NotImplementedError

    def where(self, image: str) -> str:
        """Return the place of an image for messages."""
        raise NotImplementedError

    def label(self, image: str) -> int:
        """Return the class of a labelled image.

        Raises
        ------
        ValueError
            If the label is missing or no whole number.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Layout:
    """Way in which the files of a data set are arranged.

    Parameters
    ----------
    wanted : str
        Description of the files, for messages.
    find : Callable[[Path], Source | None]
        Function that finds the images below a root. It returns None if the root does not have this
        layout, and raises ValueError if it has but is incomplete.
    """

    wanted: str
    find: Callable[[Path], Source | None]


class Files(Source):
    """Single image files.

    Parameters
    ----------
    root : Path
        The folder.
    paths : Mapping[str, str]
        Path below ``root`` for every id.
    labels : Mapping or Callable or None, default None
        Class for every id, or a function that returns this mapping and is called at first use; None
        = no labels.
    left_out : Counter or None, default None
        Number of files that are not read, by reason.
    """

    def __init__(
        self,
        root: Path,
        paths: Mapping[str, str],
        labels: Labels | None = None,
        left_out: LeftOut | None = None,
    ):
        self.root, self.paths, self._source_of_labels = root, paths, labels
        self.left_out = left_out or {}
        self._folder = f"{root}/"  # joining a Path takes as long as opening a file
        self.ids = tuple(sorted(paths))
        self.labelled = labels is not None

    @override
    def stored(self, image: str) -> bytes:
        # read the whole file at once: files that stay open until they are decoded would exceed the
        # limit on open files in a large batch
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
        labels = self._source_of_labels
        return labels() if callable(labels) else labels or {}


def walk(root: Path, left_out: LeftOut | None = None, deep: bool = True) -> Iterator[str]:
    """List the image files below a folder.

    Hidden files and folders and the names in :data:`_SYSTEM` are left out; links to folders are not
    followed. Only folders are read, not files.

    Parameters
    ----------
    root : Path
        The folder.
    left_out : Counter or None, default None
        Counts all other files, by reason.
    deep : bool, default True
        False lists only files directly in ``root``.

    Yields
    ------
    str
        POSIX path relative to ``root``.

    Raises
    ------
    ValueError
        If a folder cannot be read.
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
    """List the image files below ``root`` whose name without folders and ending fits.

    The list is empty if there is no such folder.
    """
    names = list(walk(root, left_out)) if root.is_dir() else []
    found = [name for name in names if fits(stem(name))]
    if found and len(found) < len(names):
        left_out["image of another name"] = len(names) - len(found)
    return found


def why_left_out(name: str) -> str | None:
    """Tell why a file or folder of this name is left out.

    Returns
    -------
    str or None
        The reason; None if the file may hold an image; an empty string if the user need not know.
    """
    if name.lower() in (*_SYSTEM, ".thumbnails"):
        return name
    if name.startswith("."):
        return "hidden image" if is_image(name) else ""
    try:
        name.encode()
    except UnicodeEncodeError:  # every id must be text in UTF-8
        return "name that is not UTF-8"
    return None


def _why_not_read(entry: os.DirEntry[str]) -> str | None:
    """Tell why an entry is neither a folder to enter nor an image; None if it is one of them."""
    try:
        if entry.is_dir(follow_symlinks=False):
            return None
        if entry.is_symlink() and entry.is_dir():
            return "link to a folder"
        if not entry.is_file():
            return "broken link" if entry.is_symlink() else "special file"
    except OSError:  # a link that points to itself
        return "broken link"
    return None if is_image(entry.name) else _ending_of(entry.name)


def members(names: Iterable[str], left_out: LeftOut, beside: tuple[str, ...] = ()) -> list[str]:
    """List the images in an archive.

    Parameters
    ----------
    names : Iterable[str]
        Names of all members.
    left_out : Counter
        Counts the other members, by reason.
    beside : tuple[str, ...], default ()
        Endings of members that are not counted, such as labels.

    Returns
    -------
    list[str]
        Names of the images.
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
    """List the left-out files, the most frequent first.

    An example is ``3 .heic, 2 broken links, 1 link to a folder``.
    """
    counts = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(
        f"{n} {_SEVERAL.get(reason, reason) if n > 1 else reason}" for reason, n in counts
    )


def _ending_of(name: str) -> str:
    return PurePosixPath(name).suffix.lower() or "file without an ending"


def is_image(name: str) -> bool:
    """Tell whether a file name ends like an image."""
    return name.lower().endswith(EXTENSIONS)


def by_id(names: Iterable[str], naming: Naming) -> dict[str, str]:
    """Map ids to file names.

    Raises
    ------
    ValueError
        If two names have the same id.
    """
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
    """Return a file's name without folders and ending."""
    return PurePosixPath(name).stem


def only_file(root: Path, pattern: str) -> Path | None:
    """Return ``root`` itself, or the only file directly in it, that matches the pattern; else None.

    Raises
    ------
    ValueError
        If several files match.
    """
    if root.is_file():
        return root if root.match(pattern) else None
    found = sorted(root.glob(pattern))
    if len(found) > 1:
        raise ValueError(
            f"'{root}' holds {', '.join(path.name for path in found)}; "
            "set data.root to one of these files"
        )
    return found[0] if found else None
