"""A folder of image files."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from typing_extensions import override

from posterior_bench.datasets.pixels import EXTENSIONS as EXTENSIONS
from posterior_bench.datasets.source import Files, Layout, Source, walk
from posterior_bench.datasets.stored import Stored


@dataclass
class Folder(Stored):
    """Every image below a folder, cropped and resized to one size; ids are POSIX paths relative to
    the folder.

    Ids are in string order, in which ``10.png`` comes before ``2.png``. Hidden files and thumbnails
    are left out, links to folders are not followed. EXIF tags turn the photographs upright. No
    labels. Settings, errors and the name are those of :class:`datasets.stored.Stored`.

    Parameters
    ----------
    root : str
        The folder.
    size : int, default None
        Both sides of the images, in pixels; None is 64.
    mode : str, default None
        ``rgb`` or ``grey``; None is ``rgb``. In a run, None of either is what the prior is made
        for.
    crop : str, default 'guided'
        ``guided``, ``edm`` or ``bicubic``, see datasets/crops.py.
    part, id_list, subset, subset_seed, protocol : str | None or int | None or int, default None, 0
        Which of the images; docs/data.md.
    """

    kind: ClassVar[str] = "folder"
    what: ClassVar[str] = "images"
    upright: ClassVar[bool] = True

    size: int = None  # type: ignore[assignment]
    mode: str = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        self.size = 64 if self.size is None else self.size
        self.mode = "rgb" if self.mode is None else self.mode
        super().__post_init__()

    @override
    def layouts(self) -> dict[str, Layout]:
        return {"folder": Layout(f"{', '.join(EXTENSIONS)} at any depth", _find)}


def _find(root: Path) -> Source | None:
    if not root.is_dir():
        return None
    left_out = Counter[str]()
    return Files(root, {path: path for path in walk(root, left_out)}, left_out=left_out)
