"""Published feature networks of sets of images: torchvision's Inception, DINOv2, CLIP, patches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from posterior_bench.metrics.base import from_uint8, to_uint8
from posterior_bench.metrics.perceptual import as_rgb
from posterior_bench.metrics.vision_transformer import (
    CLIP,
    DINO,
    IMAGENET,
    OPENAI_CLIP,
    from_clip,
    image_vector,
    normalised,
    resized_positions,
)
from posterior_bench.metrics.weights import (
    WeightFile,
    demand_recorded,
    pinned_digest,
    tensors,
    torchscript_tensors,
)

TORCHVISION_INCEPTION = WeightFile(
    "inception_v3_google-0cc3c7bd.pth",
    "https://download.pytorch.org/models/inception_v3_google-0cc3c7bd.pth",
    "0.11 GB",
    "0cc3c7bd",
)
DINOV2_LARGE = WeightFile(
    "dinov2_vitl14_pretrain.pth",
    "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
    "1.2 GB",
)
CLIP_LARGE_336 = WeightFile(
    "ViT-L-14-336px.pt",
    "https://openaipublic.azureedge.net/clip/models/"
    "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02/ViT-L-14-336px.pt",
    "0.93 GB",
    "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02",
)


@dataclass
class TorchvisionInception:
    """Last layer before the classes of torchvision's Inception v3: 2048 numbers.

    The published protocol normalises images with the statistics of ImageNet and resizes them to
    299 px. torchvision's ``transform_input`` then undoes the normalisation, so the network sees
    [-1, 1]. These are the trained weights of torchvision, not those of the usual FID.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    column: ClassVar[str] = "features_torchvision"
    title: ClassVar[str] = "Inception v3 of torchvision"
    weights: ClassVar[str] = (
        f"{TORCHVISION_INCEPTION.name} (sha256 {TORCHVISION_INCEPTION.sha256}...), torchvision"
    )
    preprocessing: ClassVar[str] = (
        "8-bit images, bilinear to 299 px (half-pixel centres, no antialiasing)"
    )
    pinned: ClassVar[Mapping[str, str]] = {}
    width: ClassVar[float | None] = None
    length: ClassVar[int] = 2048

    def check(self, metric: str) -> None:
        """Check the weights, see :meth:`metrics.features.FeatureNetwork.check`."""
        TORCHVISION_INCEPTION.checked(metric)

    def __call__(self, image: Tensor) -> Tensor:
        """Compute the vector of an image, see :meth:`metrics.features.FeatureNetwork.__call__`."""
        scaled = (as_rgb(image, 1).to(self.device, torch.float32) + 1) / 2
        scaled = F.interpolate(scaled, size=(299, 299), mode="bilinear", align_corners=False)
        network = _torchvision_inception(TORCHVISION_INCEPTION.path, self.device)
        vectors: Tensor = network(normalised(scaled, IMAGENET))
        return vectors


@dataclass
class DINOv2:
    """First token of DINOv2 ViT-L/14 after the final normalisation: 1024 numbers.

    Images are resized to 224 px with Pillow's bicubic filter, as in the code of Stein et al., and
    the positions of the network are interpolated as in the published network.

    Parameters
    ----------
    sha256 : str, default ''
        Hash of the weight file, recorded with a cell; another file is then refused.
    device : torch.device, default cpu
        Device of the network.
    """

    sha256: str = ""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    column: ClassVar[str] = "features_dinov2"
    title: ClassVar[str] = "DINOv2 ViT-L/14"
    weights: ClassVar[str] = f"{DINOV2_LARGE.name}, published by Meta; sha256 not published"
    preprocessing: ClassVar[str] = "8-bit images, Pillow bicubic to 224 px, ImageNet mean and std"
    width: ClassVar[float | None] = None
    length: ClassVar[int] = 1024

    @property
    def pinned(self) -> Mapping[str, str]:
        """Return the hash of the weight file, to record it with a cell."""
        return {"sha256": pinned_digest([DINOV2_LARGE], self.sha256)}

    def check(self, metric: str) -> None:
        """Check the weights, see :meth:`metrics.features.FeatureNetwork.check`."""
        demand_recorded(metric, [DINOV2_LARGE], self.sha256)

    def __call__(self, image: Tensor) -> Tensor:
        """Compute the vector of an image, see :meth:`metrics.features.FeatureNetwork.__call__`."""
        prepared = normalised(pillow_resized(image, 224), IMAGENET).to(self.device)
        return image_vector(_dinov2(DINOV2_LARGE.path, self.device), prepared, DINO)


