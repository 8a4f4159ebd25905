"""What a bundle says, checked for its form: cells, rows, measurements, and what people state."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from posterior_bench.bench.store.schema import Row
from posterior_bench.bench.submission.members import (
    ABOUT,
    BOARD,
    ENVIRONMENT,
    FORMAT,
    Refusal,
    check_sums,
    read_json,
)
from posterior_bench.bench.submission.row_text import read_rows

CELL_FILE, ROWS_FILE = "cells/{}/cell.json", "cells/{}/rows.csv"

_LONGEST = 4000
_DEEPEST = 12
_CELL = re.compile(r"cells/([0-9a-f]{16})/cell\.json")
_CHUNK = re.compile(r"\d{5,7}-[0-9a-f]{16}(-d\d+-\d+)?")

_TEXTS = (
    *("solver", "data", "mask", "operator", "prior", "variant", "content", "fingerprint"),
    *("version", "task_version", "study_version"),
)
_COUNTS = ("seed", "images", "draws")
_TASK_VERSION = re.compile(r"data=\d{1,6} mask=\d{1,6} operator=\d{1,6}")
_STUDY_VERSION = re.compile(r"([\w./-]+=\d{1,6})?")
_LARGEST_BATCH = 16_384
"""Rows of a network batch that a reader's machine is asked to compute at most."""

_CELL_FORM: Mapping[str, type] = {
    **{"cell": str, "identity": dict, "padded": int, "batch": int, "chunks": dict},
    **{"metrics": dict, "settings": list, "alone": str, "config": dict, "provenance": dict},
    **{"measured": str, "left_out": list},
}
_ABOUT_FORM: Mapping[str, type] = {
    **{"format": int, "product": str, "version": str, "date": str, "by": str, "study": str},
    **{"methods": list, "contamination": dict, "reported": list},
}


@dataclass(frozen=True)
class BundleCell:
    """One cell of a bundle.

    Parameters
    ----------
    name : str
        The hash that names the cell.
    record : mapping
        The content of its ``cell.json``: ``identity``, ``padded``, ``batch``, ``chunks``,
        ``metrics`` (node and card by column), ``settings`` (overrides that make the cell, or none
        and in ``alone`` the reason), ``config``, ``provenance``, ``measured`` (the file of its
        measurements) and ``left_out`` (metrics whose features are too large).
    rows : sequence of mappings
        Its rows.
    """

    name: str
    record: Mapping[str, Any]
    rows: Sequence[Row]

    @property
    def identity(self) -> Mapping[str, Any]:
        """The names of the cell."""
        identity: Mapping[str, Any] = self.record["identity"]
        return identity

    @property
    def draws(self) -> int:
        """How many draws each image has."""
        return int(self.identity["draws"])

    @property
    def title(self) -> str:
        """Solver, data and mask, for people."""
        return " · ".join(str(self.identity[key]) for key in ("solver", "data", "mask"))


@dataclass(frozen=True)
class Bundle:
    """A bundle whose form is right.

    Parameters
    ----------
    about : mapping
        The content of ``bundle.json``.
    environment : mapping
        The content of ``environment.json``.
    cells : sequence of BundleCell
        The cells, by name.
    measurements : mapping of str to bytes
        The files of measurements by their names.
    table : bytes
        The table that the bundle claims.
    """

    about: Mapping[str, Any]
    environment: Mapping[str, Any]
    cells: Sequence[BundleCell]
    measurements: Mapping[str, bytes]
    table: bytes


