"""What every converter hands back, and how its networks are filled: strictly."""

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
    """A prior with the files it was made of, the licence of its weights, and facts to record with
    it.
    """

    prior: Prior
    files: list[Path]
    licence: str
    facts: Mapping[str, object] = field(default_factory=dict)
    class_names: list[str] = field(default_factory=list)


def network(
    name: str, settings: Mapping[str, object], state: Mapping[str, Tensor], where: object
) -> nn.Module:
    """The adapter ``name`` of :data:`priors.nets.NETS` with the tensors of ``state``; ValueError
    unless all fit.
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
    """An autoencoder of :data:`priors.latents.LATENTS` with the tensors of ``state``; ValueError
    unless all fit.
    """
    with torch.device("meta"):
        made = LATENTS[kind](config, shift, scale)
    named = {f"autoencoder.{name}": value for name, value in state.items()}
    fill(str(where), to_float(named), made, "the settings describe another autoencoder")
    return made
