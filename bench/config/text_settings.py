"""Settings that are text keep the characters that were typed.

Hydra reads ``out=2024_01_15`` as the number 20240115, ``out=1e5`` as 100000.0, and cannot read a
path with brackets, ``#`` or an apostrophe. Which settings are text is known: from the fields of the
top level, and from the annotations of the class that an option names. Such values are put in quotes
here, before Hydra parses anything.
"""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from posterior_bench.bench.config.catalog import (
    GROUPS,
    LIST_GROUPS,
    FileOption,
    Option,
    option,
    options,
)
from posterior_bench.bench.config.class_source import class_node
from posterior_bench.bench.core.errors import UserError

TEXT, TEXTS, OTHER, UNKNOWN = "text", "texts", "other", ""
"""Kinds of settings: a text, a list of texts, something else, and one of which nothing says what it
is."""

_OVERRIDE = re.compile(r"(?P<plus>\+{0,2})(?P<key>[A-Za-z_][\w.]*)=(?P<value>.*)", re.DOTALL)
_CHOICE = re.compile(r"choice\((?P<values>.*)\)", re.DOTALL)
_CHOICES = ("budget", "precision", "checkpointing", "logger")
"""Texts of the top level that are words to choose from."""
_SENTENCES = ("prompt", "prompts", "caption", "captions")
_BRACKETS = {"(": ")", "[": "]", "{": "}"}


def quote_texts(overrides: Sequence[str], sweep: bool = False) -> list[str]:
    """The overrides with quotes around every text that Hydra would read as something else; the
    others as they are.

    ``sweep``: commas separate the values of a sweep. Without it they belong to the text (``out``,
    ``data.root``); in words to choose (``budget``) they separate values in any case, and the check
    of overrides asks for ``-m``. ``null`` stays null, and what is in quotes already stays as it is.
    Doing it twice changes nothing.
    """
    chosen = _chosen(overrides)
    return [_line(line, chosen, sweep) for line in overrides]


def sweeps(arguments: Sequence[str]) -> bool:
    """Whether a command line runs several jobs: ``-m``, or a study with a sweep of its own."""
    studies = [line.partition("=")[2] for line in arguments if line.startswith("study=")]
    known = [option("study", name) for name in studies if name in options("study")]
    return (
        any(study.sweep or study.parts for study in known)
        or "-m" in arguments
        or "--multirun" in arguments
    )


def may_hold_commas(key: str) -> bool:
    """Whether a comma may be one of the letters of a text: of a path, a name or a sentence, not of
    a word to choose.
    """
    from posterior_bench.bench.config.cell import is_path

    name = key.rpartition(".")[2]
    free = "." not in key and key not in _CHOICES
    return free or key == "study.name" or name in _SENTENCES or is_path(name, "")


def kind_of(key: str, chosen: Mapping[str, Sequence[str]]) -> str:
    """What kind of setting a key is; of a group, for the ``chosen`` options that have it, else for
    all that have it.
    """
    group, _, rest = key.partition(".")
    if not rest:
        return _top().get(key, OTHER)
    if group not in GROUPS:
        return OTHER
    names = [name for name in chosen.get(group, ()) if name in options(group) or ".py:" in name]
    found = {_kind(option(group, name), rest) for name in names} - {UNKNOWN}
    found = found or {_kind(each, rest) for each in options(group).values()} - {UNKNOWN}
    return found.pop() if len(found) == 1 else OTHER


def quote(text: str) -> str:
    """The text as Hydra reads it back letter by letter: as it is where that is so, else in
    quotes.
    """
    from hydra.core.override_parser.types import Quote, QuotedString

    if _reads(text) == text:
        return text
    quote = Quote.double if "'" in text and '"' not in text else Quote.single
    return str(QuotedString(text, quote).with_quotes())


def _line(line: str, chosen: Mapping[str, Sequence[str]], sweep: bool) -> str:
    match = _OVERRIDE.fullmatch(line)
    if match is None or match["value"] == "null":
        return line
    key, value = match["key"], match["value"]
    kind = TEXT if key == "solver" and ".py:" in value else kind_of(key, chosen)
    if kind == TEXTS and value.startswith("[") and value.endswith("]"):
        return (
            f"{match['plus']}{key}=[{','.join(map(_piece, _split(value[1:-1])))}]"
            if value != "[]"
            else line
        )
    if kind != TEXT:
        return line
    if may_hold_commas(key) and (not sweep or ("," in value and Path(value).expanduser().exists())):
        return f"{match['plus']}{key}={_piece(value)}"
    choice = _CHOICE.fullmatch(value)
    if choice:
        return f"{match['plus']}{key}=choice({','.join(map(_piece, _split(choice['values'])))})"
    return f"{match['plus']}{key}={','.join(map(_piece, _split(value)))}"


