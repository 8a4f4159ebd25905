"""Draw the picture of ``docs/masks.md``.

    python -m scripts.mask_sheet [SIDE]

The picture shows six masks of every option that needs no files, drawn at SIDE x SIDE pixels
(default 80) and shown pixel by pixel; white is observed. It is written to
``docs/pictures/masks.png``. The script takes a few seconds and runs in a checkout.
"""

from __future__ import annotations

import argparse

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
    """Return every mask that is drawn, by the name of its option."""
    nodes = {
        path.stem: yaml.safe_load(path.read_text(encoding="utf-8"))
        for path in (CONF / "mask").glob("*.yaml")
    }
    return {name: build(node) for name, node in sorted(nodes.items()) if "???" not in node.values()}


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
            mask = masks.generate(np.random.Generator(np.random.PCG64(k)), side, side)
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
