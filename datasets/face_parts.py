"""The pixels that a part of a cartoon face changes: hair, eyes, mouth, glasses, face.

They are found by drawing the face with the part and without it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from posterior_bench.datasets.face_components import NONE, FaceStyle
from posterior_bench.datasets.face_drawing import SIDE

PARTS = ("hair", "eyes", "mouth", "glasses", "face")
"""The parts, in the order of the bits of the embedded file."""

_ASSET = Path(__file__).parent / "assets" / "faces" / "parts.png"
_SHA256 = "027ca691c88e220dd57980ebc358e2674b53daac115591a39ae9b81dd8a1f462"  # of its pixels

_GLASSES = (
    *("glasses", "glasses2", "glasses3", "glasses4", "glasses5"),
    *("sunglasses", "sunglasses2"),
)
_ON_FACE = ("clownNose", "faceMask", "mustache", "sleepMask")
_ANY = None

# For every part and style: the components that make it. Of some, only some variants belong to the
# part. Hair of open-peeps comes with the head, so a bald head takes its place.
_Components = Mapping[str, tuple[str, ...] | None]
_COMPONENTS: Mapping[str, Mapping[str, _Components]] = {
    "hair": {
        "big-ears": {"hair": _ANY, "frontHair": _ANY, "sideburns": _ANY},
        "open-peeps": {"head": _ANY},
        "toon-head": {"hair": _ANY, "rearHair": _ANY},
    },
    "eyes": {"open-peeps": {"expression": _ANY}},
    "mouth": {"open-peeps": {"expression": _ANY}},
    "glasses": {
        "adventurer": {"glasses": _ANY},
        "big-smile": {"accessories": _GLASSES},
        "open-peeps": {"accessories": _GLASSES},
        "personas": {"eyes": _GLASSES},
    },
    "face": {
        "adventurer": dict.fromkeys(("details", "eyebrows", "eyes", "glasses", "mouth")),
        "big-ears": dict.fromkeys(("details", "eyes", "mouth", "nose")),
        "big-smile": {"eyes": _ANY, "mouth": _ANY, "accessories": (*_GLASSES, *_ON_FACE)},
        "micah": dict.fromkeys(("eyebrows", "eyes", "facialHair", "glasses", "mouth", "nose")),
        "miniavs": dict.fromkeys(("blush", "eyes", "glasses", "mouth", "mustache")),
        "open-peeps": dict.fromkeys(("accessories", "expression", "facialHair", "mask")),
        "personas": dict.fromkeys(("eyes", "facialHair", "mouth", "nose")),
        "toon-head": dict.fromkeys(("beard", "eyebrows", "eyes", "mouth")),
    },
}
_BALD = {"open-peeps": {"head": "noHair1"}}
_SKIN = {"micah": "baseColor"}


def demand_part(part: str) -> None:
    """Check the name of a part.

    Raises
    ------
    ValueError
        Unless it is one of :data:`PARTS`.
    """
    if part not in PARTS:
        raise ValueError(f"unknown part '{part}'; valid: {', '.join(PARTS)}")


def drawn_part(image_id: str, part: str) -> NDArray[np.bool_]:
    """Draw a face with and without a part.

    Parameters
    ----------
    image_id : str
        Id of an image of the cartoon faces, which is its seed.
    part : str
        One of :data:`PARTS`. ``face`` is all skin that shows, and what lies on it.

    Returns
    -------
    NDArray[bool]
        ``(64, 64)``; True where the two images differ; nowhere if the face has no such part.

    Raises
    ------
    ImportError
        If a package of the extra ``faces`` is missing.
    """
    name = image_id.partition("_")[0]
    style = FaceStyle.named(name)
    choice = style.choice(image_id)
    own = {v.name: v for v in style.variables}
    without = dict(choice)
    for component, variants in _COMPONENTS[part].get(name, {part: None}).items():
        if component in own and (variants is None or choice[component] in variants):
            without[component] = _BALD.get(name, {}).get(component, NONE)
    changed = (style.render(choice) != style.render(without)).any(0)
    if part == "face":
        skin = own[_SKIN.get(name, "skinColor")]
        other = next(value for value in reversed(skin.values) if value != choice[skin.name])
        changed |= (style.render(choice) != style.render({**choice, skin.name: other})).any(0)
    return changed


@lru_cache(maxsize=1)
def _embedded() -> NDArray[np.uint8]:
    """Read the parts of the test images ``(64, 8, 64, 64)``: row and style, then pixels."""
    try:
        with Image.open(_ASSET) as file:
            planes = np.asarray(file)
    except (OSError, SyntaxError) as error:
        raise ValueError(f"cannot read {_ASSET} ({error}); install this package again") from error
    if hashlib.sha256(planes.tobytes()).hexdigest() != _SHA256:
        raise ValueError(
            f"{_ASSET} does not hold the parts of the test images of this version; install it again"
        )
    return planes.reshape(-1, SIDE, planes.shape[1] // SIDE, SIDE).transpose(0, 2, 1, 3)


def embedded_part(row: int, column: int, part: str) -> NDArray[np.bool_]:
    """Return a part of a test image, which needs no package.

    Parameters
    ----------
    row : int
        Number in the id of the image.
    column : int
        Number of the style.
    part : str
        One of :data:`PARTS`.

    Returns
    -------
    NDArray[bool]
        ``(64, 64)``, as :func:`drawn_part` returns it.
    """
    planes: NDArray[np.uint8] = _embedded()[row, column]
    return (planes >> PARTS.index(part) & 1).astype(bool)
