"""Code of other people: a solver in a file, and installed packages that bring options of their own.

No string in a configuration imports code from outside our packages, unless the setting ``plugins``
names where it comes from: an installed package by the name of its entry point, or a Python file by
its path. Finding out what there is imports nothing.

A verb that reads a study folder (``report``, ``score``) imports nothing that the folder names: a
study can come from somebody else. What its reader trusts is typed with that verb,
``plugins=[NAME]`` and ``trust_file=true``.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posterior_bench.bench.core.errors import UserError, unknown
from posterior_bench.bench.core.foreign import foreign, named

if TYPE_CHECKING:  # at run time it loads Hydra, which `bench --help` does without
    from posterior_bench.bench.config.job import JobConfig, Node

ENTRY_POINTS = "posterior_bench"
"""Entry-point group: ``name = "package"``, a package with a ``conf`` folder laid out as ours."""

_FILE = re.compile(r"(?P<file>[^@]+\.py):(?P<name>[A-Za-z_]\w*)(?:@(?P<sha>[0-9a-f]{16}))?")


@dataclass(frozen=True)
class Plugin:
    """An installed package: its name here, the package that it may import from, and its folder."""

    name: str
    package: str
    root: Path

    @property
    def conf(self) -> Path:
        """The folder with its options."""
        return self.root / "conf"


@cache
def installed() -> dict[str, Plugin]:
    """Return the installed plugins by name.

    Raises
    ------
    UserError
        If the package of a plugin, or its ``conf`` folder, is missing.
    """
    plugins: dict[str, Plugin] = {}
    for entry in entry_points(group=ENTRY_POINTS):
        spec = importlib.util.find_spec(entry.value) if entry.value.isidentifier() else None
        folders = list(spec.submodule_search_locations or ()) if spec else []
        plugin = Plugin(entry.name, entry.value, Path(folders[0])) if folders else None
        if plugin is None or not plugin.conf.is_dir():
            raise UserError(
                f"plugin '{entry.name}' names '{entry.value}', "
                "which is no installed package with a conf/"
            )
        plugins[entry.name] = plugin
    return plugins


# -- what a run may import -------------------------------------------------------------------------

_ADMITTED: set[str] = set()
"""Names of plugins and paths of files that this process may import."""

_PROGRAMS: list[bool] = [False]
"""Whether a file that is a program (TorchScript) may run if a configuration says so."""


def admit(names: Iterable[str], programs: bool = False) -> None:
    """Let configurations of this process import from these plugins and files, and no others.

    ``programs`` says whether ``trust_file=true`` in a configuration counts; what a study folder
    says of it does not.
    """
    names = list(names)
    _PROGRAMS[:] = [programs]
    for name in names:
        if not name.endswith(".py") and name not in installed():
            raise unknown("plugin", name, installed())
    _ADMITTED.clear()
    _ADMITTED.update(
        str(Path(name).expanduser().absolute()) if name.endswith(".py") else name for name in names
    )


def admit_of(config: JobConfig) -> None:
    """Let this process import what the configuration on a command line names.

    Never call it with the configuration of a study folder.
    """
    programs = any(node.get("trust_file") is True for node in config.nodes.values())
    admit(config.plugins or (), programs)


def demand_trusted(nodes: Iterable[Node]) -> None:
    """Raise UserError for a node of a study that runs a program, unless the reader trusts it.

    The reader says so by ``trust_file=true`` on the command line.
    """
    for node in nodes:
        if node.get("trust_file") and not _PROGRAMS[0]:
            raise UserError(
                f"the study says that {node.get('path')} is a program to be run; if you trust "
                "whoever made it, add trust_file=true to this command"
            )


def packages() -> set[str]:
    """Return the packages of the admitted plugins."""
    return {installed()[name].package for name in _ADMITTED if not name.endswith(".py")}


# -- a class in a file -----------------------------------------------------------------------------


@dataclass(frozen=True)
class FileClass:
    """``FILE.py:CLASS``, with 16 digits of the file's sha256 where it has been read before."""

    file: Path
    name: str
    sha: str

    @property
    def target(self) -> str:
        """The ``_target_``: the file may move under a running study, but not change."""
        return f"{self.file}:{self.name}@{self.sha}"

    @property
    def identity(self) -> str:
        """The name of the class and the hash of the file, wherever the file lies."""
        return f"{self.name}@{self.sha}"

    def tree(self) -> ast.Module:
        """Return the syntax tree of the file; UserError if it is no Python."""
        try:
            return ast.parse(self.file.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError) as error:
            raise UserError(f"{self.file} is not Python that can be read: {error}") from None

    def load(self) -> Any:
        """Return the class.

        Raises
        ------
        UserError
            If the file is not admitted, fails, or lacks the class.
        """
        if str(self.file) not in _ADMITTED:
            raise UserError(
                f"{self.file} is outside our packages; "
                f"plugins=[{self.file}] lets this run import it"
            )
        return getattr(_module(self.file, self.sha), self.name)


def file_class(target: str) -> FileClass | None:
    """Return ``target`` as a class in a file; None if it is written as something else.

    Raises
    ------
    UserError
        If the file does not exist, has no such class, or has changed since the plan.
    """
    match = _FILE.fullmatch(target)
    if match is None:
        return None
    file = Path(match["file"]).expanduser().absolute()
    if not file.is_file():
        raise UserError(f"{file} does not exist; write FILE.py:CLASS")
    sha = sha256(file.read_bytes()).hexdigest()[:16]
    if match["sha"] not in (None, sha):
        raise UserError(
            f"{file} has changed since this study was planned; use another out=, or put it back"
        )
    code = FileClass(file, match["name"], sha)
    classes = [node.name for node in code.tree().body if isinstance(node, ast.ClassDef)]
    if code.name not in classes:
        raise unknown(f"class of {file.name}", code.name, classes)
    return code


def plugins_of(names: Iterable[str]) -> list[Plugin]:
    """Return the installed plugins among ``names``; UserError for one that is missing."""
    wanted = [name for name in names if not name.endswith(".py")]
    for name in wanted:
        if name not in installed():
            raise unknown("plugin", name, installed())
    return [installed()[name] for name in wanted]


@cache
def _module(file: Path, sha: str) -> Any:
    """Run the module of a file, once for each of its contents."""
    name = f"{file.stem}_{sha}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        with foreign():
            spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UserError(f"{file} fails when it is imported: {named(error)}") from error
    return module
