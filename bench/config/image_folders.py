"""Settings of image folders that follow from the rest: size, mode and number of the images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from posterior_bench.bench.config.build import build
from posterior_bench.bench.config.prompts import NOT_OF_THE_IMAGES
from posterior_bench.bench.core.errors import UserError
from posterior_bench.priors.fingerprint import read_spec, resolve

if TYPE_CHECKING:
    from posterior_bench.datasets.base import ImageSet

USUAL = 8
"""How many images of a folder a run uses if ``data.images`` is not set."""

UNNAMED = {"size": 64, "mode": "rgb"}
"""Values that the name of a folder's data leaves out; other values are part of the name."""

Node = Mapping[str, Any]


def missing_settings(node: Node, prior: Node) -> Node:
    """Return a value for each of ``size``, ``mode`` and ``images`` that is ``null`` in a data node.

    A value is left out if it cannot be known, because the prior or the folder is missing or wrong.
    The code that reads those later says what is wrong.

    Raises
    ------
    UserError
        If a folder cannot give images of the shape that the prior is made for.
    """
    data = dict(node)
    if "size" in data:
        if data["size"] is None or data.get("mode", "") is None:
            data = _as_the_prior(data, prior)
        if data["size"] is not None and (type(data["size"]) is not int or data["size"] < 1):
            raise UserError(
                f"data.size={data['size']}: give a whole number of at least 1, or leave it out"
            )
    if data.get("images", USUAL) is None:
        data["images"] = min(USUAL, _there(data))
    return {key: value for key, value in data.items() if value != node[key]}


def defaults_line(asked: Node, data: Node, images: ImageSet) -> str:
    """Return one line on the settings that were filled in; empty if the user gave all."""
    parts = []
    if asked.get("images", USUAL) is None:
        count = data["images"]
        parts.append(
            f"all {count} images"
            if count == len(images)
            else f"the first {count} of {len(images)} images"
        )
        parts[0] += " (data.images)"
    if None in (asked.get("size", 0), asked.get("mode", "")):
        parts.append(
            f"{images.shape[2]} x {images.shape[1]} pixels, {_colour(images.shape[0])}, "
            "as the prior's"
        )
    return f"{asked.get('root')}: {', '.join(parts)}" if parts else ""


def demand_count(wanted: int, there: int) -> None:
    """Raise UserError if more images are asked for than there are."""
    if wanted > there:
        raise UserError(
            f"data.images={wanted}, but there are only {there} images; set data.images={there} or "
            f"less"
        )


def remedy(data: Node, given: Sequence[int], wanted: Sequence[int]) -> str:
    """Return the settings of the data that turn images of shape ``given`` into ``wanted``."""
    given, wanted, settings = tuple(given), tuple(wanted), list[str]()
    if "size" in data and wanted[1] == wanted[2]:
        settings += [f"data.size={wanted[1]}"] if given[1:] != wanted[1:] else []
        settings += (
            [f"data.mode={_colour(wanted[0])}"]
            if given[0] != wanted[0] and wanted[0] in (1, 3)
            else []
        )
    if not settings:
        return "choose prior= and data= that fit"
    return f"set {' '.join(settings)}, or choose another prior"


def _as_the_prior(data: dict[str, Any], prior: Node) -> dict[str, Any]:
    shape = image_shape_of(prior)
    if shape is None:
        return data
    channels, height, width = shape
    if data["size"] is None and height != width:
        raise UserError(
            f"the prior is made for images of {width} x {height} pixels (width x height), and a "
            f"folder gives squares; "
            "choose another prior"
        )
    if data.get("mode", "") is None and channels not in (1, 3):
        raise UserError(
            f"the prior is made for images of {channels} channels, and a folder gives 1 or 3"
        )
    filled = {"size": height, "mode": _colour(channels)}
    return {
        key: filled[key] if key in filled and value is None else value
        for key, value in data.items()
    }


def image_shape_of(prior: Node) -> tuple[int, int, int] | None:
    """Return the shape of the prior's images, if it is known without the weights."""
    try:
        shape = (
            read_spec(resolve(prior["path"])).get("shape")
            if "path" in prior
            else prior.get("shape")
        )
        shape = build(prior).image_shape if shape is None and "path" not in prior else shape
    except (OSError, ValueError, UserError):
        return None
    if (
        not isinstance(shape, list | tuple)
        or len(shape) != 3
        or not all(type(n) is int and n > 0 for n in shape)
    ):
        return None
    return shape[0], shape[1], shape[2]


def _there(data: Node) -> int:
    """How many images a folder gives; as many as are usually taken where that cannot be told."""
    if not data.get("root", True):
        return USUAL  # `doctor` looks at the rest of a configuration whose folder is not given
    try:
        images: ImageSet = build(data, skip=NOT_OF_THE_IMAGES)
    except UserError:
        return USUAL
    return len(images)


def _colour(channels: int) -> str:
    return {1: "grey", 3: "rgb"}.get(channels, f"{channels} channels")
