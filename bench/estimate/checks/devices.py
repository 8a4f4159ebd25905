"""The checks of executor, GPUs and optional packages."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import torch

from posterior_bench.bench.config.build import build
from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.estimate.attempt import attempt
from posterior_bench.bench.estimate.finding import Finding
from posterior_bench.bench.estimate.machine import Machine


def uses_ray(config: JobConfig) -> bool:
    """Return whether the executor is Ray."""
    return "ray" in config.executor["_target_"].lower()


def requested_device(config: JobConfig) -> str:
    """Return the device that the executor is set to, ``auto`` without a setting."""
    return str(config.executor.get("device") or "auto")


def gpu_index(device: str) -> int:
    """Return the number of a GPU such as ``cuda:1``, 0 without a number."""
    number = device.partition(":")[2]
    return int(number) if number.isdecimal() else 0


def check_device(config: JobConfig, machine: Machine) -> Iterator[Finding]:
    """Yield a finding if the executor cannot be built, or its GPU is not here.

    The GPUs of another machine cannot be checked.
    """
    problem = attempt(lambda: build(config.executor))[1]
    if problem:
        yield Finding("executor", "missing", problem)
        return
    device = requested_device(config)
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.startswith("cuda") and not machine.elsewhere and gpu_index(device) >= gpus:
        found = f"executor.device={device}, but this machine has {gpus or 'no'} GPU"
        remedy = "executor.device=auto; or describe the machine of the run: memory=80GiB gpus=8"
        yield Finding("device", "missing", found + "s" * (gpus > 1), remedy)


def check_gpus(config: JobConfig, chunks: int, machine: Machine) -> Iterator[Finding]:
    """Yield a warning if a cell of ``chunks`` chunks leaves GPUs of another machine idle."""
    gpus = machine.gpus or 0
    if gpus > 1 and not uses_ray(config):
        yield Finding("GPUs", "warning", f"executor=serial uses one of {gpus}", "executor=ray")
    elif chunks < (workers := min(gpus, config.executor.get("workers") or gpus)):
        found = f"a cell of {chunks} chunks uses {chunks} of {workers} GPUs"
        yield Finding("GPUs", "warning", found, "a smaller batch= makes more chunks")


def check_packages(config: JobConfig) -> Iterator[Finding]:
    """Yield whether Ray is installed, where the executor needs it.

    Packages of metrics and data are named by the checks of these.
    """
    if not uses_ray(config):
        return
    if find_spec("ray") is not None:
        yield Finding("packages", "ok", "ray is installed")
    else:
        found = "executor=ray needs the package ray"
        yield Finding("packages", "missing", found, "pip install ray")
