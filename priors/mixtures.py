"""Closed-form priors with names: small ones to check by hand, and one that looks like images.

In every function ``process`` is ``ve``, ``vp`` (linear betas of DDPM) or ``flow``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from posterior_bench.priors.fingerprint import ROOT, read_spec, resolve, sha256, weight_hashes
from posterior_bench.priors.mixture import MixturePrior
from posterior_bench.priors.process import VE, VP, Flow, Process

MIXTURE_FILE = "mixture.safetensors"
BIPSDA = ROOT / "priors" / "assets" / "bipsda" / "covariance.safetensors"


def g2(process: str = "ve", correlation: float = 0.9, deviation: float = 1.0) -> MixturePrior:
    """Build two correlated pixels: ``x0 ~ N(0, s^2 [[1, c], [c, 1]])``.

    Parameters
    ----------
    process : str, default 've'
        Noise process: ``ve``, ``vp`` or ``flow``.
    correlation : float, default 0.9
        Correlation ``c`` of the pixels, between -1 and 1.
    deviation : float, default 1.0
        Standard deviation ``s`` of a pixel, above 0.

    Returns
    -------
    MixturePrior
        One component, for images ``(1, 1, 2)``.

    Raises
    ------
    ValueError
        If the process is unknown or a number is out of range.

    Notes
    -----
    Observing the first pixel as ``y`` leaves the second with mean ``c y`` and variance
    ``s^2 (1 - c^2)``.
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
    """Build two equally likely modes: both pixels at ``(0.3, +a)`` or at ``(-0.3, -a)``.

    Parameters
    ----------
    process : str, default 've'
        Noise process: ``ve``, ``vp`` or ``flow``.
    separation : float, default 1.0
        Distance ``a`` of the modes from zero in the second pixel.
    spread : float, default 0.2
        Standard deviation of each mode, above 0.

    Returns
    -------
    MixturePrior
        Two components, for images ``(1, 1, 2)``.

    Raises
    ------
    ValueError
        If the process is unknown or ``spread`` is not positive.

    Notes
    -----
    With ``spread`` near 0.3 the modes overlap in the first pixel. Observing it near zero leaves
    both modes open, which exposes a method that finds one of them only.
    """
    _positive("spread", spread)
    means = torch.tensor([[0.3, separation], [-0.3, -separation]], dtype=torch.float64)
    covariances = spread**2 * torch.eye(2, dtype=torch.float64).expand(2, 2, 2)
    return MixturePrior(_process(process), torch.ones(2), means, covariances, (1, 1, 2))