@dataclass
class CLIPImages:
    """Image embedding of CLIP ViT-L/14 at 336 px, divided by its length: 768 numbers."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    column: ClassVar[str] = "features_clip_l336"
    title: ClassVar[str] = "CLIP ViT-L/14, 336 px"
    weights: ClassVar[str] = (
        f"{CLIP_LARGE_336.name} (sha256 {CLIP_LARGE_336.sha256[:8]}...), published by OpenAI"
    )
    preprocessing: ClassVar[str] = (
        "8-bit images, bicubic to 336 px (a = -0.5, antialiased), CLIP mean and std"
    )
    pinned: ClassVar[Mapping[str, str]] = {}
    width: ClassVar[float | None] = None
    length: ClassVar[int] = 768

    def check(self, metric: str) -> None:
        """Check the weights, see :meth:`metrics.features.FeatureNetwork.check`."""
        CLIP_LARGE_336.checked(metric)

    def __call__(self, image: Tensor) -> Tensor:
        """Compute the vector of an image, see :meth:`metrics.features.FeatureNetwork.__call__`."""
        weights = _clip(CLIP_LARGE_336.path, self.device)
        side = image_side(weights)
        scaled = (as_rgb(image, 1).to(self.device, torch.float32) + 1) / 2
        # antialias=True has the cubic kernel of JAX, which the authors of CMMD use, and of Pillow
        scaled = F.interpolate(scaled, size=(side, side), mode="bicubic", antialias=True)
        return F.normalize(image_vector(weights, normalised(scaled, CLIP), OPENAI_CLIP))


def image_side(weights: Mapping[str, Tensor]) -> int:
    """Return the side in pixels of the square images for which a transformer has positions."""
    patches = round((weights["pos_embed"].shape[1] - 1) ** 0.5)
    return patches * weights["patch_embed.proj.weight"].shape[-1]


def pillow_resized(image: Tensor, side: int) -> Tensor:
    """Resize 8-bit images with Pillow's bicubic filter, which rounds to 8 bits again.

    Parameters
    ----------
    image : Tensor
        ``(N, 1 or 3, H, W)`` in [-1, 1].
    side : int
        Pixels a side of the result.

    Returns
    -------
    Tensor
        float32 ``(N, 3, side, side)`` in [0, 1] on the CPU.
    """
    levels = to_uint8(as_rgb(image, 1)).cpu().permute(0, 2, 3, 1).numpy()
    pictures = [
        Image.fromarray(np.ascontiguousarray(x)).resize((side, side), Image.Resampling.BICUBIC)
        for x in levels
    ]
    pixels = np.stack([np.asarray(picture) for picture in pictures])
    return (from_uint8(torch.from_numpy(pixels).permute(0, 3, 1, 2)) + 1) / 2


@lru_cache(maxsize=2)  # no more, as they take memory of a GPU
def _torchvision_inception(path: Path, device: torch.device) -> nn.Module:
    from torchvision.models import inception_v3  # takes seconds to import

    with torch.device("meta"):
        network = inception_v3(transform_input=True, init_weights=False)
    network.load_state_dict(tensors(path), assign=True)
    network.fc, network.AuxLogits = nn.Identity(), None
    return network.to(device).requires_grad_(False).eval()


@lru_cache(maxsize=2)
def _dinov2(path: Path, device: torch.device) -> dict[str, Tensor]:
    weights = {name: value.float() for name, value in tensors(path).items()}
    weights["pos_embed"] = resized_positions(weights["pos_embed"], 16)
    return {name: value.to(device) for name, value in weights.items()}


@lru_cache(maxsize=2)
def _clip(path: Path, device: torch.device) -> dict[str, Tensor]:
    weights = from_clip(torchscript_tensors(path))
    return {name: value.to(device) for name, value in weights.items()}
