"""A small study that runs in a second: 8 x 8 images of the user's own, an exact prior, real
solvers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.bench.harness import FAST, TINY

from posterior_bench.priors.base import Prior
from posterior_bench.priors.latents import KL
from posterior_bench.priors.load import save
from posterior_bench.priors.nets import UNet2D
from posterior_bench.priors.process import VP


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven grey images of 8 x 8 pixels."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for i in range(7):
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def command(photos: Path, tmp_path: Path):
    """Overrides of a small cell: ``command("dps", "seed=1", out="a")``."""

    def make(solver: str = "blended", *more: str, out: str = "study") -> list[str]:
        return [
            f"solver={solver}",
            *FAST[solver],
            "data=folder",
            f"data.root={photos}",
            "data.size=8",
            "data.mode=grey",
            "data.images=7",
            "prior=smooth",
            "prior.shape=[1,8,8]",
            "metrics=[psnr,consistency]",
            "draws=2",
            "batch=4",
            "threads=1",
            "quiet=true",
            "sheet=false",
            "report=false",
            f"out={tmp_path / out}",
            *more,
        ]

    return make


@pytest.fixture(scope="session")
def latent_prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an untrained latent prior over 8 x 8 images."""
    block = {"block_out_channels": [8], "norm_num_groups": 4, "layers_per_block": 1}
    unet = {**block, "sample_size": 4, "in_channels": 2, "out_channels": 2}
    unet |= {"down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"]}
    coder = {
        **block,
        "block_out_channels": [4, 4],
        "in_channels": 1,
        "out_channels": 1,
        "latent_channels": 2,
    }
    coder |= {
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net, latent = UNet2D(unet, 1), KL(coder)
    prior = Prior(VP.scheduled("linear", 1e-4, 0.02), net, (1, 8, 8), "v", latent=latent)
    return save(tmp_path_factory.mktemp("priors") / "tiny", prior, TINY)


@pytest.fixture
def latent_command(command, latent_prior: Path):
    """``latent_command("dps", "draws=1")``: the small cell of ``command`` on the latent prior."""

    def make(solver: str, *more: str) -> list[str]:
        kept = [o for o in command() if not o.startswith(("prior", "solver"))]
        return [
            f"solver={solver}",
            "solver.steps=4",
            "prior=fashion_latent",
            f"prior.path={latent_prior}",
            *kept,
            *more,
        ]

    return make
