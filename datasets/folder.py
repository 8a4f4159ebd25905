"""Read a folder of image files."""

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
    """All images below a folder, cropped and resized to one size, without labels.

    Ids are POSIX paths relative to the folder, in string order, in which ``10.png`` comes before
    ``2.png``. Hidden files and thumbnails are left out; links to folders are not followed.
    Photographs are turned upright according to their EXIF tags. Other settings, the errors and the
    name are those of :class:`datasets.stored.Stored`.

    Parameters
    ----------
    root : str
        The folder.
    size : int, default None
        Both sides of the images in pixels. None takes the size of the prior in a run, otherwise 64.
    mode : str, default None
        ``rgb`` or ``grey``. None takes the mode of the prior in a run, otherwise ``rgb``.
    crop : str, default 'guided'
        ``guided``, ``edm`` or ``bicubic``, see datasets/crops.py.
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
