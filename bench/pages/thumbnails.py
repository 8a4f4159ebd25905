"""The pictures of a report: thumbnails, each kept once, as many as fit.

A picture of at most :data:`CRISP` pixels is kept as it is and shown with square pixels; a larger
one is reduced to :data:`SIDE` and compressed. Beyond the budget, pictures are left out and counted.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.colors import to_rgb
from numpy.typing import NDArray
from PIL import Image

from posterior_bench.bench.config.build import build, target
from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.config.masks import build_masks
from posterior_bench.bench.config.plugins import demand_trusted
from posterior_bench.bench.config.prompts import NOT_OF_THE_IMAGES
from posterior_bench.bench.core.streams import Key
from posterior_bench.bench.engine.arena import PriorDraws, build_images
from posterior_bench.bench.engine.cache import shared
from posterior_bench.bench.engine.measurement import Measurement, mask_rng, measure
from posterior_bench.bench.pages.sheet_colours import HOLE, SPREAD, STRIPE
from posterior_bench.bench.store.truth import demand_equal
from posterior_bench.datasets.base import ImageSet
from posterior_bench.metrics.base import to_uint8

Pixels = NDArray[np.uint8]


Floats = NDArray[np.float64]


SIDE, LARGE, CRISP, QUALITY = 256, 512, 96, 85
"""Sides of reduced pictures in pixels, and of a report with few pictures; of pictures that are kept
as they are; and the quality of WebP."""


BUDGET = 40_000_000
"""Characters of all pictures together."""


@dataclass
class Thumbnails:
    """Thumbnails as data URIs with their size, each under a key.

    Parameters
    ----------
    budget : int, default BUDGET
        Characters of all pictures together.
    side : int, default SIDE
        The longer side of a picture in pixels, at most.
    items : list
        The pictures that are kept.
    left_out : int
        How many pictures are beyond the budget.
    """

    budget: int = BUDGET
    side: int = SIDE
    items: list[dict[str, object]] = field(default_factory=list)
    left_out: int = 0
    _places: dict[Hashable, int | None] = field(default_factory=dict)
    _used: int = 0

    def add(self, key: Hashable, pixels: Pixels | None, full: str = "") -> int | None:
        """Keep a picture ``(H, W)`` or ``(H, W, 3)``, and return its number.

        The number is None without pixels, and if nothing more fits. A picture that is kept under
        ``key`` is not replaced.

        Parameters
        ----------
        key : Hashable
            The key of the picture.
        pixels : array of uint8, optional
            The picture.
        full : str, default ''
            Where the whole picture lies, relative to the report.
        """
        if pixels is None:
            return None
        if key not in self._places:
            self._places[key] = self._kept(pixels, full)
        return self._places[key]

    def find(self, key: Hashable) -> int | None:
        """Return the number of the picture that is kept under ``key``, if any."""
        return self._places.get(key)

    def _kept(self, pixels: Pixels, full: str) -> int | None:
        uri = data_uri(*thumbnail(pixels, self.side))
        if self._used + len(uri) > self.budget:
            self.left_out += 1
            return None
        self._used += len(uri)
        height, width = pixels.shape[:2]
        self.items.append({"src": uri, "w": width, "h": height, **({"full": full} if full else {})})
        return len(self.items) - 1


def thumbnail(pixels: Pixels, side: int = SIDE) -> tuple[bytes, str]:
    """Return the bytes of a picture as it is embedded, and its media type."""
    image = Image.fromarray(pixels)
    buffer = io.BytesIO()
    if max(image.size) <= CRISP:
        image.save(buffer, "PNG", optimize=True)
        return buffer.getvalue(), "image/png"
    if max(image.size) > side:
        image.thumbnail((side, side), Image.Resampling.BOX)
    image.save(buffer, "WEBP", quality=QUALITY, method=2)
    return buffer.getvalue(), "image/webp"


def data_uri(data: bytes, kind: str) -> str:
    """Return the data as a ``data:`` address."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def stored_pixels(png: bytes) -> Pixels:
    """Return the pixels of a stored draw."""
    return np.asarray(Image.open(io.BytesIO(png)))


def spread(draws: Sequence[Pixels]) -> Floats | None:
    """Return the standard deviation over draws of every pixel, in [-1, 1] units.

    It is the mean over channels, and None for fewer than two draws.
    """
    if len(draws) < 2:
        return None
    values = np.stack(draws).astype(float).std(axis=0, ddof=1) / 127.5
    return values if values.ndim == 2 else values.mean(axis=-1)


def heat(values: Floats | None, largest: float) -> Pixels | None:
    """Return a map from 0 to ``largest`` in the colours of the contact sheet."""
    if values is None:
        return None
    colours = SPREAD(np.clip(values / max(largest, 1e-9), 0, 1))[..., :3]
    return np.round(colours * 255).astype(np.uint8)


