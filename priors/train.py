"""Training of the embedded priors: the EDM objective with label dropout and an exponential moving average."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from priors.base import Condition, Prior
from priors.process import Level


@dataclass
class TrainConfig:
    """Settings of one training run (Karras et al. 2022, Table 1 and Sec. 5 for the noise distribution).

    ``warmup`` in steps; ``ema``: decay of the averaged weights; ``label_dropout``: share of rows trained without
    their label; ``p_mean``, ``p_std`` of ``ln(sigma / alpha)``; ``bf16``: autocast of the network.
    """

    steps: int = 8000
    batch: int = 64
    lr: float = 4e-4
    warmup: int = 200
    ema: float = 0.999
    label_dropout: float = 0.1
    p_mean: float = -1.2
    p_std: float = 1.2
    bf16: bool = True
    seed: int = 0


class Trainer:
    """Denoising score matching of one prior's network on images in memory.

    ``images``: float32 ``(M, C, H, W)`` in the prior's state space; ``labels``: int64 ``(M,)`` or None. Everything
    random comes from one generator whose state is part of the checkpoint, so a resumed run equals an unbroken one.
    ``averaged`` is the prior to keep: the same process over the moving average of the weights.
    """

    def __init__(self, prior: Prior, images: Tensor, labels: Tensor | None, config: TrainConfig):
        if prior.net is None:
            raise ValueError("a closed-form prior has nothing to train")
        self.prior, self.images, self.labels, self.config = prior, images, labels, config
        self.net = prior.net.train().requires_grad_(True)
        self.average = copy.deepcopy(self.net).eval().requires_grad_(False)
        self.averaged = copy.copy(prior)
        self.averaged.net = self.average
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=config.lr, betas=(0.9, 0.99), weight_decay=0.0)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.step_count = 0

    def step(self) -> float:
        """One optimiser step; returns the loss."""
        config = self.config
        rows = torch.randint(len(self.images), (config.batch,), generator=self.generator)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        labels = None if self.labels is None else self.labels[rows]
        loss = denoising_loss(self.prior, self.images[rows], labels, config, self.generator, config.label_dropout)
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
        return config.lr * warm * 0.5 * (1 + math.cos(math.pi * min(self.step_count / config.steps, 1.0)))

    def validation_loss(self, images: Tensor, labels: Tensor | None) -> float:
        """:func:`validation_loss` of the averaged network."""
        return validation_loss(self.averaged, images, labels, self.config)

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
        """Continue from :meth:`state_dict`; raises RuntimeError or KeyError where it is of another network."""
        self.net.load_state_dict(state["net"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.step_count = state["step"]


def denoising_loss(
    prior: Prior,
    x0: Tensor,
    labels: Tensor | None,
    config: TrainConfig,
    generator: torch.Generator,
    label_dropout: float = 0.0,
) -> Tensor:
    """Mean squared error of the denoiser in EDM's weights (Karras et al. 2022, Eq. 2 and Table 1).

    At ``r = sigma / alpha`` the weight is ``(r^2 + sd^2) / (r sd)^2``, so a denoiser that only knows the scale ``sd``
    of the data has a loss of 1 at every level. Levels, noise and dropped labels come from ``generator``.
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
def validation_loss(prior: Prior, images: Tensor, labels: Tensor | None, config: TrainConfig) -> float:
    """Mean :func:`denoising_loss` on held-out images, with the same levels and noise at every call."""
    generator = torch.Generator().manual_seed(1)
    blocks = torch.arange(len(images)).split(config.batch)
    losses = [
        denoising_loss(prior, images[rows], None if labels is None else labels[rows], config, generator).item()
        for rows in blocks
    ]
    return sum(loss * len(rows) for loss, rows in zip(losses, blocks, strict=True)) / len(images)
