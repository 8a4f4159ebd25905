"""Named closed-form priors, small enough to check every number by hand."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from priors.mixture import MixturePrior
from priors.process import VE, VP, Flow, Process


def g2(process: str = "ve", correlation: float = 0.9) -> MixturePrior:
    """Two correlated pixels, ``z0 ~ N(0, [[1, c], [c, 1]])``, shape ``(1, 1, 2)``.

    Observing the first as ``y`` leaves the second with mean ``c y`` and variance ``1 - c^2``. ``process``: ``ve``,
    ``vp`` (linear betas of DDPM) or ``flow``. Raises ValueError for another process or ``|c| >= 1``.
    """
    if not -1 < correlation < 1:
        raise ValueError(f"the correlation must lie between -1 and 1, got {correlation}")
    covariance = torch.tensor([[1.0, correlation], [correlation, 1.0]], dtype=torch.float64)
    return MixturePrior(
        _process(process), torch.ones(1), torch.zeros(1, 2, dtype=torch.float64), covariance[None], (1, 1, 2)
    )


def two_modes(process: str = "ve", separation: float = 1.0, spread: float = 0.2) -> MixturePrior:
    """Two pixels and two equally likely modes: both pixels at ``(0.3, +separation)`` or ``(-0.3, -separation)``.

    The modes overlap in the first pixel when ``spread`` (their standard deviation) is of its size: observing it near
    zero leaves both modes open, so a method that covers one of them shows. ``process`` as in :func:`g2`. Raises
    ValueError for another process or a spread that is not positive.
    """
    if spread <= 0:
        raise ValueError(f"the spread must be positive, got {spread}")
    means = torch.tensor([[0.3, separation], [-0.3, -separation]], dtype=torch.float64)
    covariances = spread**2 * torch.eye(2, dtype=torch.float64).expand(2, 2, 2)
    return MixturePrior(_process(process), torch.ones(2), means, covariances, (1, 1, 2))


def smooth(shape: Sequence[int], process: str = "ve", length: float = 2.0, deviation: float = 0.5) -> MixturePrior:
    """Smooth random images: a Gaussian with covariance ``deviation^2 exp(-|p - q|^2 / (2 length^2))`` between pixels.

    ``shape``: ``(C, H, W)``, channels independent; ``length`` in pixels. ``process`` as in :func:`g2`. Raises
    ValueError for another process.
    """
    channels, height, width = shape
    row, column = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    places = torch.stack([row.flatten(), column.flatten()], dim=1)
    kernel = deviation**2 * (-torch.cdist(places, places).square() / (2 * length**2)).exp()
    covariance = torch.block_diag(*[kernel] * channels)
    mean = torch.zeros(1, len(covariance), dtype=torch.float64)
    return MixturePrior(_process(process), torch.ones(1), mean, covariance[None], (channels, height, width))


def _process(kind: str) -> Process:
    if kind == "ve":
        return VE()
    if kind == "vp":
        return VP.scheduled("linear", 1e-4, 0.02)
    if kind == "flow":
        return Flow()
    raise ValueError(f"unknown process '{kind}'; valid: ve, vp, flow")
