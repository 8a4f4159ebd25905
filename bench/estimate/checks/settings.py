"""Checks of settings that only the user knows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from posterior_bench.bench.config.catalog import as_given, option
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.estimate.finding import Finding
from posterior_bench.bench.external.models import converted_path

_GROUPS = ("solver", "data", "mask", "operator", "prior")


def check_settings(cfg: DictConfig, choices: Mapping[str, Any]) -> list[Finding]:
    """Return a finding for each setting that is not set, and for a prior that cannot be converted.

    ``cfg`` is changed, so that everything else can be checked: such settings become empty, and
    such a prior becomes ``prior=none``.

    Parameters
    ----------
    cfg : DictConfig
        The composed configuration.
    choices : Mapping
        The name of the chosen option of every group.
    """
    findings = list(_unset(cfg, choices))
    if any(finding.check.startswith("prior") for finding in findings):
        return findings
    check = f"prior {choices['prior']}"
    return [*findings, *(Finding(check, "missing", line) for line in _not_converted(cfg))]


def _unset(cfg: DictConfig, choices: Mapping[str, Any]) -> Iterator[Finding]:
    for group in _GROUPS:
        for key in [key for key in cfg[group] if OmegaConf.is_missing(cfg[group], key)]:
            found = f"{group}.{key} is not set for {group}={choices[group]}"
            remedy = as_given(group, str(choices[group]), key)
            yield Finding(f"{group} settings", "missing", found, remedy)
            OmegaConf.update(cfg, f"{group}.{key}", "")


def _not_converted(cfg: DictConfig) -> Iterator[str]:
    node: Any = OmegaConf.to_container(cfg.prior, resolve=True, throw_on_missing=False)
    try:
        converted_path(node, quiet=bool(cfg.quiet))
    except UserError as error:
        OmegaConf.update(cfg, "prior", option("prior", "none").content, merge=False)
        yield str(error)
