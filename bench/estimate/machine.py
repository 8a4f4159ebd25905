"""The machine that will run a cell, which may be another one than this: ``memory=80GiB gpus=8``."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from posterior_bench.bench.core.errors import unknown

DEVICES = {
    "a10": 24,
    "a100_40": 40,
    "a100_80": 80,
    "a40": 48,
    "a6000": 48,
    "b200": 180,
    "h100": 80,
    "h200": 141,
    "l4": 24,
    "l40s": 48,
    "rtx3090": 24,
    "rtx4090": 24,
    "rtx5090": 32,
    "t4": 16,
    "v100_16": 16,
    "v100_32": 32,
}
"""GiB of GPUs by name, as their makers state them; a driver keeps a little of it."""

_UNITS = {"MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "MB": 10**6, "GB": 10**9, "TB": 10**12}


@dataclass(frozen=True)
class Machine:
    """A machine; without ``memory`` and ``gpus`` it is this one.

    Parameters
    ----------
    memory : int or None, default None
        Bytes of each GPU, or of the machine where there are no GPUs.
    gpus : int or None, default None
        The number of GPUs.
    device : str or None, default None
        The name of the GPU.
    """

    memory: int | None = None
    gpus: int | None = None
    device: str | None = None

    @property
    def elsewhere(self) -> bool:
        """Whether it is another machine than this one."""
        return (self.memory, self.gpus) != (None, None)

    @property
    def name(self) -> str:
        """The owner of the memory, in words: a CPU, one GPU, or each of several GPUs."""
        if self.gpus == 0:
            return "a CPU"
        words = self.device or "GPU"
        return f"each of {self.gpus} {words}s" if (self.gpus or 1) > 1 else f"one {words}"

    @classmethod
    def of(
        cls, memory: int | None = None, gpus: int | None = None, device: str | None = None
    ) -> Self:
        """Return the machine that a user describes.

        Parameters
        ----------
        memory : int or None, default None
            Bytes of each GPU, or of the machine without GPUs.
        gpus : int or None, default None
            Number of GPUs; one where memory or a device is given.
        device : str or None, default None
            A name of :data:`DEVICES`, which gives the memory where ``memory`` does not.
        """
        if memory is None and device is not None:
            memory = DEVICES[device.lower()] * 2**30
        if gpus is None and (memory, device) != (None, None):
            gpus = 1
        return cls(memory, gpus, device)


def free_memory(device: str = "cpu") -> int:
    """Return the free bytes of a device of this machine.

    Parameters
    ----------
    device : str, default 'cpu'
        ``cpu``, ``cuda`` or ``cuda:N``.
    """
    if device != "cpu":
        # heavy: the parser of the command line imports this module
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    try:
        available = re.search(
            r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text(encoding="utf-8")
        )
    except OSError:
        available = None
    if available:
        return int(available[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def bytes_of(text: str) -> int:
    """Return a size such as ``80GiB`` in bytes.

    Raises
    ------
    ValueError
        If the text is no number above 0 with a unit; with the end of the sentence "KEY ...".
    """
    size = re.fullmatch(
        r"(\d{1,9}(?:\.\d{1,9})?) *([a-z]+)", text.strip(), re.IGNORECASE | re.ASCII
    )
    units = {name.lower(): factor for name, factor in _UNITS.items()}
    if size is None or size[2].lower() not in units or float(size[1]) == 0:
        raise ValueError(f"takes a size such as 8GiB, above 0; units: {', '.join(_UNITS)}")
    return int(float(size[1]) * units[size[2].lower()])


def gpu_count(text: str) -> int:
    """Return a number of GPUs.

    Raises
    ------
    ValueError
        If the text is no whole number; with the end of the sentence "KEY ...".
    """
    if not re.fullmatch(r"\d{1,6}", text, re.ASCII):
        raise ValueError("takes a whole number, such as 8; 0 for a machine without a GPU")
    return int(text)


def known_device(text: str) -> str:
    """Return the name of a GPU.

    Raises
    ------
    UserError
        If :data:`DEVICES` does not have it.
    """
    if text.lower() not in DEVICES:
        raise unknown("device", text, DEVICES)
    return text
