"""``python -m bench train prior=NAME``: train a prior and export it.

The run folder is ``out``, or else ``runs/train/<name>``. It holds the files of
:mod:`bench.training.loop` and at the end ``samples.png``. The autoencoder of a latent prior is
trained first, in the folder ``autoencoder/`` inside the run folder, and ends with
``reconstructions.png``. The prior itself is written to ``prior.path``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.core import terminal
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.store.atomic import write_atomic
from posterior_bench.bench.training.inputs import check_keys, image_splits, images_and_labels
from posterior_bench.bench.training.loop import TrainingRun
from posterior_bench.bench.training.pictures import samples_by_class, sheet
from posterior_bench.datasets.base import ImageSet
from posterior_bench.priors.base import Prior
from posterior_bench.priors.fingerprint import ROOT
from posterior_bench.priors.latents import KL
from posterior_bench.priors.load import save, untrained, untrained_latent
from posterior_bench.priors.train import (
    AutoencoderConfig,
    AutoencoderTrainer,
    DenoiserTrainer,
    TrainConfig,
    encode_all,
    reconstruction_errors,
    standardise,
)

_TRAINER = {field.name for field in dataclasses.fields(TrainConfig)}
_AUTOENCODER = {field.name for field in dataclasses.fields(AutoencoderConfig)}
_ARCHITECTURE = {"net", "process", "parameterization", "sigma_data"}
_RUN = {"data", "validation_images", "checkpoint_every", "source", "licence"}
_T = TypeVar("_T")


@dataclass(frozen=True)
class PriorTraining:
    """The training of a prior, as the ``train`` block of its YAML file describes it.

    Parameters
    ----------
    name : str
        Name of the prior.
    target : Path
        Folder of the exported prior.
    folder : Path
        Folder of the run.
    block : Mapping of str to Any
        The ``train`` block.
    config : TrainConfig
        Settings of the trainer.
    """

    name: str
    target: Path
    folder: Path
    block: Mapping[str, Any]
    config: TrainConfig

    @classmethod
    def of(cls, config: JobConfig) -> PriorTraining:
        """Read the training of a configured prior.

        Raises
        ------
        UserError
            If the prior has no ``train`` block, or if a key of it is missing or unknown.
        """
        node = config.prior
        if "train" not in node or "path" not in node:
            raise UserError(
                "this prior has nothing to train: its YAML file holds no 'train' block; try "
                "prior=fashion"
            )
        block = node["train"]
        check_keys("prior.train", block, _TRAINER | _ARCHITECTURE | _RUN, optional={"autoencoder"})
        if "autoencoder" in block:
            check_keys("prior.train.autoencoder", block["autoencoder"], _AUTOENCODER | {"config"})
        target = Path(node["path"])
        return cls(
            name=target.name,
            target=target if target.is_absolute() else ROOT / target,
            folder=Path(config.out or Path("runs") / "train" / target.name),
            block=block,
            config=TrainConfig(**{key: block[key] for key in _TRAINER}),
        )

    @property
    def is_latent(self) -> bool:
        """Whether an autoencoder is trained first."""
        return "autoencoder" in self.block

    @property
    def autoencoder(self) -> AutoencoderConfig:
        """The settings of the trainer of the autoencoder."""
        return AutoencoderConfig(**{key: self.block["autoencoder"][key] for key in _AUTOENCODER})

    def stage(self, name: str, folder: Path, settings: Mapping[str, Any]) -> TrainingRun:
        """Return the run that trains one network; a checkpoint is valid for its ``settings``."""
        return TrainingRun(
            name, folder, int(settings["steps"]), int(self.block["checkpoint_every"]), settings
        )

    def latent(self) -> KL:
        """Return an untrained autoencoder; its weights depend on its ``seed`` alone."""
        spec = {"class": "KL", "config": self.block["autoencoder"]["config"]}
        latent = _seeded(
            self.autoencoder.seed, lambda: untrained_latent(spec, "prior.train.autoencoder")
        )
        assert isinstance(latent, KL)
        return latent

    def prior(self, images: ImageSet, latent: KL | None = None) -> Prior:
        """Return an untrained prior; its weights depend on ``seed`` alone.

        With label dropout, one label more than the classes stands for "no class".
        """
        classes = images.num_classes
        null = classes if classes and self.config.label_dropout > 0 else None
        architecture = {key: self.block[key] for key in _ARCHITECTURE}
        spec = {
            **architecture,
            "shape": list(images.shape),
            "num_classes": classes,
            "null_label": null,
        }
        return _seeded(self.config.seed, lambda: untrained(spec, "prior.train", latent=latent))


def _seeded(seed: int, make: Callable[[], _T]) -> _T:
    """Return ``make()`` with torch's generator at ``seed``; the generator is restored."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return make()
        except ValueError as error:
            raise UserError(str(error)) from None