def _piece(text: str) -> str:
    """One value; in quotes, or with an interpolation, it is left for Hydra to read."""
    stripped = text.strip()
    if "${" in text or stripped == "null":
        return text
    if (
        len(stripped) > 1
        and stripped[0] == stripped[-1]
        and stripped[0] in "'\""
        and isinstance(_reads(stripped), str)
    ):
        return stripped
    return quote(text)


def _reads(text: str) -> Any:
    """What Hydra makes of a value; None of one that it cannot read, and of a sweep."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        item = OverridesParser.create().parse_override(f"x={text}")
        return None if item.is_sweep_override() else item.value()
    except (HydraException, RecursionError):
        return None


def _split(text: str) -> list[str]:
    """The parts between commas outside quotes and brackets; where brackets do not pair, outside
    quotes.
    """
    try:
        return _parts(text, _BRACKETS)
    except UserError:
        return _parts(text, {})


def _parts(text: str, brackets: Mapping[str, str]) -> list[str]:
    parts, part, waiting, quote = [], "", [], ""
    for i, letter in enumerate(text):
        if quote:
            quote = "" if letter == quote and text[i - 1] != "\\" else quote
        elif (
            letter in "'\"" and not part.strip()
        ):  # only at the start of a part; else it is an apostrophe
            quote = letter
        elif letter in brackets:
            waiting.append(brackets[letter])
        elif letter in brackets.values():
            if not waiting or waiting.pop() != letter:
                raise UserError(f"'{text}' has a '{letter}' too many")
        elif letter == "," and not waiting:
            parts.append(part)
            part = ""
            continue
        part += letter
    if waiting:
        raise UserError(f"'{text}' lacks a '{waiting[-1]}'")
    return [*parts, part]


# -- which settings are text -----------------------------------------------------------------------


@cache
def _top() -> dict[str, str]:
    from posterior_bench.bench.config.schema import Config

    return {
        field.name: _annotated(str(field.type))
        for field in dataclasses.fields(Config)
        if field.name not in GROUPS
    }


def _kind(chosen: Option, key: str) -> str:
    """The kind of a setting of one option; unknown where the option has no such setting."""
    parameters = chosen.parameters
    if chosen.group in LIST_GROUPS:
        column, _, key = key.partition(".")
        parameters = parameters.get(column) or {}
    if key == "preset" or key not in parameters:
        return TEXT if key == "preset" and "presets" in chosen.content else UNKNOWN
    said = _annotations(chosen).get(key, UNKNOWN)
    if said:
        return said
    value = parameters[key]
    if value is None or value == "???":
        return UNKNOWN
    return TEXT if isinstance(value, str) else OTHER


def _annotations(chosen: Option) -> dict[str, str]:
    """The kinds of the settings of the class or function that an option names, read without
    importing it.
    """
    if isinstance(chosen, FileOption):
        return _of_class("", chosen.code.target)
    path = chosen.content.get("_target_")
    return _of_class(*str(path).rpartition(".")[::2]) if path else {}


@cache
def _of_class(module: str, name: str) -> dict[str, str]:
    try:
        node, tree = class_node(module, name)
    except UserError:  # a base that is neither in the file nor imported by it
        return {}
    if node is None:
        return {}
    if isinstance(node, ast.FunctionDef):
        return _of_function(node)
    found: dict[str, str] = {}
    for base in node.bases:
        if isinstance(base, ast.Name):
            origin = _origin(tree, base.id) or module
            found |= _of_class(
                origin, base.id if origin else f"{name.rpartition(':')[0]}:{base.id}"
            )
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            found[statement.target.id] = _annotated(ast.unparse(statement.annotation))
        if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
            found |= _of_function(statement)
    return found


def _of_function(node: ast.FunctionDef) -> dict[str, str]:
    arguments: Iterable[ast.arg] = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return {
        a.arg: _annotated(ast.unparse(a.annotation)) for a in arguments if a.annotation is not None
    }


def _origin(tree: ast.Module, name: str) -> str:
    """The module that a name is imported from; empty where it is not imported."""
    for statement in tree.body:
        if isinstance(statement, ast.ImportFrom) and any(
            alias.name == name for alias in statement.names
        ):
            return statement.module or ""
    return ""


def _annotated(annotation: str) -> str:
    """The kind that an annotation says; unknown for names of other types, such as an alias of some
    words.
    """
    parts = {part.strip() for part in annotation.split("|")} - {"None"}
    if parts and parts <= {"str", "Path"}:
        return TEXT
    if re.fullmatch(r"(list|tuple|Sequence)\[str(, \.\.\.)?\]", annotation.removesuffix(" | None")):
        return TEXTS
    if re.search(r"\b(int|float|bool|dict|Mapping|list|tuple|Sequence)\b", annotation):
        return OTHER
    return UNKNOWN


def _chosen(overrides: Sequence[str]) -> dict[str, list[str]]:
    """The options that the command line names, by group."""
    named: dict[str, list[str]] = {}
    for line in overrides:
        key, _, value = line.partition("=")
        if key in GROUPS:
            named[key] = [name.strip(" '\"[]") for name in value.split(",")]
    return named
