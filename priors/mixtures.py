"""Named closed-form priors: small ones whose every number can be checked by hand, and one that
looks like images.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from posterior_bench.priors.fingerprint import read_spec, resolve, sha256, weight_hashes
from posterior_bench.priors.mixture import MixturePrior
from posterior_bench.priors.process import VE, VP, Flow, Process

MIXTURE_FILE = "mixture.safetensors"


def g2(process: str = "ve", correlation: float = 0.9, deviation: float = 1.0) -> MixturePrior:
    """Two correlated pixels, ``z0 ~ N(0, s^2 [[1, c], [c, 1]])`` with ``s = deviation``, shape
    ``(1, 1, 2)``.

    Observing the first as ``y`` leaves the second with mean ``c y`` and variance ``s^2 (1 - c^2)``.
    ``process``: ``ve``, ``vp`` (linear betas of DDPM) or ``flow``. Raises ValueError for another
    process, ``|c| >= 1`` or a deviation that is not positive.
    """
    if not -1 < correlation < 1:
        raise ValueError(f"the correlation must lie between -1 and 1, got {correlation}")
    _positive("deviation", deviation)
    covariance = deviation**2 * torch.tensor(
        [[1.0, correlation], [correlation, 1.0]], dtype=torch.float64
    )
    return MixturePrior(
        _process(process),
        torch.ones(1),
        torch.zeros(1, 2, dtype=torch.float64),
        covariance[None],
        (1, 1, 2),
    )


def two_modes(process: str = "ve", separation: float = 1.0, spread: float = 0.2) -> MixturePrior:
    """Two pixels and two equally likely modes: both pixels at ``(0.3, +separation)`` or ``(-0.3,
    -separation)``.

    The modes overlap in the first pixel when ``spread`` (their standard deviation) is of its size:
    observing it near zero leaves both modes open, so a method that covers one of them shows.
    ``process`` as in :func:`g2`. Raises ValueError for another process or a spread that is not
    positive.
    """
    _positive("spread", spread)
    means = torch.tensor([[0.3, separation], [-0.3, -separation]], dtype=torch.float64)
    covariances = spread**2 * torch.eye(2, dtype=torch.float64).expand(2, 2, 2)
    return MixturePrior(_process(process), torch.ones(2), means, covariances, (1, 1, 2))


def smooth(
    shape: Sequence[int], process: str = "ve", length: float = 2.0, deviation: float = 0.5
) -> MixturePrior:
    """Smooth random images: a Gaussian with covariance ``deviation^2 exp(-|p - q|^2 / (2
    length^2))`` between pixels.

    ``shape``: ``(C, H, W)``, channels independent; ``length`` in pixels. ``process`` as in
    :func:`g2`. Raises ValueError for another process.
    """
    channels, height, width = shape
    row, column = torch.meshgrid(
        torch.arange(height).double(), torch.arange(width).double(), indexing="ij"
    )
    places = torch.stack([row.flatten(), column.flatten()], dim=1)
    kernel = deviation**2 * (-torch.cdist(places, places).square() / (2 * length**2)).exp()
    covariance = torch.block_diag(*[kernel] * channels)
    mean = torch.zeros(1, len(covariance), dtype=torch.float64)
    return MixturePrior(
        _process(process), torch.ones(1), mean, covariance[None], (channels, height, width)
    )


def correlated(
    shape: Sequence[int], process: str = "ve", correlation: float = 0.9, deviation: float = 0.3
) -> MixturePrior:
    """Correlated Gaussian: covariance ``deviation^2 correlation^(|r - r'| + |c - c'|)`` between
    pixels.

    Along a row and along a column it is a stationary autoregression of order one (a Matern field of
    smoothness 1/2 in L1 distance), so it never nears singularity: eigenvalues of each axis lie
    between ``(1 - correlation) / (1 + correlation)`` and its inverse. ``shape``: ``(C, H, W)``,
    channels independent. ``process`` as in :func:`g2`. Raises ValueError for another process,
    ``|correlation| >= 1`` or a deviation that is not positive.
    """
    channels, height, width = shape
    if not -1 < correlation < 1:
        raise ValueError(f"the correlation must lie between -1 and 1, got {correlation}")
    _positive("deviation", deviation)
    rows, columns = (_autoregression(length, correlation) for length in (height, width))
    covariance = deviation**2 * torch.block_diag(*[torch.kron(rows, columns)] * channels)
    mean = torch.zeros(1, len(covariance), dtype=torch.float64)
    return MixturePrior(
        _process(process), torch.ones(1), mean, covariance[None], (channels, height, width)
    )


def modes25(
    shape: Sequence[int], process: str = "ve", spacing: float = 0.4, spread: float = 0.05
) -> MixturePrior:
    """The 25 modes of Cardoso et al. (MCG-Diff, ICLR 2024, Section 4.1), also of Moufad et al.
    (MGDM, 2025), scaled.

    The mode ``(i, j)`` with ``i, j`` in -2..2 has its mean at ``spacing (i, j, i, j, ...)`` over
    the pixels and covariance ``spread^2 I``. The papers have a spacing of 8 spreads, which is kept,
    at a scale that fits [-1, 1]. Their weights are random; here mode ``m = 0..24`` (``j`` fastest)
    has ``1 + (7 m mod 25) / 8``, between 1 and 4, before normalisation. ``process`` as in
    :func:`g2`. Raises ValueError for another process, for a spacing or spread that is not positive,
    and for fewer than two pixels.
    """
    channels, height, width = shape
    pixels = channels * height * width
    if pixels < 2:
        raise ValueError(f"25 modes on a plane need two pixels or more, got shape {tuple(shape)}")
    _positive("spacing", spacing)
    _positive("spread", spread)
    places = torch.cartesian_prod(*[torch.arange(-2.0, 3.0, dtype=torch.float64)] * 2)
    means = spacing * places.repeat(1, (pixels + 1) // 2)[:, :pixels]
    weights = 1 + (7 * torch.arange(25) % 25) / 8
    covariances = spread**2 * torch.eye(pixels, dtype=torch.float64).expand(25, pixels, pixels)
    return MixturePrior(_process(process), weights, means, covariances, (channels, height, width))


def fitted(path: str, process: str = "ve") -> MixturePrior:
    """A mixture of low-rank-plus-isotropic Gaussians from a folder that ``scripts.fit_mixture``
    wrote.

    The file holds ``weights`` ``(K,)``, ``means`` ``(K, d)``, ``factors`` ``(K, d, r)`` and
    ``floor`` ``(K,)``; component ``k`` has covariance ``F_k F_k^T + floor_k I``, exactly as stored.
    ``process`` as in :func:`g2`. Raises FileNotFoundError for missing files, and ValueError for
    another process and for a file that is not as written.
    """
    folder = resolve(path)
    spec = read_spec(folder)
    file = folder / MIXTURE_FILE
    if weight_hashes(folder, spec) != {MIXTURE_FILE: sha256(file)}:
        raise ValueError(f"{file} is not the file prior.json was written for (its sha256 differs)")
    shape, tensors = spec.get("shape"), _tensors(file)
    if not isinstance(shape, list) or len(shape) != 3:
        raise ValueError(
            f"{folder / 'prior.json'}: 'shape' must be [channels, height, width], got {shape}"
        )
    channels, height, width = shape
    weights, means, factors, floor = (
        tensors[name] for name in ("weights", "means", "factors", "floor")
    )
    return MixturePrior.low_rank(
        _process(process), weights, means, factors, floor, (channels, height, width)
    )


def _tensors(file: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(
            f"{file} is not a safetensors file ({error}); restore it or fit the mixture again"
        ) from None


def _autoregression(length: int, correlation: float) -> torch.Tensor:
    """``correlation^|i - j|``, ``(length, length)``."""
    places = torch.arange(length, dtype=torch.float64)
    return correlation ** (places[:, None] - places).abs()


def _positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"the {name} must be positive, got {value}")


def _process(kind: str) -> Process:
    if kind == "ve":
        return VE()
    if kind == "vp":
        return VP.scheduled("linear", 1e-4, 0.02)
    if kind == "flow":
        return Flow()
    raise ValueError(f"unknown process '{kind}'; valid: ve, vp, flow")
