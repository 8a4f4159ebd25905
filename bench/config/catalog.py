"""List the options that can be chosen, read from the YAML files alone.

Neither torch nor Hydra is imported, so that the answer takes a fraction of a second.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from typing_extensions import override

from posterior_bench.bench.config import prior_paths, task_versions
from posterior_bench.bench.config.class_source import class_node, literal
from posterior_bench.bench.config.option_files import CONF, group_content, option_files, whole_file
from posterior_bench.bench.config.plugins import FileClass, file_class
from posterior_bench.bench.config.presets import (
    AUTO,
    HARNESS_KEYS,
    choose,
    default_preset,
    effective_settings,
    purposes,
)
from posterior_bench.bench.core.errors import UserError, unknown

GROUPS = ("solver", "data", "mask", "operator", "prior", "metrics", "executor", "study", "scale")
LIST_GROUPS = ("metrics",)

_HARNESS_KEYS = {*HARNESS_KEYS, "defaults", "hydra"}


@dataclass(frozen=True)
class Option:
    """One YAML file of one group."""

    group: str
    name: str
    path: Path
    plugin: str = ""

    @property
    def _text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @property
    def summary(self) -> str:
        """The first comment of the file, with the lines that continue it (``#   more``).

        Hydra's own comment, ``# @package``, stands above it.
        """
        lines = self._text.splitlines()
        rest = [line for line in lines if not line.startswith("# @")]
        if not rest or not rest[0].startswith("#"):
            return ""
        more = takewhile(lambda line: line.startswith("#   "), rest[1:])
        return " ".join(line.lstrip("# ").strip() for line in [rest[0], *more])

    def comment(self, key: str) -> str:
        """Return what the file says of a setting, on its line; empty if it says nothing."""
        found = re.search(rf"^{re.escape(key)}:.*?#\s*(.+)$", self._text, re.MULTILINE)
        return found[1].strip() if found else ""

    @property
    def content(self) -> dict[str, Any]:
        """The settings of the option's own group.

        A file with ``@package _global_`` may set other groups too; those are left out.
        """
        return group_content(self.path, self.group)

    @property
    def sweep(self) -> dict[str, str]:
        """The sweep parameters of a study of many jobs: ``{"mask": "rotated,comod"}``.

        Empty for every other option.
        """
        hydra = whole_file(self.path).get("hydra", {})
        return hydra.get("sweeper", {}).get("params", {}) if hydra.get("mode") == "MULTIRUN" else {}

    @property
    def parts(self) -> list[dict[str, Any]]:
        """The sweeps of a study of several sweeps, each with the settings that they share.

        Empty for every other option.
        """
        shared = self.content.get("each", {})
        return [{**shared, **part} for part in self.content.get("parts", [])]

    @property
    def brings(self) -> dict[str, Any]:
        """The options of other groups that come with this one: ``{"prior": "fashion"}``.

        The command line may choose others.
        """
        entries = [e for e in whole_file(self.path).get("defaults", []) if isinstance(e, dict)]
        moved = {
            key: value
            for entry in entries
            for key, value in entry.items()
            if key.startswith("override /")
        }
        return {
            key.removeprefix("override /").partition("@")[0]: value for key, value in moved.items()
        }

    @property
    def parameters(self) -> dict[str, Any]:
        """The settings that a user may override, with their values.

        A value that is null in the file is that of the preset, else the default of the class.
        """
        content = self.content
        preset = default_preset(content)
        if preset is not None and preset in content.get("presets", {}):
            content = effective_settings(content, preset)
        return {k: v for k, v in content.items() if k not in _HARNESS_KEYS}


@dataclass(frozen=True)
class _Unlisted(Option):
    """An option without a YAML file: it has no sweeps, and no options of other groups."""

    @property
    @override
    def sweep(self) -> dict[str, str]:
        return {}

    @property
    @override
    def parts(self) -> list[dict[str, Any]]:
        return []

    @property
    @override
    def brings(self) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class FileOption(_Unlisted):
    """A solver in a file, ``FILE.py:CLASS``.

    Its settings are the fields of the class, read without running the file.
    """

    @property
    def code(self) -> FileClass:
        """The file and the class."""
        code = file_class(self.name)
        assert code is not None
        return code

    @property
    @override
    def summary(self) -> str:
        return (ast.get_docstring(self._class) or "").partition("\n")[0]

    @property
    @override
    def content(self) -> dict[str, Any]:
        settings = {
            s.target.id: _default(s)
            for s in self._class.body
            if isinstance(s, ast.AnnAssign)
            and isinstance(s.target, ast.Name)
            and not ast.unparse(s.annotation).startswith("ClassVar")
        }
        return {"_target_": self.code.target, **settings}

    @property
    def _class(self) -> ast.ClassDef:
        nodes = self.code.tree().body
        return next(
            node for node in nodes if isinstance(node, ast.ClassDef) and node.name == self.code.name
        )


@dataclass(frozen=True)
class FolderOption(_Unlisted):
    """A prior in a folder, ``prior=PATH``; ``path`` is that folder."""

    @property
    @override
    def summary(self) -> str:
        return f"The model in {self.path}"

    @property
    @override
    def content(self) -> dict[str, Any]:
        return prior_paths.content(self.path)

    @property
    @override
    def parameters(self) -> dict[str, Any]:
        return {**super().parameters, **dict.fromkeys(prior_paths.SETTINGS)}


def _default(field: ast.AnnAssign) -> Any:
    """Return the default of a field; ``???``, "must be set", if it has none or no constant one."""
    try:
        value = ast.literal_eval(field.value) if field.value is not None else "???"
    except ValueError:
        return "???"
    return list(value) if isinstance(value, tuple) else value


def options(group: str, plugins: Iterable[str] | None = None) -> dict[str, Option]:
    """Return the options of a group by name; sub-folders give names such as ``arena/g2``.

    Parameters
    ----------
    group : str
        One of :data:`GROUPS`.
    plugins : iterable of str, default None
        The plugins whose options count too; None means all that are installed.

    Raises
    ------
    UserError
        If a plugin has an option whose name exists already.
    """
    files = option_files(group, plugins)
    return {name: Option(group, name, *file) for name, file in files.items()}


def option(group: str, name: str) -> Option:
    """Return one option: of a YAML file, a solver in a file, or a prior in a folder.

    Raises
    ------
    UserError
        If there is no such option, with the valid names.
    """
    if group == "solver" and (code := file_class(name)):
        return FileOption(group, name, code.file)
    if group == "prior" and (folder := prior_paths.folder(name)):
        return FolderOption(group, name, folder)
    try:
        return options(group)[name]
    except KeyError:
        error = unknown(group, name, options(group))
        if group == "prior":
            error = UserError(f"{error}. The folder of a model is given as prior=PATH")
        raise error from None


def as_given(group: str, name: str, key: str) -> str:
    """Return how a setting is given: ``mask.part=VALUE (hair | eyes | mouth)``.

    The words in brackets are those beside the setting in the YAML file.
    """
    found = options(group).get(name)
    said = found.comment(key) if found else ""
    return f"{group}.{key}=VALUE{f' ({said})' if said else ''}"


def defaults() -> dict[str, Any]:
    """Return the option of every group that ``conf/config.yaml`` chooses."""
    chosen: dict[str, Any] = {}
    for entry in whole_file(CONF / "config.yaml")["defaults"]:
        if isinstance(entry, dict):
            chosen.update(
                {key.removeprefix("override ").lstrip("/"): value for key, value in entry.items()}
            )
    return {group: chosen.get(group) for group in GROUPS}


def listing(group: str | None = None) -> str:
    """Return the text of ``bench ls``.

    Raises
    ------
    UserError
        If there is no such group.
    """
    if group is not None and group not in GROUPS:
        raise unknown("group", group, GROUPS)
    chosen = defaults()
    lines: list[str] = []
    for name in GROUPS if group is None else (group,):
        every = options(name).values()
        width = max((len(o.name) for o in every), default=0)
        lines.append(f"{name}=")
        for o in every:
            mark = "*" if o.name == chosen[name] or o.name in _as_list(chosen[name]) else " "
            origin = f" (plugins=[{o.plugin}])" if o.plugin else ""
            lines.append(f"  {mark} {o.name:<{width}}  {o.summary}{origin}".rstrip())
        lines.append("")
    return "\n".join([*lines, "* default.  bench show solver=dps prints one option in full."])


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def show_all(arguments: Sequence[str]) -> str:
    """Return the text of ``bench show``, with the preset that a solver gets beside a prior."""
    named = dict(argument.partition("=")[::2] for argument in arguments)
    shown = [show(argument) for argument in arguments]
    if {"solver", "prior"} <= named.keys():
        choice = choose(
            option("solver", named["solver"]).content, option("prior", named["prior"]).content, {}
        )
        if choice:
            shown.append(
                f"solver={named['solver']} with prior={named['prior']}: preset {choice.text}"
            )
    return "\n\n".join(shown)


def show(argument: str) -> str:
    """Return the text of ``bench show group=name``.

    It has the summary, the parameters by preset, and the docstring and card of the class.

    Raises
    ------
    UserError
        If the argument names no option.
    """
    group, _, name = argument.partition("=")
    if not name:
        raise UserError(
            f"'show' takes group=name, for example: bench show solver=dps (got '{argument}')"
        )
    if group not in GROUPS:
        raise unknown("group", group, GROUPS)
    chosen = option(group, name)
    lines = [f"{group}={name}", f"  {chosen.summary}", *_version(group, name), ""]
    lines += _presets(chosen) if chosen.content.get("presets") else _settings(chosen)
    if "train" in chosen.content:
        lines.append(f"  {group}.train.({'|'.join(chosen.content['train'])})")
    lines += _card_lines(chosen)
    return "\n".join(lines)


def _version(group: str, name: str) -> list[str]:
    """Return the version of an option that is part of a task, and why it is not the first."""
    if group not in task_versions.GROUPS:
        return []
    *_, latest = history = task_versions.history_of(group, name)
    return [
        f"  Version {len(history)}" + (f": {latest}" if history != task_versions.UNTOLD else "")
    ]


def _presets(chosen: Option) -> list[str]:
    """Return the table of the presets of a solver, and what each of them was chosen for."""
    presets: dict[str, dict[str, Any]] = chosen.content["presets"]
    lines = _preset_table(chosen, presets)
    if chosen.content.get("preset") == AUTO:
        lines += ["", "  preset = auto: the one chosen for the prior; where none was, the first."]
    if told := purposes(presets):
        lines += ["", *(f"  {line}" for line in told)]
    return lines


def _settings(chosen: Option) -> list[str]:
    """Return a line per setting; per column for a metric; a block of settings by its name only."""
    if chosen.group in LIST_GROUPS:
        columns = chosen.parameters.items()
        bundle = [f"  metrics={name}" for name in chosen.content.get("defaults", [])]
        return bundle + [
            f"  {key}: " + ", ".join(f"{k} {v}" for k, v in node.items()) for key, node in columns
        ]
    lines = []
    for key, value in chosen.parameters.items():
        if isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
            lines += [
                f"  {chosen.group}.{key}: " + "  ".join(f"{k}={_plain(v)}" for k, v in part.items())
                for part in value
            ]
            continue
        inner = f"{chosen.group}.{key}.({'|'.join(value)})" if isinstance(value, dict) else ""
        lines.append(f"  {inner or f'{chosen.group}.{key} = {_plain(value)}'}")
    return lines


def _preset_table(chosen: Option, presets: dict[str, dict[str, Any]]) -> list[str]:
    keys = list(chosen.parameters)
    head = ["", *(f"{p}{' *' if p == chosen.content.get('preset') else ''}" for p in presets)]
    values = [effective_settings(chosen.content, preset) for preset in presets]
    rows = [[f"{chosen.group}.{k}", *(_plain(each[k]) for each in values)] for k in keys]
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    return [
        "  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip()
        for row in [head, *rows]
    ]


def _plain(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value)


def _card_lines(chosen: Option) -> list[str]:
    """Return docstring and card of the class, read from its source without importing it."""
    target = str(chosen.content.get("_target_", ""))
    module, name = ("", target) if file_class(target) else target.rpartition(".")[::2]
    node, tree = class_node(module, name)
    if node is None:
        return []
    lines = ["", *(f"  {line}".rstrip() for line in (ast.get_docstring(node) or "").splitlines())]
    for keyword in _card_call(node):
        value = literal(keyword.value, tree)
        lines.append("")
        if isinstance(value, dict):
            lines += [f"  {keyword.arg}:", *(f"    {k}: {v}" for k, v in value.items())]
        elif isinstance(value, list | tuple):
            lines += [f"  {keyword.arg}:", *(f"    - {item}" for item in value)]
        else:
            lines.append(f"  {keyword.arg}: {value}")
    return lines


def _card_call(node: ast.ClassDef | ast.FunctionDef) -> list[ast.keyword]:
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and getattr(statement.target, "id", "") == "card":
            return statement.value.keywords if isinstance(statement.value, ast.Call) else []
    return []
