"""Train the denoisers of the Lévy signals: ``prior=levy_laplace`` and the other two laws.

    python -m scripts.train_levy [LAW ...] [--steps N] [--work FOLDER]

Every step draws fresh signals from the law itself, so nothing can be overfitted. The noise level is
log-normal around the deviation of an increment for most rows, and log-uniform over the whole range
for the others. The error is divided by that of the best linear denoiser. A run that was interrupted
continues from its last checkpoint and ends at the same weights. The weights go to
``priors/assets/levy_LAW``. ``docs/priors/levy.md`` says how good they are.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.priors.fingerprint import ROOT
from posterior_bench.priors.levy import LAWS, LENGTH, LevyPrior, draw, untrained
from posterior_bench.priors.levy_net import random_walk
from posterior_bench.priors.load import save
from posterior_bench.priors.process import Level
from posterior_bench.priors.train import OptimizerConfig, Trainer

ASSETS, WORK = ROOT / "priors" / "assets", Path("runs/train_levy")
STEPS = {"laplace": 1200, "bernoulli_laplace": 3000, "student": 1000}
CONFIG = OptimizerConfig(batch=192, lr=2e-3, warmup=100, ema=0.998, bf16=False, seed=0)
AROUND = 0.7
"""Share of the rows whose noise level lies around the deviation of an increment."""
EVERY = 250


class SignalTrainer(Trainer):
    """Train the network of a Lévy prior on fresh signals.

    Parameters
    ----------
    prior : LevyPrior
        The prior, whose network is trained in place.
    config : OptimizerConfig
        Settings of the optimiser.
    """

    def __init__(self, prior: LevyPrior, config: OptimizerConfig):
        assert prior.net is not None
        super().__init__(prior.net, 1, config)
        self.prior = prior
        self.deviation = prior.law.variance**0.5

    @override
    def loss(self, rows: Tensor) -> Tensor:
        signals, ratios = self.signals(len(rows)), self.ratios(len(rows))
        levels = Level(torch.ones_like(ratios), ratios, ratios.flatten().log() / 4)
        noise = torch.randn(signals.shape, generator=self.generator)
        x0 = self.prior.denoise((signals + ratios * noise).float(), levels)
        errors = (x0 - signals).square().flatten(1).mean(1)
        return (errors / self.linear_errors(ratios.flatten())).mean()

    def signals(self, count: int) -> Tensor:
        """Draw signals ``(count, 1, 1, L)``."""
        shape = (count, *self.prior.image_shape)
        uniform = torch.rand(shape, dtype=torch.float64, generator=self.generator)
        return draw(self.prior.law, uniform.clamp_min(1e-12))

    def ratios(self, count: int) -> Tensor:
        """Draw noise levels ``(count, 1, 1, 1)``."""
        process = self.prior.process
        low, high = math.log(process.ratio_min), math.log(process.ratio_max)
        spread = torch.rand(count, dtype=torch.float64, generator=self.generator)
        normal = torch.randn(count, dtype=torch.float64, generator=self.generator)
        near = torch.rand(count, generator=self.generator) < AROUND
        logs = torch.where(
            near, math.log(self.deviation) + 1.2 * normal, low + (high - low) * spread
        )
        return logs.clamp(low, high).exp().view(-1, 1, 1, 1)

    def linear_errors(self, ratios: Tensor) -> Tensor:
        """Return the mean squared error of the best linear denoiser, per row."""
        values = self.deviation**2 * random_walk(LENGTH).values.double()
        noise = ratios[:, None].square()
        return (values * noise / (values + noise)).mean(1)


def train(name: str, config: OptimizerConfig, work: Path, folder: Path) -> None:
    """Train the denoiser of one law, or continue, and write it to ``folder``."""
    torch.manual_seed(config.seed)
    prior = untrained(name)
    trainer = SignalTrainer(prior, config)
    state = work / f"{name}.pt"
    if state.exists():
        trainer.load_state_dict(torch.load(state, weights_only=True))
    losses: list[float] = []
    while trainer.step_count < config.steps:
        losses.append(trainer.step())
        if trainer.step_count % EVERY == 0:
            write_state(trainer, state)
            mean = sum(losses) / len(losses)
            print(f"{name}: step {trainer.step_count}, error / linear error {mean:.4f}", flush=True)
            losses = []
    save(folder, described(prior, trainer), facts(name, trainer))
    print(f"{name}: wrote {folder}")


def write_state(trainer: Trainer, file: Path) -> None:
    """Write a checkpoint beside the last one, then replace it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    torch.save(trainer.state_dict(), part)
    part.replace(file)


def described(prior: LevyPrior, trainer: Trainer) -> LevyPrior:
    """Return the prior with the averaged weights."""
    return LevyPrior(prior.law, trainer.average)


def facts(name: str, trainer: Trainer) -> dict[str, object]:
    """Return what ``prior.json`` records beside the network."""
    parameters = sum(weight.numel() for weight in trainer.net.parameters())
    training = {"law": name, "parameters": parameters, "settings": asdict(trainer.config)}
    return {
        "name": f"levy_{name}",
        "training": training,
        "source": f"trained by `python -m scripts.train_levy {name}` on draws of the law itself",
        "licence": "MIT",
    }


def read_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("laws", nargs="*", help=f"of {', '.join(LAWS)}; default: all")
    parser.add_argument("--steps", type=int, help="optimiser steps; default: enough for the law")
    parser.add_argument("--work", type=Path, default=WORK, help="folder of the checkpoints")
    parser.add_argument("--assets", type=Path, default=ASSETS, help="folder of the results")
    return parser.parse_args()


def main(arguments: argparse.Namespace) -> None:
    """Train every law that the command line names."""
    if unknown := {*arguments.laws} - {*LAWS}:
        raise SystemExit(f"unknown law {', '.join(sorted(unknown))}; valid: {', '.join(LAWS)}")
    for name in arguments.laws or LAWS:
        config = replace(CONFIG, steps=arguments.steps or STEPS[name])
        train(name, config, arguments.work, arguments.assets / f"levy_{name}")


if __name__ == "__main__":
    main(read_arguments())
