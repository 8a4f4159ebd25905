from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from posterior_bench.metrics.base import Metric, SetMetric

ROOT = Path(__file__).parents[2]
OPTIONS = [
    "psnr",
    "ssim",
    "ssim_piq",
    "consistency",
    "stlpips",
    "lpips_alex",
    "lpips_alex_unclamped",
    "lpips_piq_vgg",
    "lpips_squeeze",
    "lpips_squeeze_unclamped",
    "lpips_vgg",
    "lpips_vgg_unclamped",
    "dreamsim",
    "musiq",
    "clip_iqa",
    "cmmd",
    "fid_torchvision",
    "fid_patch",
    "fd_dinov2",
]
SETS = ("cmmd", "fid_torchvision", "fid_patch", "fd_dinov2")


@pytest.mark.parametrize("option", OPTIONS)
def test_every_column_is_named_by_its_card(option):
    columns = OmegaConf.load(ROOT / "conf" / "metrics" / f"{option}.yaml")
    assert option in columns
    for name, node in columns.items():
        metric = instantiate(node)
        assert isinstance(metric, SetMetric if option in SETS else Metric)
        assert metric.card.id == name
        # a ratio to the noise level is right at 1 and has no better end
        assert (metric.card.direction == "none") == (name == "consistency_ratio")
        assert all(getattr(metric.card, field.name) is not None for field in fields(metric.card))


def test_options_do_not_claim_each_others_columns():
    names = [
        name
        for option in OPTIONS
        for name in OmegaConf.load(ROOT / "conf" / "metrics" / f"{option}.yaml")
    ]
    assert len(names) == len(set(names))


def test_cards_need_no_metric_library():
    code = (
        "import sys, metrics.psnr, metrics.ssim, metrics.consistency, metrics.stlpips, "
        "metrics.lpips_metric as l, metrics.lpips_piq, metrics.fid, metrics.cmmd, metrics.musiq, "
        "metrics.clip_iqa, metrics.dreamsim_metric\n"
        "l.LPIPS(); metrics.lpips_piq.LPIPSPiq(); metrics.fid.PatchFID(); metrics.cmmd.CMMD()\n"
        "metrics.clip_iqa.CLIPIQA(); metrics.dreamsim_metric.DreamSim(); metrics.musiq.MUSIQ()\n"
        "metrics.stlpips.STLPIPS(); metrics.psnr.PSNR(); metrics.ssim.SSIM()\n"
        "late = {'torchmetrics', 'lpips', 'torchvision', 'stlpips_pytorch', 'piq'}\n"
        "print(late & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"
