"""Network adapters: how to call each backbone on a scaled input, a time and a condition.

Every adapter maps ``(x, t, cond) -> raw output`` with ``x`` of shape ``(N, C, H, W)``, ``t`` of shape ``(N,)`` and
``cond`` a dict of per-sample tensors. What the output means (eps, v, flow, x0 or EDM's F) is the prior's business.
``settings`` holds the constructor arguments of an adapter, so that it can be written to a file and built again.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn


class UNet2D(nn.Module):
    """diffusers' ``UNet2DModel`` behind a pixel-unshuffle, which buys a four times cheaper network at 28 x 28.

    ``config`` is passed to ``UNet2DModel``; with ``num_class_embeds = K + 1`` the last row is the null label.
    """

    def __init__(self, config: Mapping[str, object], unshuffle: int = 1):
        super().__init__()
        from diffusers import UNet2DModel  # four seconds of imports, paid only where a network is built

        self.settings = {"config": dict(config), "unshuffle": unshuffle}
        self.unshuffle = unshuffle
        self.unet = UNet2DModel(**config)

    def forward(self, x: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        hidden = F.pixel_unshuffle(x, self.unshuffle) if self.unshuffle > 1 else x
        out = self.unet(hidden, t, class_labels=cond.get("label")).sample
        return F.pixel_shuffle(out, self.unshuffle) if self.unshuffle > 1 else out


NETS = {"UNet2D": UNet2D}
"""Backbones a ``prior.json`` may name; a class is never imported by a string from a file."""
