"""Markdown of the reference pages: tables, lists and code, and docstrings as paragraphs."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from posterior_bench.bench.config.catalog import Option

NOTE = "<!-- Written from the code by `make docs`; edit the class or its yaml instead. -->"

_ENTRY = re.compile(r"(?P<names>\w+(?:, \w+)*) : [^\n]+\n(?P<text>(?:    [^\n]*\n?|\n(?=    ))*)")


def page(title: str, introduction: str, sections: Iterable[str]) -> str:
    """Return a whole page: a note for editors, the title, the introduction, the sections."""
    return "\n\n".join([NOTE, f"# {title}", introduction, *sections]) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; a vertical bar in a cell is escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def bullets(lines: Iterable[str]) -> str:
    """Return a bulleted list."""
    return "\n".join(f"- {line}" for line in lines)


def codes(names: Iterable[str]) -> str:
    """Return names as code, sorted, with commas between them."""
    return ", ".join(f"`{name}`" for name in sorted(names))


def choice(option: Option) -> str:
    """Return how an option is chosen on the command line, as code."""
    return f"`{option.group}={option.name}`" if option.group != "metrics" else f"`{option.name}`"


def class_place(cls: type) -> str:
    """Return the import path of a class without the root package, as code."""
    return f"`{cls.__module__.removeprefix('posterior_bench.')}.{cls.__qualname__}`"


# -- docstrings ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class FieldNote:
    """The entry of a docstring about one setting, or about several settings at once.

    Parameters
    ----------
    fields : tuple of str
        Names of the settings.
    names : str
        The names as the docstring has them, with commas between them.
    text : str
        The description, in one line.
    """

    fields: tuple[str, ...]
    names: str
    text: str


def field_notes(cls: type) -> list[FieldNote]:
    """Read the numpydoc section ``Parameters`` of a class.

    Parameters
    ----------
    cls : type
        A dataclass. An entry is ``name : type, default value`` or ``one, two : type``, with its
        text in the lines below, indented by four spaces.

    Returns
    -------
    list of FieldNote
        One note per entry, in the order of the docstring.
    """
    _, _, section = inspect.cleandoc(cls.__doc__ or "").partition("Parameters\n----------\n")
    section = re.split(r"\n\n(?=\S)", section)[0]
    return [
        FieldNote(tuple(entry["names"].split(", ")), entry["names"], _flat(entry["text"]))
        for entry in _ENTRY.finditer(section)
    ]


def note_line(note: FieldNote) -> str:
    """Return a note as Markdown, its names as code."""
    marked = re.sub(rf"(?<![(`\w])({'|'.join(note.fields)})(?=[ ,]|$)", r"`\1`", note.names)
    return f"{_code(marked)}: {_code(note.text)}"


def paragraphs(cls: type) -> list[str]:
    """Return the paragraphs of a docstring's summary, description and ``Notes``."""
    parts = re.split(r"(?:^|\n\n)(\w[\w ]*)\n-{3,}\n", inspect.cleandoc(cls.__doc__ or ""))
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    text = f"{parts[0]}\n\n{sections.get('Notes', '')}"
    flat = [re.sub(r"(^| )Raises .*", "", _code(_flat(part))) for part in text.split("\n\n")]
    return [paragraph for paragraph in flat if paragraph]


def _flat(text: str) -> str:
    return " ".join(text.split())


def _code(text: str) -> str:
    """Turn roles and double backticks of a docstring into Markdown code."""
    return re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text).replace("``", "`")
