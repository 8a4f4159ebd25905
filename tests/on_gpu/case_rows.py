"""Rows of a worker on the GPU, from the measurement to the PNG: those of the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.bench.conftest import (  # noqa: F401  # fixtures, which pytest takes from here
    command,
    latent_prior,
    photos,
)
from tests.bench.harness import planned
from tests.pretended_gpu import DEVICE, PretendedGPU

from posterior_bench.bench.engine.worker import Worker
from posterior_bench.bench.store.schema import TIMINGS

CELLS: dict[str, list[str]] = {
    "dps": ["draws=2", "metrics=[psnr,ssim,consistency,spread_skill]"],
    "repaint": ["draws=2", "metrics=[psnr,energy_score,energy_distance,mode_coverage]"],
    "vipaint2": ["trace=true"],
}


def _rows(overrides: list[str], device: str) -> list[dict[str, Any]]:
    plan = planned(overrides)
    return Worker(device, 1).rows(plan, plan.chunks[0])


@pytest.mark.parametrize("solver", CELLS)
def test_rows_of_the_gpu_equal_those_of_the_cpu(solver, command, gpu: PretendedGPU):  # noqa: F811
    overrides = command(solver, *CELLS[solver])
    with gpu.counted() as counts:
        there = _rows(overrides, DEVICE)
    assert counts.operations
    for found, expected in zip(there, _rows(overrides, "cpu"), strict=True):
        assert (found["status"], found["device"]) == ("ok", "a pretended GPU"), found["message"]
        for column in expected.keys() - {*TIMINGS, "device"}:
            np.testing.assert_array_equal(found[column], expected[column], err_msg=column)
