"""``python -m bench train solver=NAME prior=NAME``: train modules of a solver on a frozen prior.

The run folder is ``out``, or else ``runs/train/<modules>-<prior>``, after the folder that the
solver's setting ``modules`` names. It holds the files of :mod:`bench.training.loop`. The modules
are written below the folder of that setting. They are trained on the images that ``data=`` names,
or else on the training split of the data that the prior was trained on.
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
from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.config.trained_modules import ModulesFolder
from posterior_bench.bench.core import terminal
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.core.streams import Key
from posterior_bench.bench.training.inputs import check_keys, image_rows, image_splits
from posterior_bench.bench.training.loop import TrainingRun
from posterior_bench.datasets.base import ImageSet
from posterior_bench.masks.base import MaskGenerator
from posterior_bench.priors.base import Prior
from posterior_bench.solvers.latentpaint.propagation import (
    ImageRows,
    PropagationConfig,
    PropagationTrainer,
    hidden_validation_loss,
    propagation_channels,
    propagation_modules,
)

_TRAINER = {field.name for field in dataclasses.fields(PropagationConfig)}
_RUN = {"masks", "mask_count", "validation_images", "checkpoint_every"}


@dataclass(frozen=True)
class ModulesTraining:
    """The training of modules, as the ``train`` block of a solver's YAML file describes it.

    Parameters
    ----------
    target : ModulesFolder
        Folder of the trained modules.
    folder : Path
        Folder of the run.
    data : Mapping of str to Any
        Configuration of the data set on which the prior was trained.
    block : Mapping of str to Any
        The ``train`` block.
    config : PropagationConfig
        Settings of the trainer.
    """

    target: ModulesFolder
    folder: Path
    data: Mapping[str, Any]
    block: Mapping[str, Any]
    config: PropagationConfig

    @classmethod
    def of(cls, config: JobConfig, data: Mapping[str, Any] | None = None) -> ModulesTraining:
        """Read the training of a configured solver.

        Parameters
        ----------
        config : JobConfig
            The configuration.
        data : mapping, optional
            The data set to train on; None = the one that the prior was trained on.

        Raises
        ------
        UserError
            If the solver has no ``train`` block, if there are no data, or if a key of the solver's
            block is missing or unknown.
        """
        block = config.solver.get("train")
        if block is None:
            raise UserError(
                "this solver has nothing to train: its YAML file holds no 'train' block; try "
                "solver=latentpaint, or leave solver= out to train the prior"
            )
        target = ModulesFolder.of(config)
        if target is None:
            raise UserError(
                "modules are trained for a prior that lies in files, and by a solver with the "
                "setting 'modules'; try solver=latentpaint prior=fashion"
            )
        data = data or config.prior.get("train", {}).get("data")
        if data is None:
            raise UserError(
                "this prior does not name the images that it was trained on: name them with "
                "data=NAME data.root=DIR (docs/latentpaint.md), or try prior=fashion"
            )
        check_keys("solver.train", block, _TRAINER | _RUN)
        return cls(
            target=target,
            folder=Path(
                config.out or Path("runs", "train", f"{target.path.parent.name}-{target.prior}")
            ),
            data=data,
            block=block,
            config=PropagationConfig(**{key: block[key] for key in _TRAINER}),
        )


def train_solver(
    config: JobConfig, quiet: bool = False, data: Mapping[str, Any] | None = None
) -> Path:
    """Train the modules of a configured solver.

    Parameters
    ----------
    config : JobConfig
        The configuration; the ``train`` blocks of its solver and its prior have the settings.
    quiet : bool, default False
        Print nothing.
    data : mapping, optional
        The data set to train on; None = the one that the prior was trained on.

    Returns
    -------
    Path
        Folder of the modules.

    Raises
    ------
    KeyboardInterrupt
        After the first Ctrl-C or SIGTERM: the step is completed and a checkpoint is saved.
    UserError
        If a setting is wrong or differs from the setting of the checkpoint.

    Notes
    -----
    A run that was stopped continues as that of :func:`bench.training.train_prior.train_prior` does.
    """
    job = ModulesTraining.of(config, data)
    if config.threads:
        torch.set_num_threads(config.threads)
    prior: Prior = build(config.prior).to("cuda" if torch.cuda.is_available() else "cpu")
    _check_prior(prior, job)
    images, held_out = image_splits(job.data)
    labelled = _check_data(prior, images)
    channels = propagation_channels(prior)
    if job.target.single:
        channels = {"middle": channels["middle"]}
    modules = _untrained(channels, job.config.seed).to(prior.device)
    labels = images.labels(images.ids) if labelled else None
    trainer = PropagationTrainer(
        prior, modules, image_rows(images), labels, _masks(job, images), job.config
    )
    validation = _validation_rows(job, held_out, labelled)
    run = _run(job)
    elapsed = run.run(trainer, lambda: trainer.validation_loss(*validation), quiet)
    loss = trainer.validation_loss(*validation)
    without = hidden_validation_loss(prior, {}, *validation, job.config)
    losses = {
        "validation_loss": round(loss, 6),
        "validation_loss_untrained": round(without, 6),
    }
    job.target.save(trainer.average, channels, _facts(job, images, trainer, elapsed, losses))
    if not quiet:
        terminal.out.print(
            f"{run.name}: validation loss {loss:.4f}, {without:.4f} without modules; modules in "
            f"{job.target.path}, log in {job.folder}"
        )
    return job.target.path


def _run(job: ModulesTraining) -> TrainingRun:
    """Return the run; a checkpoint is valid for the ``train`` block and the prior's weights."""
    settings = {**job.block, "prior": job.target.fingerprint}
    name, every = f"{job.target.solver} for {job.target.prior}", int(job.block["checkpoint_every"])
    return TrainingRun(name, job.folder, job.config.steps, every, settings)


