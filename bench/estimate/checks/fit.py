"""The check whether solver, prior, operator, data and metrics fit together."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from posterior_bench.bench.config.build import target, task_caps
from posterior_bench.bench.config.catalog import option, options
from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.core.errors import Inapplicable
from posterior_bench.bench.engine.session import Session
from posterior_bench.bench.estimate.attempt import attempt
from posterior_bench.bench.estimate.finding import Finding
from posterior_bench.datasets.base import ImageSet
from posterior_bench.priors.base import Prior
from posterior_bench.solvers.base import lacking


class Misfit(NamedTuple):
    """Why a run refuses some parts.

    Parameters
    ----------
    found : str
        What does not fit.
    remedy : str
        What to choose instead.
    inapplicable : bool
        Whether each part is right by itself.
    """

    found: str
    remedy: str
    inapplicable: bool


def check_fit(
    config: JobConfig, prior: Prior, images: ImageSet | None, masks: bool
) -> list[Finding]:
    """Return whether the parts fit together, and the files of the solver are there.

    Parameters
    ----------
    config : JobConfig
        The configuration of the cell.
    prior : Prior
        The prior.
    images : ImageSet or None
        The images; None if they are missing.
    masks : bool
        Whether the masks are there.
    """
    wrong = misfits(config, prior, images, masks)
    if config.study.get("skip_inapplicable") and any(misfit.inapplicable for misfit in wrong):
        return [
            Finding("solver", "warning", f"this study leaves it out: {misfit.found}")
            for misfit in wrong
        ]
    name = config.solver["_target_"].rpartition(".")[2]
    fits = Finding("solver", "ok", f"{name} fits prior, operator and data")
    return [Finding("solver", "missing", misfit.found, misfit.remedy) for misfit in wrong] or [fits]


def misfits(config: JobConfig, prior: Prior, images: ImageSet | None, masks: bool) -> list[Misfit]:
    """Return why the parts do not fit together; nothing if they do.

    Stand-ins take the place of missing images or masks. If the images have the wrong size, the
    other parts are checked too.

    Parameters
    ----------
    config : JobConfig
        The configuration of the cell.
    prior : Prior
        The prior.
    images : ImageSet or None
        The images; None if they are missing.
    masks : bool
        Whether the masks are there.
    """
    measured = config if masks else replace(config, mask=option("mask", "half").content)
    stand_in = {
        "_target_": "bench.standin.StandIn",
        "shape": list(prior.image_shape),
        "classes": prior.num_classes,
        "images": 1,
        "prompt": config.data.get("prompt"),
    }
    tries = [] if images is None else [measured]
    if images is None or tuple(images.shape) != tuple(prior.image_shape):
        tries.append(replace(measured, data=stand_in))
    refusals = dict.fromkeys(filter(None, (_refusal(each, prior) for each in tries)))
    return [
        Misfit(line, _fitting(config, prior) if "choose another solver" in line else "", kind)
        for line, kind in refusals
    ]


def _refusal(config: JobConfig, prior: Prior) -> tuple[str, bool] | None:
    """Return why a session refuses its parts, and whether each part is right by itself."""
    inapplicable = False

    def start() -> None:
        nonlocal inapplicable
        try:
            Session(config, prior.device.type, prior)
        except Inapplicable:
            inapplicable = True
            raise

    problem = attempt(start)[1]
    return (problem, inapplicable) if problem else None


def _fitting(config: JobConfig, prior: Prior) -> str:
    """Return the solvers whose needs this prior and operator meet."""
    has = prior.caps | task_caps(config)
    nodes = {name: option.content for name, option in options("solver", plugins=()).items()}
    fitting = [
        name
        for name, node in nodes.items()
        if not node.get("path") and not lacking(target(node).needs, has)
    ]
    return f"a solver that fits: {', '.join(fitting)}" if fitting else ""
