"""Refuse files that claim, or unpack to, too much memory before any memory is allocated."""

from __future__ import annotations

import re
import zipfile
from contextlib import suppress
from pathlib import Path

LARGEST = 2**30
"""Largest file of one image in bytes; 100 megapixels of 16 bits take 0.6 GiB uncompressed."""

_LARGEST_TEXT = 2**28
# an array of photographs shrinks to a half or a third when compressed, a ZIP bomb to a thousandth
_SMALL, _RATIO = 2**28, 100


def demand_moderate(size: int, where: str, largest: int = LARGEST) -> None:
    """Check the size of a file that holds one image.

    Parameters
    ----------
    size : int
        Bytes.
    where : str
        Name of the file in the message.
    largest : int, default LARGEST
        Largest allowed size in bytes.

    Raises
    ------
    ValueError
        If the file is larger.
    """
    if size > largest:
        raise ValueError(
            f"{where} takes {_gib(size)}, and one such file may take at most "
            f"{_gib(largest)}; remove it"
        )


def demand_text(size: int, where: str) -> None:
    """Check the size of a file of labels.

    Raises
    ------
    ValueError
        If it is larger than the labels of any data set.
    """
    demand_moderate(size, where, _LARGEST_TEXT)


def demand_array(member: zipfile.ZipInfo, values: int, where: str) -> None:
    """Check an array in a ZIP file.

    Parameters
    ----------
    member : zipfile.ZipInfo
        Entry of the array in the ZIP file.
    values : int
        Bytes of the array according to the shape and type in its header.
    where : str
        Name of the array in the message.

    Raises
    ------
    ValueError
        If the array is shorter than its header claims, unpacks to far more than images can, or does
        not fit into free memory.
    """
    if values > member.file_size:
        raise ValueError(
            f"{where} claims {_gib(values)} and holds {member.file_size} "
            "bytes; write or fetch it again"
        )
    if member.file_size > max(_SMALL, _RATIO * member.compress_size):
        raise ValueError(
            f"{where} unpacks from {member.compress_size} bytes to {_gib(member.file_size)}, as no "
            "pictures do; if it is right, write it again without compression"
        )
    if member.file_size > (free := available_memory()):
        raise ValueError(
            f"{where} takes {_gib(member.file_size)} of memory, and {_gib(free)} are free; split it"
        )


def available_memory() -> int:
    """Return the free memory in bytes, or a very large number where the system does not tell."""
    with suppress(OSError):
        text = Path("/proc/meminfo").read_text(encoding="utf-8")
        if match := re.search(r"MemAvailable:\s+(\d+)", text):
            return 1024 * int(match.group(1))
    return 2**62


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
