"""Compute MUSIQ, the quality of an image without its original."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from posterior_bench.metrics.base import MetricCard, column_id, expect, reference_images
from posterior_bench.metrics.no_reference import NoReference
from posterior_bench.metrics.weights import WeightFile, demand_recorded, pinned_digest, tensors

KONIQ = WeightFile(
    "musiq_koniq_ckpt-e95806b9.pth",
    "https://github.com/chaofengc/IQA-PyTorch/releases/download/v0.1-weights/"
    "musiq_koniq_ckpt-e95806b9.pth",
    "0.11 GB",
)
PATCH = 32
LONGER_SIDES = (224, 384)
GRID = 10
HEAD = 64

CHECK_VALUE = 5.056949
"""Score of ``reference_images()`` by pyiqa's MUSIQ with the weights of ``closed_form``."""

Weights = Mapping[str, Tensor]


class MUSIQ(NoReference):
    """Quality of an image by a transformer over patches of three sizes, trained on KonIQ-10k.

    Ke, Wang, Wang, Milanfar and Yang (ICCV 2021). The image is cut into patches of 32 pixels at its
    own size and with a longer side of 224 and 384 pixels. The original is not looked at: an image
    can look good and be wrong. The published network runs here from the weight file of the library
    pyiqa and gives its numbers. The library itself, whose licence excludes commercial use, is not
    needed.

    Parameters
    ----------
    pasted : bool, default False
        Score pasted instead of raw images.
    sha256 : str, default ''
        Hash of the weight file, recorded with a cell; another file is then refused.
    """

    def __init__(self, pasted: bool = False, sha256: str = "") -> None:
        self.sha256 = sha256
        self.card = MetricCard(
            id=column_id("musiq", pasted=pasted),
            title="MUSIQ (KonIQ-10k)",
            direction="up",
            unit="",
            range="about 0 to 100",
            pasted=pasted,
            backbone="MUSIQ, three sizes, 14 blocks",
            weights=f"{KONIQ.name} of pyiqa; sha256 not published",
            preprocessing="8-bit images at native size, grey repeated to RGB; and resized to a "
            "longer side of 224 and of 384 px (bicubic, a = -0.75, no antialiasing)",
            source="Ke, Wang, Wang, Milanfar, Yang: MUSIQ: Multi-scale Image Quality Transformer, "
            "ICCV 2021",
        )

    @property
    @override
    def pinned(self) -> Mapping[str, str]:
        return {"sha256": pinned_digest([KONIQ], self.sha256)}

    @override
    def score(self, image: Tensor) -> Tensor:
        (path,) = demand_recorded(self.card.id, [KONIQ], self.sha256)
        return quality(_weights(path, self.device), image)

    @override
    def check(self) -> None:
        """Check the file, and the value with closed-form weights."""
        demand_recorded(self.card.id, [KONIQ], self.sha256)
        value = quality(closed_form(), (reference_images()[0] + 1) / 2).item()
        expect(self.card.id, value, CHECK_VALUE, tolerance=1e-5)


@torch.no_grad()
def quality(weights: Weights, image: Tensor) -> Tensor:
    """Run the network.

    Parameters
    ----------
    weights : Mapping[str, Tensor]
        Weights under the names of the published file.
    image : Tensor
        ``(1, 3, H, W)`` in [0, 1].

    Returns
    -------
    Tensor
        ``(1,)``.
    """
    x, parts = 2 * image - 1, []
    ratios = [side / max(x.shape[2:]) for side in LONGER_SIDES]
    sizes = [[round(side * ratio) for side in x.shape[2:]] for ratio in ratios]
    scaled = [F.interpolate(x, size, mode="bicubic", align_corners=False) for size in sizes]
    for scale, picture in enumerate([*scaled, x]):
        patches, positions = _patches(picture)
        embedded = _embedding(weights, patches)
        embedded = embedded + weights[f"{_ENCODER}posembed_input.position_emb"][0, positions]
        parts.append(embedded + weights[f"{_ENCODER}scaleembed_input.scale_emb"][scale])
    tokens = torch.cat([weights[f"{_ENCODER}cls"][0], *parts])[None]
    return _linear(weights, "head", _encoded(weights, tokens)[:, 0])[:, 0]


_ENCODER = "transformer_encoder."


def _patches(picture: Tensor) -> tuple[Tensor, Tensor]:
    """Cut a picture into patches; return them and their places in a grid of 10 x 10 cells.

    Missing pixels at the borders are 0, half of them on each side.
    """
    rows, columns = (math.ceil(side / PATCH) for side in picture.shape[2:])
    padded = _padded(picture, PATCH, PATCH)
    patches = F.unfold(padded, PATCH, stride=PATCH)[0].T.reshape(-1, 3, PATCH, PATCH)
    row = torch.arange(rows, device=picture.device) * GRID // rows
    column = torch.arange(columns, device=picture.device) * GRID // columns
    return patches, (row[:, None] * GRID + column).flatten()


