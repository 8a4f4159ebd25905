"""The versions of cuDNN and of the driver, which can be replaced without another torch."""

from __future__ import annotations

import ctypes
from functools import cache

import torch


def cudnn_version() -> str | None:
    """Return the version of cuDNN, such as ``9.19.0``; None without a GPU."""
    number = torch.backends.cudnn.version() if torch.cuda.is_available() else None
    if number is None:
        return None
    # major, minor and patch: 8902 up to version 8, 91900 from version 9 on
    major, rest = divmod(number, 10000 if number >= 90000 else 1000)
    return f"{major}.{rest // 100}.{rest % 100}"


@cache
def driver_version() -> str | None:
    """Return the version of the GPU's driver, such as ``580.95.05``; None without a GPU.

    The driver's own library says it, which every machine with a driver has; torch does not.
    """
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return None
    text = ctypes.create_string_buffer(80)
    if library.nvmlInit_v2():
        return None
    failed = library.nvmlSystemGetDriverVersion(text, len(text))
    library.nvmlShutdown()
    return None if failed else text.value.decode()
