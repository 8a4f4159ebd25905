"""Run published vision transformers from their weights: DINO, DINOv2 and the images of CLIP.

The three differ in few places: CLIP normalises the first tokens and has another activation, DINOv2
scales every residual branch. One function runs all of them from the tensors of their published
files, so no library is needed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = Mapping[str, Tensor]

HEAD = 64
"""Numbers of one attention head in every one of these networks."""

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""Mean and standard deviation of ImageNet in [0, 1], which DINO and DINOv2 subtract and divide."""

CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
"""Mean and standard deviation of the training images of CLIP, in [0, 1]."""


@dataclass(frozen=True)
class Kind:
    """What differs between the networks.

    Parameters
    ----------
    epsilon : float
        Constant of the layer normalisations.
    activation : {'gelu', 'quick_gelu'}
        Activation of the perceptrons.
    """

    epsilon: float
    activation: Literal["gelu", "quick_gelu"]


DINO = Kind(1e-6, "gelu")
OPENAI_CLIP = Kind(1e-5, "quick_gelu")
OPEN_CLIP = Kind(1e-5, "gelu")


def normalised(image: Tensor, statistics: tuple[tuple[float, ...], tuple[float, ...]]) -> Tensor:
    """Subtract a mean from images in [0, 1] ``(N, 3, H, W)``, and divide by a deviation."""
    mean, deviation = (image.new_tensor(values).view(1, 3, 1, 1) for values in statistics)
    return (image - mean) / deviation


def tokens(weights: Weights, image: Tensor, kind: Kind) -> Tensor:
    """Compute the tokens after the last block, before the final normalisation.

    Parameters
    ----------
    weights : Mapping[str, Tensor]
        Weights under the names of DINO; see :func:`from_clip`.
    image : Tensor
        ``(N, 3, H, W)``, normalised, of the size for which ``weights`` has positions.
    kind : Kind
        What differs between the networks.

    Returns
    -------
    Tensor
        ``(N, 1 + patches, width)``; the first token stands for the image.
    """
    patch = weights["patch_embed.proj.weight"]
    x = F.conv2d(image, patch, weights.get("patch_embed.proj.bias"), stride=patch.shape[-1])
    x = x.flatten(2).transpose(1, 2)
    x = torch.cat([weights["cls_token"].expand(len(x), 1, -1), x], dim=1) + weights["pos_embed"]
    if "pos_drop.weight" in weights:
        x = _norm(weights, "pos_drop", x, kind)
    for block in range(blocks(weights)):
        prefix = f"blocks.{block}."
        attended = _attention(weights, prefix, _norm(weights, f"{prefix}norm1", x, kind))
        x = x + attended * weights.get(f"{prefix}ls1.gamma", 1.0)
        perceived = _perceptron(weights, prefix, _norm(weights, f"{prefix}norm2", x, kind), kind)
        x = x + perceived * weights.get(f"{prefix}ls2.gamma", 1.0)
    return x


def image_vector(weights: Weights, image: Tensor, kind: Kind) -> Tensor:
    """Compute the vector of an image, ``(N, F)``: the first token, normalised, and projected.

    Only CLIP has a projection; see :func:`tokens` for the parameters.
    """
    vector = _norm(weights, "norm", tokens(weights, image, kind)[:, :1], kind)[:, 0]
    return vector @ weights["proj"] if "proj" in weights else vector


def blocks(weights: Weights) -> int:
    """Return the number of blocks of a network."""
    return len({name.split(".")[1] for name in weights if name.startswith("blocks.")})


def resized_positions(positions: Tensor, side: int) -> Tensor:
    """Interpolate the positions of a square image to another number of patches, as DINOv2 does.

    The published network hands the ratio of the sides to the interpolation, with 0.1 patches
    added against rounding, so values differ from an interpolation that knows the sides.

    Parameters
    ----------
    positions : Tensor
        ``(1, 1 + p * p, width)``.
    side : int
        Wanted patches a side.

    Returns
    -------
    Tensor
        ``(1, 1 + side * side, width)``.
    """
    before = round((positions.shape[1] - 1) ** 0.5)
    if before == side:
        return positions
    grid = positions[:, 1:].unflatten(1, (before, before)).permute(0, 3, 1, 2)
    ratio = (side + 0.1) / before
    grid = F.interpolate(grid, scale_factor=(ratio, ratio), mode="bicubic")
    return torch.cat([positions[:, :1], grid.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def from_clip(weights: Weights) -> dict[str, Tensor]:
    """Rename the image tower of CLIP to the names of DINO, in float32.

    Parameters
    ----------
    weights : Mapping[str, Tensor]
        Weights of CLIP under the names of its authors; others than ``visual.`` are left out.

    Returns
    -------
    dict[str, Tensor]
        What :func:`image_vector` takes.
    """
    renamed: dict[str, Tensor] = {}
    for name, value in weights.items():
        if name.startswith("visual."):
            renamed[_clip_name(name.removeprefix("visual."))] = value.float()
    renamed["cls_token"] = renamed["cls_token"].view(1, 1, -1)
    renamed["pos_embed"] = renamed["pos_embed"][None]
    return renamed


def _clip_name(name: str) -> str:
    for pattern, replacement in (
        (r"^transformer\.resblocks\.", "blocks."),
        (r"\.ln_([12])\.", r".norm\1."),
        (r"\.attn\.in_proj_", ".attn.qkv."),
        (r"\.attn\.out_proj\.", ".attn.proj."),
        (r"\.mlp\.c_fc\.", ".mlp.fc1."),
        (r"\.mlp\.c_proj\.", ".mlp.fc2."),
        (r"^conv1\.", "patch_embed.proj."),
        (r"^class_embedding$", "cls_token"),
        (r"^positional_embedding$", "pos_embed"),
        (r"^ln_pre\.", "pos_drop."),
        (r"^ln_post\.", "norm."),
    ):
        name = re.sub(pattern, replacement, name)
    return name


def _norm(weights: Weights, name: str, x: Tensor, kind: Kind) -> Tensor:
    scale = weights[f"{name}.weight"]
    return F.layer_norm(x, scale.shape, scale, weights[f"{name}.bias"], kind.epsilon)


def _linear(weights: Weights, name: str, x: Tensor) -> Tensor:
    return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def _attention(weights: Weights, prefix: str, x: Tensor) -> Tensor:
    parts = _linear(weights, f"{prefix}attn.qkv", x).unflatten(-1, (3, -1, HEAD))
    query, key, value = parts.permute(2, 0, 3, 1, 4)
    mixed = F.scaled_dot_product_attention(query, key, value)
    return _linear(weights, f"{prefix}attn.proj", mixed.transpose(1, 2).flatten(2))


def _perceptron(weights: Weights, prefix: str, x: Tensor, kind: Kind) -> Tensor:
    x = _linear(weights, f"{prefix}mlp.fc1", x)
    x = F.gelu(x) if kind.activation == "gelu" else x * torch.sigmoid(1.702 * x)
    return _linear(weights, f"{prefix}mlp.fc2", x)
