"""The YAML files of options: ours in ``conf``, and those of installed plugins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from posterior_bench.bench.config.plugins import installed
from posterior_bench.bench.core.environment import ROOT
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.store.study_files import read_yaml

CONF = ROOT / "conf"


class OptionFile(NamedTuple):
    """The file of one option, and the plugin that brings it (empty for ours)."""

    path: Path
    plugin: str


def option_files(group: str, plugins: Iterable[str] | None = None) -> dict[str, OptionFile]:
    """Return the files of a group by the names of the options, such as ``arena/g2``.

    Parameters
    ----------
    group : str
        A folder of ``conf``, such as ``"prior"``.
    plugins : iterable of str, default None
        The plugins whose options count too; None means all that are installed.

    Raises
    ------
    UserError
        If a plugin has an option whose name exists already.
    """
    every = dict(_files(CONF / group, ""))
    for plugin in installed().values():
        if plugins is not None and plugin.name not in plugins:
            continue
        more = _files(plugin.conf / group, plugin.name)
        if taken := sorted(every.keys() & more.keys()):
            raise UserError(
                f"plugin '{plugin.name}' brings {group}={taken[0]}, which exists already; "
                "rename it there"
            )
        every |= more
    return every


@cache
def _files(folder: Path, plugin: str) -> Mapping[str, OptionFile]:
    return {
        path.relative_to(folder).with_suffix("").as_posix(): OptionFile(path, plugin)
        for path in sorted(folder.rglob("*.yaml"))
    }


@cache
def whole_file(path: Path) -> dict[str, Any]:
    """Return what the file of an option says, other groups included."""
    return read_yaml(path) or {}


def group_content(path: Path, group: str) -> dict[str, Any]:
    """Return the settings of an option's own group.

    A file with ``@package _global_`` may set other groups too; those are left out.
    """
    own = whole_file(path).get(group)
    return own if isinstance(own, dict) else whole_file(path)
