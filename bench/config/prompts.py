"""The settings of prompts: the text that a text-conditional prior gets for every image.

``data.prompt`` (short ``prompt=``) is one text for all images, ``data.captions`` a file with a text
for each, and ``data.class_prompt`` a template for the name of each image's class.
``data.text_encoder`` is the folder of the text encoder, for prompts that the prior has no
embeddings of. No torch is imported here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from posterior_bench.bench.core.errors import UserError

Node = Mapping[str, Any]

SOURCES = ("prompt", "captions", "class_prompt")
"""Settings that give prompts; at most one of them."""

SETTINGS = (*SOURCES, "text_encoder")
RECORDED_KEYS = ("prompts", "encoder")
"""Keys that a plan adds: hashes of the prompts in use, and of the text encoder if it is needed."""

GIVE = 'prompt="TEXT", data.captions=FILE or data.class_prompt="a photo of a {}"'
"""How prompts are given, for messages."""

LABELS = ("label", "labels")
"""Settings that give classes in place of the labels of the data (:mod:`bench.config.labels`)."""

SHORT = ("label", "images")
"""Settings of the data that are also taken without ``data.`` in front."""

LABEL_MAP = "label_map"
"""Key that a plan adds: a hash of the classes in use, if they are given."""

NOT_OF_THE_IMAGES = ("images", *SETTINGS, *RECORDED_KEYS, *LABELS, LABEL_MAP)
"""Keys of a data node that its class does not get."""

_SHOWN = 60
_QUOTED = re.compile(r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")""")
_PIECE = re.compile(rf"\s*{_QUOTED.pattern}\s*(?=,|$)|[^,]+")


def quote_prompts(overrides: Sequence[str], sweep: bool = False) -> list[str]:
    """Return the overrides with ``prompt=`` and :data:`SHORT` under ``data.``, texts in quotes.

    Hydra would read ``prompt=2024`` as a number and ``prompt=a car, at night`` as a sweep. In a
    ``sweep`` (``-m``) a comma separates two values; a prompt with a comma must then be in quotes,
    inside those of the shell.
    """
    return [_quote_line(_in_data(override), sweep) for override in overrides]


def _in_data(override: str) -> str:
    """Write ``label=3`` as ``data.label=3``, and ``images=8`` as ``data.images=8``."""
    bare = override.lstrip("+")
    return f"data.{bare}" if bare.partition("=")[0] in SHORT and "=" in bare else override


def _quote_line(override: str, sweep: bool) -> str:
    match = re.match(rf"\+*(?:prompt|data\.({'|'.join(SETTINGS)}))=", override)
    if match is None:
        return override
    key, value = match[1] or "prompt", override[match.end() :]
    if sweep and re.match(r"(choice|glob|range|interval)\(", value):
        return f"data.{key}={value}"
    parts = [part.strip() for part in _PIECE.findall(value)] if sweep else [value.strip()]
    return f"data.{key}=" + ",".join(map(_in_quotes, parts or [""]))


def _in_quotes(text: str) -> str:
    """Quote a text as Hydra's grammar does; ``null`` and quoted texts stay."""
    if text == "null" or _QUOTED.fullmatch(text):
        return text
    text = text.replace("${", "\\${")  # a text refers to no other setting
    # backslashes count only in front of a quote
    return "'" + re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), text) + "'"


def source(node: Node) -> str | None:
    """Return the setting of a data node that gives prompts, if any.

    Raises
    ------
    UserError
        If several settings give prompts, or a value is no text.
    """
    for key in SETTINGS:
        value = node.get(key)
        if value is not None and not isinstance(value, str):
            raise UserError(
                f"data.{key}={value}: data.{key} takes a text; in a yaml, put it in quotes"
            )
    sources = [key for key in SOURCES if node.get(key) is not None]
    if len(sources) > 1:
        raise UserError(
            f"{' and '.join(f'data.{key}' for key in sources)} are both set; give one of them"
        )
    if not sources and node.get("text_encoder") is not None:
        raise UserError(
            f"data.text_encoder is set, but there are no prompts; give {GIVE}, or leave it out"
        )
    return sources[0] if sources else None


def identity(node: Node) -> dict[str, Any]:
    """Return a data node as the hash of a cell takes it: the same prompts or classes are equal."""
    return {key: value for key, value in node.items() if key not in (*SETTINGS, *LABELS)}


def readable(node: Node) -> dict[str, Any]:
    """Return a data node for the tables.

    A prompt stays as it is, captions become the first digits of their hash, and there is no
    encoder.
    """
    hidden = (*SETTINGS, *RECORDED_KEYS, LABEL_MAP, "labels")
    shown = {key: value for key, value in node.items() if key not in hidden}
    for key in ("prompt", "class_prompt"):
        if node.get(key) is not None:
            text = " ".join(str(node[key]).split())
            shown[key] = text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
    if node.get("captions") is not None:
        shown["captions"] = str(node.get("prompts", ""))[:8]
    if node.get("labels") is not None:
        shown["labels"] = str(node.get(LABEL_MAP, ""))[:8]
    return shown


def absolute_paths(node: Node) -> dict[str, str]:
    """Return the paths of a data node as absolute ones, which workers in another folder find."""
    keys = ("captions", "text_encoder", "labels")
    paths = {key: node[key] for key in keys if node.get(key) is not None}
    return {key: str(Path(value).expanduser().absolute()) for key, value in paths.items()}
