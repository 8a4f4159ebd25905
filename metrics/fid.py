"""Frechet inception distance, on features of any network."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from typing_extensions import override

from posterior_bench.metrics.base import MetricCard
from posterior_bench.metrics.features import Array, FeatureMetric, Setting, identified

SMALL = 2048


class FID(FeatureMetric):
    """``|mu_x - mu_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2))`` of draw ``j`` and the originals,
    averaged over ``j``.

    Biased upward by about 1/N: compare at the same number of images only. Resamples hold fewer
    different images and so larger values, hence no interval. With ``A`` and ``B`` the centred
    features over the root of ``N - 1``, the trace of the root is the sum of the singular values of
    ``A B^T``: no matrix root is taken. NaN for one image.
    """

    reference: ClassVar[float] = 6.150786

    def __init__(self, network: str = "stlpips", **settings: Setting) -> None:
        super().__init__(network, settings)
        self.card = MetricCard(
            id=identified("fid", network),
            title=f"FID ({self.network.title})",
            direction="down",
            unit="",
            range="[0, inf)",
            backbone=self.network.title,
            weights=self.network.weights,
            preprocessing=f"{self.network.preprocessing}; draw j of all images against the "
            f"originals, mean over j",
            source="Heusel, Ramsauer, Unterthiner, Nessler, Hochreiter: GANs Trained by a Two "
            "Time-Scale Update Rule "
            "Converge to a Local Nash Equilibrium, NeurIPS 2017",
            level="set",
            features=self.network.column,
            resampled=False,
            small=SMALL,
        )

    @override
    def reduce(self, features: Array, weights: Array) -> Array:
        return np.array([_mean_over_draws(features, row) for row in weights])


def _mean_over_draws(features: Array, weights: Array) -> float:
    if weights.sum() < 2:
        return float("nan")
    truth, *draws = (_moments(vectors, weights) for vectors in features.swapaxes(0, 1))
    return float(np.mean([_distance(truth, draw) for draw in draws]))


def _moments(vectors: Array, weights: Array) -> tuple[Array, Array]:
    """Mean ``(F,)`` and a root ``R`` of the covariance ``R^T R``, at most ``F`` rows; divisor N -
    1.
    """
    mean = weights @ vectors / weights.sum()
    root = np.sqrt(weights / (weights.sum() - 1))[:, None] * (vectors - mean)
    return mean, np.asarray(np.linalg.qr(root, mode="r") if len(root) > root.shape[1] else root)


def _distance(x: tuple[Array, Array], y: tuple[Array, Array]) -> float:
    (mean_x, root_x), (mean_y, root_y) = x, y
    overlap = np.linalg.svd(root_x @ root_y.T, compute_uv=False).sum()
    return float(
        ((mean_x - mean_y) ** 2).sum() + (root_x**2).sum() + (root_y**2).sum() - 2 * overlap
    )
