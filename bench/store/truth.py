"""Whether pictures are those that rows were measured on: rows hold a hash of them (``truth``).

Rows of versions before 0.2.0 hold none, and cannot be checked.
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
    """16 hexadecimal digits over the shape and the float32 pixels of an image ``(C, H, W)``."""
    pixels = image.detach().float().cpu().contiguous().numpy()
    return content_hash(str(pixels.shape), pixels.tobytes())[:16]


def recorded(rows: pd.DataFrame) -> dict[str, str]:
    """The hashes by image id that rows with the columns ``image_id`` and ``truth`` hold; the first
    of an image.
    """
    known = rows[["image_id", "truth"]].dropna().drop_duplicates("image_id")
    return dict(zip(known["image_id"], known["truth"], strict=True))


def demand_same(rows: pd.DataFrame, images: ImageSet, where: str = "") -> None:
    """UserError naming the first image of ``rows`` that is now another picture in ``images``."""
    wanted = recorded(rows)
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
    """UserError naming the first picture ``found`` whose hash is not the one ``wanted``."""
    other = [
        image
        for image, picture in found.items()
        if image in wanted and truth_hash(picture) != wanted[image]
    ]
    if other:
        raise UserError(
            f"{where}the image '{other[0]}' is not the picture that its rows were measured on (it "
            f"has other pixels "
            "now); put that back, or run again: other pictures are another cell"
        )


def demand_paired(rows: pd.DataFrame, heading: str, *cells: tuple[str, str]) -> None:
    """UserError naming the first image that two cells measured as different pictures.

    A cell comes with its name for people.
    """
    (first, a), (second, b) = cells
    one, two = (recorded(rows[rows["cell"] == cell]) for cell in (first, second))
    image = _first(i for i in one if i in two and one[i] != two[i])
    if image is not None:
        raise UserError(
            f"{heading}: {a} and {b} were measured on different pictures called '{image}', so "
            f"nothing can be paired; "
            "run both on the same images"
        )
    measured = {*rows.loc[rows["status"] == "ok", "cell"].unique()}
    if bool(one) != bool(two) and {first, second} <= measured:
        old = b if one else a
        raise UserError(
            f"{heading}: the rows of {old} are of a version before 0.2.0 and do not record which "
            f"pictures they were "
            "measured on, those of the other solver do; run both with the same version"
        )


def _first(images: Iterable[str]) -> str | None:
    return next(iter(images), None)
