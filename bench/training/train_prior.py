"""``python -m bench train prior=NAME``: trains a prior, continues where it stopped, and exports it.

The run folder (``out``, else ``runs/train/<name>``) holds what :mod:`bench.training.loop` keeps and at
the end ``samples.png``; a latent prior's autoencoder is trained first, in ``autoencoder/`` below
it, and ends with ``reconstructions.png``. The prior itself goes to ``prior.path``.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from posterior_bench.bench.config.build import build
from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.core import terminal
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.core.streams import Key, Noise
from posterior_bench.bench.store.atomic import write_atomic
from posterior_bench.bench.training.loop import Training
from posterior_bench.datasets.base import ImageSet
from posterior_bench.metrics.base import to_uint8
from posterior_bench.priors.base import Prior
from posterior_bench.priors.fingerprint import ROOT
from posterior_bench.priors.latents import KL
from posterior_bench.priors.load import save, untrained, untrained_latent
from posterior_bench.priors.sample import sample
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


@dataclass(frozen=True)
class Job:
    """One training, read from the ``train`` block of a prior's YAML file."""

    name: str
    target: Path
    folder: Path
    block: Mapping[str, Any]
    config: TrainConfig

    @classmethod
    def of(cls, config: JobConfig) -> Job:
        """Raises UserError where the prior has no ``train`` block, or one with missing or unknown
        keys.
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
        return "autoencoder" in self.block

    @property
    def autoencoder(self) -> AutoencoderConfig:
        """The settings of a latent prior's first stage."""
        return AutoencoderConfig(**{key: self.block["autoencoder"][key] for key in _AUTOENCODER})

    def stage(self, name: str, folder: Path, settings: Mapping[str, Any]) -> Training:
        """One loop of this job; ``settings`` are what its checkpoint belongs to."""
        return Training(
            name, folder, int(settings["steps"]), int(self.block["checkpoint_every"]), settings
        )

    def latent(self) -> KL:
        """A fresh autoencoder, a function of its ``seed`` alone."""
        spec = {"class": "KL", "config": self.block["autoencoder"]["config"]}
        latent = _seeded(
            self.autoencoder.seed, lambda: untrained_latent(spec, "prior.train.autoencoder")
        )
        assert isinstance(latent, KL)
        return latent

    def prior(self, images: ImageSet, latent: KL | None = None) -> Prior:
        """Fresh weights, a function of ``seed`` alone; one label more than the classes stands for
        'none'.
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


def check_keys(
    where: str,
    block: Mapping[str, Any],
    required: set[str],
    optional: frozenset[str] | set[str] = frozenset(),
) -> None:
    """Refuse a block of settings that lacks a key or has one too many; UserError with the valid
    ones.
    """
    for problem, keys in (
        ("lacks", required - block.keys()),
        ("does not know", block.keys() - required - optional),
    ):
        if keys:
            valid = ", ".join(sorted(required | optional))
            raise UserError(f"{where} {problem} {', '.join(sorted(keys))}; its keys are {valid}")


def _seeded(seed: int, make: Any) -> Any:
    """What ``make()`` builds with torch's generator at ``seed``, which is put back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return make()
        except ValueError as error:
            raise UserError(str(error)) from None


def train_prior(config: JobConfig, quiet: bool = False) -> Path:
    """Train the prior of a resolved configuration to its last step; returns the folder of the
    exported prior.

    A run that was stopped continues from its last checkpoint and gives the weights an unbroken run
    gives, bit for bit on one machine. The first Ctrl-C (or SIGTERM) ends after the step at hand,
    saves and raises KeyboardInterrupt. Raises UserError for settings that are wrong or are not
    those of the checkpoint.
    """
    job = Job.of(config)
    if config.threads:
        torch.set_num_threads(config.threads)
    data, validation = _image_sets(job.block["data"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    images, labels = rows_of(data)
    held_out, held_out_labels = rows_of(validation, job.block["validation_images"])
    facts: dict[str, object] = {}
    latent = None
    if job.is_latent:
        latent, facts["autoencoder"] = _train_autoencoder(job, images, held_out, device, quiet)
        # shift and scale come from the training images, so validation states are encoded after
        images, held_out = standardise(latent, images), encode_all(latent, held_out)
    trainer = DenoiserTrainer(job.prior(data, latent).to(device), images, labels, job.config)
    settings = {**asdict(job.config), **{key: job.block[key] for key in sorted(_ARCHITECTURE)}}
    stage = job.stage(job.name, job.folder, settings)
    elapsed = stage.run(trainer, lambda: trainer.validation_loss(held_out, held_out_labels), quiet)
    rows = sample_rows(trainer.averaged, job.config.seed)
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
    job: Job, images: Tensor, held_out: Tensor, device: str, quiet: bool
) -> tuple[KL, dict[str, object]]:
    """The first stage of a latent prior: the trained autoencoder and what ``prior.json`` says about
    it.
    """
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


def _image_sets(node: Mapping[str, Any]) -> tuple[ImageSet, ImageSet]:
    """The training and the validation split of the data a prior is trained on."""
    return build(node, split="train"), build(node, split="validation")


def rows_of(images: ImageSet, count: int | None = None) -> tuple[Tensor, Tensor | None]:
    ids = images.ids[:count]
    return images.images(ids), images.labels(ids)


# -- what is kept ----------------------------------------------------------------------------------


def _facts(
    job: Job,
    images: ImageSet,
    trainer: DenoiserTrainer,
    elapsed: float,
    loss: float,
    more: Mapping[str, object],
) -> dict[str, object]:
    """What ``prior.json`` says about this prior besides its architecture."""
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


def sample_rows(prior: Prior, seed: int, per_class: int = 8, steps: int = 18) -> Tensor:
    """``per_class`` samples of every class, class by class; ``8 * per_class`` without classes.
    Heun's method.
    """
    classes = prior.num_classes or 8
    noise = Noise(
        [Key(seed, "samples", str(i)) for i in range(classes * per_class)], "solver", prior.device
    )
    labels = torch.arange(classes, device=prior.device).repeat_interleave(per_class)
    return sample(prior, prior.grid(steps, "karras"), noise, prior.condition(labels))


def sheet(images: Tensor, columns: int, scale: int = 2, gap: int = 2) -> bytes:
    """Images ``(N, C, H, W)`` in [-1, 1] side by side, as PNG, each pixel ``scale`` times, on
    white.
    """
    pixels = (
        to_uint8(images)
        .cpu()
        .repeat_interleave(scale, 2)
        .repeat_interleave(scale, 3)
        .permute(0, 2, 3, 1)
        .numpy()
    )
    count, height, width, channels = pixels.shape
    rows = -(-count // columns)
    canvas = np.full(
        (rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 255, np.uint8
    )
    for i, tile in enumerate(pixels):
        top, left = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        canvas[top : top + height, left : left + width] = tile
    buffer = io.BytesIO()
    Image.fromarray(canvas[..., 0] if channels == 1 else canvas).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
