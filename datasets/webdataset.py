"""Read webdataset shards: tar files in which the files of one sample share a key."""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import override

from posterior_bench.datasets.limits import LARGEST, demand_moderate
from posterior_bench.datasets.source import Layout, Naming, Source, by_id, members, stem
from posterior_bench.datasets.text import decoded

_LABELS = (".cls", ".json")
_BESIDE = (*_LABELS, ".txt")
_SIDECAR = 2**24


@dataclass(frozen=True)
class _Member:
    """File in a shard and its position there."""

    shard: Path
    name: str
    offset: int
    size: int

    def read(self, largest: int = LARGEST) -> bytes:
        demand_moderate(self.size, "it", largest)
        with self.shard.open("rb") as file:
            file.seek(self.offset)
            content = file.read(self.size)
        if len(content) < self.size:
            raise OSError("the shard is cut short")
        return content


class Shards(Source):
    """Images in tar shards.

    A sample is ``<key>.jpg`` (or another image) with ``<key>.cls``, which holds a number, or
    ``<key>.json`` with ``label`` or ``cls``. Only the headers are read to list the images. Ids are
    made from the keys and sorted, so the order of the shards does not matter.

    Parameters
    ----------
    shards : list[Path]
        The tar files.
    naming : Callable[[str], str]
        Function that returns the id for a file name.

    Raises
    ------
    ValueError
        If a shard cannot be read, and if two file names have the same id.
    """

    def __init__(self, shards: list[Path], naming: Naming):
        left_out = self.left_out = Counter[str]()
        every = {shard: {m.name: m for m in _members(shard)} for shard in shards}
        found = {
            f"{shard}/{name}": every[shard][name]
            for shard in shards
            for name in members(every[shard], left_out, _BESIDE)
        }
        names = by_id(found, naming)
        self._images = {image: found[name] for image, name in names.items()}
        self._keyed = {
            f"{m.shard}/{m.name}": m
            for there in every.values()
            for m in there.values()
            if m.name.endswith(_LABELS)
        }
        self.ids = tuple(sorted(names))
        self.labelled = bool(self._keyed)

    @override
    def stored(self, image: str) -> bytes:
        return self._images[image].read()

    @override
    def file(self, image: str) -> tuple[str, str]:
        return str(self._images[image].shard), self._images[image].name

    @override
    def where(self, image: str) -> str:
        return f"{self._images[image].shard}/{self._images[image].name}"

    @override
    def label(self, image: str) -> int:
        key = self.where(image).rpartition(".")[0]
        try:
            if f"{key}.cls" in self._keyed:
                return int(decoded(self._keyed[f"{key}.cls"].read(_SIDECAR)))
            content = json.loads(decoded(self._keyed[f"{key}.json"].read(_SIDECAR)))
            label = content["label"] if "label" in content else content["cls"]
        except (KeyError, ValueError, TypeError, RecursionError) as error:
            raise ValueError(
                f"image '{self.where(image)}' has no label: neither .cls nor label in .json"
            ) from error
        if isinstance(label, str) and label.strip().isdecimal():
            return int(label)
        if type(label) is not int:
            raise ValueError(
                f"image '{self.where(image)}' has the label {label!r:.40}, not a whole number"
            )
        return label


def webdataset(naming: Naming) -> Layout:
    """Return the layout of one tar file or of a folder of tar files.

    If the names of some files contain ``val``, only these are read.
    """

    def find(root: Path) -> Source | None:
        shards = [root] if root.suffix == ".tar" else sorted(root.glob("*.tar"))
        shards = [s for s in shards if "val" in stem(s.name).lower()] or shards
        return Shards(shards, naming) if shards else None

    return Layout("webdataset shards *.tar with <key>.jpg and <key>.cls", find)


def _members(shard: Path) -> list[_Member]:
    """List the files in a shard."""
    try:
        with tarfile.open(shard, "r:") as tar:
            return [_Member(shard, m.name, m.offset_data, m.size) for m in tar if m.isfile()]
    except (OSError, tarfile.TarError) as error:
        raise ValueError(f"cannot read the shard {shard}: {error}; fetch it again") from error
