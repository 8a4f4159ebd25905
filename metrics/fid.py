"""Compute the Fréchet inception distance on features of any network."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
from typing_extensions import override

from posterior_bench.metrics.base import MetricCard
from posterior_bench.metrics.features import (
    PATCH,
    Array,
    FeatureMetric,
    FeatureNetwork,
    InceptionPatches,
    Setting,
    identified,
)

SMALL = 2048
FRECHET = (
    "Heusel, Ramsauer, Unterthiner, Nessler, Hochreiter: GANs Trained by a Two Time-Scale Update "
    "Rule Converge to a Local Nash Equilibrium, NeurIPS 2017"
)
SOURCES = {
    "dinov2": "Stein et al.: Exposing flaws of generative model evaluation metrics and their "
    "unfair treatment of diffusion models, NeurIPS 2023",
    "torchvision": f"evaluation code of DAPS; {FRECHET}",
}
TABLES = {
    "inception": "LatentPaint, Tables 1 to 4, which name no implementation; DING. LanPaintBench "
    "and FLAIR use torchmetrics, which has the same weights and resizes with half-pixel centres",
    "torchvision": "DAPS, Table 1 (100 images, on 8-bit files; for phase retrieval the best of "
    "four runs an image). Its library piq stops the matrix root early: 0.1 % higher than here on "
    "100 made-up vectors of 1024 numbers",
}


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
        Feature network: ``stlpips``, ``inception``, ``torchvision``, ``dinov2`` or
        ``torchscript``. With ``dinov2``, the metric is called FD-DINOv2 and its id is
        ``fd_dinov2``.
    **settings : str or bool
        Settings of the network, see :func:`metrics.features.feature_network`.
    """

    reference: ClassVar[float] = 6.150786

    def __init__(self, network: str = "stlpips", **settings: Setting) -> None:
        super().__init__(network, settings)
        name = "fd" if network == "dinov2" else "fid"
        self.card = self._card(
            identified(name, network), f"{name.upper()} ({self.network.title})", network
        )

    def _card(self, id: str, title: str, network: str) -> MetricCard:
        return MetricCard(
            id=id,
            title=title,
            direction="down",
            unit="",
            range="[0, inf)",
            backbone=self.network.title,
            weights=self.network.weights,
            preprocessing=f"{self.network.preprocessing}; draw j of all images against "
            "the originals, mean over j",
            source=SOURCES.get(network, FRECHET),
            tables=TABLES.get(network, ""),
            level="set",
            features=self.network.column,
            resampled=False,
            small=SMALL,
        )

    @override
    def reduce(self, features: Array, weights: Array) -> Array:
        return np.array([_mean_over_draws(features, row) for row in weights])


class PatchFID(FID):
    """Fréchet distance between the features of patches of draws and of originals.

    Every image is cut into patches of 256 x 256 pixels side by side from the top left corner; what
    is left at the right and at the bottom is not used. All patches of all images are one set, so
    the value tells about texture and fine structure, and less about the whole scene. For images of
    256 pixels it is ``fid_inception``. Everything else is as in :class:`FID`.

    Raises
    ------
    ValueError
        From :meth:`admit`, for images of less than 256 pixels a side.
    """

    length: int = 2048
    """Numbers of the vector of one patch."""

    def __init__(self) -> None:
        network: FeatureNetwork = InceptionPatches()
        FeatureMetric.__init__(self, network, {})
        title = f"FID of patches of {PATCH} px (Inception v3)"
        self.card = replace(
            self._card("fid_patch", title, "inception"),
            tables="DING, at 768 px. The script of FLAIR computes it on demand, with torchmetrics, "
            "which has the same weights and resizes with half-pixel centres",
        )

    @override
    def admit(self, shape: tuple[int, int, int]) -> None:
        super().admit(shape)
        if min(shape[1:]) < PATCH:
            raise ValueError(
                f"metric '{self.card.id}' cuts images into patches of {PATCH} x {PATCH} pixels, "
                f"and these have {shape[1]} x {shape[2]}; choose fid_inception"
            )

    @override
    def reduce(self, features: Array, weights: Array) -> Array:
        cut = features.reshape(*features.shape[:2], -1, self.length).swapaxes(1, 2)
        return super().reduce(
            cut.reshape(-1, features.shape[1], self.length), weights.repeat(cut.shape[1], axis=1)
        )

    @override
    def known_features(self) -> Array:
        """Return vectors of one patch an image, for which the value is that of :class:`FID`."""
        vectors = super().known_features()
        return np.pad(vectors, ((0, 0), (0, 0), (0, self.length - vectors.shape[-1])))


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
