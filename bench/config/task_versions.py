"""Versions of tasks: under one name, a number can only be compared within one version.

A task is an image set, a mask and an operator, each under the name of its option. Studies have
versions too, and metrics, whose cards say theirs. ``conf/versions.yaml`` holds the history of every
name; the version is the number of its lines. A plugin may bring such a file for its own options.

The versions of a cell are recorded as text: ``data=1 mask=2 operator=1``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from posterior_bench.bench.config.option_files import CONF, option_files, whole_file
from posterior_bench.bench.config.plugins import installed

TASK = ("data", "mask", "operator")
"""The groups that make up the task of a cell."""

GROUPS = (*TASK, "study", "metrics")
"""The groups whose options have versions."""

UNTOLD = ["First version."]
"""The history of options that are not listed."""

FIRST = " ".join(f"{group}=1" for group in TASK)
"""The text of cells that were planned before versions were recorded."""


@cache
def _histories() -> Mapping[tuple[str, str], Sequence[str]]:
    files = [CONF / "versions.yaml"]
    files += [plugin.conf / "versions.yaml" for plugin in installed().values()]
    return {
        (group, name): lines
        for path in files
        if path.exists()
        for group, names in whole_file(path).items()
        for name, lines in names.items()
    }


def history_of(group: str, name: str) -> Sequence[str]:
    """Return a line for every version of an option, oldest first."""
    return _histories().get((group, name), UNTOLD)


def version_of(group: str, name: str) -> int:
    """Return the present version of an option, from 1 on."""
    return len(history_of(group, name))


def task_versions(choices: Mapping[str, Any]) -> dict[str, int]:
    """Return the versions of the chosen image set, mask and operator, by group."""
    return {group: version_of(group, str(choices[group])) for group in TASK}


def task_text(versions: Mapping[str, int]) -> str:
    """Return versions as a cell records them."""
    return " ".join(f"{group}={version}" for group, version in versions.items())


def study_text(choices: Mapping[str, Any]) -> str:
    """Return name and version of the chosen study, such as ``vipaint_table6=1``."""
    name = str(choices.get("study", "default"))
    return f"{name}={version_of('study', name)}"


def outdated(identity: Mapping[str, Any]) -> dict[tuple[str, str], tuple[int, int]]:
    """Return which parts of a recorded cell have another version now.

    Parameters
    ----------
    identity : Mapping of str to Any
        What the cell records of itself. A cell without versions has version 1 of everything.

    Returns
    -------
    dict
        Recorded and present version by group and name. Options that are not installed here are
        left out.
    """
    text = f"{identity.get('task_version') or FIRST}"
    recorded = {
        (group, str(identity[group]).split()[0]): int(version)
        for group, _, version in (word.partition("=") for word in text.split())
    }
    name, _, version = str(identity.get("study_version") or "default=1").partition("=")
    recorded["study", name] = int(version)
    return {
        (group, name): (version, version_of(group, name))
        for (group, name), version in recorded.items()
        if name in option_files(group) and version != version_of(group, name)
    }


def outdated_lines(identities: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return a line for every task or study of which some cells have another version."""
    found = Counter(item for identity in identities for item in outdated(identity).items())
    lines = []
    for ((group, name), (then, now)), count in found.items():
        cells = f"{count} cell{'s have' if count > 1 else ' has'}"
        apart = (
            "its tables may differ in cells and settings"
            if group == "study"
            else "these cells stand in tables of their own and are not continued"
        )
        lines.append(
            f"{cells} version {then} of {group}={name}, which is at version {now} now "
            f"(docs/versions.md): {apart}; out=DIR starts a new folder"
        )
    return lines
