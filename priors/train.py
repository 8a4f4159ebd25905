"""Training of the embedded priors: the EDM objective with label dropout, and autoencoders for
latent priors.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from posterior_bench.priors.base import Condition, Prior
from posterior_bench.priors.latents import KL
from posterior_bench.priors.process import Level


@dataclass
class OptimizerConfig:
    """How any network of ours is optimised: AdamW, linear warm-up, cosine to zero, averaged
    weights.

    ``warmup`` in steps; ``ema``: decay of the averaged weights; ``bf16``: autocast of the network.
    """

    steps: int = 8000
    batch: int = 64
    lr: float = 4e-4
    warmup: int = 200
    ema: float = 0.999
    bf16: bool = True
    seed: int = 0


@dataclass
class TrainConfig(OptimizerConfig):
    """Settings of a denoiser's training (Karras et al. 2022, Table 1 and Sec. 5 for the noise
    distribution).

    ``label_dropout``: share of rows trained without their label; ``p_mean``, ``p_std`` of
    ``ln(sigma / alpha)``.
    """

    label_dropout: float = 0.1
    p_mean: float = -1.2
    p_std: float = 1.2


@dataclass
class AutoencoderConfig(OptimizerConfig):
    """Settings of an autoencoder's training; ``kl``: weight of the KL to a standard normal, per
    latent element.
    """

    kl: float = 1e-4


class Trainer:
    """Optimises one network over rows of data in memory; subclasses say what the loss of some rows
    is.

    Everything random comes from one generator whose state is part of the checkpoint, so a resumed
    run equals an unbroken one. ``average`` holds the moving average of the weights, which is what
    is kept.
    """

    def __init__(self, net: nn.Module, rows: int, config: OptimizerConfig):
        self.net, self.rows, self.config = net.train().requires_grad_(True), rows, config
        self.average = copy.deepcopy(self.net).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            self.net.parameters(), lr=config.lr, betas=(0.9, 0.99), weight_decay=0.0
        )
        self.generator = torch.Generator().manual_seed(config.seed)
        self.step_count = 0

    def loss(self, rows: Tensor) -> Tensor:
        """The training loss of some rows of the data, one number; draws from ``self.generator``."""
        raise NotImplementedError

    def step(self) -> float:
        """One optimiser step; returns the loss."""
        rows = torch.randint(self.rows, (self.config.batch,), generator=self.generator)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        loss = self.loss(rows)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()
        self.step_count += 1
        self._average()
        return loss.item()

    def learning_rate(self) -> float:
        """Linear warm-up, then a cosine to zero at the last step."""
        config = self.config
        warm = min(1.0, (self.step_count + 1) / config.warmup)
        return (
            config.lr
            * warm
            * 0.5
            * (1 + math.cos(math.pi * min(self.step_count / config.steps, 1.0)))
        )

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.config.ema, (1 + self.step_count) / (10 + self.step_count))
        for mean, value in zip(self.average.parameters(), self.net.parameters(), strict=True):
            mean.lerp_(value, 1 - decay)

    def state_dict(self) -> dict[str, object]:
        """Everything a resumed run needs: tensors and plain numbers only."""
        return {
            "net": self.net.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "step": self.step_count,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from :meth:`state_dict`; raises RuntimeError or KeyError where it is of another
        network.
        """
        self.net.load_state_dict(state["net"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.step_count = state["step"]


class DenoiserTrainer(Trainer):
    """Denoising score matching of one prior's network.

    ``states``: float32 ``(M, C, H, W)`` in the space the network denoises; ``labels``: int64
    ``(M,)`` or None. ``averaged`` is the prior to keep: the same process over the averaged weights.
    """

    config: TrainConfig

    def __init__(self, prior: Prior, states: Tensor, labels: Tensor | None, config: TrainConfig):
        if prior.net is None:
            raise ValueError("a closed-form prior has nothing to train")
        super().__init__(prior.net, len(states), config)
        self.prior, self.states, self.labels = prior, states, labels
        self.averaged = copy.copy(prior)
        self.averaged.net = self.average

    def loss(self, rows: Tensor) -> Tensor:
        labels = None if self.labels is None else self.labels[rows]
        config = self.config
        return denoising_loss(
            self.prior, self.states[rows], labels, config, self.generator, config.label_dropout
        )

    def validation_loss(self, states: Tensor, labels: Tensor | None) -> float:
        """:func:`validation_loss` of the averaged network."""
        return validation_loss(self.averaged, states, labels, self.config)


class AutoencoderTrainer(Trainer):
    """Reconstruction of images ``(M, C, H, W)`` in [-1, 1] by a KL autoencoder: ``|x - x'| + (x -
    x')^2 + kl KL``.

    Mean over pixels; the KL is a mean over latent elements. No adversarial or perceptual term,
    which small grey images do not need to look right. ``average`` is the autoencoder to keep, still
    without shift and scale.
    """

    config: AutoencoderConfig
    net: KL
    average: KL

    def __init__(self, latent: KL, images: Tensor, config: AutoencoderConfig):
        super().__init__(latent, len(images), config)
        self.images = images

    def loss(self, rows: Tensor) -> Tensor:
        device = next(self.net.parameters()).device
        x = self.images[rows].to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.config.bf16):
            mean, deviation = (moment.float() for moment in self.net.moments(x))
            noise = torch.randn(mean.shape, generator=self.generator).to(device)
            error = self.net.decoded(mean + deviation * noise).float() - x
        kl = 0.5 * (mean.square() + deviation.square() - 1 - 2 * deviation.log()).mean()
        return error.abs().mean() + error.square().mean() + self.config.kl * kl

    def validation_loss(self, images: Tensor) -> float:
        """Mean squared error of the averaged autoencoder's reconstructions, clipped to [-1, 1]."""
        return reconstruction_errors(self.average, images).mean().item()


@torch.no_grad()
def reconstruction_errors(latent: KL, images: Tensor, batch: int = 64) -> Tensor:
    """Mean squared error ``(N,)`` between every image and what comes back through the encoder's
    mean.
    """
    device = next(latent.parameters()).device
    parts = images.split(batch)
    return torch.cat(
        [(_round_trip(latent, x.to(device)).cpu() - x).square().flatten(1).mean(1) for x in parts]
    )


def _round_trip(latent: KL, x: Tensor) -> Tensor:
    return latent.decode(latent.encode(x)).clamp(-1, 1)


@torch.no_grad()
def encode_all(latent: KL, images: Tensor, batch: int = 64) -> Tensor:
    """Latents ``(M, c, h, w)`` of many images, on the CPU."""
    device = next(latent.parameters()).device
    return torch.cat([latent.encode(x.to(device)).cpu() for x in images.split(batch)])


def standardise(latent: KL, images: Tensor) -> Tensor:
    """Give a latent the shift and scale under which these images have mean 0 and variance 1 in
    every channel.

    Returns their latents. The denoiser then sees unit-variance data, as ``sigma_data = 1`` says.
    """
    latent.settings |= {"shift": 0.0, "scale": 1.0}
    raw = encode_all(latent, images)
    shift, deviation = raw.mean((0, 2, 3)), raw.std((0, 2, 3))
    latent.settings |= {"shift": shift.tolist(), "scale": (1 / deviation).tolist()}
    return (raw - shift.view(-1, 1, 1)) / deviation.view(-1, 1, 1)


def denoising_loss(
    prior: Prior,
    x0: Tensor,
    labels: Tensor | None,
    config: TrainConfig,
    generator: torch.Generator,
    label_dropout: float = 0.0,
) -> Tensor:
    """Mean squared error of the denoiser in EDM's weights (Karras et al. 2022, Eq. 2 and Table 1).

    At ``r = sigma / alpha`` the weight is ``(r^2 + sd^2) / (r sd)^2``, so a denoiser that only
    knows the scale ``sd`` of the data has a loss of 1 at every level; with ``sd = 1`` it is the
    plain loss of a v-prediction. Levels, noise and dropped labels come from ``generator``.
    """
    ratio = (config.p_mean + config.p_std * torch.randn(len(x0), generator=generator)).exp()
    noise = torch.randn(x0.shape, generator=generator).to(prior.device)
    drop = torch.rand(len(x0), generator=generator) < label_dropout
    if labels is not None and prior.null_label is not None:
        labels = torch.where(drop, prior.null_label, labels)
    cond: Condition | None = None if labels is None else prior.condition(labels.to(prior.device))
    level = Level.stack([prior.process.level(r) for r in ratio.tolist()])
    x0 = x0.to(prior.device)
    z = prior.process.add_noise(x0, level, noise)
    with torch.autocast(prior.device.type, torch.bfloat16, enabled=config.bf16):
        x0_hat = prior.denoise(z, level, cond)
    r, sd = torch.as_tensor(level.ratio).float().to(prior.device), prior.sigma_data
    return ((r**2 + sd**2) / (r * sd) ** 2 * (x0_hat.float() - x0).square()).mean()


@torch.no_grad()
def validation_loss(
    prior: Prior, states: Tensor, labels: Tensor | None, config: TrainConfig
) -> float:
    """Mean :func:`denoising_loss` on held-out states, with the same levels and noise at every
    call.
    """
    generator = torch.Generator().manual_seed(1)
    blocks = torch.arange(len(states)).split(config.batch)
    losses = [
        denoising_loss(
            prior, states[rows], None if labels is None else labels[rows], config, generator
        ).item()
        for rows in blocks
    ]
    return sum(loss * len(rows) for loss, rows in zip(losses, blocks, strict=True)) / len(states)
