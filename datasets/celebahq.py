"""Read CelebA-HQ (Karras et al., 2018) and CelebAMask-HQ (Lee et al., 2020): 30 000 portraits."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from typing_extensions import override

from posterior_bench.datasets.edm_zip import edm_zip
from posterior_bench.datasets.parquet import parquet
from posterior_bench.datasets.source import Files, Layout, Source, by_id, stem, walk, walk_named
from posterior_bench.datasets.stored import Stored

_PADDED = re.compile(r"\d{5}")


@dataclass
class CelebAHQ(Stored):
    """CelebA-HQ without labels.

    Ids are the numbers of the images, ``00000`` to ``29999``, in every layout. Layouts:
    ``celebamask`` (``CelebA-HQ-img/0.jpg``), ``numbered`` (files named by that number), ``data256``
    (the package ``data256x256``, which counts from 1: its ``00001.jpg`` is image 0, as in LaMa's
    lists), ``parquet`` and ``zip``; docs/data.md describes them. Other settings, the errors and the
    name are those of :class:`datasets.stored.Stored`.

    Parameters
    ----------
    root : str
        The folder or file that holds the images.
    crop : str, default 'bicubic'
        ``guided``, ``edm`` or ``bicubic``, see datasets/crops.py.

    Notes
    -----
    With ``layout=auto``, five-digit names count from 1 if ``00000`` is missing and ``00001`` or
    ``30000`` exists. If no name decides, an error asks for the layout.
    """

    kind: ClassVar[str] = "celebahq"
    what: ClassVar[str] = "CelebA-HQ images"

    crop: str = "bicubic"

    @override
    def layouts(self) -> dict[str, Layout]:
        return {
            "celebamask": Layout("CelebA-HQ-img/<n>.jpg", self._celebamask),
            "data256": Layout(
                "00001.jpg to 30000.jpg, counted from 1", partial(self._flat, from_one=True)
            ),
            "numbered": Layout(
                "<n>.jpg or .png, counted from 0", partial(self._flat, from_one=False)
            ),
            "parquet": parquet(self.id_of),
            "zip": edm_zip(self.id_of),
        }

    @override
    def id_of(self, name: str) -> str:
        return numbered(name)

    def _celebamask(self, root: Path) -> Source | None:
        folder = root if root.name == "CelebA-HQ-img" else root / "CelebA-HQ-img"
        if not folder.is_dir():
            return None
        left_out = Counter[str]()
        return Files(folder, by_id(walk(folder, left_out), numbered), left_out=left_out)

    def _flat(self, root: Path, from_one: bool) -> Source | None:
        """Find files named by their number, counted from 1 or from 0."""
        left_out = Counter[str]()
        names = walk_named(root, str.isdigit, left_out)
        numbers = {stem(name) for name in names}
        if self.layout == "auto" and names and _counts_from_one(numbers, root) != from_one:
            return None
        naming: Callable[[str], str] = _numbered_from_one if from_one else numbered
        return Files(root, by_id(names, naming), left_out=left_out)


def numbered(name: str) -> str:
    """Return the number at the end of a file's name in five digits, else the name."""
    match = re.search(r"\d+$", stem(name))
    return f"{int(match.group()):05d}" if match else stem(name)


def _numbered_from_one(name: str) -> str:
    number = int(stem(name))
    if number == 0:
        raise ValueError(
            f"'{name}' is image 0, but the layout data256 counts from 1; set data.layout=numbered"
        )
    return f"{number - 1:05d}"


def _counts_from_one(numbers: set[str], root: Path) -> bool:
    if "00000" in numbers or not all(_PADDED.fullmatch(number) for number in numbers):
        return False
    if numbers & {"00001", "30000"}:
        return True
    raise ValueError(
        f"the file names in '{root}' have five digits, which may count from 0 or, in the package "
        "data256x256, from 1; set data.layout=numbered or data.layout=data256"
    )
