"""What hashing the images of a study costs beside decoding: ``python
tests/benchmarks/content_cost.py [IMAGES]``.

Makes 1000 JPEG files of ImageNet's usual size, about 500 x 375 pixels and 110 KB, of gradients and
noise. Prints the processor seconds of decoding and cropping them as a run does, and of hashing them
for the first time and from the cache, each the best of three, and their shares; below 2 % is the
aim. Asserts nothing.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from posterior_bench.datasets.folder import Folder

SIZE, QUALITY, NOISE = (500, 375), 92, 20.0
ROUNDS = 3
SETTLED_SECONDS = 4
"""Files that have just been written are not kept in the cache."""


def photograph(rng: np.random.Generator) -> Image.Image:
    """Two smooth gradients in each channel, and noise that compresses about as badly as a
    photograph."""
    width, height = SIZE
    x, y = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height))
    slopes = rng.normal(0, 60, (3, 2, 1, 1))
    smooth = 128 + slopes[:, 0] * x + slopes[:, 1] * np.sin(3 * y)
    noisy = (
        smooth
        + rng.normal(0, NOISE, (1, height, width))
        + rng.normal(0, NOISE / 4, (3, height, width))
    )
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8).transpose(1, 2, 0))


def best(work: Callable[[], object], before: Callable[[], object] = lambda: None) -> float:
    """The fewest processor seconds that the work took in some rounds."""
    seconds = []
    for _ in range(ROUNDS):
        before()
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return min(seconds)


def main(count: int) -> None:
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        root = Path(folder, "photos")
        root.mkdir()
        for i in range(count):
            photograph(rng).save(root / f"{i:05d}.jpg", quality=QUALITY)
        mean = sum(path.stat().st_size for path in root.iterdir()) / count
        images = Folder(str(root), size=256)
        time.sleep(SETTLED_SECONDS)

        def forget() -> None:
            for path in Path(folder, "cache").rglob("*.json"):
                path.unlink()

        decode = best(lambda: [images.images([image]) for image in images.ids])
        first = best(lambda: images.content(images.ids), forget)
        cached = best(lambda: images.content(images.ids))
        print(f"{count} JPEG files of {mean / 1000:.0f} KB")
        print(f"decode and crop   {decode:8.3f} s")
        print(f"hash, first time  {first:8.3f} s  {first / decode:7.2%} of decoding")
        print(f"hash, cached      {cached:8.3f} s  {cached / decode:7.2%} of decoding")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
