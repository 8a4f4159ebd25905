"""Compute the kernel distance of two sets of images (KID) on features of any network."""

from __future__ import annotations

from typing import ClassVar, Literal, get_args

import numpy as np
from typing_extensions import override

from posterior_bench.metrics.base import MetricCard
from posterior_bench.metrics.features import Array, FeatureMetric, Setting, identified

Variant = Literal["mean", "std", "vipaint"]
_TITLES = {
    "mean": "KID x 1000",
    "std": "KID x 1000, spread over draws",
    "vipaint": "KID x 1000, references repeated",
}
_SETS = {
    "mean": "draw j of all images against the originals of other images, mean over j",
    "std": "draw j of all images against the originals of other images, standard deviation over j",
    "vipaint": "all draws together against each original repeated as often, as VIPaint's "
    "released code does: biased up",
}
ALPHAS = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Shapes of the rational quadratic kernels that are averaged, so that no single width must fit."""

SMALL = 50
"""With at most this many images, two halves of one data set differ more than most solvers do."""


class KID(FeatureMetric):
    """Squared maximum mean discrepancy between draws and originals, unbiased, times 1000.

    The kernel is ``(f . g / d + 1)^3`` as in published values, for Inception and for a network of
    the user. The features must have the scale of Inception: if ``f . g / d`` is far below 1, the
    kernel is linear and compares means only. The features of the ST-LPIPS trunk are that small, so
    ``kid_stlpips`` averages the rational quadratic kernels ``(1 + |f - g|^2 / (2 a w))^-a`` with a
    fixed width ``w`` instead. Values of different networks are not comparable.

    All images are used, without subsets. A draw shares pixels with its own original, so a draw and
    its original are not a pair of the mean. Otherwise a solver would gain by resembling the
    originals, and perfect draws would fall below 0. In resamples, two copies of an image are not a
    pair either, because the resample would be biased. The value is NaN for one image. Version 1
    paired draws with their own originals and used the cubic kernel for every network.

    Parameters
    ----------
    network : str, default 'stlpips'
        Feature network: ``stlpips``, ``inception``, ``torchvision``, ``dinov2`` or
        ``torchscript``.
    variant : {'mean', 'std', 'vipaint'}, default 'mean'
        ``mean``: average over draws, each compared with the originals. ``std``: standard deviation
        of these values over draws (NaN for one draw). ``vipaint``: repeat each original for every
        draw, include the kernel of a vector with itself, and pair draws with their own originals,
        as VIPaint's released code does.
    **settings : str or bool
        Settings of the network, see :func:`metrics.features.feature_network`.

    Raises
    ------
    ValueError
        For an unknown variant, network or setting.

    Notes
    -----
    ``vipaint`` is biased upward.
    """

    references: ClassVar[dict[str, dict[str, float]]] = {
        "cubic": {"mean": 158.538139, "std": 122.752252, "vipaint": 1217.031856},
        "rational quadratic": {"mean": 60.292096, "std": 9.126544, "vipaint": 179.013519},
    }

    def __init__(
        self, network: str = "stlpips", variant: Variant = "mean", **settings: Setting
    ) -> None:
        super().__init__(network, settings)
        if variant not in get_args(Variant):
            raise ValueError(
                f"unknown variant '{variant}' of KID; valid: {', '.join(get_args(Variant))}"
            )
        self.variant, self.width = variant, self.network.width
        self.card = MetricCard(
            id=identified("kid", network) + ("" if variant == "mean" else f"_{variant}"),
            title=f"{_TITLES[variant]} ({self.network.title})",
            direction="none" if variant == "std" else "down",
            unit="1e-3",
            range="[0, inf)"
            if variant == "std"
            else "(-inf, inf); 0 on average for equal distributions",
            backbone=self.network.title,
            weights=self.network.weights,
            preprocessing=f"{self.network.preprocessing}; {self.kernel}; {_SETS[variant]}",
            source="Binkowski, Sutherland, Arbel, Gretton: Demystifying MMD GANs, ICLR 2018",
            tables="announced in Section 5.1 of VIPaint, which prints no value"
            if (network, variant) == ("inception", "vipaint")
            else "",
            level="set",
            features=self.network.column,
            resampled=variant != "std",
            small=SMALL,
            caution="uncertain (two halves of one data set differ by as much as solvers do)",
            version=1 if variant == "vipaint" and self.width is None else 2,
        )

    @property
    def kernel(self) -> str:
        """Describe the kernel on the card."""
        if self.width is None:
            return "cubic kernel (f . g / d + 1)^3"
        return (
            f"rational quadratic kernels, shapes {', '.join(map(str, ALPHAS))}, width {self.width}"
        )

    @property
    @override
    def expected(self) -> float:
        kernel = "cubic" if self.width is None else "rational quadratic"
        return self.references[kernel][self.variant]

    def known_features(self) -> Array:
        """Scale the closed-form vectors to the width of the kernel.

        Otherwise the kernel would treat every pair as infinitely far apart.
        """
        return super().known_features() * (1 if self.width is None else self.width**0.5)

    @override
    def reduce(self, features: Array, weights: Array) -> Array:
        if len(features) < 2:
            return np.full(len(weights), np.nan)
        truth, draws = features[:, 0], features[:, 1:].swapaxes(0, 1)
        if self.variant == "vipaint":
            return 1000 * self._repeated(truth, draws, weights)
        if self.variant == "std":
            if len(draws) < 2:
                return np.full(len(weights), np.nan)
            values = [self._unbiased(truth, draw[None], weights) for draw in draws]
            return 1000 * np.std(values, axis=0, ddof=1)
        return 1000 * self._unbiased(truth, draws, weights)

    def _unbiased(self, truth: Array, draws: Array, weights: Array) -> Array:
        """Average the discrepancy from ``truth`` ``(n, F)`` over draws ``(D, n, F)``.

        Pairs of the same image are left out.
        """
        within = np.mean([self._kernel(draw, draw) for draw in draws], axis=0)
        own = self._kernel(truth, truth) + within
        cross = np.mean([self._kernel(draw, truth) for draw in draws], axis=0)
        return pairs(own - cross - cross.T, np.zeros(len(own)), np.zeros(1), weights)

    def _repeated(self, truth: Array, draws: Array, weights: Array) -> Array:
        """Estimate the discrepancy of all ``D n`` draws from ``D`` copies of the originals."""
        count, n = draws.shape[:2]
        between, same = np.zeros((n, n)), np.zeros(n)
        for i, j in np.ndindex(count, count):
            kernel = self._kernel(draws[i], draws[j])
            between += kernel / count**2
            if i != j:
                same += np.diagonal(kernel) / (count * (count - 1))
        repeated = self._kernel(truth, truth)
        total = weights.sum(1)
        # of the other members of a pool of D n, D - 1 belong to the same image
        share = (count - 1) / (count * total - 1)
        own = pairs(between + repeated, same + np.diagonal(repeated), share, weights)
        cross = np.mean([self._kernel(draw, truth) for draw in draws], axis=0)
        return own - 2 * pairs(cross, np.diagonal(cross), 1 / total, weights)

    def _kernel(self, x: Array, y: Array) -> Array:
        if self.width is None:
            return np.asarray((x @ y.T / x.shape[1] + 1) ** 3)
        squares = (x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T
        scaled = np.maximum(squares, 0) / self.width  # rounding may leave less than 0
        return np.asarray(sum((1 + scaled / (2 * a)) ** -a for a in ALPHAS) / len(ALPHAS))


def pairs(kernel: Array, same: Array, share: Array, weights: Array) -> Array:
    """Average a kernel over pairs of images.

    In a resample, two copies of an image are no pair of different images.

    Parameters
    ----------
    kernel : NDArray
        ``(n, n)``: kernel of every two images; the diagonal is not read.
    same : NDArray
        ``(n,)``: what takes the place of the pairs of an image with itself.
    share : NDArray
        ``(1,)`` or ``(B,)``: share of the average over ``same``.
    weights : NDArray
        ``(B, n)``: how often each image counts.

    Returns
    -------
    NDArray
        ``(B,)``; NaN for one image, unless ``share`` is 1.
    """
    total, squares = weights.sum(1), weights**2
    different = np.einsum("bi,bi->b", weights @ kernel, weights) - squares @ np.diagonal(kernel)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = different / (total**2 - squares.sum(1))
    return np.asarray((1 - share) * mean + share * (weights @ same) / total)
