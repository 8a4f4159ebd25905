"""Webdataset shards: tar files in which the files of one sample follow each other and share a key."""

from __future__ import annotations

import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

from datasets.source import Layout, Naming, Source, by_id, is_image, stem

_LABELS = (".cls", ".json")


@dataclass(frozen=True)
class _Member:
    """A file within a shard: its place there."""

    shard: Path
    name: str
    offset: int
    size: int

    def read(self) -> bytes:
        with self.shard.open("rb") as file:
            file.seek(self.offset)
            content = file.read(self.size)
        if len(content) < self.size:
            raise OSError("the shard is cut short")
        return content


class Shards(Source):
    """Images of tar shards: ``<key>.jpg`` with ``<key>.cls``, a number, or ``<key>.json`` with ``label`` or ``cls``.

    Only headers are read to list them. Ids are made from the keys and sorted; the order of the shards does not matter.
    """

    def __init__(self, shards: list[Path], naming: Naming):
        members = {f"{m.shard}/{m.name}": m for shard in shards for m in _members(shard)}
        names = by_id((name for name in members if is_image(name)), naming)
        self._images = {image: members[name] for image, name in names.items()}
        self._keyed = {name: member for name, member in members.items() if name.endswith(_LABELS)}
        self.ids = tuple(sorted(names))
        self.labelled = bool(self._keyed)

    def stored(self, image: str) -> bytes:
        return self._images[image].read()

    def file(self, image: str) -> tuple[str, str]:
        return str(self._images[image].shard), self._images[image].name

    def where(self, image: str) -> str:
        return f"{self._images[image].shard}/{self._images[image].name}"

    def label(self, image: str) -> int:
        key = self.where(image).rpartition(".")[0]
        try:
            if f"{key}.cls" in self._keyed:
                return int(self._keyed[f"{key}.cls"].read())
            content = json.loads(self._keyed[f"{key}.json"].read())
            return int(content["label"] if "label" in content else content["cls"])
        except (KeyError, ValueError, TypeError) as error:
            raise ValueError(f"image '{self.where(image)}' has no label: neither .cls nor label in .json") from error


def webdataset(naming: Naming) -> Layout:
    """One tar file, or a folder of them; of several splits, the files that say ``val``."""

    def find(root: Path) -> Source | None:
        shards = [root] if root.suffix == ".tar" else sorted(root.glob("*.tar")) if root.is_dir() else []
        shards = [s for s in shards if "val" in stem(s.name).lower()] or shards
        return Shards(shards, naming) if shards else None

    return Layout("webdataset shards *.tar with <key>.jpg and <key>.cls", find)


def _members(shard: Path) -> list[_Member]:
    """The files of a shard, hidden ones left out."""
    try:
        with tarfile.open(shard, "r:") as tar:
            files = [_Member(shard, m.name, m.offset_data, m.size) for m in tar if m.isfile()]
    except (OSError, tarfile.TarError) as error:
        raise ValueError(f"cannot read the shard {shard}: {error}; fetch it again") from error
    return [file for file in files if not file.name.rpartition("/")[2].startswith(".")]
