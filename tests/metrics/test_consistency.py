from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from posterior_bench.metrics.base import Batch
from posterior_bench.metrics.consistency import Consistency, ConsistencyRatio
from posterior_bench.metrics.psnr import PSNR
from posterior_bench.metrics.psnr_vipaint import PSNRVIPaint
from posterior_bench.metrics.seam import Seam
from posterior_bench.metrics.ssim import SSIM
from posterior_bench.metrics.stlpips import STLPIPS
from posterior_bench.operators.inpainting import Inpainting


def test_masked_measurements_count_observed_values_only(make_batch):
    batch = make_batch()
    observed = np.broadcast_to(batch.mask.numpy(), batch.y.shape)
    residual = batch.Ax.numpy().astype(np.float64) - batch.y.numpy()
    expected = [np.sqrt(np.mean(r[m] ** 2)) for r, m in zip(residual, observed, strict=True)]
    assert Consistency()(batch).tolist() == pytest.approx(expected, rel=1e-6)


def test_what_a_solver_puts_in_the_hole_does_not_matter(make_batch):
    batch = make_batch()
    wild = replace(batch, Ax=torch.where(batch.mask, batch.Ax, torch.tensor(50.0)))
    assert torch.equal(Consistency()(wild), Consistency()(batch))


def test_the_truth_is_as_far_from_a_noisy_measurement_as_the_noise():
    generator = torch.Generator().manual_seed(1)
    truth = torch.rand(2, 3, 64, 64, generator=generator) * 2 - 1
    mask = torch.rand(2, 1, 64, 64, generator=generator) > 0.5
    operator = Inpainting(mask=mask, sigma=0.05)
    y = operator.observe(truth, torch.randn(truth.shape, generator=generator))
    batch = Batch(truth, truth, truth, mask, y, operator.A(truth), operator.sigma)
    assert ConsistencyRatio()(batch).tolist() == pytest.approx([1, 1], rel=0.05)
    # fitted noise is no better than exact draws: no column ranks a noisy cell
    fitted = replace(batch, Ax=0.5 * batch.Ax + 0.5 * y)
    assert ConsistencyRatio()(fitted).tolist() == pytest.approx([0.5, 0.5], rel=0.05)
    assert ConsistencyRatio().card.direction == "none" and Consistency()(batch).isnan().all()


def test_without_noise_there_is_no_ratio(make_batch):
    assert ConsistencyRatio()(make_batch()).isnan().all()


def test_perfect_answers_are_infinite_in_psnr_alone_and_never_nan(make_batch):
    batch = make_batch()
    same = replace(batch, raw=batch.truth, pasted=batch.truth, Ax=batch.y)
    for metric in (PSNR(), PSNR("hole"), PSNR("known", pasted=True)):
        assert metric(same).tolist() == [float("inf")] * 3
    ideal = {PSNRVIPaint: 100, SSIM: 1, Seam: 0, STLPIPS: 0, Consistency: 0}
    for metric, value in ideal.items():
        assert metric()(same).tolist() == pytest.approx([value] * 3, abs=1e-6)


def test_measurements_of_another_size_count_whole():
    mask = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    image, y = torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 2, 2)
    Ax = torch.stack([torch.full((3, 2, 2), 0.5), torch.full((3, 2, 2), -2.0)])
    assert Consistency()(Batch(image, image, image, mask, y, Ax)).tolist() == [0.5, 2.0]


def test_nothing_measured_has_no_value(make_batch):
    batch = make_batch()
    assert Consistency()(replace(batch, mask=torch.zeros_like(batch.mask))).isnan().all()


def test_a_value_does_not_depend_on_the_batch(make_batch, rows):
    batch = make_batch(count=5)
    assert Consistency()(batch).tolist() == [Consistency()(row).item() for row in rows(batch)]


def test_the_installation_check_passes_and_can_fail(monkeypatch):
    Consistency().check()
    ConsistencyRatio().check()
    monkeypatch.setattr("posterior_bench.metrics.consistency._rmse", lambda *_: 12.5**0.5 + 0.01)
    with pytest.raises(RuntimeError, match="consistency"):
        Consistency().check()
