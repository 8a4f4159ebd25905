"""Draw what the draws of a face were recognised as, beside the exact posterior.

    python -m scripts.face_figure runs/faces_posterior micah_test_00000 out.png [--mask NAME]

A row is a solver: the observation, its first draws with the variants that they show, and for the
most uncertain hidden components two bars per variant: its posterior probability, and its share of
all draws. What draws show was stored when the metrics of ``metrics=faces`` were computed.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from posterior_bench.bench.analysis.cell_records import read_cells
from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.pages.thumbnails import Pixels, Scene, stored_pixels
from posterior_bench.bench.store.row_store import RowStore
from posterior_bench.bench.store.schema import VARIANTS
from posterior_bench.bench.store.study_files import read_cell
from posterior_bench.bench.store.variants import ShownComponent, ShownVariants, unpack_variants

SHOWN = 4
COMPONENTS = 3
POSTERIOR, DRAWS = "#999999", "#0072b2"


def observed(cell: Path, image: str) -> Pixels | None:
    """Return the observation of one image of a cell, with a hatched hole."""
    config = JobConfig.of(read_cell(cell / "config.yaml")["config"])
    return Scene(config).pictures([image])[image][1]


def stored(cell: Path, image: str) -> tuple[list[Pixels], ShownVariants]:
    """Return the draws of one image, and what they were recognised as.

    Raises
    ------
    UserError
        If the rows do not hold it.
    """
    store = RowStore(cell)
    has = VARIANTS in {name for chunk in store.done() for name in store.columns_of(chunk)}
    rows = store.read(["png", VARIANTS] if has else ["png"], images=[image])
    if not has or not isinstance(rows[VARIANTS].iloc[0] if len(rows) else None, bytes):
        raise UserError(
            f"{cell} does not say what the draws of {image} show; run it again in another out=DIR, "
            "with metrics=faces"
        )
    return [*map(stored_pixels, rows["png"])], unpack_variants(rows[VARIANTS].iloc[0])


def figure(study: Path, image: str, cells: dict[str, str]) -> Figure:
    """Return the figure of some cells, by solver."""
    drawn = Figure(figsize=(16, 2.6 * len(cells)), layout="constrained")
    axes = drawn.subplots(len(cells), 1 + SHOWN + COMPONENTS, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for row, (solver, cell) in zip(axes, cells.items(), strict=True):
        folder = study / "cells" / cell
        draws, seen = stored(folder, image)
        _picture(row[0], observed(folder, image), f"{solver}: observed")
        for i, pixels in enumerate(draws[:SHOWN]):
            words = [one.words(i) for one in seen.by_uncertainty[:COMPONENTS]]
            said = "\n".join([*words, f"distance {seen.distances[i]:.3f}"])
            _picture(row[1 + i], pixels, said)
        for axis, component in zip(row[1 + SHOWN :], seen.by_uncertainty, strict=False):
            _bars(axis, component)
    return drawn


def _picture(axis: Axes, pixels: Pixels | None, title: str) -> None:
    if pixels is not None:
        axis.imshow(pixels, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axis.set_title(title, fontsize=7)


def _bars(axis: Axes, component: ShownComponent) -> None:
    posterior, shares = np.array(component.posterior), np.array(component.shares)
    # likely and drawn variants; a list of thirty mouths would not be read
    order = np.argsort(-np.maximum(posterior, shares), kind="stable")[:8]
    order = order[np.lexsort((order, -posterior[order]))][::-1]  # alike for all solvers
    place = np.arange(len(order))
    axis.set_axis_on()
    axis.barh(place + 0.2, posterior[order], 0.4, color=POSTERIOR, label="posterior")
    axis.barh(place - 0.2, shares[order], 0.4, color=DRAWS, label="draws")
    axis.set_yticks(place, [component.variants[int(i)] for i in order], fontsize=6)
    axis.set_xlim(0, 1)
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
    figure(asked.study, asked.image, cells).savefig(asked.out, dpi=110)


if __name__ == "__main__":
    main()