def smooth(
    shape: Sequence[int], process: str = "ve", length: float = 2.0, deviation: float = 0.5
) -> MixturePrior:
    """Build smooth random images: a Gaussian with a squared-exponential covariance.

    Between pixels ``p`` and ``q`` of a channel it is
    ``deviation^2 exp(-|p - q|^2 / (2 length^2))``; channels are independent.

    Parameters
    ----------
    shape : Sequence[int]
        Shape ``(C, H, W)`` of an image.
    process : str, default 've'
        Noise process: ``ve``, ``vp`` or ``flow``.
    length : float, default 2.0
        Correlation length in pixels.
    deviation : float, default 0.5
        Standard deviation of a pixel.

    Returns
    -------
    MixturePrior
        One component.

    Raises
    ------
    ValueError
        If the process is unknown.
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
    """Build a Gaussian whose correlation falls geometrically with the distance of pixels.

    Between pixels ``(r, c)`` and ``(r', c')`` of a channel the covariance is
    ``deviation^2 correlation^(|r - r'| + |c - c'|)``; channels are independent.

    Parameters
    ----------
    shape : Sequence[int]
        Shape ``(C, H, W)`` of an image.
    process : str, default 've'
        Noise process: ``ve``, ``vp`` or ``flow``.
    correlation : float, default 0.9
        Correlation of neighbours, between -1 and 1.
    deviation : float, default 0.3
        Standard deviation of a pixel, above 0.

    Returns
    -------
    MixturePrior
        One component.

    Raises
    ------
    ValueError
        If the process is unknown or a number is out of range.

    Notes
    -----
    Along a row and along a column this is a stationary autoregression of order one (a Matérn field
    of smoothness 1/2 in L1 distance). It stays far from singular: the eigenvalues of each axis lie
    between ``(1 - correlation) / (1 + correlation)`` and its inverse.
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
    """Build the 25 modes of Cardoso et al. (MCG-Diff, ICLR 2024, Section 4.1), scaled.

    Moufad et al. (MGDM, 2025) use them too. The mode ``(i, j)`` with ``i, j`` in -2 to 2 has the
    mean ``spacing (i, j, i, j, ...)`` over the pixels and the covariance ``spread^2 I``.

    Parameters
    ----------
    shape : Sequence[int]
        Shape ``(C, H, W)`` of an image, with two pixels or more.
    process : str, default 've'
        Noise process: ``ve``, ``vp`` or ``flow``.
    spacing : float, default 0.4
        Distance of neighbouring means in one pixel, above 0.
    spread : float, default 0.05
        Standard deviation of each mode, above 0.

    Returns
    -------
    MixturePrior
        25 components.

    Raises
    ------
    ValueError
        If the process is unknown, a number is not positive, or there are fewer than two pixels.

    Notes
    -----
    The papers space the means by 8 spreads; so do the defaults, at a scale that fits [-1, 1]. The
    papers draw random weights. Here mode ``m`` in 0 to 24 (``j`` fastest) has the weight
    ``1 + (7 m mod 25) / 8``, between 1 and 4, before normalisation.
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


def bipsda(process: str = "ve", unit: float = 12.0) -> MixturePrior:
    """Build the 10-dimensional mixture of the benchmark BIPSDA (OJSP 2025).

    In its units the weights are 0.4, 0.3, 0.3, the means -5, 0 and 5 in every dimension, and the
    covariances ``I``, ``diag(1 ... 2)`` and a rotation of the second.

    Parameters
    ----------
    process : str, default 've'
        Noise process: ``ve``, ``vp`` or ``flow``.
    unit : float, default 12.0
        How many of its units the value 1 of an image stands for, above 0. With 12 no draw comes
        near the ends of [-1, 1], to which some solvers clip; 1 keeps the benchmark's own scale.

    Returns
    -------
    MixturePrior
        Three components, for images ``(1, 1, 10)``.

    Raises
    ------
    ValueError
        If the process is unknown or ``unit`` is not positive.

    Notes
    -----
    The rotation is stored. The released code draws it anew, and draws another one if a network was
    built before.
    """
    _positive("unit", unit)
    stretched = torch.linspace(1, 2, 10, dtype=torch.float64).diag()
    turned = _tensors(BIPSDA)["covariance"].double()
    covariances = torch.stack([torch.eye(10, dtype=torch.float64), stretched, turned])
    means = torch.tensor([-5.0, 0.0, 5.0], dtype=torch.float64)[:, None].expand(3, 10)
    weights = torch.tensor([0.4, 0.3, 0.3], dtype=torch.float64)
    return MixturePrior(_process(process), weights, means / unit, covariances / unit**2, (1, 1, 10))


def modes_imbalanced(
    process: str = "ve",
    weights: Sequence[float] = (0.9, 0.09, 0.01),
    distance: float = 0.5,
    spread: float = 0.08,
) -> MixturePrior:
    """Build three well-separated modes of very different weights in four pixels.

    The means are ``distance`` times ``(1, 1, -1, -1)``, ``(1, -1, 1, -1)`` and ``(1, -1, -1, 1)``.

    Parameters
    ----------
    process : str, default 've'
        Noise process: ``ve``, ``vp`` or ``flow``.
    weights : Sequence[float], default (0.9, 0.09, 0.01)
        Weights of the modes, above 0.
    distance : float, default 0.5
        Size of the means in every pixel, above 0.
    spread : float, default 0.08
        Standard deviation of each mode, above 0.

    Returns
    -------
    MixturePrior
        Three components, for images ``(1, 2, 2)``.

    Raises
    ------
    ValueError
        If the process is unknown, a number is not positive, or there are not three weights.

    Notes
    -----
    The first pixel says nothing about the mode: if it alone is observed, the posterior has exactly
    the weights of the prior. Each other pixel is negative in two of the modes.
    """
    _positive("distance", distance)
    _positive("spread", spread)
    if len(weights) != 3 or min(weights) <= 0:
        raise ValueError(f"give three weights above 0, got {list(weights)}")
    signs = [[1.0, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]]
    means = distance * torch.tensor(signs, dtype=torch.float64)
    covariances = spread**2 * torch.eye(4, dtype=torch.float64).expand(3, 4, 4)
    shares = torch.tensor(list(weights), dtype=torch.float64)
    return MixturePrior(_process(process), shares, means, covariances, (1, 2, 2))


def fitted(path: str, process: str = "ve") -> MixturePrior:
    """Load a fitted mixture of Gaussians from a folder that ``scripts.fit_mixture`` wrote.

    Parameters
    ----------
    path : str
        A folder with ``prior.json`` and ``mixture.safetensors``. The latter holds ``weights``
        ``(K,)``, ``means`` ``(K, d)``, ``factors`` ``(K, d, r)`` and ``floor`` ``(K,)``.
    process : str, default 've'
        Noise process: ``ve``, ``vp`` or ``flow``.

    Returns
    -------
    MixturePrior
        Component ``k`` has the covariance ``F_k F_k^T + floor_k I``, exactly as stored.

    Raises
    ------
    FileNotFoundError
        If the folder or a file is missing.
    ValueError
        If the process is unknown, or a file was changed or damaged.
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
    """Return the matrix ``correlation^|i - j|``, ``(length, length)``."""
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
