"""How much memory the weights of a prior take."""

from __future__ import annotations

from posterior_bench.priors.base import Prior


def weight_bytes(prior: Prior) -> int:
    """What the networks take once they are loaded, in float32."""
    modules = [module for module in (prior.net, prior.latent) if module is not None]
    return 4 * sum(tensor.numel() for module in modules for tensor in module.state_dict().values())
