"""Compute LPIPS with the networks of its authors.

This file is not called lpips.py, because that is the name of the library.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from posterior_bench.metrics.base import (
    Batch,
    MetricCard,
    MissingWeights,
    Region,
    column_id,
    expect,
    reference_images,
)
from posterior_bench.metrics.perceptual import Perceptual, preprocessing
from posterior_bench.metrics.weights import WeightFile, tensors, verify

DOWNLOADS = "https://download.pytorch.org/models"


@dataclass(frozen=True)
class Backbone:
    """Classifier of torchvision whose weight file ends in the first digits of its SHA-256."""

    title: str
    file: str
    min_side: int
    size: str
    tables: str = ""

    @property
    def weights(self) -> WeightFile:
        """Return the weight file."""
        sha256 = Path(self.file).stem.rpartition("-")[2]
        return WeightFile(self.file, f"{DOWNLOADS}/{self.file}", self.size, sha256)


BACKBONES = {
    "alex": Backbone(
        "AlexNet",
        "alexnet-owt-7be5be79.pth",
        31,
        "0.24 GB",
        "LatentPaint, Tables 1 to 3; CoPaint; FLAIR and DING",
    ),
    "vgg": Backbone(
        "VGG16",
        "vgg16-397923af.pth",
        16,
        "0.55 GB",
        "VIPaint, its tables of LPIPS and Figs. 6 and 10; the released code of DPS (on images that "
        "were stretched to their own minimum and maximum) and of ReSample",
    ),
    "squeeze": Backbone("SqueezeNet", "squeezenet1_1-b8a52dc0.pth", 17, "5 MB"),
}
Net = Literal["alex", "vgg", "squeeze"]

CHECK_VALUES = {"alex": 0.020938, "vgg": 0.045781, "squeeze": 0.035796}
"""Scores of ``reference_images()`` by torchmetrics' LPIPS with the weights of ``closed_form``."""


class LPIPS(Perceptual):
    """Learned perceptual image patch similarity, version 0.1; 0 = identical.

    Zhang, Isola, Efros, Shechtman and Wang (CVPR 2018). The linear weights come with the library
    ``lpips``. The weights of the classifier are read from the torch hub cache and never downloaded.

    Parameters
    ----------
    net : {'alex', 'vgg', 'squeeze'}, default 'vgg'
        Classifier. They are different metrics and never comparable.
    pasted : bool, default False
        Score pasted instead of raw images.
    region : {'whole', 'hole', 'known'}, default 'whole'
        Pixels that count.

    Raises
    ------
    ValueError
        For an unknown network.
    """

    def __init__(self, net: Net = "vgg", pasted: bool = False, region: Region = "whole") -> None:
        if net not in BACKBONES:
            raise ValueError(f"unknown network '{net}' for LPIPS; valid: {', '.join(BACKBONES)}")
        self.net, self.min_side = net, BACKBONES[net].min_side
        self.card = MetricCard(
            id=column_id(f"lpips_{net}", region, pasted),
            title=f"LPIPS ({BACKBONES[net].title})",
            direction="down",
            unit="",
            range="[0, inf)",
            region=region,
            pasted=pasted,
            backbone=BACKBONES[net].title,
            weights=f"{BACKBONES[net].file} (sha256 {BACKBONES[net].weights.sha256}...), "
            "torchvision; linear weights lpips 0.1",
            preprocessing=preprocessing(self.min_side, region),
            source="Zhang, Isola, Efros, Shechtman, Wang: The Unreasonable Effectiveness "
            "of Deep Features, CVPR 2018",
            tables=BACKBONES[net].tables if region == "whole" and not pasted else "",
        )

    @override
    def distance(self, x: Tensor, truth: Tensor) -> Tensor:
        value: Tensor = _network(self.net, _weight_file(self.card.id, self.net), self.device)(
            x, truth
        )
        return value.flatten()

    def check(self) -> None:
        """Check the hash of the weights, and the value with closed-form weights."""
        _network(self.net, _weight_file(self.card.id, self.net), self.device)
        x, truth, _ = (image.to(self.device) for image in reference_images())
        with torch.no_grad():
            value = _assemble(self.net, closed_form(self.net)).to(self.device)(x, truth).item()
        expect(self.card.id, value, CHECK_VALUES[self.net])


