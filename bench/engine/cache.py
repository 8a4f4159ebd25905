"""Priors and metric networks that the cells of one process share.

A sweep over solvers loads its prior once. A sweep over priors keeps the prior of the present cell
alone, beside a few small objects: :func:`forget_others` is called before a cell loads its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import chain
from typing import Any, Literal

from torch import nn

from posterior_bench.bench.config.build import arguments, build, target
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.core.foreign import text_of
from posterior_bench.priors.base import Prior, View
from posterior_bench.priors.fingerprint import fingerprint
from posterior_bench.priors.load import describe, load, load_on

Kind = Literal["prior", "metric", "description"]
_Key = tuple[Kind, str, str, str]

SPARE_BYTES, SPARE_OBJECTS = 256 * 2**20, 64
"""The most that is kept for later cells, of objects that the present cell does not need."""

_KEPT: dict[_Key, Any] = {}
"""Everything that is loaded; the object used last stands last."""


def shared(kind: Kind, node: Mapping[str, Any], device: str) -> Any:
    """Return a prior or a metric, loaded once per process and device."""
    key = _key(kind, node, device)
    found = _KEPT.pop(key, None)
    if found is None:
        if kind == "description":
            found = _read(describe, node)
        elif target(node) is load:
            found = _read(partial(load_on, device), json.loads(key[1]))
        else:
            found = build(json.loads(key[1])).to(device)
    _KEPT[key] = found
    return found


def described(node: Mapping[str, Any]) -> Prior:
    """Return a prior without its weights, if they lie in files; a prior in closed form whole.

    It has shapes, classes, capabilities and the table of prompts, which is all that a plan needs.
    No memory is taken for the weights, and the worker loads them once, on its own device.

    Raises
    ------
    UserError
        If a file is missing, damaged or changed.
    """
    prior: Prior = shared("description" if target(node) is load else "prior", node, "cpu")
    return prior


def forget_others(needed: Iterable[tuple[Kind, Mapping[str, Any]]], device: str) -> None:
    """Forget the objects on a device that a cell does not need.

    Of these objects, the ones used last are kept for later cells, up to :data:`SPARE_BYTES` and
    :data:`SPARE_OBJECTS`. A GPU keeps none: what is left of its memory decides the batch of a row
    whose memory runs out, which must not depend on the cells before.

    Parameters
    ----------
    needed : iterable of (kind, node)
        What the cell is about to ask :func:`shared` for.
    device : str
        The device of the cell; objects on other devices stay.
    """
    keep = {_key(kind, node, device) for kind, node in needed}
    spare = [key for key in reversed(_KEPT) if key[2] == device and key not in keep]
    most = SPARE_BYTES if device == "cpu" else 0
    size = 0
    for place, key in enumerate(spare):
        size += size_of(_KEPT[key])
        if size > most or device != "cpu" or place >= SPARE_OBJECTS:
            del _KEPT[key]


def size_of(loaded: object) -> int:
    """Return the bytes of all weights in a prior or metric."""
    whole = loaded.base if isinstance(loaded, View) else loaded
    parts = [part for part in [whole, *vars(whole).values()] if isinstance(part, nn.Module)]
    tensors = chain.from_iterable(chain(part.parameters(), part.buffers()) for part in parts)
    return sum({id(t): 0 if t.is_meta else t.nbytes for t in tensors}.values())


def _key(kind: Kind, node: Mapping[str, Any], device: str) -> _Key:
    text = json.dumps({k: v for k, v in node.items() if k != "train"}, sort_keys=True)
    return kind, text, device, "" if kind == "metric" else _weights(node)


def _weights(node: Mapping[str, Any]) -> str:
    """Return the fingerprint of a prior: other files at the same place are another prior."""
    try:
        return fingerprint(node["path"]) if "path" in node else ""
    except (OSError, ValueError):
        return ""  # whatever loads it says what is wrong


def _read(read: Callable[..., Prior], node: Mapping[str, Any]) -> Prior:
    """Read a prior from its files, whole or in part."""
    try:
        return read(**arguments(node))
    except (ValueError, TypeError, FileNotFoundError) as error:
        raise UserError(f"{node['_target_']}: {text_of(error)}") from error
