"""Small priors of every kind, on which solvers are checked.

Networks are untrained and their weights are the same every time. No image is square, so that rows
and columns cannot be mixed up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

import torch
from torch import nn

from posterior_bench.priors.base import Prior
from posterior_bench.priors.increments import Laplace
from posterior_bench.priors.latents import KL
from posterior_bench.priors.levy import LevyPrior
from posterior_bench.priors.mixture import MixturePrior
from posterior_bench.priors.mixtures import smooth
from posterior_bench.priors.nets import UNet2D, UNet2DCondition, UNet2DInpainting
from posterior_bench.priors.process import VE, VP, Flow

CLASSES = 3
"""Number of classes of the small priors; one label more stands for "no class"."""


def small_unet(channels: int) -> UNet2D:
    """Return an untrained class-conditional U-Net.

    Parameters
    ----------
    channels : int
        Channels of its input and its output.

    Returns
    -------
    UNet2D
        The network; height and width of its input must be even.
    """
    config = {
        "sample_size": 8,
        "in_channels": channels,
        "out_channels": channels,
        "block_out_channels": [8, 16],
        "layers_per_block": 1,
        "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
        "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
        "num_class_embeds": CLASSES + 1,
        "norm_num_groups": 4,
        "attention_head_dim": 8,
    }
    return UNet2D(config)


def _exact() -> Prior:
    """Return a mixture of two modes of smooth 8 x 12 images, in closed form: VE, no labels."""
    base = smooth((1, 8, 12), "ve")
    means = torch.cat([base.means - 0.3, base.means + 0.3])
    return MixturePrior(
        VE(), torch.tensor([0.6, 0.4]), means, base.covariances.repeat(2, 1, 1), (1, 8, 12)
    )


def _increments() -> Prior:
    """Return 8 x 12 images that are signals with Laplace increments, without a network: VE."""
    return LevyPrior(Laplace(0.1), None, (1, 8, 12))


def _network() -> Prior:
    """Return an untrained U-Net over 8 x 12 images: VE, class-conditional with guidance."""
    return Prior(VE(), small_unet(1), (1, 8, 12), num_classes=CLASSES, null_label=CLASSES)


def _flow() -> Prior:
    """Return an untrained U-Net over 8 x 12 images: a flow, class-conditional with guidance."""
    net = small_unet(1)
    return Prior(Flow(), net, (1, 8, 12), "flow", num_classes=CLASSES, null_label=CLASSES)


def _latent() -> Prior:
    """Return an untrained U-Net over latents of 16 x 24 images."""
    return _on_latents(small_unet(2))


def _text() -> Prior:
    """Return an untrained U-Net over latents that reads a prompt of six tokens."""
    net = UNet2DCondition(_attending(2), (CLASSES + 1, 6, 6))
    nn.init.normal_(net.contexts)
    return _on_latents(net)


def _inpainting() -> Prior:
    """Return an untrained U-Net over latents that reads mask, masked image and prompt."""
    net = UNet2DInpainting(_attending(5), (CLASSES + 1, 3, 6))
    nn.init.normal_(net.contexts)
    return _on_latents(net)


def _attending(channels: int) -> dict[str, object]:
    """Return the configuration of a U-Net with a context of width 6."""
    return {
        "sample_size": 8,
        "in_channels": channels,
        "out_channels": 2,
        "cross_attention_dim": 6,
        "attention_head_dim": 2,
        "block_out_channels": [8, 16],
        "layers_per_block": 1,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "norm_num_groups": 4,
    }


def _on_latents(net: nn.Module) -> Prior:
    """Return a VP prior on latents ``(2, 8, 12)`` with an untrained KL autoencoder."""
    config = {
        "in_channels": 1,
        "out_channels": 1,
        "latent_channels": 2,
        "block_out_channels": [8, 8],
        "norm_num_groups": 4,
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
    }
    process = VP.scheduled("scaled_linear", 0.00085, 0.012)
    return Prior(process, net, (1, 16, 24), "v", 1.0, CLASSES, CLASSES, latent=KL(config))


PRIORS: Mapping[str, Callable[[], Prior]] = {
    "exact": _exact,
    "network": _network,
    "latent": _latent,
    "text": _text,
    "inpainting": _inpainting,
    "flow": _flow,
    "increments": _increments,
}
"""The small priors by name, one of each kind.

Every solver that can run with a prior of this table is checked on it. ``text`` is for solvers that
need ``prompt_grad``; to the others it is like ``latent``, on which they are checked. ``increments``
is for solvers that need ``increments``; it has no denoiser for the others.
"""


@cache
def small_prior(name: str) -> Prior:
    """Return a small prior; the same object every time.

    Parameters
    ----------
    name : str
        A key of :data:`PRIORS`.

    Returns
    -------
    Prior
        The prior. Its weights are the same in every process, and torch's global generator is left
        as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return PRIORS[name]()
