"""Measurements: the images of a chunk, their masks and what was observed of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from posterior_bench.bench.config.build import build, target
from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.config.masks import is_shared
from posterior_bench.bench.core.streams import Key, Noise
from posterior_bench.bench.store.truth import truth_hash
from posterior_bench.datasets.base import ImageSet
from posterior_bench.masks.base import MaskGenerator
from posterior_bench.metrics.base import (
    Batch,
    from_uint8,
    to_uint8,
)
from posterior_bench.operators.base import Operator


@dataclass(frozen=True)
class Originals:
    """One chunk's images and masks as they were read, in the memory of the host.

    Shapes: ``truth`` ``(N, C, H, W)``, ``masks`` bool ``(N, H, W)``, ``labels`` ``(N,)`` or None.
    """

    keys: Sequence[Key]
    truth: Tensor
    masks: np.ndarray
    labels: Tensor | None


@dataclass(frozen=True)
class Measurement:
    """One chunk's truth and what was observed of it, padded to the full batch."""

    keys: Sequence[Key]
    truth: Tensor
    labels: Tensor | None
    operator: Operator
    y: Tensor

    @property
    def truths(self) -> list[str]:
        """A hash of every image's pixels, by which rows say what they were measured on."""
        return [truth_hash(image) for image in self.truth]


def measure(
    config: JobConfig,
    data: ImageSet,
    mask: MaskGenerator,
    images: Sequence[str],
    device: str = "cpu",
) -> Measurement:
    """Return truth, masks and observations of some images.

    They depend on the study seed, the data and the image alone; a shared mask depends on the study
    seed and the size of the images.
    """
    return observe(config, read(config, data, mask, images), device)


def read(
    config: JobConfig, data: ImageSet, mask: MaskGenerator, images: Sequence[str]
) -> Originals:
    """Return some images and their masks; nothing is put on a device."""
    keys = [Key(config.seed, data.name, image) for image in images]
    truth = data.images(images)
    height, width = truth.shape[-2:]
    place = {image: i for i, image in enumerate(data.ids)}
    mask = mask.beside(data)
    own = [mask.for_image(image, place[image]) for image in images]
    masks = np.stack(
        [m.generate(mask_rng(config, key), height, width) for m, key in zip(own, keys, strict=True)]
    )
    return Originals(keys, truth, masks, data.labels(images))


def observe(config: JobConfig, originals: Originals, device: str) -> Measurement:
    """Return what is observed of images on a device."""
    keys, truth = originals.keys, originals.truth.to(device)
    masks = torch.from_numpy(originals.masks)[:, None]
    operator = build_operator(config.operator, masks, len(truth[0])).to(device)
    noise = Noise(keys, "noise", device).normal(operator.A(truth).shape[1:])
    return Measurement(keys, truth, originals.labels, operator, operator.observe(truth, noise))


def mask_rng(config: JobConfig, key: Key) -> np.random.Generator:
    """Return the random numbers that draw the mask of an image.

    Those of a shared mask depend on the study seed alone, so neither the data nor the choice of
    images changes it.
    """
    return (Key(key.study, "", "") if is_shared(config.mask) else key).rng("mask")


def build_operator(node: Mapping[str, Any], mask: Tensor, channels: int = 1) -> Operator:
    """Build an operator.

    An operator that takes masks ``(N, 1, H, W)`` or the shape of the images gets them.
    """
    kind = target(node)
    given: dict[str, Any] = {"mask": mask} if kind.takes_mask else {}
    if kind.takes_shape:
        given["shape"] = (channels, *mask.shape[-2:])
    operator: Operator = build(node, **given)
    return operator


def batch_of(measured: Measurement, x: Tensor, draws: int) -> Batch:
    """Return the outputs ``x`` ``(N D, C, H, W)`` as metrics of single images take them."""
    operator, y = measured.operator.repeat(draws), measured.y.repeat_interleave(draws, 0)
    mask = (
        operator.mask if operator.mask is not None else torch.ones_like(x[:, :1], dtype=torch.bool)
    )
    return Batch(
        raw=from_uint8(to_uint8(x)),
        pasted=from_uint8(to_uint8(operator.paste(x, y))),
        truth=from_uint8(to_uint8(measured.truth.repeat_interleave(draws, 0))),
        mask=mask,
        y=y,
        Ax=operator.A(x),
        sigma=float(operator.sigma),
        output=x.float(),
    )