class UnclampedLPIPS(LPIPS):
    """LPIPS of the solver's output as it is, neither clipped to [-1, 1] nor rounded to 8 bits.

    Some published tables were computed so. Values outside [-1, 1] cannot be shown, but they count
    here, so the value is larger where a solver leaves the range. It cannot be computed from stored
    images, which have 8 bits. Everything else is as in :class:`LPIPS`.

    Parameters
    ----------
    net : {'alex', 'vgg', 'squeeze'}, default 'alex'
        Classifier.
    pasted : bool, default False
        Put the observed pixels back into the output first, as LanPaintBench does. Meant for
        operators with a mask.

    Raises
    ------
    ValueError
        For an unknown network, and when called without the solver's own output.
    """

    unrounded: ClassVar[bool] = True
    unclamped: ClassVar[bool] = True

    def __init__(self, net: Net = "alex", pasted: bool = False) -> None:
        super().__init__(net, pasted)
        self.card = replace(
            self.card,
            id=column_id(f"lpips_{net}_unclamped", pasted=pasted),
            title=f"{self.card.title}, not clipped",
            preprocessing=f"{self.card.preprocessing}; neither clipped nor rounded",
            tables="LanPaintBench, as the mean of the means of batches: equal to the mean over "
            "images if all batches have one size; a smaller last batch counts too much there"
            if net == "alex" and pasted
            else "",
        )

    @override
    def __call__(self, batch: Batch) -> Tensor:
        if batch.output is None:
            raise ValueError(f"metric '{self.card.id}' needs the output before it is rounded")
        # the pixels put back are observed ones, which lie in the range and are not the solver's
        pasted = torch.where(batch.mask, batch.pasted, batch.output)
        return super().__call__(replace(batch, raw=batch.output, pasted=pasted))


def _weight_file(metric: str, net: str) -> Path:
    if find_spec("lpips") is None:
        raise MissingWeights(f"metric '{metric}' needs the library lpips; pip install lpips==0.1.4")
    return BACKBONES[net].weights.find(metric)


@lru_cache(maxsize=4)  # no more, as they take memory of a GPU
def _network(net: str, path: Path, device: torch.device) -> nn.Module:
    file = BACKBONES[net].weights
    verify(path, file.sha256, f"download {file.url} again")
    return _assemble(net, tensors(path)).to(device)


def empty(net: str) -> nn.Module:
    """Build the module of the library without storage.

    Nothing is downloaded, and no random numbers are drawn to fill it.
    """
    import lpips  # brings torchvision, which takes seconds to import

    with torch.device("meta"), warnings.catch_warnings():
        # the library calls torchvision in a deprecated way
        warnings.simplefilter("ignore", UserWarning)
        return lpips.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False)


def _assemble(net: str, classifier: Mapping[str, Tensor]) -> nn.Module:
    """Build the library's module from its linear weights and those of a classifier."""
    import lpips  # brings torchvision, which takes seconds to import

    module = empty(net)
    linear = Path(lpips.__file__).parent / "weights" / "v0.1" / f"{net}.pth"
    weights = torch.load(linear, map_location="cpu", weights_only=True)
    names = (name for name in module.state_dict() if name.startswith("net."))
    weights |= {name: classifier[_torchvision_name(name)] for name in names}
    # not strict: the module lists its linear layers under two names, the file under one
    module.load_state_dict(weights, strict=False, assign=True)
    return module.requires_grad_(False).eval()


def _torchvision_name(name: str) -> str:
    """``net.slice2.3.bias`` of lpips is ``features.3.bias`` of torchvision."""
    return re.sub(r"^net\.slice\d+\.", "features.", name)


def closed_form(net: str) -> dict[str, Tensor]:
    """Make classifier weights from a formula: cosines of an index, without biases.

    Their size keeps activations from vanishing.
    """
    shapes = {
        name: v.shape for name, v in empty(net).state_dict().items() if name.startswith("net.")
    }
    weights = {}
    for name, shape in shapes.items():
        wave = torch.cos(torch.arange(shape.numel(), dtype=torch.float64).square() * 0.1)
        scale = 2 / shape[1:].numel() ** 0.5 if len(shape) > 1 else 0.0
        weights[_torchvision_name(name)] = (wave * scale).float().view(shape)
    return weights
