"""Detect what a solver changes outside its samples: global generators, prior, torch settings."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from typing_extensions import override

from posterior_bench.priors.base import Prior


class GlobalRandomnessError(RuntimeError):
    """Code drew from, or seeded, a generator that the whole process shares."""


class _NoGlobalGenerator(TorchDispatchMode):
    """Refuse every torch operation that draws random numbers without a generator argument."""

    @override
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        # attention has the tag because of its dropout, which is off in a frozen network
        draws = torch.Tag.nondeterministic_seeded in func.tags and "attention" not in func.name()
        if draws and kwargs.get("generator") is None:
            raise GlobalRandomnessError(f"torch's global generator was used ({func.name()})")
        return func(*args, **kwargs)


def _refuse(name: str) -> Callable[..., None]:
    """Return a function that raises for every call."""

    def refuse(*_args: object, **_kwargs: object) -> None:
        raise GlobalRandomnessError(f"{name} was called")

    return refuse


def _global_functions() -> Iterator[tuple[ModuleType, str]]:
    """Yield the functions of torch, NumPy and Python that use or seed a global generator."""
    for module, function in ((np.random, np.random.normal), (random, random.random)):
        # functions of these modules are methods of one hidden generator
        generator = getattr(function, "__self__", None)
        for name, member in vars(module).items():
            if getattr(member, "__self__", None) is generator and not name.startswith(("_", "get")):
                yield module, name
    for module, names in (
        (torch, ("manual_seed", "seed", "set_rng_state")),
        (np.random, ("seed", "ranf", "sample")),
    ):
        for name in names:
            yield module, name


@contextmanager
def forbid_global_randomness() -> Iterator[None]:
    """Let every use of a global generator of torch, NumPy or Python raise within the block.

    Raises
    ------
    GlobalRandomnessError
        By the code within the block, if it draws from such a generator or seeds it.
    """
    with ExitStack() as stack:
        for module, name in dict.fromkeys(_global_functions()):
            stack.callback(setattr, module, name, getattr(module, name))
            setattr(module, name, _refuse(f"{module.__name__}.{name}"))
        stack.enter_context(_NoGlobalGenerator())
        yield


def global_generator_states() -> tuple[bytes, bytes, bytes]:
    """Return the states of the global generators of torch, NumPy and Python."""
    numpy_state = np.random.get_state(legacy=False)
    return (
        torch.get_rng_state().numpy().tobytes(),
        repr(numpy_state).encode(),
        repr(random.getstate()).encode(),
    )


@contextmanager
def restore_torch_settings() -> Iterator[None]:
    """Restore gradient mode, default dtype and number of threads after the block."""
    gradient, dtype, threads = (
        torch.is_grad_enabled(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
    )
    try:
        yield
    finally:
        torch.set_grad_enabled(gradient)
        torch.set_default_dtype(dtype)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


def snapshot(prior: Prior) -> dict[str, object]:
    """Return everything about a prior and the process that a solver must leave as it was.

    Parameters
    ----------
    prior : Prior
        The prior.

    Returns
    -------
    dict of str to object
        Comparable values by a short name, such as ``weights`` or ``default dtype``.
    """
    roots = {"net": prior.net, "latent": prior.latent}
    modules = {place: module for place, module in roots.items() if module is not None}
    tensors = {name: value for name, value in vars(prior).items() if isinstance(value, Tensor)}
    for place, module in modules.items():
        tensors |= {
            f"{place}.{name}": value for name, value in module.state_dict(keep_vars=True).items()
        }
    parts = [
        (f"{place}.{name}", part)
        for place, root in modules.items()
        for name, part in root.named_modules()
    ]
    return {
        "weights": {
            name: value.detach().cpu().numpy().tobytes() for name, value in tensors.items()
        },
        "gradients": {
            name for name, value in tensors.items() if value.requires_grad or value.grad is not None
        },
        "training mode": {name for name, part in parts if part.training},
        "hooks": {
            name: len(part._forward_hooks) + len(part._forward_pre_hooks) for name, part in parts
        },
        "meter": id(prior.meter),
        "gradient mode": torch.is_grad_enabled(),
        "default dtype": torch.get_default_dtype(),
        "number of threads": torch.get_num_threads(),
    }
