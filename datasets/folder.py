"""A folder of image files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from datasets.pixels import EXTENSIONS as EXTENSIONS
from datasets.source import Files, Layout, Source, walk
from datasets.stored import Stored


@dataclass
class Folder(Stored):
    """Every image below a folder, cropped and resized to one size; ids are POSIX paths relative to the folder.

    Ids are in string order, in which ``10.png`` comes before ``2.png``. Hidden files are left out, links to folders are
    not followed. No labels. Settings, errors and the name are those of :class:`datasets.stored.Stored`.

    Parameters
    ----------
    root: the folder. size: both sides of the images, in pixels. mode: ``rgb`` or ``grey``. crop: ``guided``, ``edm`` or
    ``bicubic``, see datasets/crops.py. part, id_list, subset, subset_seed, protocol: which of the images; docs/data.md.
    """

    kind: ClassVar[str] = "folder"
    what: ClassVar[str] = "images"

    size: int = 64

    def layouts(self) -> dict[str, Layout]:
        return {"folder": Layout(f"{', '.join(EXTENSIONS)} at any depth", _find)}


def _find(root: Path) -> Source | None:
    return Files(root, {path: path for path in walk(root)}) if root.is_dir() else None
