"""Check that pictures are the ones that rows were measured on, by the hash in the column ``truth``.

Rows of versions before 0.2.0 hold no hash and cannot be checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pandas as pd
import torch
from torch import Tensor

from posterior_bench.bench.core.errors import UserError
from posterior_bench.datasets.base import ImageSet
from posterior_bench.datasets.contents import content_hash

_AT_ONCE = 64


def truth_hash(image: Tensor) -> str:
    """Return 16 hexadecimal digits that hash the float32 pixels of an image ``(C, H, W)``."""
    pixels = image.detach().float().cpu().contiguous().numpy()
    return content_hash(str(pixels.shape), pixels.tobytes())[:16]


def truth_hashes(rows: pd.DataFrame) -> dict[str, str]:
    """Return the hash of every image, from rows with the columns ``image_id`` and ``truth``."""
    known = rows[["image_id", "truth"]].dropna().drop_duplicates("image_id")
    return dict(zip(known["image_id"], known["truth"], strict=True))


def demand_same(rows: pd.DataFrame, images: ImageSet, where: str = "") -> None:
    """Check that the images of ``rows`` are the same pictures in ``images``.

    Raises
    ------
    UserError
        If a picture has changed; the first one is named.
    """
    wanted = truth_hashes(rows)
    ids = list(wanted)
    for start in range(0, len(ids), _AT_ONCE):
        some = ids[start : start + _AT_ONCE]
        try:
            pictures = images.images(some)
        except ValueError as error:
            raise UserError(str(error)) from None
        demand_equal(wanted, dict(zip(some, pictures, strict=True)), where)


def demand_equal(
    wanted: Mapping[str, str], found: Mapping[str, torch.Tensor], where: str = ""
) -> None:
    """Check that each picture ``found`` has the hash ``wanted``.

    Raises
    ------
    UserError
        If one has another hash; the first one is named.
    """
    other = [
        image
        for image, picture in found.items()
        if image in wanted and truth_hash(picture) != wanted[image]
    ]
    if other:
        raise UserError(
            f"{where}the image '{other[0]}' is not the picture that its rows were measured on (it "
            "has other pixels now); restore the picture, or run again: other pictures make "
            "another cell"
        )


def demand_paired(rows: pd.DataFrame, heading: str, *cells: tuple[str, str]) -> None:
    """Check that two cells were measured on the same pictures.

    Parameters
    ----------
    rows : DataFrame
        Rows with the columns ``cell``, ``image_id``, ``status`` and ``truth``.
    heading : str
        What the cells were run on, for the error message.
    *cells : tuple of str
        Two pairs of a cell and its name for people.

    Raises
    ------
    UserError
        If the cells measured different pictures under one id, or only one of them recorded hashes.
    """
    (first, a), (second, b) = cells
    one, two = (truth_hashes(rows[rows["cell"] == cell]) for cell in (first, second))
    image = _first(i for i in one if i in two and one[i] != two[i])
    if image is not None:
        raise UserError(
            f"{heading}: {a} and {b} were measured on different pictures called '{image}', so "
            "nothing can be paired; run both on the same images"
        )
    measured = {*rows.loc[rows["status"] == "ok", "cell"].unique()}
    if bool(one) != bool(two) and {first, second} <= measured:
        old = b if one else a
        raise UserError(
            f"{heading}: the rows of {old} are of a version before 0.2.0 and do not record which "
            "pictures they were measured on, those of the other solver do; run both with the same "
            "version"
        )


def _first(images: Iterable[str]) -> str | None:
    return next(iter(images), None)
