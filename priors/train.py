"""Training of the embedded priors: the EDM objective with label dropout and an exponential moving average."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from priors.base import Condition, Prior
from priors.process import Level


@dataclass
class TrainConfig:
    """Settings of one training run (Karras et al. 2022, Table 1 and Sec. 5 for the noise distribution)."""

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
    """

    def __init__(self, prior: Prior, images: Tensor, labels: Tensor | None, config: TrainConfig):
        assert prior.net is not None, "a closed-form prior has nothing to train"
        self.prior, self.images, self.labels, self.config = prior, images, labels, config
        self.net = prior.net.train().requires_grad_(True)
        self.average = copy.deepcopy(self.net).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=config.lr, betas=(0.9, 0.99), weight_decay=0.0)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.step_count = 0

    def step(self) -> float:
        """One optimiser step; returns the loss."""
        config = self.config
        rows = torch.randint(len(self.images), (config.batch,), generator=self.generator)
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        loss = self._loss(self.net, rows, self.images, self.labels, self.generator, config.label_dropout)
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

    @torch.no_grad()
    def validation_loss(self, images: Tensor, labels: Tensor | None, net: nn.Module | None = None) -> float:
        """Mean loss of the averaged network on held-out images, with the same noise at every call."""
        generator = torch.Generator().manual_seed(1)
        blocks = torch.arange(len(images)).split(self.config.batch)
        losses = [self._loss(net or self.average, rows, images, labels, generator, 0.0).item() for rows in blocks]
        return sum(l * len(b) for l, b in zip(losses, blocks, strict=True)) / len(images)

    def _loss(self, net, rows, images, labels, generator, dropout) -> Tensor:
        config, prior = self.config, self.prior
        x0 = images[rows]
        sigma = (config.p_mean + config.p_std * torch.randn(len(rows), generator=generator)).exp()
        noise = torch.randn(x0.shape, generator=generator)
        drop = torch.rand(len(rows), generator=generator) < dropout
        cond: Condition | None = None
        if labels is not None and prior.null_label is not None:
            cond = prior.condition(torch.where(drop, prior.null_label, labels[rows]))
        level = Level.stack([prior.process.level(s) for s in sigma.tolist()])
        z = prior.process.add_noise(x0, level, noise)
        prior.net = net
        with torch.autocast("cpu", torch.bfloat16, enabled=config.bf16):
            x0_hat = prior.denoise(z, level, cond)
        r, sd = level.ratio.float(), prior.sigma_data
        return ((r**2 + sd**2) / (r * sd) ** 2 * (x0_hat.float() - x0).square()).mean()

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.config.ema, (1 + self.step_count) / (10 + self.step_count))
        for mean, value in zip(self.average.parameters(), self.net.parameters(), strict=True):
            mean.lerp_(value, 1 - decay)

    def state_dict(self) -> dict:
        """Everything a resumed run needs: tensors and plain numbers only."""
        return {
            "net": self.net.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "step": self.step_count,
        }

    def load_state_dict(self, state: dict) -> None:
        self.net.load_state_dict(state["net"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.step_count = state["step"]
