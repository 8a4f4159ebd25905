"""Compute DreamSim, a perceptual distance that was trained on judgements of people.

This file is not called dreamsim.py, because that is the name of the library.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor
from typing_extensions import override

from posterior_bench.metrics.base import (
    FullReference,
    MetricCard,
    MissingWeights,
    column_id,
    expect,
    reference_images,
)
from posterior_bench.metrics.feature_networks import pillow_resized
from posterior_bench.metrics.vision_transformer import (
    CLIP,
    DINO,
    HEAD,
    IMAGENET,
    OPEN_CLIP,
    OPENAI_CLIP,
    Weights,
    image_vector,
    normalised,
    tokens,
)
from posterior_bench.metrics.weights import WeightFile, demand_recorded, pinned_digest, tensors

_ZIP = (
    "https://github.com/ssundaram21/dreamsim/releases/download/v0.2.0-checkpoints/"
    "dreamsim_ensemble_checkpoint.zip"
)


def _unzipped(name: str) -> WeightFile:
    return WeightFile(f"dreamsim/{name}", _ZIP, where="and unzip it into hub/checkpoints/dreamsim")


FILES = [
    WeightFile(
        "dino_vitbase16_pretrain.pth",
        "https://dl.fbaipublicfiles.com/dino/dino_vitbase16_pretrain/dino_vitbase16_pretrain.pth",
        "0.34 GB",
    ),
    _unzipped("clip_vitb16_pretrain.pth.tar"),
    _unzipped("open_clip_vitb16_pretrain.pth.tar"),
    _unzipped("ensemble_lora/adapter_config.json"),
    _unzipped("ensemble_lora/adapter_model.safetensors"),
]
"""The three networks, and what was trained on the judgements."""

CHECK_VALUE = 0.0026491
"""Distance of ``reference_images()`` by the library dreamsim, with small networks and adapters
whose weights are those of ``closed_form``."""


class DreamSim(FullReference):
    """Distance of the DreamSim ensemble: DINO, CLIP and OpenCLIP ViT-B/16; 0 = identical.

    One minus the cosine of two vectors. Each is the first token of DINO and the image embeddings
    of CLIP and OpenCLIP, one after the other, minus their mean. The three networks have the
    published changes of low rank, which were trained on judgements of people. The networks run
    from their published files, without the library. One image is scored at a time.

    Parameters
    ----------
    pasted : bool, default False
        Score pasted instead of raw images.
    sha256 : str, default ''
        Hash of the weight files, recorded with a cell; other files are then refused.
    """

    device: torch.device = torch.device("cpu")

    def __init__(self, pasted: bool = False, sha256: str = "") -> None:
        self.sha256 = sha256
        self.card = MetricCard(
            id=column_id("dreamsim", pasted=pasted),
            title="DreamSim",
            direction="down",
            unit="",
            range="[0, 2]",
            pasted=pasted,
            backbone="DINO, CLIP and OpenCLIP ViT-B/16 with trained changes of low rank",
            weights=f"{', '.join(Path(file.name).name for file in FILES)}; dreamsim 0.2.0, sha256 "
            "not published",
            preprocessing="8-bit images, Pillow bicubic to 224 x 224 px",
            source="Fu, Tamir, Sundaram, Chai, Zhang, Dekel, Isola: DreamSim, NeurIPS 2023",
        )

    @property
    @override
    def pinned(self) -> Mapping[str, str]:
        return {"sha256": pinned_digest(FILES, self.sha256)}

    @override
    def admit(self, shape: tuple[int, int, int]) -> None:
        if shape[0] not in (1, 3):
            raise ValueError(
                f"metric '{self.card.id}' takes grey or RGB images, and these "
                f"have {shape[0]} channels"
            )

    @override
    def compare(self, x: Tensor, truth: Tensor, region: Tensor) -> float:
        files = demand_recorded(self.card.id, FILES, self.sha256)
        return _distance(_networks(tuple(files), self.device), x, truth)

    @override
    def check(self) -> None:
        """Check the files, and the value with closed-form weights."""
        demand_recorded(self.card.id, FILES, self.sha256)
        x, truth, _ = reference_images()
        value = _distance(_adapted(*closed_form()), x, truth)
        expect(self.card.id, value, CHECK_VALUE, tolerance=2e-6)

    @override
    def to(self, device: torch.device | str) -> DreamSim:
        self.device = torch.device(device)
        return self


@torch.no_grad()
def _distance(networks: tuple[Weights, Weights, Weights], x: Tensor, truth: Tensor) -> float:
    a, b = (_vector(networks, image) for image in (x, truth))
    return 1 - F.cosine_similarity(a, b).item()


def _vector(networks: tuple[Weights, Weights, Weights], image: Tensor) -> Tensor:
    dino, clip, open_clip = networks
    small = pillow_resized(image, 224).to(dino["cls_token"].device)
    parts = [
        tokens(dino, normalised(small, IMAGENET), DINO)[:, 0],  # before the last normalisation
        image_vector(clip, normalised(small, CLIP), OPENAI_CLIP),
        image_vector(open_clip, normalised(small, CLIP), OPEN_CLIP),
    ]
    vector = torch.cat(parts, dim=1)
    return vector - vector.mean(1, keepdim=True)


@lru_cache(maxsize=2)  # no more, as they take memory of a GPU
def _networks(files: tuple[Path, ...], device: torch.device) -> tuple[Weights, Weights, Weights]:
    dino, clip, open_clip, config, changes = files
    networks = _adapted(
        [tensors(dino), tensors(clip)["state_dict"], tensors(open_clip)["state_dict"]],
        load_file(changes),
        json.loads(config.read_text()),
    )
    a, b, c = ({name: v.to(device) for name, v in network.items()} for network in networks)
    return a, b, c


def _adapted(
    networks: list[dict[str, Tensor]], changes: Weights, config: Mapping[str, Any]
) -> tuple[Weights, Weights, Weights]:
    """Add the trained changes ``alpha / r * B A`` to the matrices that they name."""
    adapted = [{name: v.float() for name, v in network.items()} for network in networks]
    scale = config["lora_alpha"] / config["r"]
    for name, a in changes.items():
        if ".lora_A." not in name:
            continue
        found = re.search(r"extractor_list\.(\d+)\.model\.(.+)\.lora_A\.", name)
        if found is None or f"{found[2]}.weight" not in adapted[int(found[1])]:
            raise MissingWeights(f"the changes of DreamSim name an unknown matrix: {name}")
        network, matrix = adapted[int(found[1])], f"{found[2]}.weight"
        change = changes[name.replace(".lora_A.", ".lora_B.")].float() @ a.float()
        network[matrix] = network[matrix] + scale * change  # not in place: the file stays as it is
    first, second, third = adapted
    return first, second, third


def closed_form() -> tuple[list[dict[str, Tensor]], dict[str, Tensor], dict[str, Any]]:
    """Make three networks of one block and their changes from a formula.

    Returns
    -------
    networks : list of dict of str to Tensor
        DINO, CLIP and OpenCLIP, under the names of their files.
    changes : dict of str to Tensor
        Changes of low rank, under the names of their file.
    config : dict of str to Any
        Rank ``r`` and ``lora_alpha``.
    """
    networks, changes = [], {}
    for i, width in enumerate((2 * HEAD, HEAD, HEAD)):
        shapes = {
            "cls_token": (1, 1, width),
            "pos_embed": (1, 197, width),
            "patch_embed.proj.weight": (width, 3, 16, 16),
            "patch_embed.proj.bias": (width,),
            "norm.weight": (width,),
            "norm.bias": (width,),
            "blocks.0.attn.qkv.weight": (3 * width, width),
            "blocks.0.attn.qkv.bias": (3 * width,),
            "blocks.0.attn.proj.weight": (width, width),
            "blocks.0.attn.proj.bias": (width,),
            "blocks.0.mlp.fc1.weight": (4 * width, width),
            "blocks.0.mlp.fc1.bias": (4 * width,),
            "blocks.0.mlp.fc2.weight": (width, 4 * width),
            "blocks.0.mlp.fc2.bias": (width,),
        }
        for name in ("blocks.0.norm1", "blocks.0.norm2", *(["pos_drop"] if i else [])):
            shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
        if i:
            shapes["proj"] = (width, 32)
        networks.append({name: _wave(shape, 0.1 + i) for name, shape in shapes.items()})
        # otherwise what an image adds to the tokens would be too small to tell images apart
        networks[-1]["patch_embed.proj.weight"] *= 30
        networks[-1]["blocks.0.attn.proj.weight"] *= 5
        place = f"base_model.model.extractor_list.{i}.model.blocks.0.attn.qkv"
        changes[f"{place}.lora_A.weight"] = _wave((4, width), 0.3)
        changes[f"{place}.lora_B.weight"] = _wave((3 * width, 4), 0.7)
    return networks, changes, {"r": 4, "lora_alpha": 2.0}


def _wave(shape: tuple[int, ...], pace: float) -> Tensor:
    """Return cosines of squares, so scaled that sums over all axes but the first stay of size 1."""
    size = torch.Size(shape)
    wave = torch.cos(pace * torch.arange(size.numel(), dtype=torch.float64).square() / 7)
    return (wave / max(1, size[1:].numel()) ** 0.5).float().view(shape)