def _validation_rows(
    job: ModulesTraining, images: ImageSet, labelled: bool
) -> tuple[ImageRows, Tensor | None, Tensor]:
    """Return images, labels and masks of the validation."""
    count = min(int(job.block["validation_images"]), len(images))
    labels = images.labels(images.ids[:count]) if labelled else None
    return image_rows(images, count), labels, _masks(job, images, count)


def _facts(
    job: ModulesTraining,
    data: ImageSet,
    trainer: PropagationTrainer,
    elapsed: float,
    losses: Mapping[str, float],
) -> dict[str, object]:
    """Return the facts of the modules for ``modules.json``."""
    masks = {key: job.block[key] for key in ("masks", "mask_count")}
    return {
        "data": data.name,
        "images": len(data),
        **losses,
        "parameters": sum(p.numel() for p in trainer.average.parameters()),
        "seconds": round(elapsed),
        "settings": {**asdict(job.config), **masks},
    }


def _check_prior(prior: Prior, job: ModulesTraining) -> None:
    if "features" not in prior.caps:
        raise UserError(
            f"{job.target.solver} needs features, which this prior does not have; choose another "
            "prior"
        )


def _check_data(prior: Prior, images: ImageSet) -> bool:
    """Return whether the labels of the images are classes of the prior.

    Raises
    ------
    UserError
        If images and prior do not fit together.
    """
    if tuple(images.shape) != tuple(prior.image_shape):
        raise UserError(
            f"the data gives images of {tuple(images.shape)}, the prior is made for "
            f"{tuple(prior.image_shape)} (channels, height, width); choose data= that fits"
        )
    labelled = bool(prior.num_classes) and images.num_classes == prior.num_classes
    if prior.num_classes and not labelled and prior.null_label is None:
        raise UserError(
            f"the prior must be told one of its {prior.num_classes} classes, and the data has "
            f"{images.num_classes or 'none'}; choose data= with its labels"
        )
    return labelled


def _untrained(channels: Mapping[str, int], seed: int) -> torch.nn.ModuleDict:
    """Return untrained modules; their weights depend on ``seed`` alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return propagation_modules(channels)


def _masks(job: ModulesTraining, images: ImageSet, count: int | None = None) -> Tensor:
    """Draw masks ``(K, 1, H, W)`` of every family in turn.

    The name of the split is part of the seed, so two splits have different masks.
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
