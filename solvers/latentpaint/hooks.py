"""Features inside a U-Net: where they are, and hooks that read and replace them (LatentPaint, WACV
2024).

Hooks live as long as a ``with`` block and no longer, whatever happens inside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from posterior_bench.priors.base import Prior
from posterior_bench.priors.nets import UNet2D

Sites = Mapping[str, nn.Module]
Features = dict[str, Tensor]


def feature_sites(prior: Prior) -> Sites:
    """Every module whose output travels on, by name and in the order of the forward pass.

    They are the first convolution, the last of (resnet, attention) of every layer, every down- and
    upsampler and the middle block: all that the skip connections store, so that what replaces a
    feature also travels along them. A whole block is no site, because it puts out a tuple. Raises
    ValueError for a network other than ``UNet2D``.
    """
    if not isinstance(prior.net, UNet2D):
        raise ValueError(
            f"features can be read inside a UNet2D alone, not inside {type(prior.net).__name__}"
        )
    unet = prior.net.unet
    sites: dict[str, nn.Module] = {"conv_in": unet.conv_in}
    for i, block in enumerate(unet.down_blocks):
        sites |= _block_sites(f"down{i}", block, "downsamplers")
    sites["middle"] = unet.mid_block
    for i, block in enumerate(unet.up_blocks):
        sites |= _block_sites(f"up{i}", block, "upsamplers")
    return sites


def _block_sites(name: str, block: nn.Module, samplers: str) -> dict[str, nn.Module]:
    """The sites of one block; blocks without attention, or without a sampler, lack the attribute or
    hold None.
    """
    layers = list(getattr(block, "attentions", None) or block.get_submodule("resnets").children())
    sites = {f"{name}_layer{i}": layer for i, layer in enumerate(layers)}
    return sites | {
        f"{name}_sampler{i}": sampler
        for i, sampler in enumerate(getattr(block, samplers, None) or ())
    }


def propagation_sites(prior: Prior) -> tuple[str, str]:
    """Where Explicit Propagation acts: after the last layer of the last down block, and after the
    middle block.
    """
    return [name for name in feature_sites(prior) if name.startswith("down") and "_layer" in name][
        -1
    ], "middle"


@contextmanager
def edited(sites: Sites, edit: Callable[[str, Tensor], Tensor | None]) -> Iterator[None]:
    """Within the block, ``edit(name, feature)`` replaces every site's output; None leaves it as it
    is.
    """
    handles = [
        module.register_forward_hook(
            lambda _module, _inputs, feature, name=name: edit(name, feature)
        )
        for name, module in sites.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class Conditioning:
    """Latent-space conditioning: features of the state mixed with features of the noised
    observation.

    At every site ``h <- (1 - D) h + D h_cond`` with ``D`` the share of every cell that is observed;
    then, where there is an Explicit Propagation module, ``h <- EP(h, D)``. All state is in the
    arguments: one object serves all steps.

    Parameters
    ----------
    prior: its network is the one that is hooked. mask: bool ``(N, 1, h, w)`` in the space the
    network denoises, True = observed. modules: Explicit Propagation modules by the name of their
    site.
    """

    def __init__(self, prior: Prior, mask: Tensor, modules: Mapping[str, nn.Module] | None = None):
        self.sites, self.mask, self.modules = feature_sites(prior), mask.float(), modules or {}

    @contextmanager
    def recorded(self) -> Iterator[Features]:
        """Within the block the network is left alone; its features are in the mapping
        afterwards.
        """
        features: Features = {}

        def keep(name: str, h: Tensor) -> None:
            features[name] = h.detach()

        with edited(self.sites, keep):
            yield features

    @contextmanager
    def fused(self, features: Features) -> Iterator[None]:
        """Within the block the network's features are mixed with recorded ones."""
        with edited(self.sites, lambda name, h: self._fuse(name, h, features[name])):
            yield

    @contextmanager
    def stacked(self) -> Iterator[None]:
        """Within the block the network takes ``[conditions; states]``: the first half mixes into
        the second.
        """
        rows = len(self.mask)

        def edit(name: str, h: Tensor) -> Tensor:
            # with guidance the prior asks for both of its branches in one batch
            conditions, states = h.unflatten(0, (-1, 2, rows)).unbind(1)
            fused = self._fuse(name, states.flatten(0, 1), conditions.flatten(0, 1))
            return torch.stack([conditions, fused.unflatten(0, (-1, rows))], 1).flatten(0, 2)

        with edited(self.sites, edit):
            yield

    def _fuse(self, name: str, h: Tensor, cond: Tensor) -> Tensor:
        share = F.adaptive_avg_pool2d(self.mask, (h.shape[-2], h.shape[-1]))
        share = share.repeat(len(h) // len(share), 1, 1, 1).to(h)
        mixed = (1 - share) * h + share * cond
        return self.modules[name](mixed, share) if name in self.modules else mixed


def masked_state(prior: Prior, y: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The observed part of ``y`` in the space the network denoises, zero where hidden, and its mask
    there.

    ``y``: images ``(N, C, H, W)``, mid-grey (zero) where ``mask`` ``(N, 1, H, W)`` is False. For a
    pixel prior these are returned. A latent cell counts as observed where all of its pixels are;
    its value is that of the encoded ``y``, which near the hole has seen some grey.
    """
    if not prior.is_latent:
        return y, mask
    height, width = prior.latent_shape[-2:]
    cell = (mask.shape[-2] // height, mask.shape[-1] // width)
    mask = F.max_pool2d((~mask).float(), cell) == 0
    return prior.encode(y) * mask, mask
