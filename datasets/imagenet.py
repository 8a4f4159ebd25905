"""Read the ImageNet validation images of ILSVRC 2012 (Russakovsky et al., 2015)."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import ClassVar

from typing_extensions import override

from posterior_bench.datasets.devkit import Devkit
from posterior_bench.datasets.edm_zip import edm_zip
from posterior_bench.datasets.npz import npz
from posterior_bench.datasets.parquet import parquet
from posterior_bench.datasets.source import Files, Layout, LeftOut, Source, by_id, stem, walk
from posterior_bench.datasets.stored import Stored
from posterior_bench.datasets.text import read_text
from posterior_bench.datasets.webdataset import webdataset

_WNIDS = Path(__file__).parent / "assets" / "imagenet-wnids.txt"
_VALIDATION = re.compile(r"ILSVRC2012_val_\d{8}")
_WNID = re.compile(r"n\d{8}")
_KAGGLE = Path("ILSVRC", "Data", "CLS-LOC", "val")


@dataclass
class ImageNet(Stored):
    """Validation images of ILSVRC 2012 with labels 0 to 999.

    A label is the position of the class in the sorted wnids (``n01440764`` is 0). Ids are
    ``ILSVRC2012_val_00000001`` and so on in every layout that keeps the file names, so a folder,
    Parquet files and shards give the same images, masks and noise. The numbers do not follow the
    classes. Layouts: ``folders``, ``kaggle``, ``devkit``, ``parquet``, ``webdataset``, ``zip``,
    ``npz``; docs/data.md describes them. Other settings, the errors and the name are those of
    :class:`datasets.stored.Stored`.

    Parameters
    ----------
    root : str
        The folder or file that holds the images.
    devkit : str | None, default None
        The folder ``ILSVRC2012_devkit_t12`` or its tar.gz, which holds the labels of a flat folder
        of images. None looks in and beside the root.
    labelled : bool, default True
        False uses no labels, and reads folders that have none, such as the test split. A prior with
        classes is then asked with its null class.
    """

    kind: ClassVar[str] = "imagenet"
    what: ClassVar[str] = "ImageNet images"
    classes: ClassVar[int] = 1000

    devkit: str | None = None
    labelled: bool = True

    @property
    def class_names(self) -> tuple[str, ...]:
        """Return the names of the classes in the order of the labels.

        They are the names that torchvision records with its classifiers.
        """
        from torchvision.models import ResNet50_Weights  # takes seconds to import

        return tuple(ResNet50_Weights.IMAGENET1K_V1.meta["categories"])

    @override
    def layouts(self) -> dict[str, Layout]:
        return {
            "folders": Layout("val/<wnid>/*.JPEG, or <wnid>/*.JPEG", self._folders),
            "kaggle": Layout(f"LOC_val_solution.csv and {_KAGGLE.as_posix()}/*.JPEG", self._kaggle),
            "devkit": Layout(
                "ILSVRC2012_val_*.JPEG, flat or in val/, and ILSVRC2012_devkit_t12", self._flat
            ),
            "parquet": parquet(self.id_of),
            "webdataset": webdataset(self.id_of),
            "zip": edm_zip(self.id_of),
            "npz": npz(self._class_of_ilsvrc_ids),
        }

    @override
    def _classes_in_use(self) -> int:
        return super()._classes_in_use() if self.labelled else 0

    @override
    def id_of(self, name: str) -> str:
        match = _VALIDATION.search(name)
        return match.group() if match else stem(name)

    def _folders(self, root: Path) -> Source | None:
        """Find class folders, the layout of torchvision's ``ImageFolder``."""
        for folder in (root / "val", root / _KAGGLE, root):
            wnids = [path.name for path in _folders(folder) if _WNID.fullmatch(path.name)]
            if wnids:
                _demand_known(wnids, folder)
                left_out = Counter[str]()
                names = (
                    f"{wnid}/{path}" for wnid in wnids for path in walk(folder / wnid, left_out)
                )
                paths = by_id(names, self.id_of)
                return Files(folder, paths, partial(_labels_by_folder, paths), left_out)
        return None

    def _kaggle(self, root: Path) -> Source | None:
        """Find the layout of the Kaggle competition, which keeps the labels in a table."""
        table = root / "LOC_val_solution.csv"
        if not table.is_file():
            return None
        folder = root / _KAGGLE
        if not folder.is_dir():
            raise ValueError(f"there is {table}, but no folder {folder} with the images")
        left_out = Counter[str]()
        return Files(
            folder,
            by_id(_flat(folder, left_out), self.id_of),
            partial(_labels_by_table, table),
            left_out,
        )

    def _flat(self, root: Path) -> Source | None:
        """Find the validation images in one folder; the devkit holds their labels."""
        for folder in (root / "val", root / "ILSVRC2012_img_val", root / _KAGGLE, root):
            left_out = Counter[str]()
            names = [name for name in _flat(folder, left_out) if _VALIDATION.match(name)]
            if names:
                paths = by_id(names, self.id_of)
                highest = max(int(image[-8:]) for image in paths)
                labels = self._labels_by_number(highest) if self.labelled else None
                return Files(folder, paths, labels, left_out)
        return None

    def _labels_by_number(self, highest: int) -> dict[str, int]:
        """Return the labels of the validation images by id.

        A devkit with labels for fewer than ``highest`` images is refused here, before any work.
        """
        devkit = self._devkit()
        classes, truth = self._class_of_ilsvrc_ids(), devkit.ground_truth()
        if highest > len(truth):
            raise ValueError(
                f"{devkit.path} has labels of {len(truth)} images, but there is number {highest}"
            )
        return {
            f"ILSVRC2012_val_{number:08d}": classes[label - 1]
            for number, label in enumerate(truth, 1)
        }

    def _class_of_ilsvrc_ids(self) -> Sequence[int]:
        """Return the class of the ILSVRC ids 1 to 1000, whose order is another."""
        index = _class_of_wnids()
        devkit = self._devkit()
        wnids = devkit.wnids()
        if sorted(wnids) != sorted(index):
            raise ValueError(
                f"the classes in {devkit.path} are not those of ILSVRC 2012; "
                "give ILSVRC2012_devkit_t12"
            )
        return [index[wnid] for wnid in wnids]

    def _devkit(self) -> Devkit:
        return Devkit.find(self.devkit, Path(self.root).expanduser())


