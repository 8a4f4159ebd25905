"""Compose the configuration of one job with Hydra.

Hydra takes a fifth of a second for its groups, and a hundredth for the values that are set on top.
So what it makes of the groups is kept in this process, until a file of ``conf`` changes. The solver
is put on top too: it is the group that a sweep changes most.
"""

from __future__ import annotations

import os
import re
from copy import deepcopy
from dataclasses import fields
from functools import lru_cache

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from posterior_bench.bench.config.interpolation import refuse_resolvers
from posterior_bench.bench.config.option_files import CONF
from posterior_bench.bench.config.schema import Config, register
from posterior_bench.bench.core.errors import UserError

_GROUPS = {path.name for path in CONF.iterdir() if path.is_dir()} - {"hydra"}
_SINGLE = "|".join(field.name for field in fields(Config) if field.name not in _GROUPS)
_CHOICE = re.compile(rf"({'|'.join(sorted(_GROUPS))})=")
_VALUE = re.compile(rf"(\+\+)?(({_SINGLE})|(?!hydra\.)\w+(\.\w+)+)=")

register()


def compose(overrides: list[str]) -> tuple[DictConfig, dict[str, object]]:
    """Compose the configuration of one job, for verbs that do not run it.

    Parameters
    ----------
    overrides : list of str
        The overrides as :func:`bench.config.overrides.check` returns them.

    Returns
    -------
    tuple of DictConfig and dict
        The configuration without Hydra's own node, and the name of the chosen option by group.

    Raises
    ------
    UserError
        If Hydra cannot compose them, or a value calls a resolver.
    """
    try:
        cfg = _in_two_steps(overrides) or _by_hydra(overrides)
    except HydraException as error:
        raise UserError(one_line(error)) from error
    refuse_resolvers(cfg)
    choices = dict(cfg.hydra.runtime.choices)
    bare = DictConfig({k: v for k, v in cfg.items_ex(resolve=False) if k != "hydra"})
    return bare, choices


def _in_two_steps(overrides: list[str]) -> DictConfig | None:
    """Return what Hydra would make of plain choices and values; None if there is anything else."""
    values = [line for line in overrides if _VALUE.match(line)]
    choices = [line for line in overrides if line not in values]
    if not all(_CHOICE.match(line) and _from_file(line) for line in choices):
        return None
    try:
        return _with_values(_chosen(choices), values)
    except (HydraException, OmegaConfBaseException):
        return None  # Hydra says what is wrong


def _chosen(choices: list[str]) -> DictConfig:
    """Return a copy of what Hydra makes of groups."""
    stamp = _stamp()
    solvers = [line.removeprefix("solver=") for line in choices if line.startswith("solver=")]
    contents = [_plain_solver(name, stamp) for name in solvers]
    if len(solvers) > 1 or None in contents:  # its file sets other groups too
        return _by_hydra(choices)
    others = tuple(line for line in choices if not line.startswith("solver="))
    cfg = deepcopy(_of_groups(others, stamp))
    for name, content in zip(solvers, contents, strict=True):
        OmegaConf.update(cfg, "solver", content, merge=False, force_add=True)
        cfg.hydra.runtime.choices["solver"] = name
    return cfg


@lru_cache(maxsize=256)
def _plain_solver(name: str, _stamp: object) -> DictConfig | None:
    """Return what the file of a solver says; None if it is not one of ours that stands alone."""
    path = CONF / "solver" / f"{name}.yaml"
    text = path.read_text(encoding="utf-8") if path.is_file() else "@package"
    found = None if "@package" in text else OmegaConf.create(text)
    return found if isinstance(found, DictConfig) and "defaults" not in found else None


@lru_cache(maxsize=64)
def _of_groups(choices: tuple[str, ...], _stamp: object) -> DictConfig:
    return _by_hydra([*choices])


def _from_file(choice: str) -> bool:
    """Whether the option lies in ``conf``; a class in a file of the user's has no file there.

    Two such classes may have one name, so nothing is kept of them.
    """
    group, _, name = choice.partition("=")
    return CONF.joinpath(group, f"{name}.yaml").is_file() or name.startswith("[")


def _stamp() -> tuple[tuple[str, int], ...]:
    """Return when each file of ``conf`` was written."""
    found = (os.path.join(folder, name) for folder, _, names in os.walk(CONF) for name in names)
    return tuple((path, os.stat(path).st_mtime_ns) for path in found)


def _with_values(cfg: DictConfig, values: list[str]) -> DictConfig:
    """Set values as Hydra does, which does it last."""
    for item in OverridesParser.create().parse_overrides(values):
        if item.is_sweep_override():
            raise HydraException(f"'{item.input_line}' is a sweep")
        value, added = item.value(), item.is_force_add()
        OmegaConf.update(cfg, item.key_or_group, value, merge=True, force_add=added)
    return cfg


def _by_hydra(overrides: list[str]) -> DictConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return hydra_compose(config_name="config", overrides=overrides, return_hydra_config=True)


def one_line(error: BaseException) -> str:
    """Return the first line of an error, and that of its cause if it says more."""
    text = next(iter(str(error).splitlines()), "") or type(error).__name__
    cause = next(iter(str(error.__cause__ or "").splitlines()), "")
    return text if not cause or cause in text else f"{text}: {cause}"
