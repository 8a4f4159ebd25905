"""A diagonal Gaussian to be fitted, started at a Gaussian it must stay near."""

from __future__ import annotations

import torch
from torch import Tensor

from posterior_bench.priors.process import Scalar


class Diagonal:
    """``N(mean + shift, var exp(2 stretch))``, elementwise, with parameters ``shift`` and
    ``stretch`` started at zero.

    So a step of Adam is one on mean and log deviation, and at the start the gradient of the KL is
    zero in any precision. ``mean``: ``(N, C, H, W)``; ``var``: a positive number, or one per row
    ``(N, 1, 1, 1)``.
    """

    def __init__(self, mean: Tensor, var: Scalar):
        self.mean, self.var = mean, torch.as_tensor(var).to(mean)
        self.shift, self.stretch = (torch.zeros_like(mean).requires_grad_() for _ in range(2))

    @property
    def parameters(self) -> list[Tensor]:
        """What an optimiser moves."""
        return [self.shift, self.stretch]

    def draw(self, xi: Tensor) -> Tensor:
        """A draw from standard normals ``(N, C, H, W)``, differentiable in the parameters."""
        return self.mean + self.shift + self.var.sqrt() * self.stretch.exp() * xi

    def kl(self) -> Tensor:
        """The KL to ``N(mean, var)`` in nats, ``(N,)``."""
        elements = (2 * self.stretch).exp() - 1 - 2 * self.stretch + self.shift.square() / self.var
        return 0.5 * elements.flatten(1).sum(1)
