"""Memory that the weights of a prior need."""

from __future__ import annotations

from posterior_bench.priors.base import Prior


def weight_bytes(prior: Prior) -> int:
    """Return the bytes of the networks of a prior once they are loaded, in float32."""
    modules = [module for module in (prior.net, prior.latent) if module is not None]
    return 4 * sum(tensor.numel() for module in modules for tensor in module.state_dict().values())
