"""The picture of ``docs/masks.md``: ``python -m scripts.mask_sheet [SIDE]`` from the checkout.

Six masks of every option that needs no files, drawn at SIDE x SIDE pixels (80 unless told) and
shown pixel by pixel; white is observed. Writes ``docs/pictures/masks.png``. A few seconds.
"""

from __future__ import annotations

import sys

import numpy as np
import yaml
from PIL import Image, ImageDraw

from posterior_bench.bench.config.build import build
from posterior_bench.bench.config.catalog import CONF
from posterior_bench.masks.base import MaskGenerator
from posterior_bench.priors.fingerprint import ROOT

DRAWS = 6
LABEL, GAP, COLUMNS = 84, 4, 2


def generators() -> dict[str, MaskGenerator]:
    """Every mask that is drawn, by the name of its option."""
    nodes = {
        path.stem: yaml.safe_load(path.read_text(encoding="utf-8"))
        for path in (CONF / "mask").glob("*.yaml")
    }
    return {name: build(node) for name, node in sorted(nodes.items()) if "???" not in node.values()}


def sheet(side: int) -> Image.Image:
    """The options in two columns, a row each."""
    chosen = list(generators().items())
    rows = -(-len(chosen) // COLUMNS)
    step, column = side + GAP, LABEL + DRAWS * (side + GAP)
    image = Image.new("L", (COLUMNS * column, rows * step), 200)
    draw = ImageDraw.Draw(image)
    for place, (name, masks) in enumerate(chosen):
        x, y = place // rows * column, place % rows * step
        draw.text((x + GAP, y + side // 2), name, fill=0)
        for k in range(DRAWS):
            mask = masks.generate(np.random.Generator(np.random.PCG64(k)), side, side)
            image.paste(
                Image.fromarray(mask.astype(np.uint8) * 255), (x + LABEL + k * step, y + GAP // 2)
            )
    return image


if __name__ == "__main__":
    sheet(int(sys.argv[1]) if len(sys.argv) > 1 else 80).save(
        ROOT / "docs" / "pictures" / "masks.png", optimize=True
    )
