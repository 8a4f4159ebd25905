"""Read and write the YAML files of a study folder: its configuration and its cells' plans."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from posterior_bench.bench.core.errors import UserError, WrongCell

_CHUNKS = "\nchunks: {\n"
_DEEPEST = 200
_DEEP = re.compile(rf"(?:[-?:][ \t]+){{{_DEEPEST // 2}}}|^ {{{_DEEPEST // 2}}}", re.MULTILINE)
"""Nesting in lines: dashes that follow each other, and an indentation."""


def read_yaml(path: Path) -> Any:
    """Return the content of a file, in plain types.

    The chunks of a plan are read as JSON, as :func:`plan_text` writes them, else as YAML.
    """
    text = path.read_text(encoding="utf-8")
    head, mark, chunks = text.partition(_CHUNKS)
    if mark:
        try:
            return {**_parsed(head), "chunks": json.loads(f"{{{chunks}")}
        except (json.JSONDecodeError, TypeError):  # somebody edited the file
            pass
    return _parsed(text)


def read_cell(path: Path) -> Any:
    """Return the ``config.yaml`` of a cell's folder.

    Raises
    ------
    UserError
        If the file cannot be read, or is no plan of a cell.
    WrongCell
        If the file describes another cell than its folder is named after.
    """
    recorded, name = _readable(path), path.absolute().parent.name
    lacking = [key for key in ("identity", "chunks") if not isinstance(recorded.get(key), dict)]
    if lacking:
        raise UserError(
            f"{path} is no plan of a cell: it lacks its {' and '.join(lacking)}; restore the file, "
            f"or move {path.parent} out of the study"
        )
    if str(recorded.get("cell", name)) != name:
        raise WrongCell(
            f"the folder {path.parent} is called {name}, but {path.name} in it describes the cell "
            f"{recorded['cell']}; if it is a copy, move it out of the study, else give it that "
            "name again"
        )
    return recorded


def _readable(path: Path) -> dict[str, Any]:
    """Return the mapping in one of our files; an empty one if it holds something else.

    Raises
    ------
    UserError
        If the file cannot be read.
    """
    try:
        content = read_yaml(path)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path} cannot be read ({reason}); restore the file, or move it away"
        ) from None
    return content if isinstance(content, dict) else {}


def _demand_flat(text: str) -> None:
    """Raise YAMLError for YAML nested so deeply that the C loader would crash the process.

    Counting the events takes long, so it is done only where the text has many brackets, dashes or
    blanks in a row.
    """
    if text.count("[") + text.count("{") < _DEEPEST and not _DEEP.search(text):
        return
    depth = 0
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(
            event, yaml.CollectionEndEvent
        )
        if depth > _DEEPEST:
            raise yaml.YAMLError(f"it is nested more than {_DEEPEST} levels deep")


def _parsed(text: str) -> Any:
    _demand_flat(text)
    # the C loader is ten times faster
    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def plan_text(record: Mapping[str, Any]) -> str:
    """Return a cell's ``config.yaml``: YAML whose last key ``chunks`` is JSON, one chunk a line.

    A plan can hold millions of image ids; a JSON parser reads them a hundred times faster.
    """
    rest = {key: value for key, value in record.items() if key != "chunks"}
    chunks = ",\n".join(
        f"  {_json(name)}: {_json(images)}" for name, images in record["chunks"].items()
    )
    return f"{yaml.safe_dump(rest, sort_keys=False, allow_unicode=True)}{_CHUNKS[1:]}{chunks}\n}}\n"


def _json(value: str | Sequence[str]) -> str:
    """Return JSON that is also YAML: characters that YAML forbids are escaped, no others."""
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() else json.dumps(value)


def study_settings(study: Path | str) -> dict[str, Any]:
    """Return the configuration of a study's latest job; empty if none is recorded."""
    path = Path(study) / "config.yaml"
    return _readable(path) if path.exists() else {}


def check_study(folder: Path) -> None:
    """Raise UserError for a folder that is not a study folder."""
    if not (folder / "cells").is_dir():
        raise UserError(
            f"{folder} is not a study folder: it holds no cells/; studies lie in runs/ unless out= "
            "says otherwise"
        )


def planned_cells(study: Path) -> list[Path]:
    """Return the ``config.yaml`` of every planned cell, sorted by cell.

    Raises
    ------
    UserError
        If the folder has none.
    """
    configs = sorted(study.glob("cells/*/config.yaml"))
    if not configs:
        raise UserError(
            f"{study} is not a study folder with planned cells; studies lie in runs/ unless out= "
            "says otherwise"
        )
    return configs
