"""Read CelebA (Liu et al., 2015): 202 599 aligned portraits of 178 x 218 pixels."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from typing_extensions import override

from posterior_bench.datasets.source import Files, Layout, Source, by_id, stem, walk_named
from posterior_bench.datasets.stored import Stored

_FOLDER = "img_align_celeba"
SPLITS = {
    "train": range(1, 162_771),
    "val": range(162_771, 182_638),
    "test": range(182_638, 202_600),
    "all": range(1, 202_600),
}
"""The numbers of the official partition, ``list_eval_partition.txt``."""


@dataclass
class CelebA(Stored):
    """CelebA without labels: the aligned and cropped images.

    Ids are the numbers of the images, ``000001`` to ``202599``. The layout ``aligned`` is the
    folder ``img_align_celeba`` or another folder of files named by that number. Other settings, the
    errors and the name are those of :class:`datasets.stored.Stored`.

    Parameters
    ----------
    root : str
        The folder ``img_align_celeba``, or the folder that holds it.
    split : str, default 'test'
        ``train``, ``val``, ``test`` (from ``182638`` on) or ``all``.
    crop : str, default 'square_bilinear'
        A crop of datasets/crops.py.

    Raises
    ------
    ValueError
        For an unknown split.
    """

    kind: ClassVar[str] = "celeba"
    what: ClassVar[str] = "CelebA images"

    crop: str = "square_bilinear"
    split: str = "test"

    @override
    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"unknown split '{self.split}'; valid: {', '.join(SPLITS)}")
        super().__post_init__()

    @override
    def layouts(self) -> dict[str, Layout]:
        wanted = f"{_FOLDER}/<n>.jpg with n in {self.split}, or such files at any depth"
        return {"aligned": Layout(wanted, self._aligned)}

    @override
    def id_of(self, name: str) -> str:
        return f"{int(stem(name)):06d}" if stem(name).isdigit() else stem(name)

    def _aligned(self, root: Path) -> Source | None:
        folder = root / _FOLDER if (root / _FOLDER).is_dir() else root
        left_out = Counter[str]()
        numbers = SPLITS[self.split]
        names = walk_named(folder, str.isdigit, left_out)
        inside = [name for name in names if int(stem(name)) in numbers]
        return Files(folder, by_id(inside, self.id_of), left_out=left_out)