def ramp() -> str:
    """Return the colours of :func:`heat` from left to right, as a data URI."""
    colours = np.round(SPREAD(np.linspace(0, 1, 96))[None, :, :3] * 255).astype(np.uint8)
    return data_uri(*thumbnail(np.repeat(colours, 8, axis=0)))


@dataclass(frozen=True)
class Scene:
    """A measurement, read again from its sources: the image set, and images by their ids.

    Parameters
    ----------
    config : JobConfig
        The configuration of a cell.
    """

    config: JobConfig

    @property
    def images(self) -> ImageSet:
        """Return the image set."""
        node = self.config.data
        nodes = self.config.nodes
        demand_trusted(nodes[group] for group in nodes if group != "solver")  # none is run here
        if target(node) is PriorDraws:
            return build_images(node, shared("prior", self.config.prior, "cpu"), self.config.seed)
        images: ImageSet = build(node, skip=NOT_OF_THE_IMAGES)
        return images

    def pictures(
        self, ids: Sequence[str], truths: Mapping[str, str] | None = None
    ) -> dict[str, tuple[Pixels, Pixels | None]]:
        """Return truth and observation by image id; None for an observation that is no picture.

        Parameters
        ----------
        ids : sequence of str
            The images.
        truths : mapping of str to str, optional
            The hashes that rows hold of the images they were measured on.

        Raises
        ------
        UserError
            If a picture has another hash; the first one is named.
        """
        measured = measure(self.config, self.images, build_masks(self.config.mask), ids)
        demand_equal(truths or {}, dict(zip(ids, measured.truth, strict=True)))
        observed = _observations(measured)
        return {
            image: (_channels_last(measured.truth[i]), observed[i]) for i, image in enumerate(ids)
        }

    def classes(self, ids: Sequence[str]) -> dict[str, str]:
        """Return the class of every image, by its name if it has one; empty without classes."""
        images = self.images
        labels = images.labels(ids)
        names = getattr(images, "class_names", None)
        if labels is None:
            return {}
        texts = [names[k] if names else f"class {k}" for k in labels.tolist()]
        return dict(zip(ids, texts, strict=True))

    def holes(self, ids: Sequence[str]) -> dict[str, float]:
        """Return the hidden share of every image; empty for an operator without masks."""
        if not target(self.config.operator).takes_mask:
            return {}
        images = self.images
        mask = build_masks(self.config.mask).beside(images)
        place = {image: i for i, image in enumerate(images.ids)}
        shares = {}
        for image in ids:
            rng = mask_rng(self.config, Key(self.config.seed, images.name, image))
            seen = mask.for_image(image, place[image]).generate(rng, *images.shape[1:])
            shares[image] = 1 - float(np.mean(seen))
        return shares


def _channels_last(x: Any) -> Pixels:
    """Return a tensor ``(1 or 3, H, W)`` in [-1, 1] as pixels."""
    pixels: Pixels = to_uint8(x).cpu().numpy().transpose(1, 2, 0)
    return pixels[..., 0] if pixels.shape[2] == 1 else pixels


def _observations(measured: Measurement) -> list[Pixels | None]:
    """Return observations with a hatched hole.

    No image is striped in this colour, so the hole cannot be taken for content.
    """
    y, mask = measured.y, measured.operator.mask
    if y.ndim != 4 or y.shape[1] not in (1, 3):
        return [None] * len(measured.keys)
    pictures = [_channels_last(observed) for observed in y]
    if mask is None or mask.shape[-2:] != y.shape[-2:]:
        return list(pictures)
    return [
        _hatched(picture, seen[0].cpu().numpy())
        for picture, seen in zip(pictures, mask, strict=True)
    ]


def _hatched(picture: Pixels, seen: NDArray[np.bool_]) -> Pixels:
    """Return an RGB picture with stripes where nothing was seen.

    A small picture is enlarged, so that the stripes are fine.
    """
    factor = max(1, CRISP // max(seen.shape))
    picture = picture.repeat(factor, axis=0).repeat(factor, axis=1)
    seen = seen.repeat(factor, axis=0).repeat(factor, axis=1)
    y, x = np.mgrid[: seen.shape[0], : seen.shape[1]]
    period = max(8, max(seen.shape) // 20)
    stripe, hole = (
        np.round(np.array(to_rgb(colour)) * 255).astype(np.uint8) for colour in (STRIPE, HOLE)
    )
    hatch = np.where(((x + y) % period < period * 3 // 8)[..., None], stripe, hole)
    colour = (
        np.broadcast_to(picture[..., None], (*picture.shape, 3)) if picture.ndim == 2 else picture
    )
    return np.where(seen[..., None], colour, hatch)
