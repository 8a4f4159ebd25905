"""Kernel inception distance, on features of any network."""

from __future__ import annotations

from typing import ClassVar, Literal, get_args

import numpy as np

from metrics.base import MetricCard
from metrics.features import Array, FeatureMetric, Setting, identified

Variant = Literal["mean", "std", "vipaint"]
_TITLES = {"mean": "KID x 1000", "std": "KID x 1000, spread over draws", "vipaint": "KID x 1000, references repeated"}
_SETS = {
    "mean": "draw j of all images against the originals, mean over j",
    "std": "draw j of all images against the originals, standard deviation over j",
    "vipaint": "all draws together against each original repeated as often, as VIPaint's released code does: biased up",
}


class KID(FeatureMetric):
    """Squared maximum mean discrepancy with the kernel ``(f . g / d + 1)^3``, unbiased, times 1000.

    All images are used, without subsets. ``variant``: ``mean`` over draws, each against the originals; ``std`` of
    these values over draws (NaN for one draw); ``vipaint``, which repeats each original for every draw and so counts a
    vector's kernel with itself. Values of different networks are not comparable. In resamples two copies of an image
    are no pair of the kernel's mean, and the share of an image's pairs with its own original is kept: a resample would
    else be biased. NaN for one image.
    """

    references: ClassVar[dict[str, float]] = {"mean": -447.634032, "std": 159.140541, "vipaint": 1217.031856}

    def __init__(self, network: str = "stlpips", variant: Variant = "mean", **settings: Setting) -> None:
        super().__init__(network, settings)
        if variant not in get_args(Variant):
            raise ValueError(f"unknown variant '{variant}' of KID; valid: {', '.join(get_args(Variant))}")
        self.variant = variant
        self.card = MetricCard(
            id=identified("kid", network) + ("" if variant == "mean" else f"_{variant}"),
            title=f"{_TITLES[variant]} ({self.network.title})",
            direction="none" if variant == "std" else "down",
            unit="1e-3",
            range="[0, inf)" if variant == "std" else "(-inf, inf); 0 on average for equal distributions",
            backbone=self.network.title,
            weights=self.network.weights,
            preprocessing=f"{self.network.preprocessing}; {_SETS[variant]}",
            source="Binkowski, Sutherland, Arbel, Gretton: Demystifying MMD GANs, ICLR 2018",
            level="set",
            features=self.network.column,
            resampled=variant != "std",
        )

    @property
    def expected(self) -> float:
        return self.references[self.variant]

    def reduce(self, features: Array, weights: Array) -> Array:
        if len(features) < 2:
            return np.full(len(weights), np.nan)
        truth, draws = features[:, 0], features[:, 1:].swapaxes(0, 1)
        if self.variant == "vipaint":
            return 1000 * _repeated(truth, draws, weights)
        if self.variant == "std":
            values = [_unbiased(truth, draw[None], weights) for draw in draws]
            return 1000 * np.std(values, axis=0, ddof=1) if len(draws) > 1 else np.full(len(weights), np.nan)
        return 1000 * _unbiased(truth, draws, weights)


def _unbiased(truth: Array, draws: Array, weights: Array) -> Array:
    """The mean over draws ``(D, n, F)`` of the estimate against ``truth`` ``(n, F)``."""
    own = _kernel(truth, truth) + np.mean([_kernel(draw, draw) for draw in draws], axis=0)
    cross = np.mean([_kernel(draw, truth) for draw in draws], axis=0)
    return _pairs(own, np.zeros(len(own)), np.zeros(1), weights) - 2 * _cross(cross, weights)


def _repeated(truth: Array, draws: Array, weights: Array) -> Array:
    """The estimate from all ``D n`` draws and the originals ``D`` times each."""
    count, n = draws.shape[:2]
    between, same = np.zeros((n, n)), np.zeros(n)
    for i, j in np.ndindex(count, count):
        kernel = _kernel(draws[i], draws[j])
        between += kernel / count**2
        if i != j:
            same += np.diagonal(kernel) / (count * (count - 1))
    repeated = _kernel(truth, truth)
    total = weights.sum(1)
    # of the other members of a pool of D n, D - 1 belong to the same image
    share = (count - 1) / (count * total - 1)
    own = _pairs(between + repeated, same + np.diagonal(repeated), share, weights)
    cross = np.mean([_kernel(draw, truth) for draw in draws], axis=0)
    return own - 2 * _cross(cross, weights)


def _kernel(x: Array, y: Array) -> Array:
    return np.asarray((x @ y.T / x.shape[1] + 1) ** 3)


def _cross(kernel: Array, weights: Array) -> Array:
    return _pairs(kernel, np.diagonal(kernel), 1 / weights.sum(1), weights)


def _pairs(kernel: Array, same: Array, share: Array, weights: Array) -> Array:
    """``(B,)``: the mean over pairs of different images, and with weight ``share`` that of ``same`` over images."""
    total, squares = weights.sum(1), weights**2
    different = np.einsum("bi,bi->b", weights @ kernel, weights) - squares @ np.diagonal(kernel)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = different / (total**2 - squares.sum(1))
    return np.asarray((1 - share) * mean + share * (weights @ same) / total)
