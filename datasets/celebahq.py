"""CelebA-HQ (Karras et al. 2018): 30 000 portraits, also as CelebAMask-HQ (Lee et al. 2020)."""

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
    """CelebA-HQ; ids are the numbers of the images, ``00000`` to ``29999``, in every layout; no
    labels.

    Layouts: ``celebamask`` (``CelebA-HQ-img/0.jpg``), ``numbered`` (files called by that number)
    and ``data256``, the package ``data256x256``, whose files count from 1: its ``00001.jpg`` is
    image 0, as in LaMa's lists. ``auto`` takes five-digit names for the latter only where ``00000``
    is not among them and ``00001`` or ``30000`` is, and asks where neither says. Also ``parquet``
    and ``zip``; docs/data.md describes them. Settings, errors and the name are those of
    :class:`datasets.stored.Stored`.

    Parameters
    ----------
    root : str
        The folder or file.
    layout, size, mode, crop, part, id_list, subset, subset_seed, protocol : str or int or str | None or int | None, default 'auto', 256, 'rgb', 'bicubic', None, 0
        As there.
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
        """Files called by their number, the count starting at one or at zero."""
        left_out = Counter[str]()
        names = walk_named(root, str.isdigit, left_out)
        if (
            self.layout == "auto"
            and names
            and _counts_from_one({stem(name) for name in names}, root) != from_one
        ):
            return None
        naming: Callable[[str], str] = _numbered_from_one if from_one else numbered
        return Files(root, by_id(names, naming), left_out=left_out)


def numbered(name: str) -> str:
    """The number at the end of a file's name in five digits, or the name where there is none."""
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
        f"the files in '{root}' have five digits, which may count from 0 or, in the package "
        f"data256x256, from 1; "
        "set data.layout=numbered or data.layout=data256"
    )
