"""``python -m bench train prior=NAME``: trains a prior, continues where it stopped, and exports it.

The run folder (``out``, else ``runs/train/<name>``) holds ``settings.json``, ``checkpoint.pt``, ``loss.csv`` and at the
end ``samples.png``; the prior itself goes to ``prior.path``.
"""

from __future__ import annotations

import dataclasses
import io
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch import Tensor

from bench import console
from bench.build import build
from bench.errors import UserError
from bench.store import write_atomic
from bench.streams import Key, Noise
from datasets.base import ImageSet
from metrics.base import to_uint8
from priors.base import Prior
from priors.fingerprint import ROOT
from priors.load import save, untrained
from priors.sample import sample
from priors.train import TrainConfig, Trainer

_TRAINER = {field.name for field in dataclasses.fields(TrainConfig)}
_ARCHITECTURE = {"net", "process", "parameterization", "sigma_data"}
_RUN = {"data", "validation_images", "checkpoint_every", "source", "licence"}
_COLUMNS = ("step", "seconds", "training_loss", "validation_loss")


@dataclass(frozen=True)
class Job:
    """One training, read from the ``train`` block of a prior's YAML file."""

    name: str
    target: Path
    folder: Path
    block: Mapping[str, Any]
    config: TrainConfig

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Job:
        """Raises UserError where the prior has no ``train`` block, or one with missing or unknown keys."""
        node = config["prior"]
        if "train" not in node or "path" not in node:
            raise UserError("this prior has nothing to train: its YAML file holds no 'train' block; try prior=fashion")
        block, known = node["train"], _TRAINER | _ARCHITECTURE | _RUN
        for problem, keys in (("lacks", known - block.keys()), ("does not know", block.keys() - known)):
            if keys:
                valid = ", ".join(sorted(known))
                raise UserError(f"prior.train {problem} {', '.join(sorted(keys))}; its keys are {valid}")
        target = Path(node["path"])
        return cls(
            name=target.name,
            target=target if target.is_absolute() else ROOT / target,
            folder=Path(config.get("out") or Path("runs") / "train" / target.name),
            block=block,
            config=TrainConfig(**{key: block[key] for key in _TRAINER}),
        )

    @property
    def settings(self) -> dict[str, Any]:
        """What a checkpoint belongs to: with other values it cannot be continued."""
        return {**asdict(self.config), **{key: self.block[key] for key in sorted(_ARCHITECTURE)}}

    def prior(self, images: ImageSet) -> Prior:
        """Fresh weights, a function of ``seed`` alone; one label more than the classes stands for 'none'."""
        classes = images.num_classes
        null = classes if classes and self.config.label_dropout > 0 else None
        architecture = {key: self.block[key] for key in _ARCHITECTURE}
        spec = {**architecture, "shape": list(images.shape), "num_classes": classes, "null_label": null}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            try:
                return untrained(spec, "prior.train")
            except ValueError as error:
                raise UserError(str(error)) from None


def train_prior(config: Mapping[str, Any], quiet: bool = False) -> Path:
    """Train the prior of a resolved configuration to its last step; returns the folder of the exported prior.

    A run that was stopped continues from its last checkpoint and gives the weights an unbroken run gives, bit for bit
    on one machine. The first Ctrl-C (or SIGTERM) ends after the step at hand, saves and raises KeyboardInterrupt.
    Raises UserError for settings that are wrong or are not those of the checkpoint.
    """
    job = Job.of(config)
    if config.get("threads"):
        torch.set_num_threads(int(config["threads"]))
    train, validation = _image_sets(job.block["data"])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    images, labels = _all(train)
    trainer = Trainer(job.prior(train).to(device), images, labels, job.config)
    elapsed = _resume(job, trainer)
    held_out = _all(validation, job.block["validation_images"])
    if trainer.step_count < job.config.steps:
        elapsed = _run(job, trainer, held_out, elapsed, quiet)
    if trainer.step_count < job.config.steps:
        raise KeyboardInterrupt
    rows = sample_rows(trainer.averaged, job.config.seed)
    write_atomic(job.folder / "samples.png", sheet(rows, columns=8))
    loss = trainer.validation_loss(*held_out)
    folder = save(job.target, trainer.averaged, _facts(job, train, trainer, elapsed, loss))
    if not quiet:
        console.out.print(f"{job.name}: validation loss {loss:.4f}; prior in {folder}, log and samples in {job.folder}")
    return folder