def train_prior(config: JobConfig, quiet: bool = False) -> Path:
    """Train the prior of a configuration and export it.

    Parameters
    ----------
    config : JobConfig
        The configuration; the ``train`` block of its prior has the settings.
    quiet : bool, default False
        Print nothing.

    Returns
    -------
    Path
        Folder of the exported prior.

    Raises
    ------
    KeyboardInterrupt
        After the first Ctrl-C or SIGTERM: the step is completed and a checkpoint is saved.
    UserError
        If a setting is wrong or differs from the setting of the checkpoint.

    Notes
    -----
    A run that was stopped continues from its last checkpoint. On one machine it ends with the same
    bits as a run without interruption.
    """
    job = PriorTraining.of(config)
    if config.threads:
        torch.set_num_threads(config.threads)
    data, validation = image_splits(job.block["data"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    images, labels = images_and_labels(data)
    held_out, held_out_labels = images_and_labels(validation, job.block["validation_images"])
    facts: dict[str, object] = {}
    latent = None
    if job.is_latent:
        latent, facts["autoencoder"] = _train_autoencoder(job, images, held_out, device, quiet)
        # standardise sets shift and scale from the training images, so it must come first
        images, held_out = standardise(latent, images), encode_all(latent, held_out)
    trainer = DenoiserTrainer(job.prior(data, latent).to(device), images, labels, job.config)
    settings = {**asdict(job.config), **{key: job.block[key] for key in sorted(_ARCHITECTURE)}}
    stage = job.stage(job.name, job.folder, settings)
    elapsed = stage.run(trainer, lambda: trainer.validation_loss(held_out, held_out_labels), quiet)
    rows = samples_by_class(trainer.averaged, job.config.seed)
    write_atomic(job.folder / "samples.png", sheet(rows, columns=8))
    loss = trainer.validation_loss(held_out, held_out_labels)
    folder = save(job.target, trainer.averaged, _facts(job, data, trainer, elapsed, loss, facts))
    if not quiet:
        terminal.out.print(
            f"{job.name}: validation loss {loss:.4f}; prior in {folder}, log and samples in "
            f"{job.folder}"
        )
    return folder


def _train_autoencoder(
    job: PriorTraining, images: Tensor, held_out: Tensor, device: str, quiet: bool
) -> tuple[KL, dict[str, object]]:
    """Train the autoencoder of a latent prior; return it with its facts for ``prior.json``."""
    trainer = AutoencoderTrainer(job.latent().to(device), images, job.autoencoder)
    settings = {**asdict(job.autoencoder), "config": job.block["autoencoder"]["config"]}
    stage = job.stage(f"{job.name}, autoencoder", job.folder / "autoencoder", settings)
    elapsed = stage.run(trainer, lambda: trainer.validation_loss(held_out), quiet)
    latent = trainer.average
    shown = held_out[:16]
    with torch.no_grad():
        pairs = torch.cat([shown, latent.decode(latent.encode(shown.to(device))).cpu()])
    write_atomic(stage.folder / "reconstructions.png", sheet(pairs, columns=16))
    psnr = (10 * torch.log10(4 / reconstruction_errors(latent, held_out))).mean().item()
    parameters = sum(p.numel() for p in latent.parameters())
    if not quiet:
        terminal.out.print(
            f"{job.name}, autoencoder: reconstruction PSNR {psnr:.2f} dB on held-out images"
        )
    facts = {
        "parameters": parameters,
        "seconds": round(elapsed),
        "reconstruction_psnr": round(psnr, 3),
    }
    return latent, {**facts, "settings": asdict(job.autoencoder)}


def _facts(
    job: PriorTraining,
    images: ImageSet,
    trainer: DenoiserTrainer,
    elapsed: float,
    loss: float,
    more: Mapping[str, object],
) -> dict[str, object]:
    """Return the facts of a prior for ``prior.json``, without its architecture."""
    training = {
        "data": images.name,
        "images": len(images),
        "validation_images": job.block["validation_images"],
        "validation_loss": round(loss, 6),
        "parameters": sum(p.numel() for p in trainer.average.parameters()),
        "seconds": round(elapsed),
        "settings": asdict(job.config),
        **more,
    }
    facts = {
        "name": job.name,
        "training": training,
        "source": job.block["source"],
        "licence": job.block["licence"],
    }
    names = getattr(images, "class_names", None)
    return {**facts, "class_names": list(names)} if names else facts
