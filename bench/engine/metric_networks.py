"""The metrics of a cell, and the perceptual distance that a solver may ask for."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from posterior_bench.bench.core.environment import ROOT
from posterior_bench.bench.core.errors import UserError, unknown
from posterior_bench.bench.core.stamps import packages, stamp
from posterior_bench.bench.engine.cache import shared
from posterior_bench.bench.external.users_cache import users_cache
from posterior_bench.metrics.base import AnyMetric, MissingWeights
from posterior_bench.metrics.perceptual import Perceptual
from posterior_bench.solvers.base import Distance, Solver

Nodes = Mapping[str, Mapping[str, Any]]

PERCEPTUAL: Mapping[str, Mapping[str, Any]] = {
    "stlpips": {"_target_": "metrics.stlpips.STLPIPS"},
    "lpips_vgg": {"_target_": "metrics.lpips_metric.LPIPS", "net": "vgg"},
    "lpips_alex": {"_target_": "metrics.lpips_metric.LPIPS", "net": "alex"},
}
"""Metrics that a solver's setting ``perceptual`` may name; the process loads each of them once."""


def checked_metrics(
    nodes: Mapping[str, Mapping[str, Any]], libraries: bool = True
) -> dict[str, Mapping[str, Any]]:
    """Return the nodes of metrics with the content of their files recorded.

    Parameters
    ----------
    nodes : Mapping
        The nodes of metrics.
    libraries : bool, default True
        Whether metrics that need an installed library alone are computed once, which may load it
        for seconds.

    Raises
    ------
    UserError
        If some of them cannot be computed with this installation.
    """
    if missing := missing_weights(nodes, libraries=libraries):
        raise UserError("; and ".join(missing))
    return {name: {**node, **shared("metric", node, "cpu").pinned} for name, node in nodes.items()}


def missing_weights(
    nodes: Mapping[str, Mapping[str, Any]], perceptual: str = "none", libraries: bool = True
) -> list[str]:
    """Return why metrics, and the distance ``perceptual`` of a solver, cannot be computed here.

    A file that several columns need is named once. ``libraries`` is that of
    :func:`checked_metrics`.
    """
    reasons: dict[str, str] = {}
    for name, node in nodes.items():
        metric: AnyMetric = shared("metric", node, "cpu")
        if metric.card.id != name:
            raise UserError(
                f"metrics.{name} is listed as '{name}', but its card says '{metric.card.id}'"
            )
        if not libraries and getattr(metric, "library_alone", False):
            continue
        if reason := _fault(metric):
            reasons.setdefault(reason.partition("' needs ")[2] or reason, reason)
    if perceptual in PERCEPTUAL and (
        reason := _fault(shared("metric", PERCEPTUAL[perceptual], "cpu"))
    ):
        reasons.setdefault(
            reason.partition("' needs ")[2] or reason, f"solver.perceptual={perceptual}: {reason}"
        )
    return list(reasons.values())


def demand_same_weights(cell: str, recorded: Nodes, nodes: Nodes) -> None:
    """Refuse weights whose hash differs from the one that a cell recorded for the same metric.

    Parameters
    ----------
    cell : str
        Name of the cell, for the message.
    recorded, nodes : Mapping
        The nodes of metrics that the cell recorded, and those of now.

    Raises
    ------
    UserError
        Naming the first metric with other weights.
    """
    for name in recorded.keys() & nodes.keys():
        before, now = (str(of[name].get("sha256") or "") for of in (recorded, nodes))
        if before and now and before != now:
            raise UserError(
                f"the cell {cell} has '{name}' by weights with sha256 {before[:16]}, and those "
                f"here have {now[:16]}: rows of both would not be comparable; put the earlier "
                "file back, or choose another out=DIR"
            )


def _fault(metric: AnyMetric) -> str:
    """Return why a metric cannot be computed here; empty where it can."""
    mark = _mark(metric)
    if mark is not None and mark.exists():
        return ""
    try:
        metric.check()
    except (MissingWeights, RuntimeError) as error:
        return str(error)
    if mark is not None:
        with suppress(OSError):
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
    return ""


def _mark(metric: AnyMetric) -> Path | None:
    """Return the file that says: this metric was right with these installed packages.

    The check of a metric may load libraries for seconds, and finds the same until they change.
    """
    cache = users_cache()
    if cache is None or not getattr(metric, "library_alone", False):
        return None
    seen = stamp([ROOT / "metrics"], packages())
    return seen and cache / "metrics" / f"{metric.card.id}-{seen.digest}"


def perceptual_distance(solver: Solver, device: str) -> Distance | None:
    """Return the distance that a solver's setting ``perceptual`` names.

    None where the setting is ``none`` or absent.

    Raises
    ------
    UserError
        If the name is unknown, or its weights are missing or have another hash.
    """
    name = getattr(solver, "perceptual", "none")
    if name == "none":
        return None
    if name not in PERCEPTUAL:
        raise unknown("setting solver.perceptual", name, ["none", *PERCEPTUAL])
    metric: Perceptual = shared("metric", PERCEPTUAL[name], device)
    if reason := _fault(metric):
        raise UserError(f"solver.perceptual={name}: {reason}")
    return metric.between
