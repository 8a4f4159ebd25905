from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torchmetrics.image import PeakSignalNoiseRatio

from posterior_bench.metrics.base import Batch, from_uint8
from posterior_bench.metrics.psnr import PSNR


def _decibels(x: np.ndarray, truth: np.ndarray) -> float:
    return 10 * np.log10(4 / np.mean((x.astype(np.float64) - truth.astype(np.float64)) ** 2))


def test_whole_image_against_torchmetrics_one_image_at_a_time(make_batch):
    batch = make_batch()
    outside = PeakSignalNoiseRatio(data_range=2.0)
    expected = [
        outside(x[None], t[None]).item() for x, t in zip(batch.raw, batch.truth, strict=True)
    ]
    assert PSNR()(batch).tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("region", ["whole", "hole", "known"])
@pytest.mark.parametrize("pasted", [False, True])
def test_regions_against_numpy(make_batch, channels, region, pasted):
    batch = make_batch(channels=channels)
    chosen = batch.pasted if pasted else batch.raw
    if region == "known" and pasted:
        assert PSNR(region, pasted)(batch).isinf().all()
        return
    expected = []
    for x, truth, mask in zip(chosen.numpy(), batch.truth.numpy(), batch.mask.numpy(), strict=True):
        inside = {"whole": np.ones_like(mask[0]), "hole": ~mask[0], "known": mask[0]}[region]
        expected.append(_decibels(x[:, inside], truth[:, inside]))
    assert PSNR(region, pasted)(batch).tolist() == pytest.approx(expected, abs=1e-5)


def test_one_grey_level_everywhere_is_48_dB():
    truth = from_uint8(torch.full((1, 3, 8, 8), 100, dtype=torch.uint8))
    raw = from_uint8(torch.full((1, 3, 8, 8), 101, dtype=torch.uint8))
    batch = Batch(raw, raw, truth, torch.ones(1, 1, 8, 8, dtype=torch.bool), raw, raw)
    assert PSNR()(batch).item() == pytest.approx(20 * np.log10(255), abs=1e-4)


def test_identical_images_are_infinitely_good(make_batch):
    batch = make_batch()
    assert PSNR()(replace(batch, raw=batch.truth)).tolist() == [float("inf")] * 3


def test_an_empty_region_has_no_value(make_batch):
    batch = make_batch()
    full = replace(batch, mask=torch.ones_like(batch.mask))
    assert PSNR("hole")(full).isnan().all()
    assert PSNR("known")(full).tolist() == PSNR()(full).tolist()
    assert PSNR("known")(replace(batch, mask=torch.zeros_like(batch.mask))).isnan().all()


@pytest.mark.parametrize("region", ["whole", "hole"])
def test_a_value_does_not_depend_on_the_batch(make_batch, rows, region):
    batch = make_batch(count=5)
    metric = PSNR(region)
    assert metric(batch).tolist() == [metric(row).item() for row in rows(batch)]


@pytest.mark.parametrize("region", ["whole", "hole", "known"])
def test_the_installation_check_passes_and_can_fail(region, monkeypatch):
    metric = PSNR(region)
    metric.check()
    monkeypatch.setattr(PSNR, "reference", {region: PSNR.reference[region] + 6.02})
    with pytest.raises(RuntimeError, match="psnr"):
        metric.check()