def _padded(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Pad with zeros so that a window gives ``ceil(side / stride)`` values, as TensorFlow does."""
    missing = [max(0, (math.ceil(s / stride) - 1) * stride + kernel - s) for s in x.shape[2:]]
    (top, bottom), (left, right) = ((m // 2, m - m // 2) for m in missing)
    return F.pad(x, (left, right, top, bottom))


def _embedding(weights: Weights, patches: Tensor) -> Tensor:
    """Map patches ``(P, 3, 32, 32)`` to tokens ``(P, width)`` by a small residual network."""
    x = F.relu(_group_norm(weights, "gn_root", _convolved(weights, "conv_root", patches, 2), 1e-6))
    x = F.max_pool2d(_padded(x, 3, 2), 3, 2)
    y = F.relu(_normalised(weights, "1", x))
    y = F.relu(_normalised(weights, "2", y))
    x = F.relu(_normalised(weights, "3", y) + _normalised(weights, "_proj", x))
    return _linear(weights, "embedding", x.permute(0, 2, 3, 1).flatten(1))


def _normalised(weights: Weights, layer: str, x: Tensor) -> Tensor:
    convolved = _convolved(weights, f"block1.conv{layer}", x)
    return _group_norm(weights, f"block1.gn{layer}", convolved, 1e-4)


def _convolved(weights: Weights, name: str, x: Tensor, stride: int = 1) -> Tensor:
    """Convolve with weights of zero mean and unit deviation."""
    weight = weights[f"{name}.weight"]
    deviation, mean = torch.std_mean(weight, dim=(1, 2, 3), keepdim=True)
    standard = (weight - mean) / (deviation + 1e-5)
    return F.conv2d(_padded(x, weight.shape[-1], stride), standard, stride=stride)


def _group_norm(weights: Weights, name: str, x: Tensor, epsilon: float) -> Tensor:
    return F.group_norm(x, 32, weights[f"{name}.weight"], weights[f"{name}.bias"], epsilon)


def _encoded(weights: Weights, x: Tensor) -> Tensor:
    number = len({name.split(".")[2] for name in weights if f"{_ENCODER}transformer." in name})
    for i in range(number):
        block = f"{_ENCODER}transformer.encoderblock_{i}."
        x = x + _attention(weights, f"{block}attention.", _norm(weights, f"{block}norm1", x))
        y = F.gelu(_linear(weights, f"{block}mlp.fc1", _norm(weights, f"{block}norm2", x)))
        x = x + _linear(weights, f"{block}mlp.fc2", y)
    return _norm(weights, f"{_ENCODER}encoder_norm", x)


def _attention(weights: Weights, prefix: str, x: Tensor) -> Tensor:
    query, key, value = (
        _linear(weights, f"{prefix}{name}", x).unflatten(-1, (-1, HEAD)).transpose(1, 2)
        for name in ("query", "key", "value")
    )
    mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
    return _linear(weights, f"{prefix}out", mixed)


def _norm(weights: Weights, name: str, x: Tensor) -> Tensor:
    scale = weights[f"{name}.weight"]
    return F.layer_norm(x, scale.shape, scale, weights[f"{name}.bias"], 1e-6)


def _linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


@lru_cache(maxsize=2)  # no more, as they take memory of a GPU
def _weights(path: Path, device: torch.device) -> dict[str, Tensor]:
    return {name: value.to(device) for name, value in tensors(path).items()}


def closed_form() -> dict[str, Tensor]:
    """Make weights of a small network from a formula, under the names of the published file."""
    width, inner = HEAD, 2 * HEAD
    shapes: dict[str, tuple[int, ...]] = {
        "conv_root.weight": (64, 3, 7, 7),
        "block1.conv1.weight": (64, 64, 1, 1),
        "block1.conv2.weight": (64, 64, 3, 3),
        "block1.conv3.weight": (256, 64, 1, 1),
        "block1.conv_proj.weight": (256, 64, 1, 1),
        "embedding.weight": (width, 256 * 64),
        "embedding.bias": (width,),
        f"{_ENCODER}posembed_input.position_emb": (1, GRID**2, width),
        f"{_ENCODER}scaleembed_input.scale_emb": (3, width),
        f"{_ENCODER}cls": (1, 1, width),
        "head.weight": (1, width),
        "head.bias": (1,),
    }
    norms = [("gn_root", 64), ("block1.gn1", 64), ("block1.gn2", 64), ("block1.gn3", 256)]
    norms += [("block1.gn_proj", 256), (f"{_ENCODER}encoder_norm", width)]
    for i in range(2):
        block = f"{_ENCODER}transformer.encoderblock_{i}."
        norms += [(f"{block}norm1", width), (f"{block}norm2", width)]
        layers = [(f"attention.{name}", width, width) for name in ("query", "key", "value", "out")]
        for name, rows, columns in [*layers, ("mlp.fc1", inner, width), ("mlp.fc2", width, inner)]:
            shapes |= {f"{block}{name}.weight": (rows, columns), f"{block}{name}.bias": (rows,)}
    for name, channels in norms:
        shapes |= {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}
    weights = {}
    for name, shape in shapes.items():
        size = torch.Size(shape)
        wave = torch.cos(0.1 * torch.arange(size.numel(), dtype=torch.float64).square())
        weights[name] = (wave / max(1, size[1:].numel()) ** 0.5).float().view(shape)
    return weights