def read_bundle(members: Mapping[str, bytes]) -> Bundle:
    """Return a bundle, after its checksums and its form were checked.

    Raises
    ------
    Refusal
        Naming the first fault.
    """
    check_sums(members)
    about = _formed(read_json(members[ABOUT], ABOUT), _ABOUT_FORM, ABOUT)
    if about["format"] != FORMAT or about["product"] != "posterior-bench":
        raise Refusal(f"{ABOUT} is of format {about['format']}, and this version reads {FORMAT}")
    entries = [*about["methods"], *about["reported"], *_listed(about["contamination"])]
    if not all(isinstance(entry, dict) for entry in entries):
        raise Refusal(f"{ABOUT} states something that is no mapping")
    environment = read_json(members[ENVIRONMENT], ENVIRONMENT)
    _demand_plain(environment, ENVIRONMENT)
    if not isinstance(environment, dict):
        raise Refusal(f"{ENVIRONMENT} is no mapping")
    names = sorted(match[1] for match in map(_CELL.fullmatch, members) if match)
    lost = [n for n in names if ROWS_FILE.format(n) not in members]
    folders = {name.split("/")[1] for name in members if name.startswith("cells/")}
    if not names or lost or folders != {*names}:
        raise Refusal("it has no cells, or cells without rows or without cell.json")
    cells = [_cell(name, members) for name in names]
    measurements = {n: data for n, data in members.items() if n.startswith("measurements/")}
    lacking = [c.title for c in cells if c.record["measured"] not in measurements]
    if lacking or {*measurements} - {c.record["measured"] for c in cells}:
        raise Refusal(f"the measurements of {lacking[0] if lacking else 'no cell'} are missing")
    return Bundle(about, environment, cells, measurements, members[BOARD])


def _listed(contamination: Mapping[str, Any]) -> list[Any]:
    priors = contamination.get("priors")
    return priors if isinstance(priors, list) else [None]


def _cell(name: str, members: Mapping[str, bytes]) -> BundleCell:
    file = CELL_FILE.format(name)
    record = _formed(read_json(members[file], file), _CELL_FORM, file)
    identity = record["identity"]
    wrong = [key for key in _TEXTS if not isinstance(identity.get(key), str)]
    wrong += [key for key in _COUNTS if type(identity.get(key)) is not int]
    wrong += [key for key in _TEXTS[:5] if not wrong and not identity[key].strip()]
    if wrong or record["cell"] != name:
        raise Refusal(f"{file} has no right {', '.join(wrong) or 'name'}")
    if not _TASK_VERSION.fullmatch(identity["task_version"]) or identity["draws"] < 1:
        raise Refusal(f"{file} has no right versions of its task, or no draws")
    if not _STUDY_VERSION.fullmatch(identity["study_version"]):
        raise Refusal(f"{file} has no right version of its study")
    if max(record["batch"], record["padded"]) > _LARGEST_BATCH:
        raise Refusal(f"{file} has batches of more than {_LARGEST_BATCH} rows")
    for chunk, images in record["chunks"].items():
        named = isinstance(images, list) and all(isinstance(image, str) for image in images)
        if not _CHUNK.fullmatch(chunk) or not named or not images:
            raise Refusal(f"{file} has a chunk that is no list of images")
    for column, metric in record["metrics"].items():
        whole = isinstance(metric, dict) and {*metric} == {"node", "card"}
        if not whole or not all(isinstance(part, dict) for part in metric.values()):
            raise Refusal(f"{file} has no node and card of {column}")
    if not all(isinstance(word, str) for word in (*record["settings"], *record["left_out"])):
        raise Refusal(f"{file} has settings that are no texts")
    return BundleCell(
        name, record, read_rows(members[ROWS_FILE.format(name)], ROWS_FILE.format(name))
    )


def _formed(value: Any, form: Mapping[str, type], name: str) -> dict[str, Any]:
    """Return a mapping after its keys and their types were checked."""
    _demand_plain(value, name)
    if not isinstance(value, dict) or {*value} != {*form}:
        raise Refusal(f"{name} has other keys than {', '.join(form)}")
    wrong = [key for key, kind in form.items() if type(value[key]) is not kind]
    if wrong:
        raise Refusal(f"{name} has a {wrong[0]} of a wrong type")
    return value


def _demand_plain(value: Any, name: str, depth: int = 0) -> None:
    """Raise Refusal for texts that cannot be printed or are too long, and for deep nesting."""
    if depth > _DEEPEST:
        raise Refusal(f"{name} is nested more than {_DEEPEST} levels deep")
    if isinstance(value, str) and (len(value) > _LONGEST or not value.isprintable()):
        raise Refusal(f"{name} has a text of {len(value)} characters, or one that cannot be shown")
    parts: list[Any] = list(value) if isinstance(value, list) else []
    if isinstance(value, dict):
        parts = [*value.keys(), *value.values()]
    for part in parts:
        _demand_plain(part, name, depth + 1)
