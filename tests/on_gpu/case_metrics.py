"""Every metric whose weights are here: the values of the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from tests.pretended_gpu import DEVICE
from torch import Tensor

from posterior_bench.bench.config.build import build
from posterior_bench.bench.config.catalog import options
from posterior_bench.bench.engine.measurement import Measurement, batch_of
from posterior_bench.bench.engine.scoring import put_values, score_rows, values_of
from posterior_bench.metrics.base import AnyMetric, DrawSet, MissingWeights, ValueMetric
from posterior_bench.metrics.recognition import Listed, Recognised
from posterior_bench.operators.inpainting import Inpainting

ROWS, DRAWS, SIDE = 1, 4, 32


def _nodes() -> Iterator[tuple[str, Any]]:
    """Return the node of every metric, by column; bundles name metrics only."""
    for option in options("metrics").values():
        for name, node in option.content.items():
            if isinstance(node, dict) and "_target_" in node:
                yield name, node


NODES = dict(_nodes())


def _loaded(name: str, device: str) -> AnyMetric | None:
    """Return a metric on a device; None if its weights are absent, or images are too small."""
    metric: AnyMetric = build(NODES[name])
    try:
        metric.admit((3, SIDE, SIDE))
        metric.check()
    except (MissingWeights, ValueError, RuntimeError):
        return None
    return metric.to(device)


def _scored(metrics: dict[str, AnyMetric], device: str) -> list[dict[str, Any]]:
    numbers = torch.Generator().manual_seed(0)

    def images(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=numbers).mul(2).sub(1).to(device)

    truth, x = images(ROWS, 3, SIDE, SIDE), images(ROWS, DRAWS, 3, SIDE, SIDE)
    mask = torch.rand(ROWS, 1, SIDE, SIDE, generator=numbers) > 0.3
    operator = Inpainting(mask, 0.05).to(device)
    y = operator.observe(truth, images(*truth.shape))
    flat = x.flatten(0, 1)
    drawn = DrawSet(
        x,
        truth,
        operator.mask,
        y,
        reference=images(ROWS, 6, 3, SIDE, SIDE),
        mode_weights=torch.full((ROWS, 2), 0.5).to(device),
        assign=lambda some: torch.stack([some.flatten(1).mean(1)] * 2, 1).softmax(1),
        recognise=[_two_faces(one, known) for one, known in zip(truth.cpu(), mask, strict=True)],
    )
    measured = Measurement([], truth, None, operator, y)
    finite = torch.ones(len(flat), dtype=torch.bool).to(device)
    rows = score_rows(metrics, batch_of(measured, flat, DRAWS), drawn, finite)
    put_values(rows, metrics, values_of(metrics, rows, DRAWS))
    return rows


def _two_faces(truth: Tensor, known: Tensor) -> Callable[[Tensor], Recognised]:
    """Return what recognises draws as the truth or as its negative."""
    images = torch.stack([truth.flatten(), -truth.flatten()])
    hidden = ~known.expand(truth.shape).flatten()
    faces = Listed(images, torch.tensor([0.75, 0.25]).double(), ["sign"], [["+"], ["-"]], hidden)
    return lambda x: faces(x.cpu())


def test_metrics_of_the_gpu_equal_those_of_the_cpu():
    here = {name: metric for name in NODES if (metric := _loaded(name, "cpu")) is not None}
    # values of other metrics need those metrics
    here = {
        name: metric
        for name, metric in here.items()
        if not isinstance(metric, ValueMetric) or metric.of in here
    }
    assert len(here) > 20
    there = {name: loaded for name in here if (loaded := _loaded(name, DEVICE)) is not None}
    for found, expected in zip(_scored(there, DEVICE), _scored(here, "cpu"), strict=True):
        assert found.keys() == expected.keys()
        differ = [k for k in found if not np.array_equal(found[k], expected[k], equal_nan=True)]
        assert not differ
