"""Compute CLIP-IQA, the quality of an image without its original."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from posterior_bench.metrics.base import MetricCard, column_id, expect, reference_images
from posterior_bench.metrics.no_reference import NoReference
from posterior_bench.metrics.vision_transformer import CLIP, normalised
from posterior_bench.metrics.weights import WeightFile, demand_library, torchscript_tensors

RESNET = WeightFile(
    "RN50.pt",
    "https://openaipublic.azureedge.net/clip/models/"
    "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762/RN50.pt",
    "0.26 GB",
    "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762",
)
PROMPTS = {
    "Good photo.": (49406, 886, 1125, 269, 49407),
    "Bad photo.": (49406, 2103, 1125, 269, 49407),
}
"""The two prompts and their tokens, by the vocabulary of CLIP."""

CHECK_VALUE = 0.299216
"""Score of ``reference_images()`` by ``piq.CLIPIQA`` with the weights of ``closed_form``."""


class CLIPIQA(NoReference):
    """Probability by CLIP that an image is a "Good photo." and not a "Bad photo.".

    Wang, Chan and Loy (AAAI 2023), as the library piq computes it: the image encoder of CLIP
    ResNet-50 without positions, at native size, and one pair of prompts. The library pyiqa averages
    five other pairs, so its values are other numbers. The original is not looked at: an image can
    look good and be wrong. Weights are read as tensors from the published file; its program is not
    run.

    Parameters
    ----------
    pasted : bool, default False
        Score pasted instead of raw images.
    """

    min_side = 32

    def __init__(self, pasted: bool = False) -> None:
        self.card = MetricCard(
            id=column_id("clip_iqa", pasted=pasted),
            title="CLIP-IQA",
            direction="up",
            unit="",
            range="[0, 1]",
            pasted=pasted,
            backbone="CLIP ResNet-50",
            weights=f"{RESNET.name} (sha256 {RESNET.sha256[:8]}...), published by OpenAI",
            preprocessing=f"{self.prepared}; CLIP mean and std",
            source="Wang, Chan, Loy: Exploring CLIP for Assessing the Look and Feel of Images, "
            "AAAI 2023; piq CLIPIQA",
        )

    @override
    def score(self, image: Tensor) -> Tensor:
        return _score(_network(RESNET.checked(self.card.id), self.device), image)

    @override
    def check(self) -> None:
        """Check the library, the file, and the value with closed-form weights."""
        demand_library(self.card.id, "piq", "metrics")
        RESNET.checked(self.card.id)
        value = _score(_assemble(closed_form()), (reference_images()[0] + 1) / 2).item()
        expect(self.card.id, value, CHECK_VALUE, tolerance=1e-5)


@torch.no_grad()
def _score(network: Any, image: Tensor) -> Tensor:
    prompts = torch.zeros(len(PROMPTS), network.context_length, dtype=torch.long)
    for row, tokens in zip(prompts, PROMPTS.values(), strict=True):
        row[: len(tokens)] = torch.tensor(tokens)
    anchors = network.encode_text(prompts.to(image.device))
    vector = network.encode_image(normalised(image, CLIP), pos_embedding=False)
    cosine = nn.functional.normalize(vector) @ nn.functional.normalize(anchors).T
    probability: Tensor = (network.logit_scale.exp() * cosine).softmax(dim=1)[:, 0]
    return probability


@lru_cache(maxsize=2)  # no more, as they take memory of a GPU
def _network(path: Path, device: torch.device) -> nn.Module:
    return _assemble(torchscript_tensors(path)).to(device)


def _assemble(weights: Mapping[str, Tensor]) -> nn.Module:
    """Build the library's CLIP without its own loading, which runs what is in the file."""
    from piq.feature_extractors.clip import build_model  # an optional library

    with torch.random.fork_rng(devices=[]):  # it draws weights before it reads ours
        network: nn.Module = build_model(dict(weights))
    return network.float().requires_grad_(False).eval()


def closed_form() -> dict[str, Tensor]:
    """Make weights of a small CLIP from a formula, under the names of the published file."""
    from piq.feature_extractors.clip import CLIP as Network  # an optional library

    with torch.device("meta"):
        small = Network(16, 32, (1, 1, 1, 1), 4, None, 77, 49408, 64, 1, 1)
    weights = {}
    for name, value in small.state_dict().items():
        count = torch.arange(value.numel(), dtype=torch.float64)
        wave = torch.cos(0.1 * count.square()) / value.shape[1:].numel() ** 0.5
        weights[name] = wave.float().view(value.shape)
        if name.endswith("running_var"):
            weights[name] = weights[name].abs() + 0.1
        elif name.startswith("visual.") and name.endswith(("bias", "running_mean")):
            weights[name] *= 0  # otherwise constants would hide what the image adds
        if name.endswith("num_batches_tracked"):
            weights[name] = torch.tensor(0)
    weights["logit_scale"] = torch.tensor(4.6)
    return weights