def _image_sets(node: Mapping[str, Any]) -> tuple[ImageSet, ImageSet]:
    """The training and the validation split of the data a prior is trained on."""
    return build(node, split="train"), build(node, split="validation")


def _all(images: ImageSet, count: int | None = None) -> tuple[Tensor, Tensor | None]:
    ids = images.ids[:count]
    return images.images(ids), images.labels(ids)


# -- the loop --------------------------------------------------------------------------------------------------------


def _run(job: Job, trainer: Trainer, held_out: tuple[Tensor, Tensor | None], elapsed: float, quiet: bool) -> float:
    """Steps until the last one or an interruption, with a checkpoint at the end of either; returns all seconds."""
    start, every = time.monotonic() - elapsed, int(job.block["checkpoint_every"])
    log, losses = _read_log(job.folder, trainer.step_count), list[float]()
    with _interrupt_between_steps() as stop, _progress(job, trainer.step_count, quiet) as show:
        while trainer.step_count < job.config.steps and not stop.is_set():
            losses.append(trainer.step())
            due = trainer.step_count % every == 0 or trainer.step_count == job.config.steps
            if due:
                validation = trainer.validation_loss(*held_out)
                log.append((trainer.step_count, time.monotonic() - start, sum(losses) / len(losses), validation))
                losses = []
                _write_log(job.folder, log)
                _save(job.folder, trainer, time.monotonic() - start)
            show(trainer.step_count, log[-1] if due else None)
        if stop.is_set():
            _save(job.folder, trainer, time.monotonic() - start)
    return time.monotonic() - start


