"""Memory that the weights of a prior need."""

from __future__ import annotations

from posterior_bench.priors.base import Prior


def weight_bytes(prior: Prior) -> int:
    """Return the bytes that the networks of a prior take on a GPU once they are loaded.

    Weights are in float32, apart from those that the prior holds in bf16.
    """
    modules = [module for module in (prior.net, prior.latent) if module is not None]
    low = {} if prior.net is None else prior.net.state_dict()
    saved = sum(low[name].numel() for name in prior.bf16_weights)
    numbers = sum(v.numel() for module in modules for v in module.state_dict().values())
    return 4 * numbers - 2 * saved
