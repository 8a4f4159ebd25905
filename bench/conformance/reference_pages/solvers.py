"""The page ``docs/solvers.md``: every method, its settings and its presets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from posterior_bench.bench.config.build import target
from posterior_bench.bench.config.catalog import Option, options
from posterior_bench.bench.config.presets import effective_settings, purpose
from posterior_bench.bench.conformance.reference_pages.markdown import (
    bullets,
    choice,
    class_place,
    codes,
    field_notes,
    note_line,
    paragraphs,
    table,
)

if TYPE_CHECKING:
    from posterior_bench.solvers.base import Solver

INTRODUCTION = """\
`python -m bench solver=NAME` runs a method of this page. `solver.preset=NAME` chooses a preset, and
for example `solver.steps=50` changes a single setting. A preset in bold is the default. Most
methods have `preset: auto`, which takes the preset that was chosen for the prior
([presets.md](presets.md)). Some presets take the place of another one: on latent priors, or on data
of a few numbers, unless the other preset was chosen for the prior. The lists above the tables name
them. A preset's yaml lists only the settings that differ from the defaults of the class; the tables
show every value.

A method *needs* capabilities of the operator and the prior. If one is missing, the cell is refused
before any work. A method's *version* goes up with every change of its numbers. It is part of a
cell's hash, so results of different versions never mix."""


def sections() -> list[str]:
    """Return the sections of the page: an overview, then one section per class."""
    by_class: dict[type[Solver], list[Option]] = {}
    for option in options("solver").values():
        by_class.setdefault(target(option.content), []).append(option)
    overview = [
        [choice(option), cls.card.title, codes(cls.needs)]
        for cls, choices in by_class.items()
        for option in choices
    ]
    return [
        table(["choice", "method", "needs"], overview),
        *(_method(cls, choices) for cls, choices in by_class.items()),
    ]


def _method(cls: type[Solver], choices: Sequence[Option]) -> str:
    """Return the section of a class."""
    card = cls.card
    facts = [
        f"**Paper**: {card.paper}",
        f"**Equations**: {card.equations}",
        f"**Needs**: {codes(cls.needs) or 'nothing special'}",
        f"**Code**: {class_place(cls)}, version {cls.version}",
    ]
    parts = [f"## {card.title}", *paragraphs(cls), bullets(facts)]
    if card.deviations:
        parts += ["### Where it differs", bullets(card.deviations)]
    if card.compat:
        compat = (f"`{name}`: {text}" for name, text in card.compat.items())
        parts += ["### `compat`", bullets(compat)]
    parts += ["### Settings", bullets(map(note_line, field_notes(cls)))]
    for option in choices:
        parts += [f"{choice(option)}: {option.summary}", _presets(option)]
    return "\n\n".join(parts)


def _presets(option: Option) -> str:
    """Return the table of an option's presets, below what the presets say of themselves."""
    content = option.content
    presets = content.get("presets", {})
    values = {name: effective_settings(content, name) for name in presets} or {
        "value": option.parameters
    }
    head = [f"**{name}**" if name == content.get("preset") else name for name in values]
    rows = [
        [f"`{key}`", *(_value(preset[key]) for preset in values.values())]
        for key in option.parameters
    ]
    texts = {name: purpose(preset) for name, preset in presets.items()}
    lines = [f"`{name}`: {text}" for name, text in texts.items() if text]
    notes = [bullets(lines)] if lines else []
    return "\n\n".join([*notes, table(["setting", *head], rows)])


def _value(value: object) -> str:
    """Return a value as YAML has it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
