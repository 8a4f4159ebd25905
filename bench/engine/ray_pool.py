"""The workers of the executor ``ray``: how a cluster is started or joined, and its actors."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import posterior_bench
from posterior_bench.bench.core.cores import cores, threads_of_the_user
from posterior_bench.bench.core.errors import DeviceLost, UserError
from posterior_bench.bench.core.signals import die_at_once, heed_again
from posterior_bench.bench.engine import watchdog
from posterior_bench.bench.engine.executor import (
    Counts,
    cpu_workers,
    device_called,
    threads_each,
)
from posterior_bench.bench.engine.plan import CellPlan, Chunk

# Ray is optional and heavy, so every function below that needs it imports it.


class RayWorker:
    """A worker behind Ray; an error of the user comes back as a value, not as Ray's traceback."""

    def __init__(self, threads: int | None):
        # heavy: the process that starts actors needs neither torch nor a worker
        from posterior_bench.bench.engine.worker import Worker

        # Ray's handler raises SystemExit inside a solver, which may swallow it and store rows that
        # were cut short
        die_at_once()
        self.worker = Worker(device_called("auto"), threads)

    def prepare(self, config: Any) -> str:
        """Load a cell; returns why that is impossible, or an empty text."""
        try:
            self.worker.session(config)
        except UserError as error:
            return str(error)
        return ""

    def run(self, plan: CellPlan, chunk: Chunk) -> Counts | UserError | OSError:
        """Run a chunk; an error that Ray would wrap in its own traceback is returned."""
        try:
            return self.worker.run(plan, chunk)
        except DeviceLost:
            # a fresh process can use the device again; the chunk goes back into the queue
            os._exit(1)
        except (UserError, OSError) as error:  # OSError: such as a full disk
            return error


class Pool(Sequence[Any]):
    """So many actors, each made when it is first taken.

    A cell of two chunks starts two workers, not eight. ``threads`` is how many CPU threads each of
    them has.
    """

    def __init__(self, make: Callable[[], Any], size: int, threads: int):
        self.make, self.size, self.threads = make, size, threads
        self.made: list[Any] = []

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: Any) -> Any:
        wanted = range(self.size)[index]
        last = max(wanted, default=-1) if isinstance(wanted, range) else wanted
        self.made += [self.make() for _ in range(len(self.made), last + 1)]
        return self.made[index] if isinstance(wanted, int) else [self.made[i] for i in wanted]


_POOL: dict[tuple[str | None, int | None, int | None], Pool] = {}
"""The actors of this process; they outlive a cell, so a sweep loads a prior once per worker."""


def actors(address: str | None, workers: int | None, threads: int | None) -> Pool:
    """Return the actors of this process; another number of workers or threads starts new ones.

    Without ``threads`` they share the cores among them, unless the environment says how many
    threads PyTorch takes.

    Raises
    ------
    UserError
        If Ray is not installed, or has fewer GPUs than workers are asked for.
    """
    try:
        # optional package
        import ray
    except ImportError:
        raise UserError("executor=ray needs Ray: pip install ray, or use executor=serial") from None
    key = (address, workers, threads)
    if key in _POOL and ray.is_initialized():
        return _POOL[key]
    end_pool()
    if not ray.is_initialized():
        _connect(address)
    gpus = int(ray.cluster_resources().get("GPU", 0))
    if gpus and workers and workers > gpus:
        raise UserError(
            f"executor.workers={workers}, but Ray has {gpus} GPUs and a worker takes one; give "
            f"fewer workers"
        )
    # num_cpus=0, otherwise Ray queues the actor silently while another one holds the CPU
    make = ray.remote(max_restarts=-1, max_task_retries=0, num_cpus=0, num_gpus=1 if gpus else 0)(
        RayWorker
    )
    size = workers or gpus or cpu_workers()
    each = threads or _usual_threads(address, size, gpus)
    _POOL[key] = Pool(lambda: make.remote(each), size, each)
    return _POOL[key]


def _usual_threads(address: str | None, workers: int, gpus: int) -> int:
    """Return the CPU threads of each worker; Ray would give it one."""
    import ray  # optional package
    import torch  # heavy

    if threads_of_the_user():
        return torch.get_num_threads()
    if address is None:
        return threads_each(workers, [{"CPU": cores(), "GPU": gpus}])
    return threads_each(workers, [node["Resources"] for node in ray.nodes() if node["Alive"]])


def end_pool() -> None:
    """End the workers of this process at once, in the middle of a chunk too."""
    # optional package
    import ray

    for actor in (actor for pool in _POOL.values() for actor in pool.made):
        with suppress(Exception):  # the cluster may have gone before
            ray.kill(actor)
    _POOL.clear()


def stay_here(address: str | None) -> None:
    """Let a cluster of this machine alone listen on the loopback interface only.

    Ray does so where it is told that it is no cluster of several machines; it reads that variable
    when it is imported.
    """
    if address is None:
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")


def _connect(address: str | None) -> None:
    """Start Ray here, or join the cluster at ``address``; workers import this installation."""
    # optional package
    import ray

    root = str(Path(posterior_bench.__file__).parents[1])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray's niceness of 15 would starve workers on a shared machine
    os.environ.setdefault("RAY_worker_niceness", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    with _watched(address):
        ray.init(
            # without "local", Ray would silently join a cluster that it finds, or fail where one
            # has been
            address=address or "local",
            include_dashboard=False,
            log_to_driver=False,
            runtime_env={"env_vars": {"PYTHONPATH": path}},
        )
    heed_again()  # Ray puts a handler of its own in place


@contextmanager
def _watched(address: str | None) -> Iterator[None]:
    """Mark the processes of a cluster started in the block, so that a watchdog can end them."""
    if address is not None:
        yield
        return
    mark = uuid4().hex
    watchdog.start(mark)
    os.environ[watchdog.VARIABLE] = mark
    try:
        yield
    finally:
        del os.environ[watchdog.VARIABLE]