@cache
def _class_of_wnids() -> dict[str, int]:
    return {wnid: i for i, wnid in enumerate(_WNIDS.read_text(encoding="utf-8").split())}


def _labels_by_folder(paths: dict[str, str]) -> dict[str, int]:
    index = _class_of_wnids()
    return {image: index[path.partition("/")[0]] for image, path in paths.items()}


def _labels_by_table(table: Path) -> dict[str, int]:
    """Read a table ``ImageId,PredictionString`` whose second column starts with the wnid."""
    index = _class_of_wnids()
    try:
        lines = csv.DictReader(io.StringIO(read_text(table), newline=""))
        rows = [(row["ImageId"], row["PredictionString"].split()[0]) for row in lines]
        return {image: index[wnid] for image, wnid in rows}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"cannot read the labels in {table}: {error}") from None
    except (KeyError, IndexError, AttributeError) as error:
        raise ValueError(
            f"{table} needs the columns ImageId and PredictionString, which starts with a wnid of "
            f"ILSVRC 2012; wrong: {error}"
        ) from None


def _demand_known(wnids: Sequence[str], folder: Path) -> None:
    unknown = sorted(set(wnids) - _class_of_wnids().keys())
    if unknown:
        raise ValueError(
            f"'{folder / unknown[0]}' is not one of the 1000 classes of ILSVRC 2012; remove it"
        )


def _folders(root: Path) -> list[Path]:
    return [path for path in root.iterdir() if path.is_dir()] if root.is_dir() else []


def _flat(root: Path, left_out: LeftOut) -> list[str]:
    """Return the names of the images directly in a folder."""
    return list(walk(root, left_out, deep=False)) if root.is_dir() else []
