"""Read FFHQ (Karras et al., 2019): 70 000 portraits."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from typing_extensions import override

from posterior_bench.datasets.celebahq import numbered
from posterior_bench.datasets.edm_zip import edm_zip
from posterior_bench.datasets.parquet import parquet
from posterior_bench.datasets.source import Files, Layout, Source, by_id, walk_named
from posterior_bench.datasets.stored import Stored
from posterior_bench.datasets.webdataset import webdataset

_FOLDERS = ("images1024x1024", "thumbnails128x128")


@dataclass
class FFHQ(Stored):
    """FFHQ without labels.

    Ids are the numbers of the images, ``00000`` to ``69999``, in every layout. Layouts: ``folders``
    (``images1024x1024``, ``thumbnails128x128`` or any folder of files named by their number, with
    or without folders of a thousand), ``zip`` (``00000/img00000000.png``), ``parquet`` and
    ``webdataset``; docs/data.md describes them. Other settings, the errors and the name are those
    of :class:`datasets.stored.Stored`.

    Parameters
    ----------
    root : str
        The folder or file that holds the images.
    crop : str, default 'bicubic'
        ``guided``, ``edm`` or ``bicubic``, see datasets/crops.py.
    """

    kind: ClassVar[str] = "ffhq"
    what: ClassVar[str] = "FFHQ images"

    crop: str = "bicubic"

    @override
    def layouts(self) -> dict[str, Layout]:
        return {
            "folders": Layout(f"{', '.join(_FOLDERS)} or other folders of <n>.png", self._folders),
            "zip": edm_zip(self.id_of),
            "parquet": parquet(self.id_of),
            "webdataset": webdataset(self.id_of),
        }

    @override
    def id_of(self, name: str) -> str:
        return numbered(name)

    def _folders(self, root: Path) -> Source | None:
        folder = next((root / name for name in _FOLDERS if (root / name).is_dir()), root)
        left_out = Counter[str]()
        names = walk_named(folder, str.isdigit, left_out)
        return Files(folder, by_id(names, numbered), left_out=left_out)
