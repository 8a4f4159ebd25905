"""What draws in a report were recognised as, beside the exact posterior over variants.

Of every image the :data:`COMPONENTS` most uncertain components are shown, and of each of these the
:data:`VARIANTS` variants that the posterior or the draws of a solver have most often; the others of
a component are summed up.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from posterior_bench.bench.pages.report_data import CellFile
from posterior_bench.bench.store.variants import ShownComponent, ShownVariants

COMPONENTS, VARIANTS = 6, 8


def variants_of(
    cells: Sequence[CellFile], images: Sequence[str], draws: int
) -> tuple[list[dict[str, Any] | None], dict[str, list[dict[str, Any] | None]]]:
    """Return the posterior over variants of every image, and what the draws of every cell show.

    Parameters
    ----------
    cells : sequence of CellFile
        Cells that saw the same measurements, so that they have the same posteriors.
    images : sequence of str
        The images.
    draws : int
        Draws whose variants are said in words, at most; all of them count in shares.

    Returns
    -------
    list of dict or None
        By image: its most uncertain ``components``, each with ``name``, ``variants`` and
        ``posterior``, and how many ``more`` there are. None if nothing was recognised.
    dict of str to list of dict or None
        By cell and image: the number of ``draws``, their ``shares`` in each of these components,
        and for every draw the ``words`` that say what it shows, and its ``distance`` to a possible
        image. None if nothing was recognised. Cells without any are left out.
    """
    stored = {cell.name: cell.variants(images) for cell in cells}
    posteriors: list[dict[str, Any] | None] = []
    shown: dict[str, list[dict[str, Any] | None]] = {name: [] for name in stored}
    for image in images:
        found = {name: seen[image] for name, seen in stored.items() if image in seen}
        every = next(iter(found.values())).by_uncertainty if found else []
        first = every[:COMPONENTS]
        names = {one.name: _by_name(one, found.values()) for one in first}
        components = [_component(one, names[one.name]) for one in first]
        more = len(every) - len(first)
        posteriors.append({"components": components, "more": more} if found else None)
        for cell, own in shown.items():
            own.append(_shown(found[cell], names, draws) if cell in found else None)
    return posteriors, {cell: own for cell, own in shown.items() if any(own)}


def _by_name(component: ShownComponent, found: Iterable[ShownVariants]) -> list[str]:
    """Return the variants that are shown by name, the most probable one first."""
    posterior = dict(zip(component.variants, component.posterior, strict=True))
    often = dict(posterior)
    for seen in found:
        for other in seen.components:
            if other.name == component.name:
                for variant, share in zip(other.variants, other.shares, strict=True):
                    often[variant] = max(often.get(variant, 0.0), share)
    # a line for one other variant would take as much place as the variant itself
    count = VARIANTS if len(often) > VARIANTS + 1 else len(often)
    kept = sorted(often, key=lambda variant: -often[variant])[:count]
    return sorted(kept, key=lambda variant: (-posterior.get(variant, 0.0), variant))


def _component(component: ShownComponent, names: Sequence[str]) -> dict[str, Any]:
    others = len(component.variants) - len(names)
    return {
        "name": component.name,
        "variants": [*names, *([f"{others} others"] if others > 0 else [])],
        "posterior": _summed(component.variants, component.posterior, names),
    }


def _shown(seen: ShownVariants, names: Mapping[str, Sequence[str]], draws: int) -> dict[str, Any]:
    """Return what the draws of a cell show of the components that are in ``names``."""
    known = {one.name: one for one in seen.components}
    own = [known[name] for name in names if name in known]
    return {
        "draws": len(seen.distances),
        "shares": [
            _summed(known[name].variants, known[name].shares, some) if name in known else None
            for name, some in names.items()
        ],
        "words": [[one.words(d) for one in own] for d in range(min(len(seen.distances), draws))],
        "distance": [_distance(value) for value in seen.distances[:draws]],
    }


def _summed(variants: Sequence[str], values: Sequence[float], names: Sequence[str]) -> list[float]:
    """Return the values of the variants in ``names``, then the sum of the others, if any."""
    by_variant = dict(zip(variants, values, strict=True))
    found = [by_variant.pop(name, 0.0) for name in names]
    rest = [sum(by_variant.values())] if by_variant else []
    return [round(value, 4) for value in [*found, *rest]]


def _distance(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"
