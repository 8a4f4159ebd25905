"""Check the settings of Hydra itself that the command line may give: how jobs are launched.

Hydra's own node names classes that it imports and calls (callbacks, launchers, log handlers) and
folders that it reads configurations from. None of that may come from a command line: code from
outside our packages runs only if ``plugins=`` names it.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from posterior_bench.bench.core.errors import UserError, unknown

ALLOWED = {
    "hydra/launcher": "what runs the jobs of a sweep: basic (this process), or slurm with the "
    "extra 'slurm'",
    "hydra.launcher.*": "a setting of that launcher, such as hydra.launcher.partition=gpu",
    "hydra.verbose": "true, or a list of loggers: messages of libraries on the terminal",
    "hydra.job.name": "the name that Hydra gives to its jobs",
}
"""Settings of Hydra that the command line may give, with their meaning."""

_INSTEAD = {
    "hydra.run": "files of a run go to the study folder: use out=DIR",
    "hydra.sweep": "files of a sweep go to the study folder: use out=DIR",
    "hydra.output_subdir": "files of a run go to the study folder: use out=DIR",
    "hydra.job.chdir": "relative paths are those of the folder that the command was given in; use "
    "out=DIR",
    "hydra.mode": "use -m for a sweep",
    "hydra.sweeper": "name the values on the command line, for example: -m solver=dps,repaint",
    "hydra.searchpath": "options of an installed package are found with plugins=[NAME]",
}
_CALLS = ("_target_", "_partial_", "_recursive_", "_convert_", "_args_")
"""Keys that make Hydra call something, or say how."""


def is_hydras(item: Any) -> bool:
    """Return whether an override sets something in Hydra's own node or groups."""
    return str(item.key_or_group).replace("/", ".").partition(".")[0] == "hydra"


def check(item: Any) -> None:
    """Refuse an override of Hydra's own settings that is not in :data:`ALLOWED`.

    Raises
    ------
    UserError
        However the override is written, with the settings that are allowed.
    """
    key, line = str(item.key_or_group), item.input_line
    if item.is_delete() or item.is_add():
        raise UserError(
            f"'{line}': write a setting of Hydra's without + or ~. Taken: {', '.join(ALLOWED)}"
        )
    launcher = key.startswith("hydra.launcher.") and not any(
        part.startswith("_") for part in key.split(".")
    )
    if key not in ALLOWED and not launcher:
        advice = next(
            (text for start, text in _INSTEAD.items() if f"{key}.".startswith(f"{start}.")), ""
        )
        raise UserError(
            f"'{line}': this setting of Hydra's is not taken here"
            f"{f'; {advice}' if advice else ''}. Taken: {', '.join(ALLOWED)}"
        )
    if key == "hydra/launcher" and (item.is_sweep_override() or not isinstance(item.value(), str)):
        raise UserError(f"'{line}': hydra/launcher takes one name")


def refuse_calls(item: Any) -> None:
    """Refuse an override that makes Hydra call something, or that moves an option (``@``).

    Raises
    ------
    UserError
        If it sets a key such as ``_target_``, at any depth.
    """
    if item.package is not None:
        raise UserError(
            f"'{item.input_line}': '@' is not taken here; an option is chosen with GROUP=NAME"
        )
    if item.value_type is None:
        return
    keys = {*str(item.key_or_group).split("."), *_keys(values(item))}
    call = next((key for key in _CALLS if key in keys), None)
    if call:
        raise UserError(
            f"'{item.input_line}': {call} cannot be set on the command line; a solver of your own "
            "is solver=FILE.py:CLASS, a package with options of its own is plugins=[NAME]"
        )


def demand_launcher(items: Sequence[Any]) -> None:
    """Check the chosen launchers.

    Raises
    ------
    UserError
        If a launcher does not exist, or cannot work on this machine.
    """
    # only here: Hydra loads slowly, and most commands choose no launcher
    from hydra.core.config_store import ConfigStore
    from hydra.core.plugins import Plugins

    chosen = [str(item.value()) for item in items if item.key_or_group == "hydra/launcher"]
    if not chosen:
        return
    Plugins.instance()  # registers what is installed
    known = {
        "slurm",
        *(name.removesuffix(".yaml") for name in ConfigStore.instance().list("hydra/launcher")),
    }
    for name in chosen:
        if name not in known:
            raise unknown("launcher", name, known)
        if "slurm" not in name:
            continue
        if "submitit_slurm" not in known:
            raise UserError(
                f"hydra/launcher={name} needs the extra 'slurm': "
                "pip install 'posterior-bench[slurm]'"
            )
        if shutil.which("srun") is None:
            raise UserError(
                f"hydra/launcher={name} needs Slurm, and there is no srun on this machine; give "
                "the command on a login node of the cluster, or leave the launcher out"
            )


def values(item: Any) -> Any:
    """Return the value of an override; of a sweep or a glob, every text and value in it."""
    # only here: Hydra loads slowly
    from hydra.core.override_parser.types import (
        ChoiceSweep,
        Glob,
        IntervalSweep,
        QuotedString,
        RangeSweep,
    )

    if item.value_type is None:
        return None
    value = item.value()
    if isinstance(value, ChoiceSweep):
        return [part.text if isinstance(part, QuotedString) else part for part in value.list]
    if isinstance(value, Glob):
        return [*value.include, *value.exclude]
    return None if isinstance(value, RangeSweep | IntervalSweep) else value


def _keys(value: Any) -> set[str]:
    """Return the keys of nested dicts."""
    if isinstance(value, Mapping):
        return {str(key) for key in value} | set[str]().union(*map(_keys, value.values()))
    return set[str]().union(*map(_keys, value)) if isinstance(value, list | tuple) else set()
