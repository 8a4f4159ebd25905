"""The result of a conversion, and networks that are filled strictly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from posterior_bench.priors.base import Prior
from posterior_bench.priors.convert.renaming import to_float
from posterior_bench.priors.latents import LATENTS, Latent
from posterior_bench.priors.load import fill
from posterior_bench.priors.nets import NETS


@dataclass(frozen=True)
class Converted:
    """A converted prior and facts about its source.

    Parameters
    ----------
    prior : Prior
        The prior.
    files : list[Path]
        All files that it was made of.
    licence : str
        Licence of the weights; empty if the source states none.
    facts : Mapping[str, object]
        Facts to record with the prior; empty by default.
    class_names : list[str]
        Name or prompt of every label; empty where they are not known.
    """

    prior: Prior
    files: list[Path]
    licence: str
    facts: Mapping[str, object] = field(default_factory=dict)
    class_names: list[str] = field(default_factory=list)


def network(
    name: str, settings: Mapping[str, object], state: Mapping[str, Tensor], where: object
) -> nn.Module:
    """Build a network adapter and fill it with tensors.

    Parameters
    ----------
    name : str
        The adapter in :data:`priors.nets.NETS`.
    settings : Mapping[str, object]
        Arguments of the adapter.
    state : Mapping[str, Tensor]
        Its state dict, in any dtype.
    where : object
        Name of the source in error messages.

    Returns
    -------
    nn.Module
        The network, in float32.

    Raises
    ------
    ValueError
        If a tensor is missing, extra, of another shape or not finite.
    """
    with torch.device("meta"):
        net = NETS[name](**settings)
    fill(str(where), to_float(state), net, "the settings describe another network")
    return net


def latent(
    kind: str,
    config: Mapping[str, object],
    state: Mapping[str, Tensor],
    where: object,
    scale: float | list[float],
    shift: float | list[float] = 0.0,
) -> Latent:
    """Build an autoencoder and fill it with tensors.

    Parameters
    ----------
    kind : str
        The autoencoder in :data:`priors.latents.LATENTS`.
    config : Mapping[str, object]
        Arguments of its class in diffusers.
    state : Mapping[str, Tensor]
        Its state dict under diffusers' names, in any dtype.
    where : object
        Name of the source in error messages.
    scale : float or list[float]
        Scale of the latents, one number or one per channel.
    shift : float or list[float], default 0.0
        Shift of the latents.

    Returns
    -------
    Latent
        The autoencoder, in float32.

    Raises
    ------
    ValueError
        If a tensor is missing, extra, of another shape or not finite.
    """
    with torch.device("meta"):
        made = LATENTS[kind](config, shift, scale)
    named = {f"autoencoder.{name}": value for name, value in state.items()}
    fill(str(where), to_float(named), made, "the settings describe another autoencoder")
    return made
