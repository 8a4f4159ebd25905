"""Explicit Propagation: small trained modules that carry information into the hole.

The modules are those of LatentPaint (Corneanu, Gadde, Martinez, WACV 2024, Eq. 12). No code was
published, and the paper leaves open how the modules are trained. The card of
:class:`solvers.latentpaint.LatentPaint` lists our choices.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from typing_extensions import override

from posterior_bench.priors.base import Condition, Prior
from posterior_bench.priors.process import Level
from posterior_bench.priors.train import OptimizerConfig, Trainer
from posterior_bench.solvers.latentpaint.hooks import (
    Conditioning,
    propagation_sites,
)
from posterior_bench.solvers.shared.latent_mask import masked_state


class ImageRows(Protocol):
    """Images that are counted and chosen by rows: a tensor, or files that are read when chosen."""

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def __getitem__(self, rows: Tensor) -> Tensor:
        """Return the images ``(N, C, H, W)`` in [-1, 1] of some rows ``(N,)``."""
        ...


def region_max(h: Tensor, inside: Tensor) -> Tensor:
    """Return the largest value of every channel in both regions: ``gamma`` of Eq. 12.

    Parameters
    ----------
    h : Tensor
        Features ``(N, C, h, w)``.
    inside : Tensor
        Bool ``(N, 1, h, w)``, True in the first region.

    Returns
    -------
    Tensor
        Values ``(N, C, 2)``, inside first. An empty region has the value 0.
    """
    return torch.stack([_max_over(h, inside), _max_over(h, ~inside)], 2)


def _max_over(h: Tensor, region: Tensor) -> Tensor:
    largest = torch.where(region, h, -math.inf).amax((2, 3))
    return torch.where(region.any(-1).any(-1), largest, 0.0)


def fill_regions(values: Tensor, inside: Tensor) -> Tensor:
    """Return features that are constant in both regions: ``gamma^-1`` of Eq. 12.

    Parameters
    ----------
    values : Tensor
        Values ``(N, C, 2)``, inside first.
    inside : Tensor
        Bool ``(N, 1, h, w)``, True in the first region.

    Returns
    -------
    Tensor
        Features ``(N, C, h, w)``.
    """
    first, second = values[..., None, None].unbind(2)
    return torch.where(inside, first, second)


class Propagation(nn.Module):
    """``h + gamma^-1(phi(gamma(h)))`` with a perceptron ``phi`` (LatentPaint, Eq. 12).

    The last layer of ``phi`` starts at zero, so an untrained module is the identity.

    Parameters
    ----------
    channels : int
        Number of channels C of the features; ``phi`` has the widths 2C, C / 4, 2C.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels
        self.phi = nn.Sequential(
            nn.Linear(2 * channels, channels // 4),
            nn.SiLU(),
            nn.Linear(channels // 4, 2 * channels),
        )
        for parameter in self.phi[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, h: Tensor, share: Tensor) -> Tensor:
        """Add what the module propagates to the features.

        Parameters
        ----------
        h : Tensor
            Features ``(N, C, h, w)``.
        share : Tensor
            Observed share of every cell, ``(N, 1, h, w)`` in [0, 1]; cells of 1/2 or more count as
            observed.

        Returns
        -------
        Tensor
            Features ``(N, C, h, w)``.
        """
        inside = share >= 0.5
        values = self.phi(region_max(h, inside).flatten(1)).unflatten(1, (self.channels, 2))
        return h + fill_regions(values, inside).to(h)


def propagation_modules(channels: Mapping[str, int]) -> nn.ModuleDict:
    """Return fresh modules by the name of their site.

    Parameters
    ----------
    channels : Mapping[str, int]
        Number of channels at every site.

    Returns
    -------
    nn.ModuleDict
        The modules; their first layers are drawn from torch's global generator.
    """
    return nn.ModuleDict({name: Propagation(count) for name, count in channels.items()})


def propagation_channels(prior: Prior) -> dict[str, int]:
    """Return the number of channels at every site of Explicit Propagation.

    It runs the network once on zeros.

    Parameters
    ----------
    prior : Prior
        A prior whose network is a ``UNet2D``.

    Returns
    -------
    dict[str, int]
        Channels by the name of the site.
    """
    z = torch.zeros(1, *prior.latent_shape, device=prior.device)
    everything = torch.ones(1, 1, *prior.latent_shape[-2:], device=prior.device)
    conditioning = Conditioning(prior, everything)
    labels = torch.zeros(1, dtype=torch.long, device=prior.device) if prior.num_classes else None
    with torch.no_grad(), prior.metered(), conditioning.recorded() as features:
        prior.denoise(z, prior.level(1.0), prior.condition(labels))
    return {name: features[name].shape[1] for name in propagation_sites(prior)}


@dataclass
class PropagationConfig(OptimizerConfig):
    """Settings of the modules' training; see also :class:`priors.train.OptimizerConfig`.

    Parameters
    ----------
    batch : int, default 32
        Images per step.
    lr : float, default 1e-3
        Learning rate after the warm-up.
    label_dropout : float, default 0.1
        Share of rows that are trained without their label.
    p_mean : float, default 0.0
        Mean of ``ln(sigma / alpha)`` in units of the prior's ``sigma_data``.
    p_std : float, default 1.4
        Standard deviation of ``ln(sigma / alpha)``.
    """

    batch: int = 32
    lr: float = 1e-3
    label_dropout: float = 0.1
    p_mean: float = 0.0
    p_std: float = 1.4


class PropagationTrainer(Trainer):
    """Training of the modules: a frozen network denoises the hidden part with mixed features.

    :class:`~solvers.latentpaint.hooks.Conditioning` mixes the features.

    Parameters
    ----------
    prior : Prior
        The prior, with a frozen network.
    modules : nn.ModuleDict
        The modules to train, by the name of their site.
    images : ImageRows
        Training images ``(M, C, H, W)``, float32 in [-1, 1].
    labels : Tensor | None
        Their labels ``(M,)``, int64, or None.
    masks : Tensor
        Masks ``(K, 1, H, W)``, bool; True means observed.
    config : PropagationConfig
        Settings of the training.

    Attributes
    ----------
    average : nn.ModuleDict
        Modules with averaged weights, the ones to keep.
    """

    config: PropagationConfig
    net: nn.ModuleDict
    average: nn.ModuleDict

    def __init__(
        self,
        prior: Prior,
        modules: nn.ModuleDict,
        images: ImageRows,
        labels: Tensor | None,
        masks: Tensor,
        config: PropagationConfig,
    ):
        super().__init__(modules, len(images), config)
        self.prior, self.images, self.labels, self.masks = prior, images, labels, masks

    @override
    def loss(self, rows: Tensor) -> Tensor:
        chosen = torch.randint(len(self.masks), (len(rows),), generator=self.generator)
        return hidden_loss(
            self.prior,
            dict(self.net.items()),
            self.images[rows],
            None if self.labels is None else self.labels[rows],
            self.masks[chosen],
            self.config,
            self.generator,
            self.config.label_dropout,
        )

    def validation_loss(self, images: ImageRows, labels: Tensor | None, masks: Tensor) -> float:
        """Return :func:`hidden_validation_loss` of the averaged modules."""
        return hidden_validation_loss(
            self.prior, dict(self.average.items()), images, labels, masks, self.config
        )


def hidden_loss(
    prior: Prior,
    modules: Mapping[str, nn.Module],
    images: Tensor,
    labels: Tensor | None,
    masks: Tensor,
    config: PropagationConfig,
    generator: torch.Generator,
    label_dropout: float = 0.0,
) -> Tensor:
    """Return the mean squared error over the hidden part, with the weights of EDM.

    The weights are those of Karras et al. (2022), Table 1. State and observation share their noise,
    as in the sampler. Gradients reach the modules alone.

    Parameters
    ----------
    prior : Prior
        The prior, with a frozen network.
    modules : Mapping[str, nn.Module]
        Explicit Propagation modules by the name of their site; empty for none.
    images, masks : Tensor
        Images ``(N, C, H, W)`` in [-1, 1] and their masks ``(N, 1, H, W)``.
    labels : Tensor | None
        Labels ``(N,)``, or None.
    config : PropagationConfig
        Law of the noise levels, and precision.
    generator : torch.Generator
        Draws levels, noise and dropped labels.
    label_dropout : float, default 0.0
        Share of rows without their label.

    Returns
    -------
    Tensor
        The loss, a scalar.
    """
    level, noise, cond = _random_inputs(prior, labels, images, config, generator, label_dropout)
    images, masks = images.to(prior.device), masks.to(prior.device)
    with torch.no_grad():
        x0 = prior.encode(images)
        seen, inside = masked_state(prior, images * masks, masks)
    conditioning = Conditioning(prior, inside, modules)
    with torch.autocast(prior.device.type, torch.bfloat16, enabled=config.bf16):
        # Record the features of the noised observation, then denoise the image with them mixed in.
        with torch.no_grad(), conditioning.recorded() as features:
            prior.denoise(prior.process.add_noise(seen, level, noise), level, cond)
        with conditioning.fused(features):
            x0_hat = prior.denoise(prior.process.add_noise(x0, level, noise), level, cond)
    r, sd = torch.as_tensor(level.ratio).float().to(prior.device), prior.sigma_data
    error = (r**2 + sd**2) / (r * sd) ** 2 * (x0_hat.float() - x0).square()
    hidden = (~inside).expand_as(error)
    return (error * hidden).sum() / hidden.sum().clamp_min(1)


def _random_inputs(
    prior: Prior,
    labels: Tensor | None,
    images: Tensor,
    config: PropagationConfig,
    generator: torch.Generator,
    label_dropout: float,
) -> tuple[Level, Tensor, Condition | None]:
    """Draw the noise level, the noise and the condition of every image, in this order."""
    n = len(images)
    exponent = config.p_mean + config.p_std * torch.randn(n, generator=generator)
    ratio = prior.sigma_data * exponent.exp()
    noise = torch.randn(n, *prior.latent_shape, generator=generator).to(prior.device)
    drop = torch.rand(n, generator=generator) < label_dropout
    if labels is not None and prior.null_label is not None:
        labels = torch.where(drop, prior.null_label, labels)
    cond = None if labels is None else prior.condition(labels.to(prior.device))
    return Level.stack([prior.level(r) for r in ratio.tolist()]), noise, cond


@torch.no_grad()
def hidden_validation_loss(
    prior: Prior,
    modules: Mapping[str, nn.Module],
    images: ImageRows,
    labels: Tensor | None,
    masks: Tensor,
    config: PropagationConfig,
) -> float:
    """Return the mean :func:`hidden_loss` on held-out images, with fixed levels and noise.

    Parameters
    ----------
    prior : Prior
        The prior, with a frozen network.
    modules : Mapping[str, nn.Module]
        Explicit Propagation modules by the name of their site; empty for none.
    images : ImageRows
        Images ``(N, C, H, W)`` in [-1, 1].
    masks : Tensor
        Their masks ``(N, 1, H, W)``.
    labels : Tensor | None
        Labels ``(N,)``, or None.
    config : PropagationConfig
        Law of the noise levels, precision and batch size.

    Returns
    -------
    float
        The mean over all images.
    """
    generator = torch.Generator().manual_seed(1)
    blocks = torch.arange(len(images)).split(config.batch)
    losses = []
    for rows in blocks:
        label = None if labels is None else labels[rows]
        loss = hidden_loss(prior, modules, images[rows], label, masks[rows], config, generator)
        losses.append(loss.item() * len(rows))
    return sum(losses) / len(images)
