"""Build the objects that configuration nodes describe, from our own packages and no others."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from posterior_bench.bench.config.catalog import GROUPS, options
from posterior_bench.bench.config.class_source import PACKAGE, module_of
from posterior_bench.bench.config.job import JobConfig
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

PACKAGES = ("solvers", "priors", "operators", "masks", "datasets", "metrics", "bench")


def target(node: Mapping[str, Any]) -> Any:
    """Import the class or function that a node names under ``_target_``.

    Raises
    ------
    UserError
        If the name lies outside our packages and outside what the setting ``plugins`` allows, if it
        cannot be imported, or if it is a helper of ours that no option names.
    """
    path = str(node["_target_"]).removeprefix(f"{PACKAGE}.")
    in_file = file_class(path)
    if in_file is not None:
        return in_file.load()
    module, _, name = path.rpartition(".")
    valid = [*PACKAGES, *sorted(packages())]
    if module.split(".")[0] not in valid or not name.isidentifier():
        raise UserError(
            f"_target_ '{path}' is outside the packages a configuration may name: "
            f"{', '.join(valid)}; plugins=[NAME] admits an installed plugin"
        )
    ours = module.split(".")[0] in PACKAGES
    imported = f"{PACKAGE}.{module_of(path)}" if ours else module
    try:
        with foreign():
            thing = getattr(importlib.import_module(imported), name)
    except (ImportError, AttributeError, Left) as error:
        raise UserError(f"_target_ '{path}' cannot be imported: {text_of(error)}") from None
    if ours and not _may_be_built(thing, imported, path):
        raise UserError(
            f"_target_ '{path}' is neither a class of that module nor what an option of ours names"
        )
    return thing


def _may_be_built(thing: Any, module: str, path: str) -> bool:
    """Return whether a configuration may name this object of one of our modules.

    It may name a class that the module defines, and every ``_target_`` of an option; no helper
    function, and nothing that the module imports.
    """
    return (isinstance(thing, type) and thing.__module__ == module) or path in _option_targets()


@cache
def _option_targets() -> frozenset[str]:
    """Return every ``_target_`` that an option names."""
    contents = [option.content for group in GROUPS for option in options(group).values()]
    return frozenset(value for content in contents for value in _targets(content))


def _targets(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        yield from (str(part) for key, part in value.items() if key == "_target_")
        yield from (name for part in value.values() for name in _targets(part))
    elif isinstance(value, list):
        yield from (name for part in value for name in _targets(part))


def operator_caps(node: Mapping[str, Any]) -> frozenset[str]:
    """Return the capabilities of the operator that a node describes, with the node's settings."""
    caps: frozenset[str] = target(node).caps_with(node)
    return caps


def data_caps(node: Mapping[str, Any]) -> frozenset[str]:
    """Return the capabilities that the images of a node add to those of the prior."""
    if "_target_" not in node:  # images in memory
        return frozenset()
    caps: frozenset[str] = getattr(target(node), "caps", frozenset())
    return caps


def task_caps(config: JobConfig) -> frozenset[str]:
    """Return the capabilities that operator and images add to those of the prior."""
    return operator_caps(config.operator) | data_caps(config.data)


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
    """Build the object that a node describes.

    Parameters
    ----------
    node : Mapping of str to Any
        ``_target_`` names the class, the other keys are its settings.
    skip : tuple of str, default ()
        Keys that the constructor does not get.
    **more : Any
        Further arguments of the constructor.

    Raises
    ------
    UserError
        If the class cannot be named or imported, has no such setting, or refuses a value.
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
