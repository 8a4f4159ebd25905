"""The check of memory: an estimate for each cell against the memory of the machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from posterior_bench.bench.config.build import build, task_caps
from posterior_bench.bench.config.catalog import options
from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.engine.enumerated import are_enumerated
from posterior_bench.bench.engine.executor import cpu_workers
from posterior_bench.bench.estimate.architecture import without_weights
from posterior_bench.bench.estimate.attempt import attempt
from posterior_bench.bench.estimate.checks.devices import gpu_index, requested_device, uses_ray
from posterior_bench.bench.estimate.finding import Finding
from posterior_bench.bench.estimate.machine import Machine, free_memory
from posterior_bench.bench.estimate.memory import SLACK, Estimate, estimate
from posterior_bench.bench.estimate.network_memory import NetworkMemory
from posterior_bench.priors.base import Prior

_LARGE = 50e6
"""Parameters of a network that takes days without a GPU."""

_POSSIBLE = 2**29
"""Bytes of the faces that are kept: 4096 drawings of each of eight styles, and 32 enumerations."""


@dataclass(frozen=True)
class Need:
    """The memory that one cell needs.

    Parameters
    ----------
    prior, title : str
        The names of its prior and solver.
    estimate : Estimate
        The memory of one worker.
    config : JobConfig
        The configuration of the cell.
    workers : int
        How many workers share one memory.
    """

    prior: str
    title: str
    estimate: Estimate
    config: JobConfig
    workers: int

    @property
    def total(self) -> float:
        """Bytes of all workers, with slack."""
        return self.workers * (1 + SLACK) * self.estimate.total()


def prior_networks(
    node: Mapping[str, Any], name: str, prior: Prior | None
) -> tuple[NetworkMemory | None, str] | None:
    """Return the memory of a prior's networks, or why they cannot be called; None without networks.

    Parameters
    ----------
    node : Mapping
        The node of the prior.
    name : str
        The name of its option.
    prior : Prior or None
        The prior. If it is missing, its networks are built from its ``prior.json`` or from the
        layout that its ``convert`` command names.
    """
    option = options("prior").get(name)
    if prior is None and "path" in node:
        prior = attempt(lambda: without_weights(node, option.summary if option else ""))[0]
    if prior is None or prior.net is None:
        return None
    memory = NetworkMemory(prior)
    return memory, attempt(memory.check)[1]


def estimate_cell(config: JobConfig, memory: NetworkMemory) -> tuple[Estimate | None, str]:
    """Return the memory of a cell, or why it is not known.

    Both are empty for a solver that does not fit the prior, which another check reports.
    """
    solver, problem = attempt(lambda: build(config.solver))
    if problem:
        return None, ""
    has = memory.prior.caps | task_caps(config)
    if solver.lacks(has, float(config.operator.get("sigma") or 0)):
        return None, ""
    known: tuple[Estimate | None, str] = attempt(lambda: estimate(config, memory))
    return known


def check_enumeration(name: str, config: JobConfig, machine: Machine) -> Iterator[Finding]:
    """Yield the memory of the CPU that a solver of images with a known posterior takes.

    Parameters
    ----------
    name : str
        The name of the solver.
    config : JobConfig
        The configuration of a cell.
    machine : Machine
        The machine of the run.
    """
    if not are_enumerated(build(config.solver), config.data):
        return
    room = "" if machine.elsewhere else f"; {_gib(free_memory())} GiB are free"
    yield Finding(
        f"memory {name}",
        "ok",
        f"no network is called: the CPU enumerates possible images, at most about "
        f"{_gib(_POSSIBLE)} GiB of them{room}",
    )


def check_memory(need: Need, machine: Machine, several: bool) -> Iterator[Finding]:
    """Yield the memory that a worker needs, what there is, and the largest batch that fits.

    Parameters
    ----------
    need : Need
        The need of the cell that needs most.
    machine : Machine
        The machine of the run.
    several : bool
        Whether the findings name prior and solver, because there are several cells.
    """
    owner, room = memory_of(need.config, machine)
    check = f"memory {need.prior}" if several else "memory"
    largest = min(
        need.estimate.largest_batch(room / need.workers),
        need.config.images * need.estimate.draws,
    )
    found = _in_words(need, owner, f" ({need.title})" if several else "")
    found += f"; {_gib(room)} GiB are {'installed' if machine.elsewhere else 'free'}"
    if need.total <= room:
        more = largest > need.estimate.batch
        yield Finding(
            check, "ok", f"{found}; {f'up to batch={largest} fits' if more else 'this batch fits'}"
        )
    else:
        yield Finding(check, "missing", found, _remedy(need, largest))
    yield from _slow(need, owner)


def _in_words(need: Need, owner: str, title: str) -> str:
    known = need.estimate
    size = known.size
    rows = f"{size.draws} draws at once"
    if size.images > 1:
        rows = f"{size.images} images with {size.draws} draws at once"
    workers = f", {need.workers} workers" if need.workers > 1 else ""
    return (
        f"about {_gib(need.total)} GiB on {owner}{title}: {_gib(known.weights)} GiB of weights, "
        f"{_gib(known.activations())} GiB for {rows}, a tenth for the allocator{workers}"
    )


def _remedy(need: Need, largest: int) -> str:
    fits = f"batch={largest} is the largest that fits" if largest else "not even batch=1 fits"
    if need.config.checkpointing != "none":
        return fits
    return f"{fits}, or checkpointing=block or call where a solver takes gradients"


def _slow(need: Need, owner: str) -> Iterator[Finding]:
    """Yield a warning if a large network would run without a GPU."""
    parameters = need.estimate.weights / 4
    if owner in ("cpu", "a CPU") and parameters > _LARGE:
        found = (
            f"no GPU: one call of a network with {parameters / 1e6:.0f} M parameters takes seconds "
            "to minutes"
        )
        yield Finding("device", "warning", found)


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f}" if size >= 2**30 else f"{size / 2**30:.2g}"


def memory_of(config: JobConfig, machine: Machine) -> tuple[str, int]:
    """Return the owner of the memory in words, and the bytes that a worker may take."""
    if machine.memory is not None:
        return machine.name, machine.memory
    return free_here(config)


def free_here(config: JobConfig) -> tuple[str, int]:
    """Return the device of the workers on this machine, and its free bytes."""
    device = requested_device(config)
    if device == "cpu" or not torch.cuda.is_available():
        return "cpu", free_memory()
    index = gpu_index(device)
    # a GPU that does not exist is reported by the check of devices
    name = f"cuda:{index}" if 0 < index < torch.cuda.device_count() else "cuda"
    return name, free_memory(name)


def workers_per_memory(config: JobConfig, machine: Machine) -> int:
    """Return how many workers share one memory: those of Ray on a machine without GPUs."""
    gpus = machine.gpus if machine.elsewhere else torch.cuda.device_count()
    if gpus or not uses_ray(config):
        return 1
    return int(config.executor.get("workers") or cpu_workers())
