"""The memory that metrics take, measured while they score made-up images."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from posterior_bench.bench.config.build import build
from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.core.streams import Key
from posterior_bench.bench.core.streams import Noise as SeededNoise
from posterior_bench.bench.engine.batches import BatchSize
from posterior_bench.bench.engine.cache import shared
from posterior_bench.bench.engine.exact_draws import REFERENCE
from posterior_bench.bench.engine.measurement import batch_of
from posterior_bench.bench.engine.metric_networks import PERCEPTUAL
from posterior_bench.bench.engine.scoring import score_rows
from posterior_bench.bench.estimate.dry_run import made_up_measurement
from posterior_bench.bench.estimate.live_tensors import Live
from posterior_bench.metrics.base import AnyMetric, DrawMetric, DrawSet, MissingWeights, ValueMetric
from posterior_bench.metrics.lpips_metric import LPIPS, empty
from posterior_bench.metrics.perceptual import Perceptual
from posterior_bench.priors.base import Prior
from posterior_bench.solvers.exact import ENUMERATED


def image_bytes(prior: Prior) -> int:
    """Return the bytes of one image in float32."""
    return 4 * math.prod(prior.image_shape)


def scoring_bytes(config: JobConfig, prior: Prior) -> tuple[float, float, int]:
    """Return the memory of scoring: a constant, bytes of a row, and the weights of the metrics.

    The metrics really run, on one image of one or two draws.
    """
    metrics, draws = usable_metrics(config), min(config.draws, 2)
    network, weights = _peak(config, prior, metrics, BatchSize(1, draws))
    without = [_peak(config, prior, {}, BatchSize(1, rows))[0] for rows in (1, 2)]
    row = without[1] - without[0]
    if any(isinstance(metric, DrawMetric) for metric in metrics.values()):
        row += 2 * image_bytes(prior)  # vectors of all draws in float64
    return network - draws * row, row, weights


def _peak(
    config: JobConfig, prior: Prior, metrics: Mapping[str, AnyMetric], size: BatchSize
) -> tuple[int, int]:
    """Return the peak of the tensors that scoring makes, and the bytes of the metrics' weights."""
    with Live() as live, torch.no_grad():
        measured = made_up_measurement(config, prior, size.images)
        x = SeededNoise([Key(0, "memory", str(i)) for i in range(size.rows)], "metric").normal(
            prior.image_shape
        )
        operator = measured.operator
        seen = operator.first_guess(measured.y) if operator.mask is None else measured.y
        drawn = DrawSet(x.unflatten(0, (-1, size.draws)), measured.truth, operator.mask, seen)
        finite = torch.ones(size.rows, dtype=torch.bool)
        score_rows(metrics, batch_of(measured, x, size.draws), drawn, finite)
    return live.peak, live.outside_peak


def usable_metrics(config: JobConfig) -> dict[str, AnyMetric]:
    """Return the metrics whose weights are here and that score made-up images.

    Metrics that compare with the exact posterior, or take the values of other metrics, are left
    out.
    """
    usable: dict[str, AnyMetric] = {}
    for name, node in config.metrics.items():
        try:
            metric = shared("metric", node, "cpu")
            metric.check()
        except Exception:  # `doctor` reports it in a check of its own
            continue
        if not isinstance(metric, ValueMetric) and not {REFERENCE, ENUMERATED} & metric.needs:
            usable[name] = metric
    return usable


def perceptual_weights(config: JobConfig, prior: Prior) -> int:
    """Return the bytes of the weights of the solver's perceptual distance.

    They are 0 where a metric of the cell already has the same weights.
    """
    name = getattr(build(config.solver), "perceptual", "none")
    if name == "none" or any(
        node.get("_target_") == PERCEPTUAL[name]["_target_"] for node in config.metrics.values()
    ):
        return 0
    metric: Perceptual = shared("metric", PERCEPTUAL[name], "cpu")
    x = torch.zeros(1, *prior.image_shape)
    try:
        metric.between(x, x)  # loads them
    except MissingWeights:
        if not isinstance(metric, LPIPS):
            return 0
        return 4 * sum(p.numel() for p in empty(metric.net).parameters())
    with Live() as live, torch.no_grad():
        metric.between(x, x)
    return live.outside_peak - image_bytes(prior)
