"""Features inside a U-Net: their places, and hooks that read and mix them (LatentPaint, WACV 2024).

Hooks live as long as a ``with`` block and no longer, also if it raises.
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
"""Modules of a network by the name of their site."""
Features = dict[str, Tensor]
"""Outputs ``(rows, C, h, w)`` of these modules, by the same names."""


def feature_sites(prior: Prior) -> Sites:
    """Return every module whose output travels on, in the order of the forward pass.

    Parameters
    ----------
    prior : Prior
        A prior whose network is a ``UNet2D``.

    Returns
    -------
    Sites
        The first convolution, the last of (resnet, attention) of every layer, every down- and
        upsampler, and the middle block. The skip connections store only these, so a feature that
        replaces another also travels along them. A whole block is no site: its output is a tuple.

    Raises
    ------
    ValueError
        If the network is no ``UNet2D``.
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
    # Blocks without attention or without a sampler lack the attribute, or it is None.
    layers = list(getattr(block, "attentions", None) or block.get_submodule("resnets").children())
    sites = {f"{name}_layer{i}": layer for i, layer in enumerate(layers)}
    resamplers = getattr(block, samplers, None) or ()
    return sites | {f"{name}_sampler{i}": sampler for i, sampler in enumerate(resamplers)}


def propagation_sites(prior: Prior) -> tuple[str, str]:
    """Return the names of the two sites of Explicit Propagation.

    Parameters
    ----------
    prior : Prior
        A prior whose network is a ``UNet2D``.

    Returns
    -------
    tuple[str, str]
        The last layer of the last down block, and the middle block.
    """
    down = [name for name in feature_sites(prior) if name.startswith("down") and "_layer" in name]
    return down[-1], "middle"


@contextmanager
def edited(sites: Sites, edit: Callable[[str, Tensor], Tensor | None]) -> Iterator[None]:
    """Replace the output of every site while the ``with`` block runs.

    Parameters
    ----------
    sites : Sites
        Modules by name.
    edit : Callable[[str, Tensor], Tensor | None]
        Called as ``edit(name, feature)``. It returns the new feature, or None to leave it as it is.
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
    """Latent-space conditioning: the network mixes features of the state with features of another.

    The other is the noised observation. At every site ``h <- (1 - D) h + D h_cond``, with ``D`` the
    observed share of every cell. If there is an Explicit Propagation module for the site,
    ``h <- EP(h, D)`` follows. One object serves all steps.

    Parameters
    ----------
    prior : Prior
        The prior; hooks are placed in its network.
    mask : Tensor
        Bool ``(N, 1, h, w)`` in the space that the network denoises; True means observed.
    modules : Mapping[str, nn.Module] | None, default None
        Explicit Propagation modules by the name of their site.
    """

    def __init__(self, prior: Prior, mask: Tensor, modules: Mapping[str, nn.Module] | None = None):
        self.sites, self.mask, self.modules = feature_sites(prior), mask.float(), modules or {}

    @contextmanager
    def recorded(self) -> Iterator[Features]:
        """Record the features of the network, which is left as it is.

        Yields
        ------
        Features
            A mapping that holds the detached features after the network has run.
        """
        features: Features = {}

        def keep(name: str, h: Tensor) -> None:
            features[name] = h.detach()

        with edited(self.sites, keep):
            yield features

    @contextmanager
    def fused(self, features: Features) -> Iterator[None]:
        """Mix recorded features into those of the network.

        Parameters
        ----------
        features : Features
            Features of the noised observation, from :meth:`recorded`.
        """
        with edited(self.sites, lambda name, h: self._fuse(name, h, features[name])):
            yield

    @contextmanager
    def stacked(self) -> Iterator[None]:
        """Mix the first half of a batch ``[conditions; states]`` into its second half."""
        rows = len(self.mask)

        def edit(name: str, h: Tensor) -> Tensor:
            # With guidance the prior evaluates both of its branches in one batch.
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
