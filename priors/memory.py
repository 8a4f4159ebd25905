"""How much memory a prior takes: counted on the meta device, where tensors have shapes and no values."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from priors.base import Prior


def weight_bytes(prior: Prior) -> int:
    """What the networks take once they are loaded, in float32."""
    modules = [module for module in (prior.net, prior.latent) if module is not None]
    return 4 * sum(tensor.numel() for module in modules for tensor in module.state_dict().values())


def kept_bytes(prior: Prior) -> dict[str, int]:
    """What one row keeps for a gradient: ``denoise`` of one network call, ``decode`` of one call of the autoencoder.

    ``prior`` lies on the meta device (:func:`priors.load.verify`); a closed-form prior keeps nothing worth counting.
    Weights, which are shared by all rows, are left out, and so is what fused kernels of a GPU may save.
    """
    z = torch.zeros(1, *prior.latent_shape, device="meta", requires_grad=True)
    labels = torch.zeros(1, dtype=torch.long, device="meta")
    kept = {"denoise": 0, "decode": 0}
    if prior.net is not None:
        level, cond = prior.level(1.0), prior.condition(labels)
        kept["denoise"] = _saved(lambda: prior.denoise(z, level, cond), prior.net)
    if (latent := prior.latent) is not None:
        kept["decode"] = _saved(lambda: latent.decoded(z), latent)
    return kept


def _saved(call: Callable[[], Tensor], module: nn.Module) -> int:
    """Bytes that autograd keeps of a call, every storage once and the weights of ``module`` not at all."""
    weights = {id_of(tensor) for tensor in module.state_dict(keep_vars=True).values()}
    storages: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storages.setdefault(id_of(tensor), tensor.untyped_storage())  # held, so that no number is given twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        call()
    return sum(storage.nbytes() for key, storage in storages.items() if key not in weights)


def id_of(tensor: Tensor) -> int:
    """What tells the storage of a tensor from others, on a device without addresses."""
    return int(tensor.untyped_storage()._cdata)
