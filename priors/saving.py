"""The parts of an execution that save memory, put into the networks of a prior."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from posterior_bench.priors.block_checkpointing import blocks, checkpoint_blocks
from posterior_bench.priors.execution import Execution
from posterior_bench.priors.frozen_convolution import freeze_convolutions
from posterior_bench.priors.latents import Latent


def demand_effect(execution: Execution, net: nn.Module, latent: Latent | None) -> None:
    """Refuse settings that save memory in no network of a prior.

    Parameters
    ----------
    execution : Execution
        Its ``frozen_convolutions``, ``checkpointing`` and ``tile``.
    net : nn.Module
        The denoising network.
    latent : Latent or None
        The autoencoder of a latent prior.

    Raises
    ------
    ValueError
        If a setting can do nothing for these networks.
    """
    name, known = type(net).__name__, _networks(net, latent)
    if execution.checkpointing == "block" and not any(True for _ in blocks(net)):
        raise ValueError(
            f"checkpointing=block: {name} repeats no block that is known here; use call"
        )
    if execution.tile and latent is None:
        raise ValueError(f"tile={execution.tile}: this prior has no autoencoder; leave it out")
    if execution.frozen_convolutions and not any(
        isinstance(part, nn.Conv2d) for network in known for part in network.modules()
    ):
        raise ValueError(f"frozen_convolutions=true: {name} has no Conv2d of PyTorch; leave it out")


def save_memory(execution: Execution, net: nn.Module, latent: Latent | None) -> None:
    """Change networks in place so that they run as an execution says.

    Parameters
    ----------
    execution : Execution
        Its ``frozen_convolutions``, ``checkpointing`` and ``tile``; the defaults undo everything.
    net : nn.Module
        The denoising network.
    latent : Latent or None
        The autoencoder of a latent prior.
    """
    for network in _networks(net, latent):
        freeze_convolutions(network, execution.frozen_convolutions)
        checkpoint_blocks(network, execution.checkpointing == "block")
    if latent is not None:
        latent.tile = execution.tile


def _networks(net: nn.Module, latent: Latent | None) -> Sequence[nn.Module]:
    return [net] if latent is None else [net, latent]
