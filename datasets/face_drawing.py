"""Draw the styles of DiceBear with the packages of the extra ``faces``."""

from __future__ import annotations

import importlib.resources
import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[np.uint8]

STYLES = (
    *("adventurer", "big-ears", "big-smile", "micah"),
    *("miniavs", "open-peeps", "personas", "toon-head"),
)
"""The styles, in the order of the class labels; all are equally frequent."""

BACKGROUNDS = ("b8e0f2", "bfe8cf", "fbe7a1", "f9c9c4", "d3c7f0", "e6e2dc")
"""The colours of the background; the packages choose one of them with equal probabilities."""

SIDE = 64
"""Height and width of an image in pixels."""

DRAWN = 128
"""Height and width of the drawing; pairs of its pixels are then averaged both ways."""


def demand_packages() -> None:
    """Check that the packages of the extra are there.

    Raises
    ------
    ImportError
        If one is missing, as one line that says how to install it.
    """
    try:
        import dicebear  # noqa: F401  # optional packages
        import resvg_py  # noqa: F401

        importlib.resources.files("dicebear_styles")
    except ImportError as error:
        raise ImportError(
            f"these faces have to be drawn, and a package for it cannot be imported ({error}); "
            'pip install "posterior-bench[faces]"'
        ) from None


def definition(style: str) -> dict[str, Any]:
    """Return the definition of a style, as the package ``dicebear-styles`` holds it.

    Parameters
    ----------
    style : str
        Name of the style, such as ``micah``.

    Returns
    -------
    dict
        The canvas, the components with their variants, and the colours.

    Raises
    ------
    ImportError
        If a package of the extra is missing.
    """
    demand_packages()
    file = importlib.resources.files("dicebear_styles") / f"{style}.json"
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content


def drawn(style: Any, options: Mapping[str, Any]) -> NDArray[np.uint8]:
    """Draw an avatar.

    Parameters
    ----------
    style : dicebear.Style
        The style.
    options : Mapping[str, Any]
        Options of ``dicebear.Avatar``, such as the seed.

    Returns
    -------
    NDArray[uint8]
        Red, green, blue and opacity ``(128, 128, 4)``, 0 to 255.
    """
    import resvg_py
    from dicebear import Avatar

    drawing = Avatar(style, dict(options)).to_string()
    content = resvg_py.svg_to_bytes(svg_string=drawing, width=DRAWN, height=DRAWN)
    return np.asarray(Image.open(io.BytesIO(bytes(content))).convert("RGBA"))


def averaged(drawing: Pixels) -> Pixels:
    """Return the image ``(3, 64, 64)`` of an opaque drawing ``(128, 128, 4)``."""
    image = Image.fromarray(drawing[..., :3])
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX)).transpose(2, 0, 1)
