"""Explicit Propagation: small trained modules that carry information from the observed region into
the hole.

Corneanu, Gadde, Martinez: LatentPaint, WACV 2024, Eq. 12. No code was published and the paper
leaves open how the modules are trained; what is ours is said on the card of
:class:`solvers.latentpaint.LatentPaint`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from posterior_bench.priors.base import Prior
from posterior_bench.priors.process import Level
from posterior_bench.priors.train import OptimizerConfig, Trainer
from posterior_bench.solvers.latentpaint.hooks import Conditioning, masked_state, propagation_sites


def region_max(h: Tensor, inside: Tensor) -> Tensor:
    """``gamma``: the largest value of every channel in either region, ``(N, C, 2)``: inside, then
    outside.

    ``h``: ``(N, C, h, w)``, ``inside``: bool ``(N, 1, h, w)``. An empty region has the value 0.
    """
    return torch.stack([_max_over(h, inside), _max_over(h, ~inside)], 2)


def _max_over(h: Tensor, region: Tensor) -> Tensor:
    largest = torch.where(region, h, -math.inf).amax((2, 3))
    return torch.where(region.any(-1).any(-1), largest, 0.0)


def fill_regions(values: Tensor, inside: Tensor) -> Tensor:
    """``gamma^-1``: features ``(N, C, h, w)`` that are constant in either region, from values ``(N,
    C, 2)``.
    """
    first, second = values[..., None, None].unbind(2)
    return torch.where(inside, first, second)


class Propagation(nn.Module):
    """``h + gamma^-1(phi(gamma(h)))`` with ``phi`` a perceptron ``2C -> C / 4 -> 2C`` (LatentPaint,
    Eq. 12).

    Its last layer starts at zero, so an untrained module is the identity.
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
        """``h``: ``(N, C, h, w)``; ``share``: the observed share of every cell, ``(N, 1, h, w)`` in
        [0, 1].
        """
        inside = share >= 0.5
        values = self.phi(region_max(h, inside).flatten(1)).unflatten(1, (self.channels, 2))
        return h + fill_regions(values, inside).to(h)


def propagation_modules(channels: Mapping[str, int]) -> nn.ModuleDict:
    """Fresh modules by the name of their site, from torch's global generator."""
    return nn.ModuleDict({name: Propagation(count) for name, count in channels.items()})


def propagation_channels(prior: Prior) -> dict[str, int]:
    """The number of channels at every site of Explicit Propagation, seen by running the network
    once on zeros.
    """
    z = torch.zeros(1, *prior.latent_shape, device=prior.device)
    conditioning = Conditioning(
        prior, torch.ones(1, 1, *prior.latent_shape[-2:], device=prior.device)
    )
    labels = torch.zeros(1, dtype=torch.long, device=prior.device) if prior.num_classes else None
    with torch.no_grad(), prior.metered(), conditioning.recorded() as features:
        prior.denoise(z, prior.level(1.0), prior.condition(labels))
    return {name: features[name].shape[1] for name in propagation_sites(prior)}


@dataclass
class PropagationConfig(OptimizerConfig):
    """Settings of the modules' training.

    ``label_dropout``: share of rows trained without their label; ``p_mean``, ``p_std`` of
    ``ln(sigma / alpha)`` in units of the prior's ``sigma_data``.
    """

    batch: int = 32
    lr: float = 1e-3
    label_dropout: float = 0.1
    p_mean: float = 0.0
    p_std: float = 1.4


class PropagationTrainer(Trainer):
    """Denoising of the hidden part with a frozen network, whose features are mixed as
    :class:`Conditioning` does.

    ``images``: float32 ``(M, C, H, W)`` in [-1, 1]; ``labels``: int64 ``(M,)`` or None; ``masks``:
    bool ``(K, 1, H, W)``, True = observed. ``average`` holds the modules to keep.
    """

    config: PropagationConfig
    net: nn.ModuleDict
    average: nn.ModuleDict

    def __init__(
        self,
        prior: Prior,
        modules: nn.ModuleDict,
        images: Tensor,
        labels: Tensor | None,
        masks: Tensor,
        config: PropagationConfig,
    ):
        super().__init__(modules, len(images), config)
        self.prior, self.images, self.labels, self.masks = prior, images, labels, masks

    def loss(self, rows: Tensor) -> Tensor:
        masks = self.masks[torch.randint(len(self.masks), (len(rows),), generator=self.generator)]
        labels = None if self.labels is None else self.labels[rows]
        modules, dropout = dict(self.net.items()), self.config.label_dropout
        return hidden_loss(
            self.prior,
            modules,
            self.images[rows],
            labels,
            masks,
            self.config,
            self.generator,
            dropout,
        )

    def validation_loss(self, images: Tensor, labels: Tensor | None, masks: Tensor) -> float:
        """:func:`hidden_validation_loss` of the averaged modules."""
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
    """Mean squared error over the hidden part, in EDM's weights (Karras et al. 2022, Table 1).

    State and observation share their noise, as they do in the sampler. Levels, noise and dropped
    labels come from ``generator``; gradients reach the modules alone.
    """
    ratio = (
        prior.sigma_data
        * (config.p_mean + config.p_std * torch.randn(len(images), generator=generator)).exp()
    )
    noise = torch.randn(len(images), *prior.latent_shape, generator=generator).to(prior.device)
    drop = torch.rand(len(images), generator=generator) < label_dropout
    if labels is not None and prior.null_label is not None:
        labels = torch.where(drop, prior.null_label, labels)
    cond = None if labels is None else prior.condition(labels.to(prior.device))
    level = Level.stack([prior.level(r) for r in ratio.tolist()])
    images, masks = images.to(prior.device), masks.to(prior.device)
    with torch.no_grad():
        x0 = prior.encode(images)
        seen, inside = masked_state(prior, images * masks, masks)
    conditioning = Conditioning(prior, inside, modules)
    with torch.autocast(prior.device.type, torch.bfloat16, enabled=config.bf16):
        with torch.no_grad(), conditioning.recorded() as features:
            prior.denoise(prior.process.add_noise(seen, level, noise), level, cond)
        with conditioning.fused(features):
            x0_hat = prior.denoise(prior.process.add_noise(x0, level, noise), level, cond)
    r, sd = torch.as_tensor(level.ratio).float().to(prior.device), prior.sigma_data
    error = (r**2 + sd**2) / (r * sd) ** 2 * (x0_hat.float() - x0).square()
    hidden = (~inside).expand_as(error)
    return (error * hidden).sum() / hidden.sum().clamp_min(1)


@torch.no_grad()
def hidden_validation_loss(
    prior: Prior,
    modules: Mapping[str, nn.Module],
    images: Tensor,
    labels: Tensor | None,
    masks: Tensor,
    config: PropagationConfig,
) -> float:
    """Mean :func:`hidden_loss` on held-out images, image ``i`` with mask ``i``; always the same
    levels and noise.
    """
    generator = torch.Generator().manual_seed(1)
    blocks = torch.arange(len(images)).split(config.batch)
    losses = [
        hidden_loss(
            prior,
            modules,
            images[rows],
            None if labels is None else labels[rows],
            masks[rows],
            config,
            generator,
        ).item()
        for rows in blocks
    ]
    return sum(loss * len(rows) for loss, rows in zip(losses, blocks, strict=True)) / len(images)
