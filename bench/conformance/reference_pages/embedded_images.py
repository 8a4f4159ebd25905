"""The description of the embedded images for machines: ``datasets/assets/metadata.json``.

It follows Croissant 1.0, as the descriptions of reference packs do. No date and no version of the
product is in it, so it changes only with the images.
"""

from __future__ import annotations

import json
from typing import Any

from posterior_bench.bench.core.environment import ROOT
from posterior_bench.bench.engine.pack_metadata import CONFORMS, context, file_object

PATH = "datasets/assets/metadata.json"

_ASSETS = ROOT / "datasets" / "assets"
_FILES = {
    "fashion-test512-images-idx3-ubyte.gz": "The first 512 test images of Fashion-MNIST in file "
    "order, 28 x 28 grey pixels of one byte each, in the format idx.",
    "fashion-test512-labels-idx1-ubyte.gz": "Their classes, 0 to 9, one byte each, in the format "
    "idx.",
    "faces/test.png": "512 cartoon faces of 64 x 64 pixels in RGB: a sheet with a column for each "
    "of eight styles, and 64 rows.",
}


def text() -> str:
    """Return the description as JSON-LD."""
    return json.dumps(_description(), indent=2, ensure_ascii=False) + "\n"


def _description() -> dict[str, Any]:
    return {
        "@context": context(),
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS,
        "name": "posterior-bench-embedded-images",
        "description": "The images that come with posterior-bench: 512 test images of "
        "Fashion-MNIST with their classes, and 512 cartoon faces that were drawn from seeds. "
        "Benchmarks measure them through masks and operators that depend on a seed.",
        "license": [
            "https://spdx.org/licenses/MIT",
            "https://spdx.org/licenses/CC-BY-4.0",
            "https://spdx.org/licenses/CC0-1.0",
        ],
        "creator": [
            {"@type": "sc:Organization", "name": "Zalando SE"},
            {"@type": "sc:Organization", "name": "The bench maintainers"},
        ],
        "citeAs": "Xiao, Rasul, Vollgraf: Fashion-MNIST: a Novel Image Dataset for Benchmarking "
        "Machine Learning Algorithms, 2017, arXiv 1708.07747. The artists of the faces are named "
        "in LICENSE-faces.",
        "distribution": [
            {**file_object(name, (_ASSETS / name).read_bytes()), "description": about}
            for name, about in _FILES.items()
        ],
    }
