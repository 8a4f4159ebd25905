"""Quote the settings that are text, so that they keep the characters of the command line.

Hydra reads ``out=2024_01_15`` as the number 20240115, ``out=1e5`` as 100000.0, and cannot read a
path with brackets, ``#`` or an apostrophe. The fields of the top level, and the annotations of the
class that an option names, say which settings are text. Their values are put in quotes here, before
Hydra parses anything.
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
from posterior_bench.bench.config.class_source import class_node, origin_of
from posterior_bench.bench.config.schema import Config
from posterior_bench.bench.core.errors import UserError

TEXT, TEXTS, OTHER, UNKNOWN = "text", "texts", "other", ""
"""Kinds of settings: a text, a list of texts, another type, and a type that is not known."""

_OVERRIDE = re.compile(r"(?P<plus>\+{0,2})(?P<key>[A-Za-z_][\w.]*)=(?P<value>.*)", re.DOTALL)
_CHOICE = re.compile(r"choice\((?P<values>.*)\)", re.DOTALL)
_CHOICES = ("budget", "precision", "checkpointing", "logger")
"""Texts of the top level that are words to choose from."""
_SENTENCES = ("prompt", "prompts", "caption", "captions", "title", "question")
_BRACKETS = {"(": ")", "[": "]", "{": "}"}


def quote_texts(overrides: Sequence[str], sweep: bool = False) -> list[str]:
    """Return the overrides with quotes around every text that Hydra would read as another type.

    ``null`` stays null, and a text in quotes stays as it is. A second call changes nothing.

    Parameters
    ----------
    overrides : Sequence of str
        The words of the command line.
    sweep : bool, default False
        Whether commas separate the values of a sweep. Otherwise they belong to the text (``out``,
        ``data.root``). In a setting whose values are a few words (``budget``) they separate values
        in any case, and the check of overrides asks for ``-m``.
    """
    chosen = _chosen(overrides)
    return [_line(line, chosen, sweep) for line in overrides]


def sweeps(arguments: Sequence[str]) -> bool:
    """Return whether a command line runs several jobs: ``-m``, or a study with a sweep."""
    studies = [line.partition("=")[2] for line in arguments if line.startswith("study=")]
    known = [option("study", name) for name in studies if name in options("study")]
    several = any(study.sweep or study.parts for study in known)
    return several or "-m" in arguments or "--multirun" in arguments


def may_hold_commas(key: str) -> bool:
    """Return whether a comma may belong to the text of a setting.

    It may in a path, a name or a sentence, but not in a setting whose values are a few words.
    """
    # only here: the module of the cell imports much that a command line does not need
    from posterior_bench.bench.config.cell import is_path

    name = key.rpartition(".")[2]
    free = "." not in key and key not in _CHOICES
    return free or key == "study.name" or name in _SENTENCES or is_path(name, "")


def kind_of(key: str, chosen: Mapping[str, Sequence[str]]) -> str:
    """Return the kind of a setting.

    In a group it is the kind in the ``chosen`` options that have the setting, else in all options
    that have it; :data:`OTHER` if they differ.
    """
    group, _, rest = key.partition(".")
    if not rest:
        return _top().get(key, OTHER)
    if group not in GROUPS:
        return OTHER
    names = [name for name in chosen.get(group, ()) if name in options(group) or ".py:" in name]
    kinds = {_kind(option(group, name), rest) for name in names} - {UNKNOWN}
    kinds = kinds or {_kind(each, rest) for each in options(group).values()} - {UNKNOWN}
    return kinds.pop() if len(kinds) == 1 else OTHER


def quote(text: str) -> str:
    """Return a text in quotes, unless Hydra reads it letter by letter without them."""
    # only here: Hydra loads slowly
    from hydra.core.override_parser.types import Quote, QuotedString

    if _reads(text) == text:
        return text
    mark = Quote.double if "'" in text and '"' not in text else Quote.single
    return str(QuotedString(text, mark).with_quotes())


def _line(line: str, chosen: Mapping[str, Sequence[str]], sweep: bool) -> str:
    """Return one override with its texts in quotes."""
    match = _OVERRIDE.fullmatch(line)
    if match is None or match["value"] == "null":
        return line
    key, value = match["key"], match["value"]
    kind = TEXT if key == "solver" and ".py:" in value else kind_of(key, chosen)
    if kind == TEXTS and value.startswith("[") and value.endswith("]") and value != "[]":
        return f"{match['plus']}{key}=[{_pieces(value[1:-1])}]"
    if kind != TEXT:
        return line
    if may_hold_commas(key) and (not sweep or ("," in value and Path(value).expanduser().exists())):
        return f"{match['plus']}{key}={_piece(value)}"
    choice = _CHOICE.fullmatch(value)
    if choice:
        return f"{match['plus']}{key}=choice({_pieces(choice['values'])})"
    return f"{match['plus']}{key}={_pieces(value)}"


def _pieces(values: str) -> str:
    return ",".join(map(_piece, _split(values)))


def _piece(text: str) -> str:
    """Quote one value, unless it is in quotes or has an interpolation, which Hydra reads."""
    stripped = text.strip()
    if "${" in text or stripped == "null":
        return text
    ends = stripped[:1] + stripped[-1:]
    if len(stripped) > 1 and ends in ("''", '""') and isinstance(_reads(stripped), str):
        return stripped
    return quote(text)


def _reads(text: str) -> Any:
    """Return the value that Hydra reads; None if it cannot read it, or reads a sweep."""
    # only here: Hydra loads slowly
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        item = OverridesParser.create().parse_override(f"x={text}")
        return None if item.is_sweep_override() else item.value()
    except (HydraException, RecursionError):
        return None


def _split(text: str) -> list[str]:
    """Split a text at the commas outside quotes and brackets.

    If its brackets do not pair, the commas in brackets count too.
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
        # a quote stands at the start of a part; elsewhere it is an apostrophe
        elif letter in "'\"" and not part.strip():
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
    """Return the kind of every setting of the top level."""
    return {
        field.name: _annotated(str(field.type))
        for field in dataclasses.fields(Config)
        if field.name not in GROUPS
    }


