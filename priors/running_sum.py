"""The running sum of weights, whose bits do not depend on the device's choice of a kernel."""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor


def running_sum(x: Tensor) -> Tensor:
    """Add up the last dimension, one number after the other.

    ``Tensor.cumsum`` has no kernel on a GPU whose sums have an order, and raises where
    deterministic algorithms are asked for. On the CPU it gives the same bits.

    Parameters
    ----------
    x : Tensor
        Numbers ``(..., K)``, K at least 1; a few hundred at most, each is one operation.

    Returns
    -------
    Tensor
        The sums of the first 1 to K numbers, ``(..., K)``.
    """
    return torch.stack([*accumulate(x.unbind(-1))], -1)
