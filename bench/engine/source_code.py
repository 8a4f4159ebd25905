"""The source a solver consists of, as a hash: rows say by it which code computed them.

The files are that of the class, and those below ``solvers/`` that it imports from, directly or
through each other; of an installed plugin also those of its own package. The bytes count, comments
too, so that nobody has to judge which change matters. The solvers' ``version`` enters the name of a
cell; this hash does not, so a run that is continued with other source would mix two methods in one
line, and is refused (:meth:`bench.engine.plan.CellPlan.missing`).
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from posterior_bench.bench.config.build import ROOT, target

SOLVERS = f"{ROOT}.solvers"


def code_of(node: Mapping[str, Any]) -> str:
    """16 hexadecimal digits over the source files of a solver's node; they do not depend on where
    the files lie.
    """
    kind = target(node)
    own = Path(inspect.getfile(kind))
    module = "" if node["_target_"].split(":")[0].endswith(".py") else str(kind.__module__)
    top = module.partition(".")[0]
    followed = {SOLVERS} if top == ROOT else {SOLVERS, top} - {""}
    whole = sha256()
    for name, path in sorted(_files(module, own, followed).items()):
        whole.update(f"{name}\x1f{sha256(_source(path)).hexdigest()}\n".encode())
    return whole.hexdigest()[:16]


def _files(module: str, own: Path, followed: set[str]) -> dict[str, Path]:
    """The files by their modules' names; the class's own file is called '' so that its name and
    place do not count.
    """
    found = {"": own}
    left = list(_imported(own, module, followed))
    while left:
        name = left.pop()
        path = _path(name)
        if path is None or path == own or name in found:
            continue
        found[name] = path
        left += _imported(path, name, followed)
    return found


def _imported(path: Path, module: str, followed: set[str]) -> Iterator[str]:
    """The modules a file may import from the packages that are followed; names that are no modules
    too.
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
            name for name in names if any(f"{name}.".startswith(f"{top}.") for top in followed)
        )


def _path(module: str) -> Path | None:
    """The file of a module; None for a name that is none."""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, AttributeError, ValueError):
        return None
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


def _source(path: Path) -> bytes:
    """The bytes of a file, lines ended alike on every system."""
    return path.read_bytes().replace(b"\r\n", b"\n")
