"""Removing the prefixes that wrappers of a network add to the names of its tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from posterior_bench.priors.convert.readers import tensors

INSIDE = (
    "module",
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
    "_forward_module",
)
"""What DataParallel, torch.compile, FSDP, activation checkpointing and Fabric write, at any depth
of a name."""

AROUND = (
    "model",
    "ema",
    "ema_model",
    "model_ema",
    "net",
    "network",
    "unet",
    "transformer",
    "denoiser",
    "state_dict",
)
"""What training code calls the network it saves; taken away where every name begins with it."""

_COUNTERS = ("n_averaged",)
"""Tensors of ``torch.optim.swa_utils.AveragedModel`` beside the network."""


def unwrapped(
    state: Mapping[str, Tensor], where: object, around: tuple[str, ...] = AROUND
) -> dict[str, Tensor]:
    """Return tensors under the names of the network alone.

    Parameters
    ----------
    state : Mapping[str, Tensor]
        Tensors, perhaps under names of wrappers.
    where : object
        Name of the file in error messages.
    around : tuple[str, ...], default AROUND
        Prefixes to remove where every name begins with one and the same.

    Returns
    -------
    dict[str, Tensor]
        The tensors.

    Raises
    ------
    ValueError
        If two tensors would share a name, or weights of several networks lie side by side.
    """
    if len(state) > 1:
        state = {name: value for name, value in state.items() if name not in _COUNTERS}
    names = {
        name: ".".join(part for part in name.split(".") if part not in INSIDE) for name in state
    }
    heads = {name.partition(".")[0] for name in names.values()}
    while len(heads) == 1 and heads <= {*around} and all("." in name for name in names.values()):
        names = {old: name.partition(".")[2] for old, name in names.items()}
        heads = {name.partition(".")[0] for name in names.values()}
    if len(heads) > 1 and heads <= {*around}:
        below = " and ".join(f"'{head}.'" for head in sorted(heads))
        raise ValueError(
            f"{where} holds weights below {below}; keep those of one network, without that prefix"
        )
    if len({*names.values()}) < len(names):
        twice = next(name for name in names.values() if [*names.values()].count(name) > 1)
        raise ValueError(f"{where} holds '{twice}' twice, once below a wrapper; keep one of them")
    return {name: state[old] for old, name in names.items()}


def weights_of(content: Mapping[str, object], path: Path) -> dict[str, Tensor]:
    """Return the weights of one network in a checkpoint, unwrapped.

    Parameters
    ----------
    content : Mapping[str, object]
        The checkpoint: a flat dict of tensors, or a dict that holds one such dict.
    path : Path
        The file, for error messages.

    Returns
    -------
    dict[str, Tensor]
        The tensors.

    Raises
    ------
    ValueError
        If there are no weights, or several dicts of them (say ``model`` beside ``ema``).
    """
    dicts = {
        key: value
        for key, value in content.items()
        if isinstance(value, Mapping) and _all_tensors(value)
    }
    if any(isinstance(value, Tensor) for value in content.values()) or not dicts:
        return unwrapped(tensors(content, path), path)
    if len(dicts) > 1:
        found = " and ".join(f"'{key}'" for key in dicts)
        raise ValueError(
            f"{path} holds weights under {found}; save one of them alone as a flat dict"
        )
    ((_, inner),) = dicts.items()
    return unwrapped(tensors(inner, path), path)


def _all_tensors(value: Mapping[object, object]) -> bool:
    return bool(value) and all(isinstance(one, Tensor) for one in value.values())
