"""Time to rebuild a leaderboard of 100 000 rows from its shards: python tests/benchmarks/leaderboard_scale.py"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import yaml

from bench import leaderboard, store

METRICS = {
    "psnr": {"title": "PSNR", "direction": "up", "unit": "dB"},
    "ssim": {"title": "SSIM", "direction": "up", "unit": ""},
    "lpips_vgg": {"title": "LPIPS", "direction": "down", "unit": ""},
    "stlpips": {"title": "ST-LPIPS", "direction": "down", "unit": ""},
    "consistency": {"title": "consistency", "direction": "down", "unit": ""},
}


def make_cell(study: Path, name: str, images: int, draws: int, chunk: int) -> None:
    """A cell with random scores and random bytes for pictures, ``chunk`` images in a shard."""
    rng = np.random.default_rng(int(name, 16))
    ids = [f"{i:05d}" for i in range(images)]
    chunks = {f"{i // chunk:05d}": ids[i : i + chunk] for i in range(0, images, chunk)}
    identity = dict(solver=f"solver{name}", data="data", mask="mask", operator="inpainting", prior="prior")
    config = {
        "cell": name,
        "identity": {**identity, "seed": 0, "images": images, "draws": draws, "variant": ""},
        "chunks": chunks,
        "metrics": METRICS,
        "provenance": {"commit": "0" * 40, "dirty": False},
        "config": {},
    }
    folder = study / "cells" / name
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    for label, members in chunks.items():
        store.RowStore(folder).write(label, [row(name, i, d, rng) for i in members for d in range(draws)])


def row(cell: str, image: str, draw: int, rng: np.random.Generator) -> dict[str, object]:
    costs = dict.fromkeys(leaderboard.COSTS, 1.0)
    where = {"device": "cpu", "build": "2.11.0", "threads": 1, "precision": "float32", "padded_batch": 32}
    scores = dict(zip(METRICS, rng.normal(size=len(METRICS)), strict=True))
    return dict(cell=cell, image_id=image, draw=draw, status="ok", png=rng.bytes(400), **costs, **where, **scores)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--cells", type=int, default=12)
    options.add_argument("--images", type=int, default=1042)
    options.add_argument("--draws", type=int, default=8)
    options.add_argument("--chunk", type=int, default=4, help="images per shard")
    given = options.parse_args()
    os.fsync = lambda _: None  # making the study is not what is timed
    with tempfile.TemporaryDirectory() as folder:
        study = Path(folder)
        for i in range(given.cells):
            make_cell(study, f"{i:016x}", given.images, given.draws, given.chunk)
        shards = len(list(study.glob("cells/*/rows/*.parquet")))
        for what, work in (("read", store.read_study), ("leaderboard", leaderboard.write)):
            start = time.perf_counter()
            frame = work(study)
            print(f"{what}: {time.perf_counter() - start:.2f} s for {shards} shards -> {len(frame)} lines")


if __name__ == "__main__":
    main()
