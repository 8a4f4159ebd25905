"""The pages ``docs/solvers.md`` and ``docs/metrics.md``, written from cards, presets and docstrings.

``python -m bench.docs`` writes them. A test compares the committed pages with what this module would write, so they
cannot fall behind the code.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from bench.build import build, target
from bench.catalog import Option, options
from bench.guard import ROOT

if TYPE_CHECKING:
    from metrics.base import Metric, MetricCard
    from solvers.base import Solver

NOTE = "<!-- Written from the code by `make docs`; edit the class or its yaml instead. -->"

SOLVERS = """\
Every method, as `python -m bench solver=NAME` runs it. A preset is chosen with `solver.preset=NAME`, and a single
setting with, for example, `solver.steps=50`; the preset in bold is the default. What a method *needs* are capabilities
of the operator and the prior; a combination that lacks one is refused before any work. A method's *version* goes up
with every change of its numbers and is part of a cell's hash, so results of different versions never mix."""

METRICS = """\
Every number that a row can hold. The id is the column name of rows and leaderboards, and it names one exact
computation: another region, another network or pasted instead of raw images is another id. *Raw* images are the
solver's output; in *pasted* ones the observed pixels were put back. *Hole* and *known* are the pixels that the mask
hides and shows. Arrows point to the better end. Choose with `metrics=[NAME,NAME]`."""


def pages() -> dict[str, str]:
    """The text of every generated page by its path from the root of the checkout."""
    return {
        "docs/solvers.md": _page("Solvers", SOLVERS, _solvers()),
        "docs/metrics.md": _page("Metrics", METRICS, _metrics()),
    }


@dataclasses.dataclass(frozen=True)
class Note:
    """What a docstring says about one setting, or about several at once."""

    fields: tuple[str, ...]
    names: str
    text: str


def field_notes(cls: type) -> list[Note]:
    """The entries of a docstring's section ``Parameters``: ``steps: ... . eta, clip (said of clip alone): ...``."""
    _, _, section = inspect.cleandoc(cls.__doc__ or "").partition("Parameters\n----------\n")
    name = rf"\b(?:{'|'.join(f.name for f in dataclasses.fields(cls))})\b"
    entry = rf"{name}(?: \([^()]*\))?"
    parts = re.split(rf"(?:^|(?<=[.;] )(?:or )?)({entry}(?:, {entry})*): ", _flat(section.split("\n\n")[0]))
    notes = []
    for names, text in zip(parts[1::2], parts[2::2], strict=True):
        fields = tuple(re.findall(rf"({name})(?: \([^()]*\))?", names))
        notes.append(Note(fields, names, text.strip().rstrip(";")))
    return notes


def _page(title: str, introduction: str, sections: Iterable[str]) -> str:
    return "\n\n".join([NOTE, f"# {title}", introduction, *sections]) + "\n"


def _solvers() -> list[str]:
    by_class: dict[type[Solver], list[Option]] = {}
    for option in options("solver").values():
        by_class.setdefault(target(option.content), []).append(option)
    overview = [
        [_choice(option), cls.card.title, _codes(cls.needs)] for cls, found in by_class.items() for option in found
    ]
    return [_table(["choice", "method", "needs"], overview), *(_solver(cls, o) for cls, o in by_class.items())]


def _solver(cls: type[Solver], found: Sequence[Option]) -> str:
    card = cls.card
    facts = [
        f"**Paper**: {card.paper}",
        f"**Equations**: {card.equations}",
        f"**Needs**: {_codes(cls.needs) or 'nothing special'}",
        f"**Code**: `{cls.__module__}.{cls.__qualname__}`, version {cls.version}",
    ]
    parts = [f"## {card.title}", *_body(cls), _bullets(facts)]
    if card.deviations:
        parts += ["### Where it differs", _bullets(card.deviations)]
    if card.compat:
        parts += ["### `compat`", _bullets(f"`{name}`: {text}" for name, text in card.compat.items())]
    parts += ["### Settings", _bullets(map(_note, field_notes(cls)))]
    for option in found:
        parts += [f"{_choice(option)}: {option.summary}", _presets(option)]
    return "\n\n".join(parts)


