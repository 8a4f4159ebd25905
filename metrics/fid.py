"""Compute the Fréchet inception distance on features of any network."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from typing_extensions import override

from posterior_bench.metrics.base import MetricCard
from posterior_bench.metrics.features import Array, FeatureMetric, Setting, identified

SMALL = 2048


class FID(FeatureMetric):
    """Fréchet distance between the features of draws and originals.

    ``|mu_x - mu_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2))`` for draw ``j`` of all images and the
    originals, averaged over ``j``. The value is biased upward by about 1/N: compare it at the same
    number of images only. Resamples hold fewer different images and so give larger values;
    therefore the value has no interval. The trace of the matrix root is the sum of the singular
    values of ``A B^T``, where ``A`` and ``B`` are the centred features divided by the root of
    ``N - 1``, so no matrix root is needed. The value is NaN for one image.

    Parameters
    ----------
    network : str, default 'stlpips'
        Feature network: ``stlpips``, ``inception`` or ``torchscript``.
    **settings : str or bool
        Settings of the network, see :class:`metrics.features.TorchScriptFeatures`.
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
            preprocessing=f"{self.network.preprocessing}; draw j of all images against "
            "the originals, mean over j",
            source="Heusel, Ramsauer, Unterthiner, Nessler, Hochreiter: GANs Trained by a Two "
            "Time-Scale Update Rule Converge to a Local Nash Equilibrium, NeurIPS 2017",
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
    """Return the mean ``(F,)`` and a root ``R`` of the covariance ``R^T R``.

    The root has at most ``F`` rows. The divisor of the covariance is N - 1.
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
