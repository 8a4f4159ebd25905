"""What the draws of an image were recognised as, as it is stored in a row.

It is JSON, compressed by zlib: ``distances``, one per draw, and ``components``, each with ``name``,
``variants``, ``posterior``, ``shares`` and ``shows``, as in :class:`ShownComponent`. It belongs to
an image and is stored in the row of its first draw.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from posterior_bench.metrics.recognition import Component, Recognised


@dataclass(frozen=True)
class ShownComponent:
    """What draws show of one hidden component.

    Parameters
    ----------
    name : str
        The component, such as ``mouth``.
    variants : sequence of str
        Names of its ``V`` possible variants, two or more.
    posterior : sequence of float
        Their posterior probabilities.
    shares : sequence of float
        The share of the draws that show each variant. Variants that look the same in a draw share
        it.
    shows : sequence of sequence of int
        For every draw, the places in ``variants`` of what it shows, the most probable first: one,
        or those that look the same in it.
    """

    name: str
    variants: Sequence[str]
    posterior: Sequence[float]
    shares: Sequence[float]
    shows: Sequence[Sequence[int]]

    @property
    def agreement(self) -> float:
        """Probability that two posterior draws show the same variant; low if it is uncertain."""
        return sum(p * p for p in self.posterior)

    def words(self, draw: int) -> str:
        """Return what a draw shows, such as ``mouth: smile``."""
        names = [self.variants[i] for i in self.shows[draw]]
        few = len(names) < 3
        return f"{self.name}: {' or '.join(names) if few else f'any of {len(names)}'}"


@dataclass(frozen=True)
class ShownVariants:
    """What the draws of one image were recognised as.

    Parameters
    ----------
    distances : sequence of float
        For every draw, the root mean square difference to the nearest possible image over hidden
        values; NaN if it is not known.
    components : sequence of ShownComponent
        The hidden components that have two possible variants or more.
    """

    distances: Sequence[float]
    components: Sequence[ShownComponent]

    @property
    def by_uncertainty(self) -> list[ShownComponent]:
        """The components, the most uncertain one first."""
        return sorted(self.components, key=lambda one: one.agreement)


def pack_variants(seen: Recognised, hidden: int) -> bytes:
    """Return what draws were recognised as, as bytes.

    Parameters
    ----------
    seen : Recognised
        What the draws of one image show.
    hidden : int
        Number of its hidden values.
    """
    distances = seen.distances(hidden).tolist()
    whole = {
        # JSON has no NaN
        "distances": [None if math.isnan(value) else value for value in distances],
        "components": [asdict(_shown(component)) for component in seen.components],
    }
    return zlib.compress(json.dumps(whole, allow_nan=False, separators=(",", ":")).encode())


def unpack_variants(data: bytes) -> ShownVariants:
    """Return what :func:`pack_variants` made bytes of.

    Raises
    ------
    ValueError
        If ``data`` is something else.
    """
    try:
        whole: Mapping[str, Any] = json.loads(zlib.decompress(data))
        distances = [math.nan if value is None else value for value in whole["distances"]]
        return ShownVariants(distances, [ShownComponent(**one) for one in whole["components"]])
    except (zlib.error, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"these are no recognised variants: {error}") from error


def _shown(component: Component) -> ShownComponent:
    places = component.shares.argsort(dim=1, descending=True, stable=True).tolist()
    counts = (component.shares > 0).sum(1).tolist()
    return ShownComponent(
        component.name,
        list(component.variants),
        component.weights.tolist(),
        component.shares.mean(0).tolist(),
        [some[:count] for some, count in zip(places, counts, strict=True)],
    )
