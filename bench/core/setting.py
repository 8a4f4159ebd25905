"""One piece of state of the process: how it is read, compared and put back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class Setting:
    """One piece of state of the process.

    Parameters
    ----------
    name : str
        Name for people.
    read : callable
        Returns the present value.
    write : callable
        Puts a value back that ``read`` returned.
    """

    name: str
    read: Callable[[], Any]
    write: Callable[[Any], object]


UNREADABLE = object()
"""In place of a value that could not be read; where it was so before, nothing is demanded
afterwards."""


def same_value(a: Any, b: Any) -> bool:
    """Return whether ``a`` equals ``b``, tensors and arrays inside containers included."""
    if b is UNREADABLE:
        return True
    if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
        return isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return np.array_equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(same_value(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) < 100:
        return len(a) == len(b) and all(map(same_value, a, b))
    return a is b or bool(a == b)


def attribute(owner: Any, name: str, label: str = "") -> Setting:
    """Return the setting for an attribute of a module or object, compared as an object."""
    label = label or f"{getattr(owner, '__name__', type(owner).__name__)}.{name}"
    return Setting(
        label,
        lambda: read_or_unreadable(lambda: getattr(owner, name)),
        lambda value: setattr(owner, name, value),
    )


def read_or_unreadable(read: Callable[[], Any]) -> Any:
    """Return the value, or :data:`UNREADABLE` if torch refuses to answer.

    It refuses where its older and its newer switches contradict each other.
    """
    try:
        return read()
    except RuntimeError:
        return UNREADABLE
