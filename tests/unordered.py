"""The operations that raise on a GPU where deterministic algorithms are asked for.

A worker asks for them (:func:`bench.engine.device.repeatable`), and the CPU never raises. So the
pretended GPU (:mod:`tests.pretended_gpu`) and :func:`refused` raise in its place.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

ALWAYS = {
    *(f"reflection_pad{n}d_backward" for n in (1, 2, 3)),
    *(f"_adaptive_avg_pool{n}d_backward" for n in (2, 3)),
    *(f"adaptive_max_pool{n}d_backward" for n in (2, 3)),
    *(f"fractional_max_pool{n}d_backward" for n in (2, 3)),
    *("avg_pool3d_backward", "max_pool3d_with_indices_backward", "max_unpool2d", "max_unpool3d"),
    # not bilinear nor trilinear, which torch replaces on a GPU by operations with an order
    *("upsample_linear1d_backward", "upsample_bicubic2d_backward"),
    *("_upsample_bilinear2d_aa_backward", "_upsample_bicubic2d_aa_backward"),
    *("grid_sampler_2d_backward", "grid_sampler_3d_backward", "nll_loss2d_forward"),
    *("_ctc_loss_backward", "put", "put_", "histc", "kthvalue"),
}
"""Names of operations, by the list of ``torch.use_deterministic_algorithms`` of PyTorch 2.11."""


def is_unordered(operation: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> bool:
    """Return whether a GPU would refuse this call of an operation."""
    name = operation.overloadpacket.__name__
    if name in ALWAYS:
        return True
    if name in ("cumsum", "cumsum_"):
        kind = named.get("dtype") or arguments[0].dtype
        return bool(kind.is_floating_point or kind.is_complex)
    if name in ("median", "nanmedian"):
        return operation._overloadname == "dim"
    if name == "bincount":
        return len(arguments) > 1 and arguments[1] is not None
    if name in ("scatter_reduce", "scatter_reduce_"):
        return "prod" in arguments
    return False


class Unordered(RuntimeError):
    """An operation was called that a GPU refuses."""


class _Refusing(TorchDispatchMode):
    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if is_unordered(func, args, kwargs or {}):
            raise Unordered(f"{func} has no kernel on a GPU whose sums have an order")
        return func(*args, **(kwargs or {}))


@contextmanager
def refused() -> Iterator[None]:
    """Ask for deterministic algorithms in the block, and raise where a GPU would.

    Raises
    ------
    Unordered
        By the code within the block.
    """
    torch.use_deterministic_algorithms(True)
    try:
        with _Refusing():
            yield
    finally:
        torch.use_deterministic_algorithms(False)
