"""Refusals of files that claim, or unpack to, more than a data set can mean, before memory is taken
for them.
"""

from __future__ import annotations

import re
import zipfile
from contextlib import suppress
from pathlib import Path

LARGEST = 2**30
"""Bytes that the file of one image may have; 100 megapixels at 16 bits take 0.6 GiB without any
compression."""

_LARGEST_TEXT = 2**28
_SMALL, _RATIO = 2**28, 100
"""An array of photographs shrinks to a half or a third when packed; a bomb to a thousandth."""


def demand_moderate(size: int, where: str, largest: int = LARGEST) -> None:
    """ValueError where a file or member of ``size`` bytes is larger than one image can be."""
    if size > largest:
        raise ValueError(
            f"{where} takes {_gib(size)}, and one such file may take {_gib(largest)}; remove it"
        )


def demand_text(size: int, where: str) -> None:
    """ValueError where a file of labels is larger than the labels of any data set."""
    demand_moderate(size, where, _LARGEST_TEXT)


def demand_array(member: zipfile.ZipInfo, values: int, where: str) -> None:
    """ValueError where an array in a ZIP file is not there as its header claims, is a bomb, or
    exceeds the memory.

    ``values``: bytes of the array by the shape and type in its header.
    """
    if values > member.file_size:
        raise ValueError(
            f"{where} claims {_gib(values)} and holds {member.file_size} bytes; write or fetch it "
            f"again"
        )
    if member.file_size > max(_SMALL, _RATIO * member.compress_size):
        raise ValueError(
            f"{where} unpacks from {member.compress_size} bytes to {_gib(member.file_size)}, as no "
            f"pictures do; "
            "write it again, uncompressed if this is meant"
        )
    if member.file_size > (there := available_memory()):
        raise ValueError(
            f"{where} takes {_gib(member.file_size)} of memory, and {_gib(there)} are free; split "
            f"it"
        )


def available_memory() -> int:
    """Bytes of memory that are free on this machine, or no bound where it does not say."""
    with suppress(OSError):
        found = re.search(
            r"MemAvailable:\s+(\d+)", Path("/proc/meminfo").read_text(encoding="utf-8")
        )
        if found:
            return 1024 * int(found.group(1))
    return 2**62


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
