"""Promises that are checked without a run: on the class of a solver and its YAML file."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from posterior_bench.bench.config.build import build
from posterior_bench.bench.config.presets import settings
from posterior_bench.bench.conformance.promise import Broken, Promise, Skipped
from posterior_bench.bench.conformance.reference_pages.markdown import field_notes
from posterior_bench.bench.core.errors import UserError
from posterior_bench.solvers.base import Solver


@dataclass(frozen=True)
class CheckedClass:
    """The class of a solver and its node of the configuration.

    Parameters
    ----------
    cls : type
        The class.
    node : Mapping of str to Any
        The node: ``_target_``, presets and settings.
    """

    cls: type[Solver]
    node: Mapping[str, Any]


def _card(checked: CheckedClass) -> None:
    cls: object = checked.cls
    if not (isinstance(cls, type) and issubclass(cls, Solver)):
        raise Broken(f"{checked.node['_target_']} is no subclass of solvers.base.Solver")
    parameters = getattr(cls, "__dataclass_params__", None)
    if parameters is None or not parameters.frozen:
        raise Broken("the class is no frozen dataclass, so a run could change its settings")
    card = getattr(cls, "card", None)
    missing = [
        name for name in ("title", "paper", "equations") if not str(getattr(card, name, "")).strip()
    ]
    if missing:
        raise Broken(f"the card says nothing under {', '.join(missing)}")


def _settings(checked: CheckedClass) -> None:
    described = [name for note in field_notes(checked.cls) for name in note.fields]
    wanted = [f.name for f in dataclasses.fields(checked.cls)]  # type: ignore[arg-type]
    missing = [name for name in wanted if name not in described]
    if missing:
        raise Broken(f"the docstring's section Parameters does not describe {', '.join(missing)}")


def _presets(checked: CheckedClass) -> None:
    presets = checked.node.get("presets")
    if presets is None:
        raise Skipped("there are no presets")
    for name in presets:
        _check_preset(checked.node, name)


def _check_preset(node: Mapping[str, Any], name: str) -> None:
    """Raise Broken if a preset sets an unknown setting, or does not build."""
    preset = node["presets"][name]
    _check_replacement(name, preset, node["presets"])
    values = settings(preset)
    unknown = values.keys() - node.keys()
    if unknown:
        raise Broken(
            f"preset {name} sets {', '.join(sorted(unknown))}, which the file does not list"
        )
    if "???" in node.values():  # the solver builds only with a setting of the user
        return
    try:
        build({**node, **dict.fromkeys(values), "preset": name})
    except UserError as error:
        raise Broken(f"preset {name} does not build: {error}") from error


def _check_replacement(name: str, preset: Mapping[str, Any], presets: Mapping[str, Any]) -> None:
    """Raise Broken if ``instead_of`` names no other preset, or stands without ``when``."""
    other, case = preset.get("instead_of"), preset.get("when")
    if other is None and case is None:
        return
    if case is None or other not in {*presets} - {name}:
        raise Broken(
            f"preset {name} says instead_of: {other} and when: {case}; name another preset of the "
            "file, and a case (latent, small)"
        )


CLASS_PROMISES = (
    Promise("card", "a frozen Solver dataclass whose card names title, paper and equations", _card),
    Promise("settings", "every setting is described under Parameters", _settings, ("card",)),
    Promise("presets", "every preset builds", _presets, ("card",)),
)
"""The promises of a class, in the order of the table."""
