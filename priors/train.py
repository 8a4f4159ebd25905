"""Training of the embedded priors: denoisers with the EDM objective, and autoencoders."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from posterior_bench.priors.base import Condition, Prior
from posterior_bench.priors.latents import KL
from posterior_bench.priors.process import Level


@dataclass
class OptimizerConfig:
    """Settings of the optimiser: AdamW, linear warm-up, cosine to zero, averaged weights.

    Parameters
    ----------
    steps : int, default 8000
        Number of optimiser steps.
    batch : int, default 64
        Rows per step.
    lr : float, default 4e-4
        Largest learning rate.
    warmup : int, default 200
        Steps of the linear warm-up.
    ema : float, default 0.999
        Decay of the averaged weights per step.
    bf16 : bool, default True
        Run the network in bfloat16 autocast.
    seed : int, default 0
        Seed of the batches, levels, noise and dropped labels.
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
    """Settings of a denoiser's training (Karras et al. 2022, Table 1 and Sec. 5).

    Parameters
    ----------
    steps, batch, lr, warmup, ema, bf16, seed : int, float or bool
        As in :class:`OptimizerConfig`.
    label_dropout : float, default 0.1
        Share of rows trained without their label, 0 to 1.
    p_mean, p_std : float, default -1.2 and 1.2
        Mean and standard deviation of ``ln(sigma / alpha)`` in training.
    """

    label_dropout: float = 0.1
    p_mean: float = -1.2
    p_std: float = 1.2


@dataclass
class AutoencoderConfig(OptimizerConfig):
    """Settings of an autoencoder's training.

    Parameters
    ----------
    steps, batch, lr, warmup, ema, bf16, seed : int, float or bool
        As in :class:`OptimizerConfig`.
    kl : float, default 1e-4
        Weight of the KL divergence to a standard normal, per latent element.
    """

    kl: float = 1e-4


