"""A small study that runs in a second: 8 x 8 images of the user's own, an exact prior, real
solvers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.bench.harness import FAST


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
