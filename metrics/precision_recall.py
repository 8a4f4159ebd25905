"""Compute improved precision and recall on features of any network."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from scipy.spatial.distance import cdist
from typing_extensions import override

from posterior_bench.metrics.base import MetricCard
from posterior_bench.metrics.features import Array, FeatureMetric, Setting, identified

NEIGHBOURS = 3
_MEANING = {
    "precision": "share of draws within reach of an original",
    "recall": "share of originals within reach of a draw",
}


class PrecisionRecall(FeatureMetric):
    """Fraction of draws near the originals (precision) or of originals near the draws (recall).

    The manifold of a set is the union of balls around its feature vectors. The radius of a ball is
    the distance to the third nearest other vector (k = 3). Draw ``j`` of all images is compared
    with the originals, and values are averaged over ``j``. An image that shares its known pixels
    with its original is close to it, so values are higher than for images generated from nothing,
    and rise as N falls. Intervals resample images with fixed manifolds. The value is NaN for three
    images or fewer.

    Parameters
    ----------
    half : {'precision', 'recall'}, default 'precision'
        Which of the two values.
    network : str, default 'stlpips'
        Feature network: ``stlpips``, ``inception``, ``torchvision``, ``dinov2`` or
        ``torchscript``.
    **settings : str or bool
        Settings of the network, see :func:`metrics.features.feature_network`.

    Raises
    ------
    ValueError
        For an unknown ``half``, network or setting.
    """

    references: ClassVar[dict[str, float]] = {"precision": 0.9375, "recall": 1.0}

    def __init__(
        self,
        half: Literal["precision", "recall"] = "precision",
        network: str = "stlpips",
        **settings: Setting,
    ) -> None:
        super().__init__(network, settings)
        if half not in _MEANING:
            raise ValueError(f"unknown half '{half}'; valid: {', '.join(_MEANING)}")
        self.half = half
        self.card = MetricCard(
            id=identified(half, network),
            title=f"{half.capitalize()} ({self.network.title})",
            direction="up",
            unit="",
            range="[0, 1]",
            backbone=self.network.title,
            weights=self.network.weights,
            preprocessing=f"{self.network.preprocessing}; k = {NEIGHBOURS}, {_MEANING[half]}",
            source="Kynkaanniemi, Karras, Laine, Lehtinen, Aila: Improved Precision and Recall "
            "Metric for Assessing Generative Models, NeurIPS 2019 (there "
            "with VGG16 and 50000 images)",
            tables="LatentPaint, Table 2, which states no network and no k"
            if network == "inception"
            else "",
            level="set",
            features=self.network.column,
        )

    @property
    @override
    def expected(self) -> float:
        return self.references[self.half]

    @override
    def reduce(self, features: Array, weights: Array) -> Array:
        if len(features) <= NEIGHBOURS:
            return np.full(len(weights), np.nan)
        truth, *draws = features.swapaxes(0, 1)
        if self.half == "precision":
            covered = np.mean([_covered(draw, truth) for draw in draws], axis=0)
        else:
            covered = np.mean([_covered(truth, draw) for draw in draws], axis=0)
        return np.asarray(weights @ covered / weights.sum(1))


def _covered(x: Array, manifold: Array) -> Array:
    """Tell for each vector whether it lies in a ball of the manifold, bool ``(n,)``."""
    # the nearest of a vector's own set is the vector itself
    radius = np.partition(cdist(manifold, manifold), NEIGHBOURS, axis=1)[:, NEIGHBOURS]
    return np.asarray((cdist(x, manifold) <= radius).any(1))
