"""Pictures of a training: samples of a prior, and images side by side."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from posterior_bench.bench.core.streams import Key, Noise
from posterior_bench.metrics.base import to_uint8
from posterior_bench.priors.base import Prior
from posterior_bench.priors.sample import sample


def samples_by_class(prior: Prior, seed: int, per_class: int = 8, steps: int = 18) -> Tensor:
    """Draw samples of every class with Heun's method.

    Parameters
    ----------
    prior : Prior
        The prior.
    seed : int
        Seed of the noise.
    per_class : int, default 8
        Samples per class.
    steps : int, default 18
        Steps of the sampler.

    Returns
    -------
    Tensor
        Images ``(N, C, H, W)``, class by class; ``8 * per_class`` images of a prior without
        classes.
    """
    classes = prior.num_classes or 8
    keys = [Key(seed, "samples", str(i)) for i in range(classes * per_class)]
    noise = Noise(keys, "solver", prior.device)
    labels = torch.arange(classes, device=prior.device).repeat_interleave(per_class)
    return sample(prior, prior.grid(steps, "karras"), noise, prior.condition(labels))


def sheet(images: Tensor, columns: int, scale: int = 2, gap: int = 2) -> bytes:
    """Put images side by side on white.

    Parameters
    ----------
    images : Tensor
        Images ``(N, C, H, W)`` in [-1, 1], with 1 or 3 channels.
    columns : int
        Images per row.
    scale : int, default 2
        Width of an image's pixel in pixels of the picture.
    gap : int, default 2
        Pixels between two images, and at the edges.

    Returns
    -------
    bytes
        A PNG file.
    """
    large = to_uint8(images).cpu().repeat_interleave(scale, 2).repeat_interleave(scale, 3)
    pixels = large.permute(0, 2, 3, 1).numpy()
    count, height, width, channels = pixels.shape
    rows = -(-count // columns)
    size = (rows * (height + gap) + gap, columns * (width + gap) + gap, channels)
    canvas = np.full(size, 255, np.uint8)
    for i, tile in enumerate(pixels):
        top, left = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        canvas[top : top + height, left : left + width] = tile
    buffer = io.BytesIO()
    Image.fromarray(canvas[..., 0] if channels == 1 else canvas).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