class Trainer:
    """Optimise one network over rows of data in memory; subclasses define the loss.

    Everything random comes from one generator whose state is part of the checkpoint, so a resumed
    run equals an uninterrupted one.

    Parameters
    ----------
    net : nn.Module
        The network to train, in place.
    rows : int
        Number of rows of the data.
    config : OptimizerConfig
        Settings of the optimiser.

    Attributes
    ----------
    average : nn.Module
        The network with the moving average of the weights; this one is kept.
    step_count : int
        Number of steps so far.
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
        """Return the training loss of some rows of the data.

        Parameters
        ----------
        rows : Tensor
            Int64 numbers of the rows, ``(batch,)``.

        Returns
        -------
        Tensor
            One number with a gradient. Random numbers come from ``self.generator``.
        """
        raise NotImplementedError

    def step(self) -> float:
        """Take one optimiser step and return the loss."""
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
        """Return the learning rate of the next step: warm-up, then a cosine to zero."""
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
        """Return everything that a resumed run needs: tensors and plain numbers only."""
        return {
            "net": self.net.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "step": self.step_count,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state of :meth:`state_dict`.

        Parameters
        ----------
        state : Mapping[str, Any]
            The state.

        Raises
        ------
        RuntimeError, KeyError
            If the state belongs to another network.
        """
        self.net.load_state_dict(state["net"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.step_count = state["step"]


class DenoiserTrainer(Trainer):
    """Train the network of a prior by denoising score matching.

    Parameters
    ----------
    prior : Prior
        The prior; its network is trained in place.
    states : Tensor
        Data ``(M, C, H, W)``, float32, in the space that the network denoises.
    labels : Tensor or None
        Int64 ``(M,)``; None for an unconditional prior.
    config : TrainConfig
        Settings of the training.

    Attributes
    ----------
    averaged : Prior
        The prior to keep: the same process with the averaged weights.

    Raises
    ------
    ValueError
        If the prior has no network.
    """

    config: TrainConfig

    def __init__(self, prior: Prior, states: Tensor, labels: Tensor | None, config: TrainConfig):
        if prior.net is None:
            raise ValueError("a closed-form prior has nothing to train")
        super().__init__(prior.net, len(states), config)
        self.prior, self.states, self.labels = prior, states, labels
        self.averaged = copy.copy(prior)
        self.averaged.net = self.average

    @override
    def loss(self, rows: Tensor) -> Tensor:
        labels = None if self.labels is None else self.labels[rows]
        config = self.config
        return denoising_loss(
            self.prior, self.states[rows], labels, config, self.generator, config.label_dropout
        )

    def validation_loss(self, states: Tensor, labels: Tensor | None) -> float:
        """Return :func:`validation_loss` of the averaged network."""
        return validation_loss(self.averaged, states, labels, self.config)


class AutoencoderTrainer(Trainer):
    """Train a KL autoencoder to reconstruct images.

    The loss is ``|x - x'| + (x - x')^2 + kl KL``, a mean over pixels, and for the KL a mean over
    latent elements. There is no adversarial or perceptual term, because small grey images do not
    need one.

    Parameters
    ----------
    latent : KL
        The autoencoder; it is trained in place. ``average`` is the one to keep, without shift and
        scale (see :func:`standardise`).
    images : Tensor
        Images ``(M, C, H, W)`` in [-1, 1].
    config : AutoencoderConfig
        Settings of the training.
    """

    config: AutoencoderConfig
    net: KL
    average: KL

    def __init__(self, latent: KL, images: Tensor, config: AutoencoderConfig):
        super().__init__(latent, len(images), config)
        self.images = images

    @override
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
        """Return the mean squared error of the averaged autoencoder's clipped reconstructions."""
        return reconstruction_errors(self.average, images).mean().item()


@torch.no_grad()
def reconstruction_errors(latent: KL, images: Tensor, batch: int = 64) -> Tensor:
    """Return the error of every image after encoding to the mean and decoding.

    Parameters
    ----------
    latent : KL
        The autoencoder.
    images : Tensor
        Images ``(N, C, H, W)`` in [-1, 1], on the CPU.
    batch : int, default 64
        Images per call.

    Returns
    -------
    Tensor
        Mean squared errors ``(N,)`` of the reconstructions, clipped to [-1, 1].
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
    """Encode many images in batches.

    Parameters
    ----------
    latent : KL
        The autoencoder.
    images : Tensor
        Images ``(M, C, H, W)`` in [-1, 1], on the CPU.
    batch : int, default 64
        Images per call.

    Returns
    -------
    Tensor
        Latents ``(M, c, h, w)``, the encoder's means, on the CPU.
    """
    device = next(latent.parameters()).device
    return torch.cat([latent.encode(x.to(device)).cpu() for x in images.split(batch)])


def standardise(latent: KL, images: Tensor) -> Tensor:
    """Set shift and scale so that the latents of these images have mean 0 and variance 1.

    Parameters
    ----------
    latent : KL
        The autoencoder; its ``settings`` change.
    images : Tensor
        Images ``(M, C, H, W)`` in [-1, 1].

    Returns
    -------
    Tensor
        Latents ``(M, c, h, w)``, standardised per channel. A denoiser of them has
        ``sigma_data = 1``.
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
    """Return the mean squared error of the denoiser, weighted as in EDM.

    Parameters
    ----------
    prior : Prior
        The prior, whose network is called once.
    x0 : Tensor
        Clean states ``(N, C, H, W)``.
    labels : Tensor or None
        Int64 ``(N,)``.
    config : TrainConfig
        Distribution of the noise levels, and ``bf16``.
    generator : torch.Generator
        Source of levels, noise and dropped labels, on the CPU.
    label_dropout : float, default 0.0
        Share of rows whose label becomes the null label.

    Returns
    -------
    Tensor
        One number.

    Notes
    -----
    At ``r = sigma / alpha`` the weight is ``(r^2 + sd^2) / (r sd)^2`` (Karras et al. 2022, Eq. 2
    and Table 1). A denoiser that only knows the scale ``sd`` of the data then has a loss of 1 at
    every level. With ``sd = 1`` it is the plain loss of a v-prediction.
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
    """Return the mean :func:`denoising_loss` on held-out states.

    Parameters
    ----------
    prior : Prior
        The prior.
    states : Tensor
        Clean states ``(M, C, H, W)``.
    labels : Tensor or None
        Int64 ``(M,)``.
    config : TrainConfig
        Settings of the training.

    Returns
    -------
    float
        The mean, with the same levels and noise at every call.
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
