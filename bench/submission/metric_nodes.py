"""The metrics of a bundle as this product defines them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from typing import Any

from posterior_bench.bench.config.catalog import options
from posterior_bench.bench.config.cell import is_path
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.engine.cache import shared
from posterior_bench.bench.submission.bundle import BundleCell

WIDEST = 64
"""More features than these in a row make a bundle too large; their metric is left out of it."""

_PINNED = ("sha256",)


@dataclass
class OurMetrics:
    """The metrics of a cell that this product has too.

    Parameters
    ----------
    nodes, cards : dict
        Configuration and card by column, ours.
    columns : set of str
        Every column of a row that they fill.
    problems : list of str
        Metrics that say something else than ours.
    """

    nodes: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    cards: dict[str, dict[str, Any]] = field(default_factory=dict)
    columns: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)


@cache
def _shipped() -> dict[str, Mapping[str, Any]]:
    """Return the node of every metric of our options, by column."""
    found: dict[str, Mapping[str, Any]] = {}
    for option in options("metrics", ()).values():
        nodes = {k: v for k, v in option.content.items() if isinstance(v, dict)}
        found |= {name: node for name, node in nodes.items() if "_target_" in node}
    return found


def our_metrics(cell: BundleCell) -> OurMetrics:
    """Return the metrics of a cell as they are defined here; the bundle's nodes are not built."""
    ours = OurMetrics()
    for name, told in cell.record["metrics"].items():
        node = _shipped().get(name)
        if node is None or _comparable(told["node"]) != _comparable(node):
            ours.problems.append(f"the metric {name} is none of this product with these settings")
            continue
        try:
            metric = shared("metric", node, "cpu")
        except UserError as error:
            ours.problems.append(f"the metric {name} cannot be made here: {error}")
            continue
        card = plain_value(asdict(metric.card))
        differ = [key for key in {*card, *told["card"]} if card.get(key) != told["card"].get(key)]
        if differ:
            ours.problems.append(
                f"the card of the metric {name} says another {', '.join(sorted(differ))} here"
            )
        ours.nodes[name] = {**node, **_pins(told["node"])}
        ours.cards[name] = card
        ours.columns |= {*metric.columns}
    return ours


def _pins(node: Mapping[str, Any]) -> dict[str, str]:
    """Return the hashes of weights that the rows were scored with."""
    return {key: str(node[key]) for key in _PINNED if node.get(key)}


def _comparable(node: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a node without paths and hashes."""
    kept = {k: v for k, v in node.items() if not is_path(k, v) and k not in _PINNED}
    return {str(key): plain_value(value) for key, value in kept.items()}


def plain_value(value: Any) -> Any:
    """Return a value in the types of JSON."""
    if isinstance(value, Mapping):
        return {str(key): plain_value(part) for key, part in value.items()}
    return [plain_value(part) for part in value] if isinstance(value, list | tuple) else value
