"""ZIP files as the tools of EDM and StyleGAN write them (Karras et al. 2022, ``dataset_tool.py``)."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

from datasets.source import Layout, Naming, Source, by_id, is_image, only_file


class Zip(Source):
    """Images in a ZIP file, with the labels of its ``dataset.json``: ``{"labels": [[file name, class], ...]}``.

    Labels count the sorted class folders the file was made from, so those of ImageNet follow the sorted wnids. A file
    made without class folders says ``null`` and has no labels.
    """

    def __init__(self, path: Path, naming: Naming):
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
            names = self._zip.namelist()
            self._labels = _labels(json.loads(self._zip.read("dataset.json"))) if "dataset.json" in names else {}
        except (OSError, zipfile.BadZipFile, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"cannot read {path} as a ZIP file of EDM or StyleGAN: {error}") from error
        self._names = by_id(filter(is_image, names), naming)
        self.ids = tuple(sorted(self._names))
        self.labelled = bool(self._labels)

    def stored(self, image: str) -> bytes:
        try:
            return self._zip.read(self._names[image])
        except zipfile.BadZipFile as error:
            raise OSError(str(error)) from error

    def file(self, image: str) -> tuple[str, str]:
        return str(self.path), self._names[image]

    def where(self, image: str) -> str:
        return f"{self.path}/{self._names[image]}"

    def label(self, image: str) -> int:
        try:
            return self._labels[self._names[image]]
        except KeyError:
            raise ValueError(f"dataset.json in {self.path} has no label for '{self._names[image]}'") from None


def edm_zip(naming: Naming) -> Layout:
    """A ZIP file, or a folder that holds one."""

    def find(root: Path) -> Source | None:
        path = only_file(root, "*.zip")
        return None if path is None else Zip(path, naming)

    return Layout("a ZIP file of images, with dataset.json for labels", find)


def _labels(content: Mapping[str, list[list[object]] | None]) -> dict[str, int]:
    entries = content.get("labels") or []
    if not all(isinstance(label, int) for _, label in entries):
        raise ValueError("the labels of dataset.json must be whole numbers")
    return {str(name): label for name, label in entries if isinstance(label, int)}
