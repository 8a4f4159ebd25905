"""Read ZIP files of the tools of EDM and StyleGAN (``dataset_tool.py``; Karras et al., 2022)."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from typing_extensions import override

from posterior_bench.datasets.limits import demand_moderate, demand_text
from posterior_bench.datasets.source import Layout, Naming, Source, by_id, members, only_file
from posterior_bench.datasets.text import decoded

_UNREADABLE = (
    *(OSError, zipfile.BadZipFile, zlib.error),
    *(ValueError, KeyError, TypeError, RuntimeError),
)


class Zip(Source):
    """Images in a ZIP file with the labels of its ``dataset.json``.

    The file holds ``{"labels": [[file name, class], ...]}``. Labels count the sorted class folders
    from which the ZIP file was made; labels of ImageNet therefore follow the sorted wnids. A ZIP
    file made without class folders holds ``null`` and has no labels.

    Parameters
    ----------
    path : Path
        The ZIP file.
    naming : Callable[[str], str]
        Function that returns the id for a file name.

    Raises
    ------
    ValueError
        If the file cannot be read, and if two file names have the same id.
    """

    def __init__(self, path: Path, naming: Naming):
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
            names = self._zip.namelist()
            self._labels = _labels(self._json()) if "dataset.json" in names else {}
        except _UNREADABLE as error:
            raise ValueError(
                f"cannot read {path} as a ZIP file of EDM or StyleGAN: {error}"
            ) from error
        left_out = self.left_out = Counter[str]()
        self._names = by_id(members(names, left_out, (".json",)), naming)
        self.ids = tuple(sorted(self._names))
        self.labelled = bool(self._labels)

    def _json(self) -> Any:
        demand_text(self._zip.getinfo("dataset.json").file_size, "dataset.json")
        return json.loads(decoded(self._zip.read("dataset.json")))

    @override
    def stored(self, image: str) -> bytes:
        demand_moderate(self._zip.getinfo(self._names[image]).file_size, "it")
        try:
            return self._zip.read(self._names[image])
        except (zipfile.BadZipFile, RuntimeError) as error:  # damaged, or with a password
            raise OSError(str(error)) from error

    @override
    def file(self, image: str) -> tuple[str, str]:
        return str(self.path), self._names[image]

    @override
    def where(self, image: str) -> str:
        return f"{self.path}/{self._names[image]}"

    @override
    def label(self, image: str) -> int:
        try:
            return self._labels[self._names[image]]
        except KeyError:
            raise ValueError(
                f"dataset.json in {self.path} has no label for '{self._names[image]}'"
            ) from None


def edm_zip(naming: Naming) -> Layout:
    """Return the layout of a ZIP file, or of a folder that holds one."""

    def find(root: Path) -> Source | None:
        path = only_file(root, "*.zip")
        return None if path is None else Zip(path, naming)

    return Layout("a ZIP file of images, with dataset.json for labels", find)


def _labels(content: Mapping[str, list[list[object]] | None]) -> dict[str, int]:
    entries = content.get("labels") or []
    if not all(type(label) is int for _, label in entries):
        raise ValueError("the labels of dataset.json must be whole numbers")
    return {str(name): label for name, label in entries if isinstance(label, int)}
