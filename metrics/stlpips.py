"""Compute shift-tolerant LPIPS, a perceptual distance whose weights come with a Python package."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from posterior_bench.metrics.base import MetricCard, MissingWeights, Region, column_id
from posterior_bench.metrics.perceptual import Perceptual, as_rgb, preprocessing
from posterior_bench.metrics.weights import verify

FILE = "weights/vST0.0/alex_shift_tolerant.pth"
SHA256 = "b356b382f96010f77d085ee8343ecd9fd322d0a56e8de2b2d0549fafcad8b9ee"
REMEDY = "pip install --force-reinstall stlpips-pytorch==0.0.2"

# images in [-1, 1] minus SHIFT, over SCALE, have zero mean and unit variance over ImageNet
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)


class STLPIPS(Perceptual):
    """Shift-tolerant LPIPS with its anti-aliased AlexNet; 0 = identical.

    Ghildyal and Liu (ECCV 2022). It is not comparable with LPIPS, which has another network and
    other linear weights. Only the weight file of the package ``stlpips-pytorch`` is read; its code
    is not imported.

    Parameters
    ----------
    pasted : bool, default False
        Score pasted instead of raw images.
    region : {'whole', 'hole', 'known'}, default 'whole'
        Pixels that count.
    """

    min_side = 21
    reference: ClassVar[Mapping[str, float]] = {
        "whole": 0.578610,
        "hole": 0.355563,
        "known": 0.150834,
    }

    def __init__(self, pasted: bool = False, region: Region = "whole") -> None:
        self.card = MetricCard(
            id=column_id("stlpips", region, pasted),
            title="ST-LPIPS",
            direction="down",
            unit="",
            range="[0, inf)",
            region=region,
            pasted=pasted,
            backbone="AlexNet, shift-tolerant",
            weights=f"{Path(FILE).name} of stlpips-pytorch 0.0.2, sha256 {SHA256}",
            preprocessing=preprocessing(self.min_side, region),
            source="Ghildyal, Liu: Shift-tolerant Perceptual Similarity Metric, ECCV 2022",
        )

    @override
    def distance(self, x: Tensor, truth: Tensor) -> Tensor:
        weights = _weights(_weight_file(), self.device)
        total = torch.zeros(len(x), device=self.device)
        layers = zip(_features(x, weights), _truth_features(truth, weights), strict=True)
        for layer, (a, b) in enumerate(layers):
            difference = (_unit(a) - b).square()
            weighted = F.conv2d(difference, weights[f"lin{layer}.model.1.weight"])
            total = total + weighted.mean((1, 2, 3))
        return total

    def trunk(self, image: Tensor) -> Tensor:
        """Average the deepest layer over positions.

        Parameters
        ----------
        image : Tensor
            ``(N, 1 or 3, h, w)`` in [-1, 1].

        Returns
        -------
        Tensor
            ``(N, 256)``.
        """
        prepared = as_rgb(image.to(self.device, torch.float32), self.min_side)
        return _features(prepared, _weights(_weight_file(), self.device))[-1].mean((2, 3))


def _features(image: Tensor, weights: Mapping[str, Tensor]) -> list[Tensor]:
    """Compute the five compared layers.

    Each stride of AlexNet is replaced by a blur with stride 2; the first convolution has none.
    """

    def conv(z: Tensor, name: str, padding: int) -> Tensor:
        return F.conv2d(
            z, weights[f"net.{name}.weight"], weights[f"net.{name}.bias"], padding=padding
        )

    shift, scale = (image.new_tensor(values).view(1, 3, 1, 1) for values in (SHIFT, SCALE))
    layers = [_halve(conv((image - shift) / scale, "slice1.0", 2)).relu()]
    for name, padding in (("slice2.5", 2), ("slice3.9", 1)):
        pooled = F.max_pool2d(layers[-1], kernel_size=3, stride=1)
        layers.append(conv(_halve(pooled), name, padding).relu())
    for name in ("slice4.11", "slice5.13"):
        layers.append(conv(layers[-1], name, 1).relu())
    return layers


_LAST: dict[torch.device, tuple[Tensor, list[Tensor]]] = {}
"""The last truth on each device, and its features."""


def _truth_features(truth: Tensor, weights: Mapping[str, Tensor]) -> list[Tensor]:
    """Compute the normalised features of a truth once for all draws of its image.

    The draws of an image are scored one after another.
    """
    if torch.is_grad_enabled():
        return [_unit(layer) for layer in _features(truth, weights)]
    last = _LAST.get(truth.device)
    if last is None or not torch.equal(last[0], truth):
        normalised = [_unit(layer) for layer in _features(truth, weights)]
        last = _LAST[truth.device] = (truth.clone(), normalised)
    return last[1]


def _halve(z: Tensor) -> Tensor:
    """Blur with the binomial (1 2 1) and stride 2, with two mirrored pixels at each border."""
    channels = z.shape[1]
    binomial = z.new_tensor([1, 2, 1]) / 4
    kernel = torch.outer(binomial, binomial).expand(channels, 1, 3, 3)
    return F.conv2d(_mirrored(z), kernel, stride=2, groups=channels)


def _mirrored(z: Tensor) -> Tensor:
    """Put two mirrored pixels at each border: that of index -1 is 1, and -2 is 2.

    The gradient of torch's own padding is a sum without an order on a GPU, and raises where
    deterministic algorithms are asked for. The joined pieces are the same values.
    """
    if not torch.are_deterministic_algorithms_enabled():
        return F.pad(z, (2, 2, 2, 2), mode="reflect")
    for dim in (2, 3):
        before, after = z.narrow(dim, 1, 2).flip(dim), z.narrow(dim, z.shape[dim] - 3, 2).flip(dim)
        z = torch.cat((before, z, after), dim)
    return z


def _unit(z: Tensor) -> Tensor:
    """Scale the feature vector at every position to length one."""
    return z / (z.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)


def _weight_file() -> Path:
    """Find the weights in the installed package.

    The package itself is not imported: it needs modules that it does not declare.
    """
    spec = find_spec("stlpips_pytorch")
    folders = list(spec.submodule_search_locations or []) if spec else []
    if not folders:
        raise MissingWeights(
            "metric 'stlpips' reads its weights from the package stlpips-pytorch, which is not "
            "installed; pip install stlpips-pytorch==0.0.2"
        )
    path = Path(folders[0]) / FILE
    if not path.is_file():
        raise MissingWeights(
            f"metric 'stlpips' needs {path.name}, looked for in {path.parent}; {REMEDY}"
        )
    return path


@lru_cache(maxsize=4)  # no more, as they take memory of a GPU
def _weights(path: Path, device: torch.device) -> Mapping[str, Tensor]:
    verify(path, SHA256, REMEDY)
    weights = torch.load(path, map_location="cpu", weights_only=True)
    return {name: tensor.to(device) for name, tensor in weights.items()}
