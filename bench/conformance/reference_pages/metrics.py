"""The page ``docs/metrics.md``: every metric and how it is computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from posterior_bench.bench.config.build import build
from posterior_bench.bench.config.catalog import Option, options
from posterior_bench.bench.conformance.reference_pages.markdown import (
    bullets,
    choice,
    class_place,
    codes,
    paragraphs,
    table,
)

if TYPE_CHECKING:
    from posterior_bench.metrics.base import AnyMetric, MetricCard

INTRODUCTION = """\
This page lists every number that a row can hold. The id is the column name of rows and
leaderboards, and it names one exact computation. Another region, another network, or pasted instead
of raw images is another id. *Raw* images are the solver's output; in *pasted* images the observed
pixels were put back. The mask hides the pixels of the *hole* and shows the *known* pixels. Arrows
point to the better end. Choose metrics with `metrics=[NAME,NAME]`.

Some values need all draws of an image, or all images of a cell. For a metric of a set of images,
rows hold features; the leaderboard reduces them to one number with its interval.
`metrics=calibration` chooses the metrics that need draws and truth only. `metrics=arena` adds
metrics that need independent draws of the exact posterior, which closed-form priors give.
`metrics=faces` chooses those that compare the variants of cartoon faces with their posterior.

*Tables* names the published tables that print a metric, as far as a study here reproduces them or
their code was read. A metric without that line is in none of them.

No metric downloads anything. A published weight file is looked for in the folder `checkpoints` of
the torch hub cache (`TORCH_HOME` moves it), and a missing one is refused before anything runs, with
its name, address and size; [downloads.md](downloads.md) lists all of them. Files are read as plain
tensors; no program in them is run. `pip install 'posterior-bench[metrics]'` installs the optional
libraries."""

_LEVELS = {"image": "one image", "draws": "all draws of an image", "set": "all images"}
_DIRECTIONS = {"up": "↑ higher", "down": "↓ lower", "none": "neither"}


def sections() -> list[str]:
    """Return the sections of the page, one per class."""
    by_class: dict[type[AnyMetric], list[tuple[Option, MetricCard]]] = {}
    for option in options("metrics").values():
        for node in option.parameters.values():
            metric: AnyMetric = build(node)
            by_class.setdefault(type(metric), []).append((option, metric.card))
    return [_section(cls, pairs) for cls, pairs in by_class.items()]


def _section(cls: type[AnyMetric], pairs: Sequence[tuple[Option, MetricCard]]) -> str:
    """Return the section of a class with its options and their cards."""
    cards = [card for _, card in pairs]
    shared = {
        "Range": [card.range + (f" ({card.unit})" if card.unit else "") for card in cards],
        "Images": [card.preprocessing for card in cards],
        "Network": [card.backbone for card in cards],
        "Weights": [card.weights for card in cards],
        "Source": [card.source for card in cards],
        "Tables": [card.tables for card in cards],
    }
    facts = [f"**{name}**: {_by_id(cards, texts)}" for name, texts in shared.items() if any(texts)]
    facts.append(f"**Code**: {class_place(cls)}")
    title = " / ".join(dict.fromkeys(card.title for card in cards))
    head = ["id", "chosen with", "one value from", "pixels", "images", "better"]
    rows = [_row(option, card) for option, card in pairs]
    return "\n\n".join([f"## {title}", *paragraphs(cls), bullets(facts), table(head, rows)])


def _row(option: Option, card: MetricCard) -> list[str]:
    """Return the table row of a metric."""
    images = "pasted" if card.pasted else "raw"
    level, direction = _LEVELS[card.level], _DIRECTIONS[card.direction]
    return [f"`{card.id}`", choice(option), level, card.region, images, direction]


def _by_id(cards: Sequence[MetricCard], texts: Sequence[str]) -> str:
    """Return the text that all cards share, or each text with the ids for which it holds."""
    if len(set(texts)) == 1:
        return texts[0]
    ids: dict[str, list[str]] = {}
    for card, text in zip(cards, texts, strict=True):
        ids.setdefault(text, []).append(card.id)
    return "; ".join(f"{text or 'none'} ({codes(names)})" for text, names in ids.items())
