"""Compose the configuration of one job with Hydra."""

from __future__ import annotations

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig

from posterior_bench.bench.config.interpolation import refuse_resolvers
from posterior_bench.bench.config.option_files import CONF
from posterior_bench.bench.config.schema import register
from posterior_bench.bench.core.errors import UserError

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
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        try:
            cfg = hydra_compose(config_name="config", overrides=overrides, return_hydra_config=True)
        except HydraException as error:
            raise UserError(one_line(error)) from error
    refuse_resolvers(cfg)
    choices = dict(cfg.hydra.runtime.choices)
    bare = DictConfig({k: v for k, v in cfg.items_ex(resolve=False) if k != "hydra"})
    return bare, choices


def one_line(error: BaseException) -> str:
    """Return the first line of an error, and that of its cause if it says more."""
    text = next(iter(str(error).splitlines()), "") or type(error).__name__
    cause = next(iter(str(error.__cause__ or "").splitlines()), "")
    return text if not cause or cause in text else f"{text}: {cause}"