@contextmanager
def _interrupt_between_steps() -> Iterator[threading.Event]:
    """The event is set by the first SIGINT or SIGTERM, so that no step is left half done; a second one acts at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def ask(number: int, frame: object) -> None:
        stop.set()
        restore()

    for number in previous:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        restore()


@contextmanager
def _progress(job: Job, done: int, quiet: bool) -> Iterator[Callable[[int, tuple[float, ...] | None], None]]:
    """A bar with an ETA on a terminal, one line per checkpoint elsewhere."""
    if quiet:
        yield lambda step, row: None
        return
    console.out.print(f"{job.name}: step {done} of {job.config.steps}; Ctrl-C saves, the same command continues")
    if not console.out.is_terminal:
        start = time.monotonic()

        def line(step: int, row: tuple[float, ...] | None) -> None:
            if row is not None:
                left = (time.monotonic() - start) / (step - done) * (job.config.steps - step)
                console.out.print(f"step {step}  loss {row[2]:.4f}  validation {row[3]:.4f}  {left / 60:.0f} min left")

        yield line
        return
    columns = (
        TextColumn(job.name),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps"),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(elapsed_when_finished=False),
        TextColumn("validation {task.fields[validation]}"),
    )
    # losses change slowly and steps are many: the speed of the last minutes, not of the last seconds
    with Progress(*columns, console=console.out, speed_estimate_period=300) as bar:
        task = bar.add_task(job.name, total=job.config.steps, completed=done, validation="-")

        def advance(step: int, row: tuple[float, ...] | None) -> None:
            bar.update(task, completed=step)
            if row is not None:
                bar.update(task, validation=f"{row[3]:.4f}")

        yield advance


# -- the run folder --------------------------------------------------------------------------------------------------


def _resume(job: Job, trainer: Trainer) -> float:
    """Load the checkpoint of this run, if there is one; returns the seconds it took so far."""
    job.folder.mkdir(parents=True, exist_ok=True)
    settings, checkpoint = job.folder / "settings.json", job.folder / "checkpoint.pt"
    if settings.is_file():
        stored = json.loads(settings.read_text(encoding="utf-8"))
        wanted = json.loads(json.dumps(job.settings))
        changed = sorted(key for key in stored.keys() | wanted.keys() if stored.get(key) != wanted.get(key))
        if changed:
            raise UserError(
                f"{job.folder} holds a training with another {', '.join(changed)}; "
                "give its settings again to continue it, or another out=DIR to start anew"
            )
    write_atomic(settings, json.dumps(job.settings, indent=2).encode())
    if not checkpoint.is_file():
        return 0.0
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        trainer.load_state_dict(state)
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"cannot continue from {checkpoint} ({reason}); remove it to start anew") from error
    return float(state["elapsed"])


def _save(folder: Path, trainer: Trainer, elapsed: float) -> None:
    buffer = io.BytesIO()
    torch.save({**trainer.state_dict(), "elapsed": elapsed}, buffer)
    write_atomic(folder / "checkpoint.pt", buffer.getvalue())


def _read_log(folder: Path, step: int) -> list[tuple[float, ...]]:
    """The rows of ``loss.csv`` up to a step: a crash may leave rows its checkpoint does not know."""
    path = folder / "loss.csv"
    lines = path.read_text(encoding="utf-8").splitlines()[1:] if path.is_file() else []
    rows = [tuple(float(value) for value in line.split(",")) for line in lines]
    return [row for row in rows if row[0] <= step]


def _write_log(folder: Path, rows: list[tuple[float, ...]]) -> None:
    lines = [",".join(_COLUMNS), *(f"{int(r[0])},{r[1]:.1f},{r[2]:.6f},{r[3]:.6f}" for r in rows)]
    write_atomic(folder / "loss.csv", ("\n".join(lines) + "\n").encode())


# -- what is kept ----------------------------------------------------------------------------------------------------


def _facts(job: Job, images: ImageSet, trainer: Trainer, elapsed: float, loss: float) -> dict[str, object]:
    """What ``prior.json`` says about this prior besides its architecture."""
    training = {
        "data": images.name,
        "images": len(images),
        "validation_images": job.block["validation_images"],
        "validation_loss": round(loss, 6),
        "parameters": sum(p.numel() for p in trainer.average.parameters()),
        "seconds": round(elapsed),
        "settings": asdict(job.config),
    }
    facts = {"name": job.name, "training": training, "source": job.block["source"], "licence": job.block["licence"]}
    names = getattr(images, "class_names", None)
    return {**facts, "class_names": list(names)} if names else facts


def sample_rows(prior: Prior, seed: int, per_class: int = 8, steps: int = 18) -> Tensor:
    """``per_class`` samples of every class, class by class; ``8 * per_class`` without classes. Heun's method."""
    classes = prior.num_classes or 8
    noise = Noise([Key(seed, "samples", str(i)) for i in range(classes * per_class)], "solver", prior.device)
    labels = torch.arange(classes, device=prior.device).repeat_interleave(per_class)
    return sample(prior, prior.grid(steps, "karras"), noise, prior.condition(labels))


def sheet(images: Tensor, columns: int, scale: int = 2, gap: int = 2) -> bytes:
    """Images ``(N, C, H, W)`` in [-1, 1] side by side, as PNG, each pixel ``scale`` times, on white."""
    pixels = to_uint8(images).cpu().repeat_interleave(scale, 2).repeat_interleave(scale, 3).permute(0, 2, 3, 1).numpy()
    count, height, width, channels = pixels.shape
    rows = -(-count // columns)
    canvas = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 255, np.uint8)
    for i, tile in enumerate(pixels):
        top, left = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        canvas[top : top + height, left : left + width] = tile
    buffer = io.BytesIO()
    Image.fromarray(canvas[..., 0] if channels == 1 else canvas).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
