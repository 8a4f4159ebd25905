"""Read LSUN (Yu et al., 2015): photographs of scenes, one category at a time."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from typing_extensions import override

from posterior_bench.datasets.source import Files, Layout, Source, by_id, stem, walk_named
from posterior_bench.datasets.stored import Stored
from posterior_bench.datasets.webdataset import webdataset

_KEY = re.compile(r"[0-9a-f]{40}")


@dataclass
class LSUN(Stored):
    """One category of LSUN without labels.

    Ids are LSUN's keys of 40 hexadecimal digits, sorted, in every layout. Layouts: ``lmdb`` (as
    downloaded; needs the optional package ``lmdb``, and writes nothing beside the files),
    ``exported`` images, and ``webdataset``; docs/data.md describes them. Other settings, the errors
    and the name are those of :class:`datasets.stored.Stored`.

    Parameters
    ----------
    root : str
        The database or folder ``<category>_<split>_lmdb``, or the folder that holds it.
    category : str, default 'church_outdoor'
        ``church_outdoor``, ``bedroom`` or another category.
    split : str, default 'val'
        ``val`` or ``train``.
    crop : str, default 'bicubic'
        ``guided``, ``edm`` or ``bicubic``, see datasets/crops.py.

    Raises
    ------
    ImportError
        If there is a database but the package ``lmdb`` is missing.

    Notes
    -----
    The official validation split has 300 images. The validation split of latent diffusion is a list
    of other images; give it as ``id_list``.
    """

    kind: ClassVar[str] = "lsun"
    what: ClassVar[str] = "LSUN images"

    crop: str = "bicubic"
    category: str = "church_outdoor"
    split: str = "val"

    @override
    def layouts(self) -> dict[str, Layout]:
        name = f"{self.category}_{self.split}"
        return {
            "lmdb": Layout(f"{name}_lmdb/data.mdb, or data.mdb", self._lmdb),
            "webdataset": webdataset(self.id_of),
            "exported": Layout(
                "<key>.webp at any depth, keys of 40 hexadecimal digits", self._exported
            ),
        }

    @override
    def id_of(self, name: str) -> str:
        return stem(name)

    def _lmdb(self, root: Path) -> Source | None:
        folders = (root / f"{self.category}_{self.split}_lmdb", root)
        folder = next((folder for folder in folders if (folder / "data.mdb").is_file()), None)
        return None if folder is None else Database(folder)

    def _exported(self, root: Path) -> Source | None:
        own = root / f"{self.category}_{self.split}"
        folder = own if own.is_dir() else root
        left_out = Counter[str]()
        names = walk_named(folder, lambda name: _KEY.fullmatch(name) is not None, left_out)
        return Files(folder, by_id(names, self.id_of), left_out=left_out)


class Database(Source):
    """LMDB of encoded images, opened for reading and without a lock.

    Nothing is written beside it.

    Parameters
    ----------
    folder : Path
        The folder that holds ``data.mdb``.

    Raises
    ------
    ImportError
        Without the package ``lmdb``.
    ValueError
        If the database cannot be read.
    """

    def __init__(self, folder: Path):
        self.folder, self._environment = folder, _open(folder.resolve())
        with self._environment.begin() as transaction:
            self.ids = tuple(
                key.decode("ascii", "replace")
                for key in transaction.cursor().iternext(values=False)
            )

    @override
    def stored(self, image: str) -> bytes:
        with self._environment.begin() as transaction:
            return bytes(transaction.get(image.encode("ascii")))

    @override
    def file(self, image: str) -> tuple[str, str]:
        return str(self.folder / "data.mdb"), image

    @override
    def where(self, image: str) -> str:
        return f"{self.folder}, key {image}"


@cache
def _open(folder: Path) -> Any:
    """Open a database; one process may open it only once."""
    try:
        import lmdb  # an optional package
    except ImportError as error:
        raise ImportError(
            f'lmdb cannot be imported ({error}); pip install "posterior-bench[lsun]"'
        ) from None
    try:
        return lmdb.open(str(folder), readonly=True, lock=False, readahead=False, create=False)
    except lmdb.Error as error:
        raise ValueError(f"cannot read the database {folder}: {error}; fetch it again") from error
