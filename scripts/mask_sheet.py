"""Draw the picture of ``docs/masks.md``.

    python -m scripts.mask_sheet [SIDE]

The picture shows six masks of every option that needs no files, drawn at SIDE x SIDE pixels
(default 80) and shown pixel by pixel; white is observed. Of masks that exist at 256 x 256 pixels
only, every third pixel or so is shown. The picture is written to ``docs/pictures/masks.png``. The
script takes a few seconds and runs in a checkout.
"""

from __future__ import annotations

import argparse

import numpy as np
import yaml
from PIL import Image, ImageDraw

from posterior_bench.bench.config.catalog import CONF
from posterior_bench.bench.config.masks import build_masks
from posterior_bench.masks.base import MaskGenerator
from posterior_bench.masks.daps_table1 import DAPSTable1
from posterior_bench.masks.sources import nearest
from posterior_bench.priors.fingerprint import ROOT

DRAWS = 6
LABEL, GAP, COLUMNS = 108, 4, 2
FIXED = 256


def generators() -> dict[str, MaskGenerator]:
    """Return every mask that is drawn, by the name of its option."""
    nodes = {
        path.stem: yaml.safe_load(path.read_text(encoding="utf-8"))
        for path in (CONF / "mask").glob("*.yaml")
    }
    return {
        name: build_masks(node)
        for name, node in sorted(nodes.items())
        if "???" not in node.values()
    }


def sheet(side: int) -> Image.Image:
    """Draw the options in two columns, one row each, with masks of ``side`` pixels."""
    chosen = list(generators().items())
    rows = -(-len(chosen) // COLUMNS)
    step, column = side + GAP, LABEL + DRAWS * (side + GAP)
    image = Image.new("L", (COLUMNS * column, rows * step), 200)
    draw = ImageDraw.Draw(image)
    for place, (name, masks) in enumerate(chosen):
        x, y = place // rows * column, place % rows * step
        draw.text((x + GAP, y + side // 2), name, fill=0)
        for k in range(DRAWS):
            size = FIXED if isinstance(masks, DAPSTable1) else side
            mask = masks.generate(np.random.Generator(np.random.PCG64(k)), size, size)
            mask = nearest(mask, side, side)
            tile = Image.fromarray(mask.astype(np.uint8) * 255)
            image.paste(tile, (x + LABEL + k * step, y + GAP // 2))
    return image


def main() -> None:
    """Read the command line and write the picture."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("side", nargs="?", type=int, default=80, help="side of a mask in pixels")
    options = parser.parse_args()
    sheet(options.side).save(ROOT / "docs" / "pictures" / "masks.png", optimize=True)


if __name__ == "__main__":
    main()
