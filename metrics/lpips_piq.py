"""Compute LPIPS as the library piq does, with average instead of maximum pooling."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn
from typing_extensions import override

from posterior_bench.metrics.base import (
    MetricCard,
    Region,
    column_id,
    expect,
    reference_images,
)
from posterior_bench.metrics.lpips_metric import BACKBONES, closed_form
from posterior_bench.metrics.perceptual import Perceptual, preprocessing
from posterior_bench.metrics.weights import (
    WeightFile,
    demand_library,
    demand_recorded,
    pinned_digest,
    tensors,
)

LINEAR = WeightFile(
    "lpips_weights.pt",
    "https://github.com/photosynthesis-team/photosynthesis.metrics/releases/download/v0.4.0/"
    "lpips_weights.pt",
    "a few kB",
)
CHANNELS = (64, 128, 256, 512, 512)
CHECK_VALUE = 0.045280
"""Score of ``reference_images()`` by ``piq.LPIPS`` with the weights of ``_closed_form``."""


class LPIPSPiq(Perceptual):
    """LPIPS of the library piq with ``replace_pooling=True``; 0 = identical.

    It has the classifier and the linear weights of ``lpips_vgg``, but average instead of maximum
    pooling, for which the linear weights were not trained. So its values are other numbers and
    never comparable with ``lpips_vgg``. The published code hands over unrounded images in [0, 1];
    here they have 8 bits. Weights are read from the torch hub cache, where piq puts them, and never
    downloaded.

    Parameters
    ----------
    pasted : bool, default False
        Score pasted instead of raw images.
    region : {'whole', 'hole', 'known'}, default 'whole'
        Pixels that count.
    sha256 : str, default ''
        Hash of the two weight files, recorded with a cell; other files are then refused.
    """

    min_side = BACKBONES["vgg"].min_side

    def __init__(self, pasted: bool = False, region: Region = "whole", sha256: str = "") -> None:
        self.sha256 = sha256
        vgg = BACKBONES["vgg"].weights
        self.card = MetricCard(
            id=column_id("lpips_piq_vgg", region, pasted),
            title="LPIPS of piq (VGG16, average pooling)",
            direction="down",
            unit="",
            range="[0, inf)",
            region=region,
            pasted=pasted,
            backbone="VGG16, average pooling",
            weights=f"{vgg.name} (sha256 {vgg.sha256}...), torchvision; {LINEAR.name} of piq 0.4.0 "
            "(sha256 not published)",
            preprocessing=f"{preprocessing(self.min_side, region)}; then [0, 1] with the mean and "
            "deviation of ImageNet",
            source="Kastryulin, Zakirov, Prokopenko, Dylov: PyTorch Image Quality, 2022; Zhang, "
            "Isola, Efros, Shechtman, Wang: The Unreasonable Effectiveness of Deep Features, CVPR "
            "2018",
            tables="DAPS, Table 1; InverseBench" if region == "whole" and not pasted else "",
        )

    @property
    @override
    def pinned(self) -> Mapping[str, str]:
        return {"sha256": pinned_digest(_files(), self.sha256)}

    @override
    def distance(self, x: Tensor, truth: Tensor) -> Tensor:
        files = demand_recorded(self.card.id, _files(), self.sha256)
        network = _network(*files, self.device)
        value: Tensor = network((x + 1) / 2, (truth + 1) / 2)
        return value

    @override
    def check(self) -> None:
        """Check the library, the files, and the value with closed-form weights."""
        demand_library(self.card.id, "piq", "metrics")
        demand_recorded(self.card.id, _files(), self.sha256)
        x, truth, _ = (image.to(self.device) for image in reference_images())
        with torch.no_grad():
            value = _assemble(*_closed_form())((x + 1) / 2, (truth + 1) / 2).item()
        expect(self.card.id, value, CHECK_VALUE)


def _files() -> list[WeightFile]:
    return [BACKBONES["vgg"].weights, LINEAR]


@lru_cache(maxsize=2)  # no more, as they take memory of a GPU
def _network(classifier: Path, linear: Path, device: torch.device) -> nn.Module:
    return _assemble(tensors(classifier), tensors(linear)).to(device)


def _assemble(classifier: Mapping[str, Tensor], linear: Sequence[Tensor]) -> nn.Module:
    """Build the library's distance without its own loading, which runs what is in the files."""
    from piq.perceptual import VGG16_LAYERS, ContentLoss  # an optional library
    from torchvision.models import vgg16  # takes seconds to import

    with torch.device("meta"):
        trunk = vgg16(init_weights=False).features
    trunk.load_state_dict(
        {name.removeprefix("features."): v for name, v in classifier.items() if "features" in name},
        assign=True,
    )
    layers = ["relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3"]
    network: nn.Module = ContentLoss(
        trunk,
        layers=[VGG16_LAYERS[layer] for layer in layers],
        weights=list(linear),
        replace_pooling=True,
        reduction="none",
        normalize_features=True,
    )
    return network.requires_grad_(False).eval()


def _closed_form() -> tuple[dict[str, Tensor], list[Tensor]]:
    """Make weights of the classifier and of the linear layers from formulas."""
    waves = [torch.cos(torch.arange(n, dtype=torch.float64)) for n in CHANNELS]
    return closed_form("vgg"), [(10 * (1 + w) / len(w)).float().view(1, -1, 1, 1) for w in waves]
