"""Small priors without a network worth the name: what is counted is the solver's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from posterior_bench.priors.base import Prior
from posterior_bench.priors.latents import Latent
from posterior_bench.priors.nets import Contexts
from posterior_bench.priors.process import VE, VP, Flow


class Half(nn.Module):
    """A network of one operation; with ``variance``, of two, and a learned variance."""

    def __init__(self, variance: bool = False) -> None:
        super().__init__()
        self.variance = variance

    @override
    def forward(self, x: Tensor, t: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        half = 0.5 * x
        return torch.cat([half, half], 1) if self.variance else half


class Told(Contexts):
    """A network of a few operations that reads a prompt of six tokens."""

    def __init__(self) -> None:
        super().__init__((2, 6, 3))
        self.contexts.data = torch.linspace(-1, 1, 36).view(2, 6, 3)

    @override
    def forward(self, x: Tensor, t: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        return 0.5 * x + self.rows("contexts", x, values).square().sum((1, 2)).view(-1, 1, 1, 1)


class Pooled(Latent):
    """An autoencoder of one operation each way."""

    factor, channels = 2, 1

    @override
    def encoded(self, x: Tensor, noise: Tensor | None) -> Tensor:
        return F.avg_pool2d(x, 2)

    @override
    def decoded(self, h: Tensor) -> Tensor:
        return F.interpolate(h, scale_factor=2, mode="nearest")


def _vp() -> VP:
    return VP.scheduled("linear", 1e-4, 0.02)


PRIORS: Mapping[str, Callable[[], Prior]] = {
    "pixel": lambda: Prior(_vp(), Half(variance=True), (1, 8, 8), "eps", learned_var=True),
    "edm": lambda: Prior(VE(), Half(), (1, 8, 8)),
    "flow": lambda: Prior(Flow(), Half(), (1, 8, 8), "flow"),
    "latent": lambda: Prior(_vp(), Half(), (1, 16, 16), "eps", latent=Pooled({}, [0.1], [0.5])),
    "text": lambda: Prior(
        _vp(),
        Told(),
        (1, 16, 16),
        "eps",
        num_classes=1,
        null_label=1,
        latent=Pooled({}, [0.1], [0.5]),
    ),
}
