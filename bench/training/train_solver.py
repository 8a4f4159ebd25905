"""``python -m bench train solver=NAME prior=NAME``: trains a solver's modules on a frozen prior.

The run folder (``out``, else ``runs/train/<solver>-<prior>``) holds what :mod:`bench.training.loop`
keeps. The modules go below the folder that the solver's setting ``modules`` names. Images and split
are those the prior was trained on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from posterior_bench.bench.config.build import build
from posterior_bench.bench.config.trained_modules import ModulesFolder
from posterior_bench.bench.core import terminal
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.core.streams import Key
from posterior_bench.bench.training.loop import Training
from posterior_bench.bench.training.train_prior import check_keys, rows_of
from posterior_bench.datasets.base import ImageSet
from posterior_bench.masks.base import MaskGenerator
from posterior_bench.priors.base import Prior
from posterior_bench.solvers.latentpaint.propagation import (
    PropagationConfig,
    PropagationTrainer,
    hidden_validation_loss,
    propagation_channels,
    propagation_modules,
)

_TRAINER = {field.name for field in dataclasses.fields(PropagationConfig)}
_RUN = {"masks", "mask_count", "validation_images", "checkpoint_every"}


@dataclass(frozen=True)
class Job:
    """One training, read from the ``train`` block of a solver's YAML file and the data of a
    prior's.
    """

    target: ModulesFolder
    folder: Path
    data: Mapping[str, Any]
    block: Mapping[str, Any]
    config: PropagationConfig

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Job:
        """Raises UserError where solver or prior have no ``train`` block, or the solver's has wrong
        keys.
        """
        block = config["solver"].get("train")
        if block is None:
            raise UserError(
                "this solver has nothing to train: its YAML file holds no 'train' block; try "
                "solver=latentpaint, "
                "or leave solver= out to train the prior"
            )
        data = config["prior"].get("train", {}).get("data")
        target = None if data is None else ModulesFolder.of(config)
        if target is None:
            raise UserError(
                "modules are trained on the data of a trained prior, and this one has none; try "
                "prior=fashion"
            )
        check_keys("solver.train", block, _TRAINER | _RUN)
        return cls(
            target=target,
            folder=Path(
                config.get("out") or Path("runs") / "train" / f"{target.solver}-{target.prior}"
            ),
            data=data,
            block=block,
            config=PropagationConfig(**{key: block[key] for key in _TRAINER}),
        )


def train_solver(config: Mapping[str, Any], quiet: bool = False) -> Path:
    """Train the modules of a resolved configuration to the last step; returns their folder.

    Interruption and resume are those of :meth:`bench.training.loop.Training.run`, bit for bit on one
    machine. Raises UserError for settings that are wrong or are not those of the checkpoint.
    """
    job = Job.of(config)
    if config.get("threads"):
        torch.set_num_threads(int(config["threads"]))
    prior: Prior = build(config["prior"]).to("cuda" if torch.cuda.is_available() else "cpu")
    _check_prior(prior, job)
    data, held_out = _image_sets(job.data)
    channels = propagation_channels(prior)
    trainer = PropagationTrainer(
        prior,
        _fresh(channels, job.config.seed).to(prior.device),
        *rows_of(data),
        _masks(job, data),
        job.config,
    )
    count = int(job.block["validation_images"])
    images, labels = rows_of(held_out, count)
    masks = _masks(job, held_out, count)
    settings = {**job.block, "prior": job.target.fingerprint}
    name = f"{job.target.solver} for {job.target.prior}"
    training = Training(
        name, job.folder, job.config.steps, int(job.block["checkpoint_every"]), settings
    )
    elapsed = training.run(trainer, lambda: trainer.validation_loss(images, labels, masks), quiet)
    loss = trainer.validation_loss(images, labels, masks)
    untrained = hidden_validation_loss(prior, {}, images, labels, masks, job.config)
    facts = {
        "data": data.name,
        "images": len(data),
        "validation_loss": round(loss, 6),
        "validation_loss_untrained": round(untrained, 6),
        "parameters": sum(p.numel() for p in trainer.average.parameters()),
        "seconds": round(elapsed),
        "settings": {
            **asdict(job.config),
            "masks": job.block["masks"],
            "mask_count": job.block["mask_count"],
        },
    }
    job.target.save(trainer.average, channels, facts)
    if not quiet:
        terminal.out.print(
            f"{name}: validation loss {loss:.4f}, {untrained:.4f} without modules; modules in "
            f"{job.target.path}, "
            f"log in {job.folder}"
        )
    return job.target.path


def _check_prior(prior: Prior, job: Job) -> None:
    if "features" not in prior.caps:
        raise UserError(
            f"{job.target.solver} needs features, which this prior does not have; choose another "
            f"prior"
        )


def _fresh(channels: Mapping[str, int], seed: int) -> torch.nn.ModuleDict:
    """Untrained modules, a function of ``seed`` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return propagation_modules(channels)


def _image_sets(node: Mapping[str, Any]) -> tuple[ImageSet, ImageSet]:
    """The training and the validation split of the data the prior was trained on."""
    return build(node, split="train"), build(node, split="validation")


def _masks(job: Job, images: ImageSet, count: int | None = None) -> Tensor:
    """Masks ``(K, 1, H, W)`` of every family in turn; the name of the split keeps those of two
    splits apart.
    """
    families: Sequence[MaskGenerator] = [build(node) for node in job.block["masks"]]
    count = int(job.block["mask_count"]) if count is None else count
    keys = (Key(job.config.seed, images.name, str(i)) for i in range(count))
    height, width = images.shape[-2:]
    drawn = [
        families[i % len(families)].generate(key.rng("mask"), height, width)
        for i, key in enumerate(keys)
    ]
    return torch.from_numpy(np.stack(drawn))[:, None]
