"""The configuration of a call of the Python API: options and settings of the command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from posterior_bench.bench.config.compose import compose
from posterior_bench.bench.config.overrides import check
from posterior_bench.bench.config.prior_paths import with_prior_names
from posterior_bench.bench.config.text_settings import quote_texts
from posterior_bench.bench.core.errors import unknown


def configuration(options: Mapping[str, str], settings: Mapping[str, Any]) -> DictConfig:
    """Compose the configuration of one job.

    Parameters
    ----------
    options : Mapping[str, str]
        The option of each group, such as ``{"solver": "dps", "mask": "rotated"}``.
    settings : Mapping[str, Any]
        Values of settings by their names on the command line, such as ``{"mask.side": 0.25}``.

    Returns
    -------
    DictConfig
        The whole configuration, with the defaults of the command line for everything else.

    Raises
    ------
    UserError
        If an option or a setting is unknown; the message lists the valid names.
    """
    lines = quote_texts(with_prior_names([f"{group}={name}" for group, name in options.items()]))
    config, _ = compose(check(lines))
    for name, value in settings.items():
        put(config, name, value)
    return config


def put(config: DictConfig, name: str, value: Any) -> None:
    """Set ``config[name]``, where ``name`` has dots; UserError if there is no such setting."""
    *groups, last = name.split(".")
    node: Any = config
    for group in groups:
        node = node.get(group) if OmegaConf.is_dict(node) else None
    if not OmegaConf.is_dict(node) or last not in node:
        valid = [key for key in node or () if not str(key).startswith("_")]
        prefix = "".join(f"{group}." for group in groups)
        raise unknown("setting", name, [f"{prefix}{key}" for key in valid] or config)
    OmegaConf.update(config, name, value, merge=False)
