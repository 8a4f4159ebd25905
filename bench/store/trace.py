"""The trace of a fit, as it is stored in a row: losses, and pictures of the posterior on the way.

A trace is an ``.npz`` file in bytes, so that anything with NumPy reads it: ``loss`` float32
``(iterations,)``, pictures ``progress`` uint8 ``(P, H, W)`` or ``(P, H, W, 3)``, and ``after``
int32 ``(P,)``, the number of iterations before each picture. A solver may give no pictures. A trace
belongs to an image and is stored in the row of its first draw.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from posterior_bench.metrics.base import to_uint8

Array = NDArray[np.generic]


@dataclass(frozen=True)
class FitTrace:
    """The trace of one image.

    Parameters
    ----------
    loss : array of float32
        The loss of every iteration.
    progress : mapping of int to array of uint8
        Pictures, by the number of iterations before them.
    """

    loss: NDArray[np.float32]
    progress: Mapping[int, NDArray[np.uint8]]


def pack_traces(trace: Mapping[str, Tensor]) -> list[bytes]:
    """Return the trace of each image as bytes; an empty list if the solver left no trace.

    Parameters
    ----------
    trace : mapping of str to Tensor
        The trace of :class:`solvers.base.Samples`.
    """
    if "loss" not in trace:
        return []
    losses = trace["loss"].detach().float().cpu().numpy()
    if "progress" not in trace:
        return [_file(loss) for loss in losses]
    pixels = to_uint8(trace["progress"]).movedim(2, -1).cpu().numpy()
    pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    after = trace["after"].cpu().numpy().astype(np.int32)
    return [_file(*image) for image in zip(losses, pixels, after, strict=True)]


def unpack_trace(data: bytes) -> FitTrace:
    """Return the trace that :func:`pack_traces` made bytes of.

    Raises
    ------
    ValueError
        If ``data`` is no trace.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as file:
            return FitTrace(
                file["loss"], dict(zip(file["after"].tolist(), file["progress"], strict=True))
            )
    except Exception as error:  # damaged bytes surface as almost any error of the reader
        raise ValueError(f"this is no trace: {error}") from error


_NONE = np.zeros(0, np.uint8), np.zeros(0, np.int32)


def _file(loss: Array, progress: Array = _NONE[0], after: Array = _NONE[1]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, loss=loss, progress=progress, after=after)
    return buffer.getvalue()
