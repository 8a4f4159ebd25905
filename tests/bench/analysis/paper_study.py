"""A study of known values for tables of papers: solvers on masks, twelve images, one draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml

from posterior_bench.bench.store.row_store import RowStore

CARDS = {
    "psnr": {"title": "PSNR", "direction": "up", "unit": "dB"},
    "stlpips": {"title": "ST-LPIPS", "direction": "down", "unit": ""},
    "psnr_known": {"title": "PSNR of observed pixels", "direction": "up", "unit": "dB"},
}
IMAGES = 12
MEANS = {"ddnm": 30.0, "vipaint2": 29.9, "dps": 25.0, "repaint": 20.0}
"""The first two differ by far less than their images do; all others are far apart."""


def write_study(
    folder: Path,
    means: Mapping[str, float] = MEANS,
    masks: Sequence[str] = ("rotated",),
    cards: Mapping[str, Mapping[str, str]] = CARDS,
) -> Path:
    """Write the cells of a study; the mean of ``psnr`` is exactly that of ``means``."""
    for mask in masks:
        for number, (solver, mean) in enumerate(means.items()):
            _cell(folder, solver, mask, mean, np.random.default_rng(number), cards)
    return folder


def _cell(
    folder: Path,
    solver: str,
    mask: str,
    mean: float,
    rng: np.random.Generator,
    cards: Mapping[str, Mapping[str, str]],
) -> None:
    ids = [f"test-{i:05d}" for i in range(IMAGES)]
    noise = rng.normal(size=IMAGES)
    psnr = mean + noise - noise.mean()
    name = f"{solver}-{mask}"
    identity = {
        **{"solver": solver, "data": "fashion", "mask": mask, "operator": "inpainting"},
        **{"prior": "fashion", "seed": 0, "images": IMAGES, "draws": 1, "variant": ""},
    }
    plan = {"cell": name, "identity": identity, "chunks": {"one": ids}, "metrics": dict(cards)}
    place = folder / "cells" / name
    place.mkdir(parents=True)
    plan |= {"provenance": {"commit": "c0ffee1234", "dirty": False}, "config": {}}
    (place / "config.yaml").write_text(yaml.safe_dump(plan, sort_keys=False))
    scores = {metric: psnr / 100 if metric == "stlpips" else psnr for metric in cards}
    scores |= {"psnr_known": np.full(IMAGES, np.inf)}
    RowStore(place).write(
        "one",
        [
            {
                **{"cell": name, "image_id": image, "draw": 0, "status": "ok", "version": "9.8.7"},
                **{"nfe": 100.0, "nge": 20.0, "seconds_fit": 0.0, "seconds_sample": 1.5},
                **{metric: float(values[i]) for metric, values in scores.items()},
            }
            for i, image in enumerate(ids)
        ],
    )