def _note(note: Note) -> str:
    marked = re.sub(rf"(?<![(`\w])({'|'.join(note.fields)})(?=[ ,]|$)", r"`\1`", note.names)
    return f"{_code(marked)}: {_code(note.text)}"


def _presets(option: Option) -> str:
    content = option.content
    presets = content.get("presets", {"value": option.parameters})
    head = [f"**{name}**" if name == content.get("preset") else name for name in presets]
    own = {key: content[key] for key in option.parameters if content[key] is not None}
    rows = [
        [f"`{key}`", *(_value({**preset, **own}.get(key)) for preset in presets.values())] for key in option.parameters
    ]
    return _table(["setting", *head], rows)


def _metrics() -> list[str]:
    by_class: dict[type[Metric], list[tuple[Option, MetricCard]]] = {}
    for option in options("metrics").values():
        for node in option.content.values():
            metric: Metric = build(node)
            by_class.setdefault(type(metric), []).append((option, metric.card))
    return [_metric(cls, found) for cls, found in by_class.items()]


def _metric(cls: type[Metric], found: Sequence[tuple[Option, MetricCard]]) -> str:
    cards = [card for _, card in found]
    rows = [
        [f"`{card.id}`", _choice(option), card.region, "pasted" if card.pasted else "raw", _direction(card)]
        for option, card in found
    ]
    shared = {
        "Range": [card.range + (f" ({card.unit})" if card.unit else "") for card in cards],
        "Images": [card.preprocessing for card in cards],
        "Network": [card.backbone for card in cards],
        "Weights": [card.weights for card in cards],
        "Source": [card.source for card in cards],
    }
    facts = [f"**{name}**: {_by_id(cards, texts)}" for name, texts in shared.items() if any(texts)]
    facts.append(f"**Code**: `{cls.__module__}.{cls.__qualname__}`")
    parts = [f"## {_common_title(cards)}", *_body(cls), _bullets(facts)]
    return "\n\n".join([*parts, _table(["id", "chosen with", "pixels", "images", "better"], rows)])


def _by_id(cards: Sequence[MetricCard], texts: Sequence[str]) -> str:
    """One text where all cards agree, else each text with the ids it holds for."""
    if len(set(texts)) == 1:
        return texts[0]
    ids: dict[str, list[str]] = {}
    for card, text in zip(cards, texts, strict=True):
        ids.setdefault(text, []).append(card.id)
    return "; ".join(f"{text or 'none'} ({_codes(names)})" for text, names in ids.items())


def _common_title(cards: Sequence[MetricCard]) -> str:
    return " / ".join(dict.fromkeys(card.title for card in cards))


def _direction(card: MetricCard) -> str:
    return {"up": "↑ higher", "down": "↓ lower", "none": "neither"}[card.direction]


def _body(cls: type) -> list[str]:
    """The paragraphs of a docstring without settings, which have a section of their own, and without errors."""
    text = re.sub(r"Parameters\n-+\n.*?(\n\n|$)", "", inspect.cleandoc(cls.__doc__ or ""), flags=re.DOTALL)
    paragraphs = [re.sub(r"(^| )Raises .*", "", _code(_flat(paragraph))) for paragraph in text.split("\n\n")]
    return [paragraph for paragraph in paragraphs if paragraph]


def _flat(text: str) -> str:
    return " ".join(text.split())


def _code(text: str) -> str:
    """Docstring markup to Markdown: roles and double backticks become code."""
    return re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text).replace("``", "`")


def _choice(option: Option) -> str:
    return f"`{option.group}={option.name}`" if option.group != "metrics" else f"`{option.name}`"


def _codes(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))


def _value(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


if __name__ == "__main__":
    for path, text in pages().items():
        ROOT.joinpath(path).write_text(text, encoding="utf-8")
        print(path)
