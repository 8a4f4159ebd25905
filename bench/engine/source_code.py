"""The source a solver consists of, as a hash: rows say by it which code computed them.

These files count:

- the file of the class; if it lies in a folder of its own (a package below ``solvers/``), every
  Python file of that folder;
- the files below ``solvers/`` that these import from, directly or through each other, with the
  ``__init__.py`` of their folders;
- for a class of an installed plugin, also the files of the plugin's package that it imports from.

The bytes count, comments included, so that nobody has to judge which change matters. The solver's
``version`` enters the name of a cell; this hash does not. So a run that continues with other source
would mix two methods in one line; it is refused (:meth:`bench.engine.plan.CellPlan.missing`).
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from posterior_bench.bench.config.build import target
from posterior_bench.bench.config.class_source import PACKAGE

SOLVERS = f"{PACKAGE}.solvers"


def code_of(node: Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits over the source files of a solver's node.

    They do not depend on where the files lie.
    """
    kind = target(node)
    own = Path(inspect.getfile(kind))
    module = "" if node["_target_"].split(":")[0].endswith(".py") else str(kind.__module__)
    top = module.partition(".")[0]
    followed = {SOLVERS} if top == PACKAGE else {SOLVERS, top} - {""}
    whole = sha256()
    for name, path in sorted(_files(module, own, followed).items()):
        whole.update(f"{name}\x1f{sha256(_source(path)).hexdigest()}\n".encode())
    return whole.hexdigest()[:16]


def _files(module: str, own: Path, followed: set[str]) -> dict[str, Path]:
    """Map the names of modules to their files.

    The file of the class is called '', so that its name and place do not count.
    """
    found = {"": own}
    left = [*_imported(own, module, followed), *_siblings(module, own)]
    while left:
        name = left.pop()
        path = _path(name)
        if path is None or path == own or name in found:
            continue
        found[name] = path
        left += _imported(path, name, followed)
    return found


def _siblings(module: str, own: Path) -> Iterator[str]:
    """Yield the modules that share a folder of ``solvers/`` with the class: they are one method."""
    package = module if own.name == "__init__.py" else module.rpartition(".")[0]
    if package.startswith(f"{SOLVERS}."):
        names = {path.stem for path in own.parent.glob("*.py")} - {"__init__"}
        yield from (package, *(f"{package}.{name}" for name in names))


def _imported(path: Path, module: str, followed: set[str]) -> Iterator[str]:
    """Yield the modules that a file may import from the packages that are followed.

    Python runs the ``__init__.py`` of a module's packages first, so these are named too. Some of
    the names are no modules.
    """
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(_source(path))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = (
                package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            )
            base = ".".join([*parents, *([node.module] if node.module else [])])
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        yield from (
            name
            for imported in names
            for name in _with_packages(imported)
            if any(f"{name}.".startswith(f"{top}.") for top in followed)
        )


def _with_packages(module: str) -> Iterator[str]:
    """Yield ``a``, ``a.b`` and ``a.b.c`` for ``a.b.c``."""
    parts = module.split(".")
    yield from (".".join(parts[: i + 1]) for i in range(len(parts)))


def _path(module: str) -> Path | None:
    """Return the file of a module, or None for a name that is no module."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, AttributeError, ValueError):
        return None
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


def _source(path: Path) -> bytes:
    """Return the bytes of a file, with the same line ends on every system."""
    return path.read_bytes().replace(b"\r\n", b"\n")
