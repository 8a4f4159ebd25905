"""Checkpointing of the repeated blocks of a network (Chen et al. 2016).

Every block keeps its input alone, and is computed again when the gradient comes to it. Diffusers
has its own switch. It wraps blocks of very different size: single residual blocks without their
attention in a U-Net, and all residual blocks of one resolution in an autoencoder. Wrapping residual
blocks, attentions and transformer blocks one by one keeps less at the peak.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

BLOCKS = (
    "ResnetBlock2D",
    "Attention",
    "BasicTransformerBlock",
    "JointTransformerBlock",
    "FluxTransformerBlock",
    "FluxSingleTransformerBlock",
    "Upsample2D",
    "Downsample2D",
)
"""Names of the classes of diffusers that networks repeat."""


def blocks(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the repeated blocks of a network, the outermost where they contain each other."""
    for child in module.children():
        if type(child).__name__ in BLOCKS:
            yield child
        else:
            yield from blocks(child)


def checkpoint_blocks(module: nn.Module, on: bool = True) -> None:
    """Checkpoint every repeated block of a network from now on, or no block any more.

    Results and gradients are the same to the last bit.
    """
    for block in blocks(module):
        if on:
            block.forward = partial(_again, block)
        else:
            vars(block).pop("forward", None)


def _again(block: nn.Module, *inputs: Any, **named: Any) -> Any:
    """Call a block; a gradient calls it once more."""
    forward = partial(type(block).forward, block)
    if not torch.is_grad_enabled():
        return forward(*inputs, **named)
    return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=False, **named)