def _kind(chosen: Option, key: str) -> str:
    """Return the kind of a setting of one option; unknown if the option has no such setting."""
    parameters = chosen.parameters
    if chosen.group in LIST_GROUPS:
        column, _, key = key.partition(".")
        parameters = parameters.get(column) or {}
    if key == "preset" or key not in parameters:
        return TEXT if key == "preset" and "presets" in chosen.content else UNKNOWN
    if kind := _annotations(chosen).get(key, UNKNOWN):
        return kind
    value = parameters[key]
    if value is None or value == "???":
        return UNKNOWN
    return TEXT if isinstance(value, str) else OTHER


def _annotations(chosen: Option) -> dict[str, str]:
    """Return the kinds of settings by the annotations of the class or function of an option.

    They are read without importing it.
    """
    if isinstance(chosen, FileOption):
        return _class_kinds("", chosen.code.target)
    path = chosen.content.get("_target_")
    return _class_kinds(*str(path).rpartition(".")[::2]) if path else {}


@cache
def _class_kinds(module: str, name: str) -> dict[str, str]:
    try:
        node, tree = class_node(module, name)
    except UserError:  # a base that is neither in the file nor imported by it
        return {}
    if node is None:
        return {}
    if isinstance(node, ast.FunctionDef):
        return _function_kinds(node)
    kinds: dict[str, str] = {}
    for base in node.bases:
        if isinstance(base, ast.Name):
            origin = origin_of(tree, base.id) or module
            in_file = f"{name.rpartition(':')[0]}:{base.id}"
            kinds |= _class_kinds(origin, base.id if origin else in_file)
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            kinds[statement.target.id] = _annotated(ast.unparse(statement.annotation))
        if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
            kinds |= _function_kinds(statement)
    return kinds


def _function_kinds(node: ast.FunctionDef) -> dict[str, str]:
    arguments: Iterable[ast.arg] = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return {
        a.arg: _annotated(ast.unparse(a.annotation)) for a in arguments if a.annotation is not None
    }


def _annotated(annotation: str) -> str:
    """Return the kind of an annotation; unknown for other types, such as an alias of words."""
    parts = {part.strip() for part in annotation.split("|")} - {"None"}
    if parts and parts <= {"str", "Path"}:
        return TEXT
    if re.fullmatch(r"(list|tuple|Sequence)\[str(, \.\.\.)?\]", annotation.removesuffix(" | None")):
        return TEXTS
    if re.search(r"\b(int|float|bool|dict|Mapping|list|tuple|Sequence)\b", annotation):
        return OTHER
    return UNKNOWN


def _chosen(overrides: Sequence[str]) -> dict[str, list[str]]:
    """Return the options that the command line chooses, by group."""
    chosen: dict[str, list[str]] = {}
    for line in overrides:
        key, _, value = line.partition("=")
        if key in GROUPS:
            chosen[key] = [name.strip(" '\"[]") for name in value.split(",")]
    return chosen
