"""The settings of labels: the class that a class-conditional prior is told for every image.

``data.label`` (short ``label=``) is one class for all images, by its number or its name, and
``data.labels`` a file with a class for each. Without them a prior is told the labels of the data.
Masks, noise and images stay the same, so a sweep over ``data.label`` shows what the class does. No
torch is imported here.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from posterior_bench.bench.config.captions import ID_COLUMNS, names_to_images
from posterior_bench.bench.config.prompts import LABELS
from posterior_bench.bench.core.errors import UserError, unknown
from posterior_bench.datasets.base import ImageSet

_COLUMNS = ("label", "class")
_FORMAT = "give CSV with a header that has the columns image_id and label"


def labels_of(
    node: Mapping[str, Any],
    images: ImageSet,
    ids: Sequence[str],
    classes: int,
    names: Sequence[str],
) -> dict[str, int] | None:
    """Return the class of every image, as the settings of a data node give it.

    Parameters
    ----------
    node : Mapping of str to Any
        The data node.
    images : ImageSet
        The data, which knows the valid ids.
    ids : Sequence of str
        The ids of the images in use.
    classes : int
        How many classes the prior knows.
    names : Sequence of str
        Their names; may be empty.

    Returns
    -------
    dict of str to int, or None
        Class by id, from 0 to ``classes - 1``; None if the node gives no classes.

    Raises
    ------
    UserError
        If both settings are given, a class or an image does not exist, or an image has no class.
    """
    label, path = (node.get(key) for key in LABELS)
    if label is not None and path is not None:
        raise UserError("data.label and data.labels are both set; give one of them")
    if label is not None:
        return dict.fromkeys(ids, _class_of(str(label), classes, names, "data.label"))
    if path is None:
        return None
    return _of_file(Path(str(path)).expanduser(), images, ids, classes, names)


def _of_file(
    path: Path, images: ImageSet, ids: Sequence[str], classes: int, names: Sequence[str]
) -> dict[str, int]:
    match = names_to_images(images)
    found: dict[str, int] = {}
    for number, name, text in _read(path):
        where = f"{path}, line {number}"
        image = match(name, where)
        if image in found:
            raise UserError(f"{where}: '{name}' has a class already; leave one of the lines out")
        found[image] = _class_of(text, classes, names, where)
    if missing := [image for image in ids if image not in found]:
        some = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise UserError(
            f"{path} has no class for {len(missing)} of the {len(ids)} images in use: {some}; add "
            "them"
        )
    return {image: found[image] for image in ids}


def _read(path: Path) -> list[tuple[int, str, str]]:
    """Return line number, name and class of every line."""
    try:
        lines = csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines(), strict=True)
        heads = {str(name).strip().casefold(): name for name in lines.fieldnames or ()}
        rows = [(lines.line_num, row) for row in lines]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not CSV in UTF-8"
        raise UserError(f"data.labels={path} cannot be read: {reason}; {_FORMAT}") from None
    place, label = (
        next((heads[key] for key in keys if key in heads), None) for keys in (ID_COLUMNS, _COLUMNS)
    )
    if place is None or label is None:
        raise UserError(f"data.labels={path}: the first line names no such columns; {_FORMAT}")
    for number, row in rows:
        if not (row[place] or "").strip() or not (row[label] or "").strip():
            raise UserError(f"{path}, line {number}: an image or a class is missing; {_FORMAT}")
    return [(number, row[place].strip(), row[label].strip()) for number, row in rows]


def _class_of(text: str, classes: int, names: Sequence[str], where: str) -> int:
    """Return the number of a class that is given by its number or its name."""
    folded = [name.casefold() for name in names]
    if text.casefold() in folded:
        return folded.index(text.casefold())
    if not text.isdecimal():
        raise unknown(f"class in {where}", text, [*names] or [f"0 to {classes - 1}"])
    if int(text) >= classes:
        raise UserError(f"{where}: class {text} is not one of 0 to {classes - 1}")
    return int(text)
