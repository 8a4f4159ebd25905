"""Priors of the Python API."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch

from posterior_bench.bench.api.configuration import configuration
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.engine.cache import shared
from posterior_bench.bench.engine.job import job_of
from posterior_bench.priors.base import Prior

_OPTIONS: WeakKeyDictionary[Prior, Mapping[str, Any]] = WeakKeyDictionary()


def load_prior(
    prior: str | Path, device: str = "cpu", *, settings: Mapping[str, Any] | None = None
) -> Prior:
    """Load a diffusion prior.

    Parameters
    ----------
    prior : str or Path
        A name that ``python -m bench ls prior`` lists, such as ``"fashion"``; or a folder with
        ``prior.json``, or a folder of diffusers.
    device : str, default "cpu"
        Where the networks run, such as ``"cuda"``.
    settings : Mapping[str, Any], optional
        Settings by their names on the command line, such as ``{"prior.vq_gradient": "through"}``.

    Returns
    -------
    Prior
        The prior. Two calls with the same arguments return the same object.

    Raises
    ------
    UserError
        If there is no such prior or device, or its files are missing; the message says what to do.

    Examples
    --------
    >>> import posterior_bench as pb
    >>> prior = pb.load_prior("fashion")
    >>> prior.image_shape, sorted(prior.caps)[:2]
    ((1, 28, 28), ['features', 'grad'])
    """
    config = job_of(configuration({"prior": str(prior)}, settings or {}))
    try:
        torch.empty(0, device=device)
    except RuntimeError as error:
        raise UserError(f"device={device} cannot be used: {str(error).splitlines()[0]}") from None
    try:
        loaded: Prior = shared("prior", config.prior, device)
    except (OSError, ValueError) as error:
        raise UserError(f"prior={prior} cannot be loaded: {error}") from None
    _OPTIONS[loaded] = config.prior
    return loaded


def option_of(prior: Prior) -> Mapping[str, Any]:
    """Return the option that a prior was loaded by; of a prior made elsewhere, an empty one."""
    return _OPTIONS.get(prior, {"_target_": ""})
