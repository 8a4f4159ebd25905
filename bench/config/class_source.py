"""Facts about a class, read from the source of its module: nothing is imported, torch least of all.

:func:`class_node` finds the definition that a ``_target_`` names, :func:`class_defaults` the
defaults of its settings. The default of a setting stands once, in the class; presets and tables
read it from here.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from posterior_bench.bench.config.plugins import file_class, installed
from posterior_bench.bench.core.environment import ROOT

PACKAGE = "posterior_bench"
"""The package that holds ours; a ``_target_`` may leave it out."""

PLACES = {
    "bench.arena": "bench.engine.arena",
    "bench.executors.Serial": "bench.engine.serial",
    "bench.executors.RayActors": "bench.engine.ray_actors",
    "bench.external": "bench.external.folder",
    "bench.standin": "bench.config.standin",
    "bench.torchscript": "bench.external.torchscript",
}
"""The modules of classes that a ``_target_`` names in short, by its module or its whole path.

The names are part of the identity of a cell, so they stay when a module moves.
"""

Definition = ast.ClassDef | ast.FunctionDef

_FACTORIES = {"dict": dict, "list": list, "tuple": list}
"""Values of ``field(default_factory=...)``, as a YAML file would hold them."""


def class_node(module: str, name: str) -> tuple[Definition | None, ast.Module]:
    """Find the definition of a class or function.

    Parameters
    ----------
    module : str
        The module as a ``_target_`` names it; a package may import the class from a module of its
        own. Empty for a class in a file.
    name : str
        The name of the class, or ``FILE.py:CLASS`` where ``module`` is empty.

    Returns
    -------
    tuple
        The definition, None where there is none, and the module that holds it.
    """
    code = None if module else file_class(name)
    if code:
        return _find(code.tree(), code.name)
    path = f"{module}.{name}".removeprefix(f"{PACKAGE}.")
    return _find(_tree(module_of(path)), name)


def module_of(target: str) -> str:
    """Return the module that holds the class of a ``_target_``, both without the root package."""
    module = target.rpartition(".")[0]
    return PLACES.get(target, PLACES.get(module, module))


def class_defaults(target: str) -> Mapping[str, Any]:
    """Return the defaults of a class's settings, those of its base classes included.

    Parameters
    ----------
    target : str
        The class as ``_target_`` names it: ``solvers.dps.DPS``, or ``FILE.py:CLASS``.

    Returns
    -------
    Mapping of str to Any
        Default by setting, as a YAML file would hold it (lists, no tuples). A setting is left out
        if it has no default, or one that is no constant.
    """
    if file_class(target):
        return _defaults(*class_node("", target))
    return _defaults_in_module(*target.rpartition(".")[::2])


@cache
def _defaults_in_module(module: str, name: str) -> Mapping[str, Any]:
    return _defaults(*class_node(module, name))


def _defaults(node: Definition | None, tree: ast.Module) -> dict[str, Any]:
    if not isinstance(node, ast.ClassDef):
        return {}
    inherited: dict[str, Any] = {}
    for base in reversed(node.bases):
        if isinstance(base, ast.Name):
            inherited |= _defaults(*_find(tree, base.id))
    return {**inherited, **dict(_own_defaults(node, tree))}


def _own_defaults(node: ast.ClassDef, tree: ast.Module) -> Iterator[tuple[str, Any]]:
    for statement in node.body:
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and statement.value is not None
            and not ast.unparse(statement.annotation).startswith("ClassVar")
        ):
            try:
                yield statement.target.id, _plain(_default(statement.value, tree))
            except ValueError:
                continue  # no constant


def _default(node: ast.expr, tree: ast.Module) -> Any:
    """Return the value of a default; ValueError for an expression that is no constant."""
    if isinstance(node, ast.Call) and ast.unparse(node.func) in ("field", "dataclasses.field"):
        for keyword in node.keywords:
            if keyword.arg == "default":
                return _default(keyword.value, tree)
            if keyword.arg == "default_factory" and ast.unparse(keyword.value) in _FACTORIES:
                return _FACTORIES[ast.unparse(keyword.value)]()
        raise ValueError("a field without a constant default")
    return literal(node, tree)


def _plain(value: Any) -> Any:
    """Return ``value`` with lists in place of tuples."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


@cache
def _tree(module: str) -> ast.Module:
    """Return the syntax tree of one of our modules or of a plugin's; empty if there is no file."""
    module = module.removeprefix(f"{PACKAGE}.")
    package, *rest = module.split(".")
    roots = {plugin.package: plugin.root for plugin in installed().values()}
    place = roots.get(package, ROOT / package).joinpath(*rest)
    sources = (place.with_suffix(".py"), place / "__init__.py")
    source = next((path for path in sources if path.is_file()), None)
    return ast.parse(source.read_text(encoding="utf-8") if source else "")


def _find(tree: ast.Module, name: str) -> tuple[Definition | None, ast.Module]:
    """Return the definition of a name in a module, or in the module it is imported from."""
    for statement in tree.body:
        if isinstance(statement, Definition) and statement.name == name:
            return statement, tree
    origin = _origin(tree, name)
    return _find(_tree(origin), name) if origin else (None, tree)


def _origin(tree: ast.Module, name: str) -> str:
    """Return the module that a name is imported from; empty if it is not imported."""
    for statement in tree.body:
        if isinstance(statement, ast.ImportFrom) and any(
            alias.name == name for alias in statement.names
        ):
            return statement.module or ""
    return ""


def literal(node: ast.expr, tree: ast.Module) -> Any:
    """Return the value of an expression that is made of constants.

    Dicts may spread (``**NAMES``) a constant of this or an imported module.

    Raises
    ------
    ValueError
        If a part of the expression is no constant.
    """
    if isinstance(node, ast.Dict):
        parts = zip(node.keys, node.values, strict=True)
        items = [
            literal(v, tree) if k is None else {literal(k, tree): literal(v, tree)}
            for k, v in parts
        ]
        return {k: v for item in items for k, v in item.items()}
    if not isinstance(node, ast.Name):
        return ast.literal_eval(node)
    if origin := _origin(tree, node.id):
        return literal(node, _tree(origin))
    for statement in tree.body:
        targets = (
            statement.targets
            if isinstance(statement, ast.Assign)
            else [getattr(statement, "target", None)]
        )
        if any(getattr(target, "id", "") == node.id for target in targets):
            return literal(statement.value, tree)  # type: ignore[attr-defined]
    raise ValueError(f"'{node.id}' is not a constant")
