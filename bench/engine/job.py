"""From Hydra's configuration to a :class:`bench.config.job.JobConfig`, checked and completed."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from omegaconf import DictConfig, OmegaConf

from posterior_bench.bench.analysis import papers
from posterior_bench.bench.config.auto_images import AutoImages
from posterior_bench.bench.config.build import with_preset
from posterior_bench.bench.config.image_folders import missing_settings
from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.config.plugins import admit_of
from posterior_bench.bench.core.cost import Budget
from posterior_bench.bench.core.environment import environment
from posterior_bench.bench.core.errors import UserError, unknown
from posterior_bench.bench.engine import trackers
from posterior_bench.bench.external.models import converted_path

STATUSES = ("ok", "nan", "oom", "timeout", "error")


def job_of(cfg: DictConfig) -> JobConfig:
    """Return the configuration that Hydra composed, checked and completed.

    Completed are: the folder of a converted prior, the size, mode and number of images in a
    folder, the preset of the solver, and the commit of the code.

    Raises
    ------
    UserError
        If a setting is missing or has a value that no run could use.
    """
    config = unchecked(cfg)
    for group, node in config.nodes.items():
        missing = [key for key, value in node.items() if value == "???"]
        if missing:
            raise UserError(f"{group}.{missing[0]} is not set; give {group}.{missing[0]}=VALUE")
    config = config.with_settings("prior", converted_path(config.prior, quiet=config.quiet))
    admit_of(config)
    _demand_known(config)
    config = config.with_settings("data", missing_settings(config.data, config.prior))
    demand_possible(config)
    _demand_study(config)
    commit = environment()["commit"] + ("+dirty" if environment()["dirty"] else "")
    return replace(
        config, solver=with_preset(config.solver, config.prior, config.data), commit=commit
    )


def unchecked(cfg: DictConfig) -> JobConfig:
    """Return the resolved configuration as it is; settings that are not set are ``???``."""
    own = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    plain: Any = OmegaConf.to_container(own, resolve=True, throw_on_missing=False)
    return JobConfig.of(plain)


def demand_possible(config: JobConfig) -> None:
    """Raise UserError for settings of execution, budget or images that no machine could run."""
    try:
        assert config.execution
    except ValueError as error:
        raise UserError(str(error)) from None
    if config.offload and config.compile:
        raise UserError(
            "offload=true compile=true: CUDA graphs need the weights where they were captured; "
            "choose one of the two"
        )
    if config.budget is not None:
        Budget.of(config.budget)
    images = config.data["images"]
    if AutoImages.of(images):
        raise UserError(
            f"data.images={images}: only a run adds images until there are enough; here give a "
            "number, at most the limit"
        )
    if not isinstance(images, int) or images < 1:
        raise UserError(f"data.images={images}: give a whole number of at least 1")


def _demand_known(config: JobConfig) -> None:
    """Raise UserError for a timeout, logger or status that does not exist."""
    timeout = config.timeout
    if timeout is not None and not 0 < timeout < math.inf:
        raise UserError(f"timeout={timeout}: give seconds above 0, or null for no limit")
    if config.logger not in (None, *trackers.SINKS):
        raise unknown("logger", str(config.logger), trackers.SINKS)
    wrong = [status for status in config.accept if status not in STATUSES]
    if wrong:
        raise UserError(f"accept={wrong}: valid statuses are {', '.join(STATUSES)}")


def _demand_study(config: JobConfig) -> None:
    """Raise UserError for a figure or a paper of the study that cannot be drawn or read."""
    figure = config.study.get("figure")
    kinds = ({"x", "y"}, {"bars"})
    if figure is not None and (not isinstance(figure, dict) or figure.keys() not in kinds):
        raise UserError(
            f"study.figure={figure}: name two columns of the leaderboard, such as {{x: passes, y: "
            "psnr}, or a metric over draws, such as {bars: lpips_vgg}"
        )
    if config.study.get("paper") is not None:
        papers.printed_numbers(str(config.study["paper"]))
