"""Forward operators: ``y = A(x) + sigma n``, batched, in [-1, 1] units."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor


class Operator:
    """What a measurement did to the images of a batch.

    ``caps`` names what holds for it: ``linear``, ``mask`` (keeps or drops pixels), ``projection``
    (``At A`` is one), ``pinv``, ``prox``, ``svd``, ``nonlinear``. ``takes_mask`` and
    ``takes_shape``: what the constructor is handed, the masks of a batch as ``mask`` and ``(C, H,
    W)`` as ``shape``. ``sigma`` is the noise level in [-1, 1] units; ``mask`` is bool ``(N, 1, H,
    W)``, True = observed, or None.
    """

    caps: ClassVar[frozenset[str]] = frozenset()
    takes_mask: ClassVar[bool] = False
    takes_shape: ClassVar[bool] = False
    sigma: float = 0.0
    mask: Tensor | None = None

    def check_sigma(self) -> None:
        """Raise ValueError unless ``sigma`` is a noise level."""
        if not self.sigma >= 0:
            raise ValueError(
                f"sigma {self.sigma} is not a noise level; give 0 or more, in [-1, 1] image units"
            )

    def A(self, x: Tensor) -> Tensor:
        """The noise-free measurement of ``x`` ``(N, C, H, W)``."""
        raise NotImplementedError

    def At(self, y: Tensor) -> Tensor:
        """The adjoint: ``<A x, y> = <x, At y>``."""
        raise NotImplementedError

    def pinv(self, y: Tensor) -> Tensor:
        """The pseudo-inverse: the smallest ``x`` with ``A x`` nearest to ``y``."""
        raise NotImplementedError

    def prox(self, x: Tensor, y: Tensor, rho: float | Tensor) -> Tensor:
        """``argmin_u |A u - y|^2 + rho |u - x|^2``."""
        raise NotImplementedError

    def first_guess(self, y: Tensor) -> Tensor:
        """An image to start from: the pseudo-inverse or else the adjoint; nonlinear operators have
        one of their own.
        """
        return self.pinv(y) if "pinv" in self.caps else self.At(y)

    def observe(self, x: Tensor, noise: Tensor) -> Tensor:
        """A measurement of the truth with standard-normal ``noise`` shaped like ``A(x)``."""
        return self.A(x) + self.sigma * noise

    def residual(self, x: Tensor, y: Tensor) -> Tensor:
        """``y - A(x)``; zero where nothing was observed."""
        return y - self.A(x)

    def paste(self, x: Tensor, y: Tensor) -> Tensor:
        """``x`` with directly observed pixels put back; ``x`` itself where the operator observes no
        pixel.
        """
        return x

    def repeat(self, times: int) -> Operator:
        """Every row ``times`` times, neighbours together."""
        return self

    def to(self, device: torch.device | str) -> Operator:
        """The same operator with its tensors on ``device``."""
        return self
