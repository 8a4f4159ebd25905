"""Exact posterior draws of a closed-form prior: the reference of every other method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.operators.base import Operator
from posterior_bench.priors.base import Prior
from posterior_bench.priors.mixture import MixturePrior
from posterior_bench.solvers.base import Card, Noise, Observation, Samples, Solver

ENUMERATED = "enumerated"
"""The capability of images whose posterior the data set itself enumerates."""


@dataclass(frozen=True)
class Exact(Solver):
    """Independent draws from ``p(x0 | y)`` of a distribution that is known.

    This is a Gaussian mixture under a linear operator, or a data set under a mask that can
    enumerate its own images, such as the cartoon faces. There the benchmark hands in the posterior,
    the prior is not used, and ``sigma_floor`` neither. No network is called.

    Parameters
    ----------
    sigma_floor : float, default 0.0
        Lower bound on the noise level assumed for the measurement, 0 or more, in [-1, 1] units.
        It must be positive if the prior's covariance is nearly singular and the measurement was not
        made from a sample of the prior (an 8-bit image, for instance): no image of the prior then
        equals the measurement.

    Raises
    ------
    ValueError
        If ``sigma_floor`` is negative; in a run, if no component can produce ``y``.
    """

    card: ClassVar[Card] = Card(
        title="Exact posterior",
        paper="Conjugacy of Gaussian mixtures; Bishop, Pattern Recognition and Machine Learning, "
        "Section 2.3",
        equations="Eq. 2.116 and 2.117 for every component, whose weight is multiplied by its "
        "evidence p(y)",
        deviations=(
            "Only for priors in closed form: it bounds a comparison from above and is no method "
            "for images.",
        ),
    )
    needs: ClassVar[frozenset[str]] = frozenset({"exact", "linear"})
    version: ClassVar[int] = 2

    sigma_floor: float = 0.0

    def __post_init__(self) -> None:
        if not self.sigma_floor >= 0:
            raise ValueError(
                f"sigma_floor {self.sigma_floor} is not a noise level; give 0 or more, in "
                "[-1, 1] units"
            )

    @override
    def lacks(self, has: frozenset[str], sigma: float) -> frozenset[str]:
        if ENUMERATED in has:
            return frozenset({"mask"}) - has
        return super().lacks(has, sigma)

    @override
    def fit(self, obs: Observation, prior: Prior, noise: Noise) -> ExactPosterior:
        if not isinstance(prior, MixturePrior):
            raise ValueError(
                f"exact draws need a Gaussian mixture, not a {type(prior).__name__}; "
                "choose another prior"
            )
        sigma = max(self.sigma_floor, obs.operator.sigma)
        seen = zip(obs.y.flatten(1), matrices(obs.operator, obs.n, prior), strict=True)
        return ExactPosterior([_condition(prior, A, y, sigma) for y, A in seen], noise)


def matrices(operator: Operator, n: int, prior: Prior) -> Tensor:
    """Return a linear operator as matrices.

    It is applied to one basis image at a time.

    Parameters
    ----------
    operator : Operator
        A linear operator for ``n`` images.
    n : int
        How many images.
    prior : Prior
        A prior with the shape of the images, on the device of the operator.

    Returns
    -------
    Tensor
        Float64 ``(n, M, d)`` with ``d = C H W``: the matrix of each image.
    """
    basis = torch.eye(math.prod(prior.image_shape), dtype=torch.float64)
    images = basis.to(prior.device).view(-1, 1, *prior.image_shape)
    return torch.stack(
        [operator.A(image.expand(n, -1, -1, -1)).flatten(1) for image in images], dim=2
    )


def _condition(prior: MixturePrior, A: Tensor, y: Tensor, sigma: float) -> MixturePrior:
    # Rows of zeros say nothing and make the decomposition larger.
    seen = A.any(1)
    return prior.posterior(A[seen], y[seen], sigma) if seen.any() else prior


@dataclass(frozen=True)
class ExactPosterior:
    """The posteriors of a batch of images.

    Parameters
    ----------
    mixtures : list[MixturePrior]
        One Gaussian mixture per image, conditioned on its measurement.
    noise : Noise
        The source of randomness, one row per image.
    """

    mixtures: list[MixturePrior]
    noise: Noise

    @property
    def mean(self) -> Tensor:
        """Posterior means ``(N, C, H, W)``, float64."""
        shape = self.mixtures[0].image_shape
        return torch.stack([mixture.mean.unflatten(0, shape) for mixture in self.mixtures])

    @property
    def mode_weights(self) -> Tensor:
        """Posterior weights ``(N, K)`` of the components."""
        return torch.stack([mixture.weights for mixture in self.mixtures])

    def sample(self, draws: Sequence[int]) -> Samples:
        """Draw samples; see :meth:`solvers.base.Posterior.sample`."""
        fresh = self.noise.draws(draws)
        uniform = fresh.uniform(()).chunk(len(self.mixtures))
        normal = fresh.normal(self.mixtures[0].image_shape).chunk(len(self.mixtures))
        rows = zip(self.mixtures, uniform, normal, strict=True)
        return Samples(torch.stack([mixture.sample(u, n) for mixture, u, n in rows]))
