"""The worker: one device, one chunk of rows at a time. It knows no executor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch

from posterior_bench.bench.config.cell import digest
from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.core import signals
from posterior_bench.bench.core.environment import version
from posterior_bench.bench.core.errors import DeviceLost, UserError
from posterior_bench.bench.core.foreign import foreign
from posterior_bench.bench.core.gpu_versions import cudnn_version, driver_version
from posterior_bench.bench.core.isolation import isolated, keep_threads
from posterior_bench.bench.engine import pulse
from posterior_bench.bench.engine.batches import BatchSize, padded
from posterior_bench.bench.engine.device import device_name, free_memory, repeatable
from posterior_bench.bench.engine.exact_draws import stored_in
from posterior_bench.bench.engine.failures import failed_rows, one_line, status_of
from posterior_bench.bench.engine.heartbeat import beating
from posterior_bench.bench.engine.limits import watch_of
from posterior_bench.bench.engine.plan import CellPlan, Chunk
from posterior_bench.bench.engine.scoring import Row
from posterior_bench.bench.engine.session import Session
from posterior_bench.bench.engine.solving import solve
from posterior_bench.bench.engine.warm_up import warm_up

_THREADS = torch.get_num_threads()
"""CPU threads of this process, for a worker that is not told how many to use."""


class Worker:
    """Runs chunks on one device. The session of the last cell is kept.

    Parameters
    ----------
    device : str, default 'cpu'
        ``cpu``, ``cuda`` or ``cuda:N``.
    threads : int, default None
        CPU threads; None = as many as the process has.
    """

    def __init__(self, device: str = "cpu", threads: int | None = None):
        self.device, self.threads = device, threads or _THREADS
        torch.set_num_threads(self.threads)
        keep_threads()
        repeatable(device)  # recorded rows promise it; before the device is started
        self._session: tuple[str, Session] | None = None

    def session(self, config: JobConfig) -> Session:
        """Return the objects of a cell, loaded unless it was the last cell.

        Raises
        ------
        UserError
            If they cannot be loaded on this device.
        """
        key = digest(config.record())
        if self._session is None or self._session[0] != key:
            self._session = None  # the weights of the last cell need not stay beside the next ones
            try:
                # constructors and imports may extend sys.path, but must not change the numbers of
                # another cell
                with isolated(numbers=True), foreign():
                    session = Session(config, self.device)
                    _ = session.modules  # loaded now: a fault ends the run and fills no rows
            except UserError:
                raise
            except Exception as error:
                raise UserError(
                    f"no worker can start on {self.device}: {one_line(error)}"
                ) from error
            self._session = (key, session)
        return self._session[1]

    def run(self, plan: CellPlan, chunk: Chunk) -> dict[str, int]:
        """Compute one chunk and store its shard.

        Returns
        -------
        dict of str to int
            How many rows have each status.

        Raises
        ------
        UserError
            If the cell cannot be loaded on this device.
        DeviceLost
            If the device has failed for good. Nothing is stored: every further chunk of this
            process would fail too, and another process can compute this one.
        """
        with beating(plan.folder, chunk.name), stored_in(plan.folder.parents[1]):
            return self.store(plan, chunk, self.rows(plan, chunk))

    def store(self, plan: CellPlan, chunk: Chunk, rows: Sequence[Row]) -> dict[str, int]:
        """Store the rows of a chunk; return how many of them have each status."""
        signals.check()  # after a signal nobody knows whether the rows were finished
        plan.store.write(chunk.name, rows)
        statuses = [row["status"] for row in rows]
        return {status: statuses.count(status) for status in dict.fromkeys(statuses)}

    def rows(self, plan: CellPlan, chunk: Chunk) -> list[Row]:
        """Return the rows of a chunk, image by image and draw by draw. A failure is a row too.

        Where memory runs out, the whole chunk is computed again with half the padded batch, and so
        on down to one row; the rows say which size it was. Every chunk begins with the planned
        size: a row may depend on the memory of its own chunk, never on the order of chunks.
        """
        self.settle()
        session = self.session(plan.cell.config)
        watch = watch_of(plan.cell.config.timeout)
        pulse.begin(chunk.name)
        size = BatchSize(plan.padded, min(plan.cell.draws, plan.batch))
        while size.rows > 1:
            rows, ran_out = self._rows_at(size, session, plan, chunk, watch)
            if not ran_out:
                return rows
            size = size.halved()
        # an image that does not fit alone leaves the others of its chunk alone
        single = [Chunk(chunk.name, [image]) for image in chunk.images]
        return [row for one in single for row in self._rows_at(size, session, plan, one, watch)[0]]

    def settle(self) -> None:
        """Give torch the settings of this worker; another one of this process may have others."""
        torch.set_num_threads(self.threads)
        repeatable(self.device)

    def _rows_at(
        self,
        size: BatchSize,
        session: Session,
        plan: CellPlan,
        chunk: Chunk,
        watch: Callable[[], None] | None,
    ) -> tuple[list[Row], bool]:
        """Return the rows from padded batches of this size, and whether memory ran out.

        Raises
        ------
        DeviceLost
            If the device has failed for good.
        """
        fixed, every = self.fixed(session, plan, size), plan.cell.draws
        draws = chunk.draws(every)
        rows: list[Row] = []
        try:
            for start in range(0, len(chunk.images), size.images):
                part = list(chunk.images[start : start + size.images])
                with isolated(), foreign():
                    measured = session.measure(padded(part, size.images))
                    truths = measured.truths
                warm_up(session, measured, every, size)
                outcome = solve(session, measured, every, size.draws, watch, draws)
                rows += named_rows(fixed, part, truths, draws, outcome)
            return rows, False
        except Exception as error:
            status, message = status_of(error), one_line(error)
        # outside the handler, whose traceback kept the tensors of the attempt
        if status == "lost":
            raise self.lost(message)
        if status == "oom":
            free_memory(self.device)
        return failed_rows(plan, chunk, status, message, fixed), status == "oom"

    def lost(self, message: str) -> DeviceLost:
        """Return the error for a device that has failed for good, as ``message`` says."""
        return DeviceLost(
            f"{self.device} answers no more: {message}; give the same command again to continue"
        )

    def fixed(self, session: Session, plan: CellPlan, size: BatchSize) -> Row:
        """Return the columns that are the same in all rows of a chunk.

        These are the cell, the code, and everything that bitwise equality depends on.
        """
        on_gpu = self.device.startswith("cuda")
        return {
            "cell": plan.cell.name,
            "message": "",
            "device": device_name(self.device),
            "build": torch.__version__,
            "threads": torch.get_num_threads(),
            "precision": plan.cell.config.execution.label,
            "padded_batch": size.rows,
            "commit": plan.cell.config.commit,
            "code": session.code,
            "version": version(),
            "task_version": plan.cell.identity.get("task_version"),
            "study_version": plan.cell.identity.get("study_version"),
            "cudnn": cudnn_version() if on_gpu else None,
            "driver": driver_version() if on_gpu else None,
        }


def named_rows(
    fixed: Row, images: Sequence[str], truths: Sequence[str], draws: range, outcome: Iterable[Row]
) -> list[Row]:
    """Return the rows of some images, draw by draw; those that fill up a batch are left out.

    Parameters
    ----------
    fixed : dict
        The columns that are the same in all rows.
    images, truths : sequence of str
        The images, and the hash of each.
    draws : range
        The draws of each image.
    outcome : iterable of dict
        What :func:`~bench.engine.solving.solve` returned.
    """
    each = iter(outcome)
    return [
        {**fixed, "image_id": image, "draw": d, "truth": truth, **next(each)}
        for image, truth in zip(images, truths, strict=False)
        for d in draws
    ]
