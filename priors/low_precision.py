"""Weights in bf16, cast once, and products in TensorFloat-32, where they are wanted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

Kept = dict[nn.Parameter, Tensor]
"""The float32 values of weights that are held in bf16."""


def cast_weights(net: nn.Module) -> Kept:
    """Hold the weights of products and convolutions in bf16, as autocast would cast them.

    Autocast casts frozen weights again in every call. It gives the same bits for weights that are
    in bf16 already. Weights of normalisations and embeddings stay in float32, as under autocast.

    Parameters
    ----------
    net : nn.Module
        The frozen network; it is changed in place.

    Returns
    -------
    Kept
        The float32 values, for :func:`restore_weights`; on the host for a network on a GPU.
    """
    # diffusers reads the dtype of a model from its first weight, which therefore stays as it is
    models = (module for module in net.modules() if hasattr(type(module), "dtype"))
    first = {next(model.parameters()) for model in models}
    layers = (module for module in net.modules() if isinstance(module, nn.Linear | _ConvNd))
    weights = {weight for layer in layers for weight in layer.parameters(recurse=False)} - first
    kept = {}
    for weight in weights:
        kept[weight] = weight.data.cpu() if weight.device.type == "cuda" else weight.data
        weight.data = weight.data.to(torch.bfloat16)
    return kept


def restore_weights(kept: Kept) -> None:
    """Put back the float32 values of weights, on the device where the weights are now."""
    for weight, value in kept.items():
        weight.data = value.to(weight.device)


@contextmanager
def tf32(enabled: bool) -> Iterator[None]:
    """Compute products of a GPU in TensorFloat-32, or in float32, while the block runs."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    try:
        products.allow_tf32 = convolutions.allow_tf32 = enabled
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before
