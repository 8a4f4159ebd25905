"""Draw what the draws of a face were recognised as, beside the exact posterior.

    python -m scripts.face_figure runs/faces_posterior micah_test_00000 out.png [--mask NAME]

A row is a solver: the observation, its first draws with the variants that they show, and for every
hidden component two bars per variant: its posterior probability, and its share of all draws. The
script needs the packages of the extra ``faces``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from posterior_bench.bench.analysis.cell_records import read_cells
from posterior_bench.bench.api.study import Study
from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.config.masks import build_masks
from posterior_bench.bench.engine.arena import build_images
from posterior_bench.bench.engine.face_variants import recognisers
from posterior_bench.bench.engine.measurement import Measurement, measure
from posterior_bench.bench.store.study_files import read_cell
from posterior_bench.metrics.recognition import Component

SHOWN = 4
COMPONENTS = 3
POSTERIOR, DRAWS = "#999999", "#0072b2"


def measurement(cell: Path, image: str) -> Measurement:
    """Return the measurement of one image of a cell, as its solver saw it."""
    config = JobConfig.of(read_cell(cell / "config.yaml")["config"])
    images = build_images(config.data, None)
    return measure(config, images, build_masks(config.mask), [image])


def draws_of(study: Study, cell: str, image: str) -> Tensor:
    """Return the stored draws ``(D, 3, H, W)`` of one image in [-1, 1]."""
    rows = study.rows(["image_id", "draw", "status"])
    rows = rows[(rows["cell"] == cell) & (rows["image_id"] == image) & (rows["status"] == "ok")]
    pictures = [
        study.image(row.solver, image, row.draw, mask=row.mask, data=row.data)
        for row in rows.sort_values("draw").itertuples()
    ]
    pixels = np.stack([np.asarray(picture.convert("RGB"), np.float32) for picture in pictures])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1


def figure(study: Study, image: str, cells: dict[str, str]) -> Figure:
    """Return the figure of some cells, by solver."""
    drawn = Figure(figsize=(16, 2.6 * len(cells)), layout="constrained")
    axes = drawn.subplots(len(cells), 1 + SHOWN + COMPONENTS, squeeze=False)
    for row, (solver, cell) in zip(axes, cells.items(), strict=True):
        measured = measurement(Path(study.folder) / "cells" / cell, image)
        x = draws_of(study, cell, image)
        seen = recognisers(measured)[0](x.flatten(1).double())
        # most uncertain components first
        order = sorted(seen.components, key=lambda one: float(one.weights.square().sum()))
        assert measured.operator.mask is not None
        hidden = int((~measured.operator.mask[0]).sum()) * x.shape[1]
        _picture(row[0], measured.y[0], f"{solver}: observed")
        for i, axis in enumerate(row[1 : 1 + SHOWN]):
            _draw(axis, x, (seen.squares / hidden).sqrt(), order, i)
        for i, axis in enumerate(row[1 + SHOWN :]):
            _bars(axis, order[i]) if i < len(order) else axis.set_axis_off()
    return drawn


def _draw(axis: Axes, x: Tensor, distances: Tensor, order: list[Component], i: int) -> None:
    if i >= len(x):
        axis.set_axis_off()
        return
    hits = [f"{one.name}: {one.variants[int(one.shares[i].argmax())]}" for one in order]
    _picture(axis, x[i], "\n".join([*hits[:COMPONENTS], f"distance {distances[i]:.3f}"]))


def _picture(axis: Axes, image: Tensor, title: str) -> None:
    axis.imshow(((image.permute(1, 2, 0) + 1) / 2).clamp(0, 1).numpy(), interpolation="nearest")
    axis.set_title(title, fontsize=7)
    axis.set_axis_off()


def _bars(axis: Axes, component: Component) -> None:
    shares = component.shares.mean(0)
    # likely and drawn variants; a list of thirty mouths would not be read
    order = torch.maximum(component.weights, shares).argsort(descending=True)[:8].flip(0)
    place = np.arange(len(order))
    axis.barh(place + 0.2, component.weights[order], 0.4, color=POSTERIOR, label="posterior")
    axis.barh(place - 0.2, shares[order], 0.4, color=DRAWS, label="draws")
    axis.set_yticks(place, [component.variants[int(i)] for i in order], fontsize=6)
    axis.set_title(component.name, fontsize=8)
    axis.tick_params(axis="x", labelsize=6)
    axis.legend(fontsize=6)


def main() -> None:
    """Read the command line and write the figure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("study", type=Path)
    parser.add_argument("image", help="id of the image")
    parser.add_argument("out", type=Path)
    parser.add_argument("--mask", default="", help="beginning of the mask's name in the tables")
    asked = parser.parse_args()
    cells = {
        str(record.identity["solver"]): record.name
        for record in read_cells(asked.study)
        if str(record.identity["mask"]).startswith(asked.mask)
    }
    figure(Study(asked.study), asked.image, cells).savefig(asked.out, dpi=110)


if __name__ == "__main__":
    main()
