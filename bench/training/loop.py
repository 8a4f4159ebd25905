"""The loop of every ``bench train``: progress, checkpoints, interruption and resume.

A run folder holds ``settings.json``, ``checkpoint.pt`` and ``loss.csv``.
"""

from __future__ import annotations

import io
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from posterior_bench.bench.core import terminal
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.core.signals import note
from posterior_bench.bench.store.atomic import write_atomic

_COLUMNS = ("step", "seconds", "training_loss", "validation_loss")
_Log = list[tuple[float, ...]]
_Show = Callable[[int, tuple[float, ...] | None], None]


class Trainable(Protocol):
    """A trainer as the loop sees it, such as :class:`priors.train.Trainer`.

    Parameters
    ----------
    step_count : int
        Number of steps so far.
    """

    step_count: int

    def step(self) -> float:
        """Make one optimiser step and return the loss."""

    def state_dict(self) -> dict[str, object]:
        """Return everything that a resumed run needs, as tensors and plain numbers."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a state that :meth:`state_dict` returned."""


@dataclass(frozen=True)
class TrainingRun:
    """A training of one network or one set of modules.

    Parameters
    ----------
    name : str
        Name for progress and messages.
    folder : Path
        Folder of the run; it is made if it is missing.
    steps : int
        Number of steps.
    checkpoint_every : int
        Steps between two checkpoints.
    settings : Mapping of str to Any
        Settings as JSON has them. A checkpoint is valid for these settings only.
    """

    name: str
    folder: Path
    steps: int
    checkpoint_every: int
    settings: Mapping[str, Any]

    def run(self, trainer: Trainable, validate: Callable[[], float], quiet: bool = False) -> float:
        """Train to the last step, from the last checkpoint if there is one.

        Parameters
        ----------
        trainer : Trainable
            The trainer, before its first step.
        validate : Callable
            Function without arguments that returns the validation loss.
        quiet : bool, default False
            Print nothing.

        Returns
        -------
        float
            Seconds of training, with the time before an interruption.

        Raises
        ------
        KeyboardInterrupt
            After the first Ctrl-C or SIGTERM: the step is completed and a checkpoint is saved.
        UserError
            If the folder holds a run with other settings, or a checkpoint that cannot be read.
        """
        elapsed = self._resume(trainer)
        if trainer.step_count < self.steps:
            elapsed = self._loop(trainer, validate, elapsed, quiet)
        if trainer.step_count < self.steps:
            raise KeyboardInterrupt
        return elapsed

    def _loop(
        self, trainer: Trainable, validate: Callable[[], float], elapsed: float, quiet: bool
    ) -> float:
        """Make steps up to the last one or an interruption, and save a checkpoint at the end."""
        start = time.monotonic() - elapsed
        log, losses = self._read_log(trainer.step_count), list[float]()
        with _interrupt_between_steps() as stop, self._progress(trainer.step_count, quiet) as show:
            while trainer.step_count < self.steps and not stop.is_set():
                losses.append(trainer.step())
                step = trainer.step_count
                due = step % self.checkpoint_every == 0 or step == self.steps
                if due:
                    seconds, mean = time.monotonic() - start, sum(losses) / len(losses)
                    log.append((step, seconds, mean, validate()))
                    losses = []
                    self._write_log(log)
                    self._save(trainer, time.monotonic() - start)
                show(step, log[-1] if due else None)
            if stop.is_set():
                self._save(trainer, time.monotonic() - start)
        return time.monotonic() - start

    @contextmanager
    def _progress(self, done: int, quiet: bool) -> Iterator[_Show]:
        """Yield the function that shows a step and, at a checkpoint, its row of ``loss.csv``.

        It shows a bar with an ETA on a terminal, and a line per checkpoint elsewhere.
        """
        if quiet:
            yield lambda step, row: None
            return
        terminal.out.print(
            f"{self.name}: step {done} of {self.steps}; Ctrl-C saves, the same command continues"
        )
        if not terminal.out.is_terminal:
            yield self._lines(done)
            return
        with self._bar(done) as advance:
            yield advance

    def _lines(self, done: int) -> _Show:
        """Return the function that prints a line per checkpoint."""
        start = time.monotonic()

        def line(step: int, row: tuple[float, ...] | None) -> None:
            if row is not None:
                left = (time.monotonic() - start) / (step - done) * (self.steps - step)
                losses = f"loss {row[2]:.4f}  validation {row[3]:.4f}"
                terminal.out.print(f"step {step}  {losses}  {left / 60:.0f} min left")

        return line

    @contextmanager
    def _bar(self, done: int) -> Iterator[_Show]:
        """Yield the function that moves a progress bar."""
        columns = (
            TextColumn(self.name),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(elapsed_when_finished=False),
            TextColumn("validation {task.fields[validation]}"),
        )
        # the ETA follows the speed of the last minutes, because there are many short steps
        with Progress(*columns, console=terminal.out, speed_estimate_period=300) as bar:
            task = bar.add_task(self.name, total=self.steps, completed=done, validation="-")

            def advance(step: int, row: tuple[float, ...] | None) -> None:
                bar.update(task, completed=step)
                if row is not None:
                    bar.update(task, validation=f"{row[3]:.4f}")

            yield advance

    # -- the run folder ----------------------------------------------------------------------------

    def _resume(self, trainer: Trainable) -> float:
        """Load the checkpoint of this run, if there is one, and return its seconds so far."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._check_settings()
        checkpoint = self.folder / "checkpoint.pt"
        if not checkpoint.is_file():
            return 0.0
        try:
            state = torch.load(checkpoint, map_location="cpu", weights_only=True)
            trainer.load_state_dict(state)
        except Exception as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"cannot continue from {checkpoint} ({reason}); remove it to start anew"
            ) from error
        return float(state["elapsed"])

    def _check_settings(self) -> None:
        """Write the settings, or raise UserError if the folder has other ones."""
        path = self.folder / "settings.json"
        if path.is_file():
            stored = json.loads(path.read_text(encoding="utf-8"))
            wanted = json.loads(json.dumps(self.settings))
            changed = sorted(
                key for key in stored.keys() | wanted.keys() if stored.get(key) != wanted.get(key)
            )
            if changed:
                raise UserError(
                    f"{self.folder} holds a training with another {', '.join(changed)}; "
                    "give its settings again to continue it, or another out=DIR to start anew"
                )
        write_atomic(path, json.dumps(self.settings, indent=2).encode())

    def _save(self, trainer: Trainable, elapsed: float) -> None:
        buffer = io.BytesIO()
        torch.save({**trainer.state_dict(), "elapsed": elapsed}, buffer)
        write_atomic(self.folder / "checkpoint.pt", buffer.getvalue())

    def _read_log(self, step: int) -> _Log:
        """Read the rows of ``loss.csv`` up to a step.

        After a crash there may be rows of later steps, which the checkpoint does not know.
        """
        path = self.folder / "loss.csv"
        lines = path.read_text(encoding="utf-8").splitlines()[1:] if path.is_file() else []
        rows = [tuple(float(value) for value in line.split(",")) for line in lines]
        return [row for row in rows if row[0] <= step]

    def _write_log(self, rows: _Log) -> None:
        lines = [
            ",".join(_COLUMNS),
            *(f"{int(r[0])},{r[1]:.1f},{r[2]:.6f},{r[3]:.6f}" for r in rows),
        ]
        write_atomic(self.folder / "loss.csv", ("\n".join(lines) + "\n").encode())


@contextmanager
def _interrupt_between_steps() -> Iterator[threading.Event]:
    """Yield an event that the first SIGINT or SIGTERM sets, so that the loop completes its step.

    A second signal acts at once.
    """
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
        note(number)
        restore()

    for number in previous:
        signal.signal(number, ask)
    try:
        yield stop
    finally:
        restore()
