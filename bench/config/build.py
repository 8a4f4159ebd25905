"""From configuration nodes to objects of our own packages, and of no others."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from posterior_bench.bench.config.class_source import PACKAGE, module_of
from posterior_bench.bench.config.plugins import file_class, packages
from posterior_bench.bench.config.presets import (
    HARNESS_KEYS,
    choose,
    default_preset,
    effective_settings,
    with_all_settings,
)
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.core.foreign import Left, foreign, text_of

ROOT = PACKAGE
"""The package that holds ours."""

PACKAGES = ("solvers", "priors", "operators", "masks", "datasets", "metrics", "bench")


def target(node: Mapping[str, Any]) -> Any:
    """Return the class or function that a node names.

    Raises
    ------
    UserError
        If it lies outside our packages and admitted plugins, or cannot be imported.
    """
    path = str(node["_target_"]).removeprefix(f"{ROOT}.")
    found = file_class(path)
    if found is not None:
        return found.load()
    module, _, name = path.rpartition(".")
    valid = [*PACKAGES, *sorted(packages())]
    if module.split(".")[0] not in valid or not name.isidentifier():
        raise UserError(
            f"_target_ '{path}' is outside the packages a configuration may name: "
            f"{', '.join(valid)}; plugins=[NAME] "
            "admits an installed plugin"
        )
    ours = module.split(".")[0] in PACKAGES
    imported = f"{ROOT}.{module_of(path)}" if ours else module
    try:
        with foreign():
            found_there = getattr(importlib.import_module(imported), name)
    except (ImportError, AttributeError, Left) as error:
        raise UserError(f"_target_ '{path}' cannot be imported: {text_of(error)}") from None
    if ours and not _may_be_made(found_there, imported, path):
        raise UserError(
            f"_target_ '{path}' is neither a class of that module nor what an option of ours names"
        )
    return found_there


def _may_be_made(found: Any, module: str, path: str) -> bool:
    """Return whether a class is of the module itself, or named by a shipped option.

    Helpers, and whatever the module imports, may not be made.
    """
    return (isinstance(found, type) and found.__module__ == module) or path in _of_options()


@cache
def _of_options() -> frozenset[str]:
    """Return every ``_target_`` of an installed option."""
    from posterior_bench.bench.config.catalog import GROUPS, options

    contents = [option.content for group in GROUPS for option in options(group).values()]
    return frozenset(value for content in contents for value in _targets(content))


def _targets(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        yield from (str(part) for key, part in value.items() if key == "_target_")
        yield from (name for part in value.values() for name in _targets(part))
    elif isinstance(value, list):
        yield from (name for part in value for name in _targets(part))


def arguments(node: Mapping[str, Any], skip: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the constructor arguments of a node.

    Of a solver with presets these are all its settings: what the user set, else what the preset
    says (of ``auto``, the first), else the default of the class.

    Raises
    ------
    UserError
        If the solver has no preset of that name.
    """
    presets = node.get("presets")
    if presets is None:
        return {k: v for k, v in node.items() if k not in HARNESS_KEYS and k not in skip}
    preset = default_preset(node)
    if preset is None or preset not in presets:
        raise UserError(f"unknown preset '{preset}'. Valid: {', '.join(presets)}")
    chosen = effective_settings(node, preset)
    return {k: v for k, v in chosen.items() if v is not None and k not in skip}


def with_preset(
    solver: Mapping[str, Any], prior: Mapping[str, Any], data: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Return the solver's node with the preset that it gets with this prior and data.

    The preset is chosen by :func:`bench.config.presets.choose`, and completed with the defaults of
    the class, so that the configuration that a cell records says the value of every setting.
    """
    choice = choose(solver, prior, data)
    return solver if choice is None else with_all_settings(solver, choice.preset)


def build(node: Mapping[str, Any], skip: tuple[str, ...] = (), **more: Any) -> Any:
    """Return the object that a node describes.

    Raises
    ------
    UserError
        If the constructor refuses the settings, or there are others than it has.
    """
    make = target(node)
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in arguments(node, skip).items()}
    if dataclasses.is_dataclass(make):
        unused = settings.keys() - {f.name for f in dataclasses.fields(make)}
        if unused:
            raise UserError(f"{node['_target_']} has no setting named {', '.join(sorted(unused))}")
    try:
        with foreign():
            return make(**settings, **more)
    except (ValueError, TypeError, FileNotFoundError, Left) as error:
        raise UserError(f"{node['_target_']}: {text_of(error)}") from error
