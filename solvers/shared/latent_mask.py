"""Masks and observations in the space that a network denoises."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from posterior_bench.priors.base import Prior


def masked_state(prior: Prior, y: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Bring an observation and its mask into the space that the network denoises.

    Parameters
    ----------
    prior : Prior
        The prior.
    y : Tensor
        Images ``(N, C, H, W)`` in [-1, 1], mid-grey (zero) where hidden.
    mask : Tensor
        Bool ``(N, 1, H, W)``; True means observed.

    Returns
    -------
    observed : Tensor
        The observation, zero where hidden: ``y`` for a pixel prior, else ``(N, c, h, w)``. A latent
        cell has the value of the encoded ``y``, which near the hole has seen some grey.
    mask : Tensor
        Its mask, ``(N, 1, h, w)``. A latent cell is observed if all of its pixels are.
    """
    if not prior.is_latent:
        return y, mask
    height, width = prior.latent_shape[-2:]
    cell = (mask.shape[-2] // height, mask.shape[-1] // width)
    mask = F.max_pool2d((~mask).float(), cell) == 0
    return prior.encode(y) * mask, mask
