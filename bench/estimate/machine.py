"""The machine that a run is meant for, where ``doctor`` is asked on another one: ``memory=80GiB
gpus=8``.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from posterior_bench.bench.core.errors import UserError, unknown

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
"""GiB of GPUs by name, as their maker gives them; a driver keeps a little of it."""

UNITS = {"MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "MB": 10**6, "GB": 10**9, "TB": 10**12}


@dataclass(frozen=True)
class Machine:
    """``memory`` in bytes of each GPU, or of the machine where there are no ``gpus``; None: those
    of this machine.
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
        """What its memory belongs to, for people."""
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


def free_memory() -> int:
    """Bytes of this machine's memory that are free; all there are where it does not say."""
    try:
        found = re.search(
            r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text(encoding="utf-8")
        )
    except OSError:
        found = None
    return (
        int(found[1]) * 1024 if found else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    )


def bytes_of(memory: str) -> int:
    """``80GiB`` in bytes; UserError, one line, for anything else than a number with its unit."""
    found = re.fullmatch(
        r"(\d{1,9}(?:\.\d{1,9})?) *([a-z]+)", memory.strip(), re.IGNORECASE | re.ASCII
    )
    units = {name.lower(): size for name, size in UNITS.items()}
    if found is None or found[2].lower() not in units or float(found[1]) == 0:
        raise UserError(
            f"memory={memory}: give a number above 0 with its unit ({', '.join(UNITS)}): "
            f"memory=80GiB"
        )
    return int(float(found[1]) * units[found[2].lower()])


def gpu_count(text: str) -> int:
    """Return a number of GPUs.

    Raises
    ------
    UserError
        If the text is no whole number.
    """
    if not re.fullmatch(r"\d{1,6}", text, re.ASCII):
        raise UserError(
            f"gpus={text}: give a whole number, such as gpus=8; gpus=0 for a machine without one"
        )
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
