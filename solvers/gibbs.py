"""Gibbs sampling for signals with independent increments: the reference of the Lévy arena."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.priors.base import Prior
from posterior_bench.priors.increments import BernoulliLaplace, Gauss, Laplace, Law, Student
from posterior_bench.priors.levy import LevyPrior
from posterior_bench.priors.running_sum import running_sum
from posterior_bench.solvers.base import Card, Noise, Observation, Samples, Solver
from posterior_bench.solvers.exact import matrices
from posterior_bench.solvers.shared.chains import effective_size, split_rhat

SMALLEST = 1e-7
"""The least square of an increment, in units of its scale, that a variance is drawn for."""


@dataclass(frozen=True)
class Gibbs(Solver):
    """Draws from ``p(x0 | y)`` of a Lévy signal under a linear operator, by Markov chains.

    Every increment is a Gaussian whose variance is random. The sampler draws the variances given
    the increments, then all increments at once given the variances. It makes no network call. All
    images and chains advance together, in float64.

    Parameters
    ----------
    chains : int, default 4
        Chains per image. Each starts from a draw of the prior.
    burn_in : int, default 400
        Sweeps that are thrown away.
    kept : int, default 500
        States that are kept of every chain.
    thin : int, default 4
        Sweeps from one kept state to the next.
    sigma_floor : float, default 0.0
        Lower bound on the noise level assumed for the measurement, 0 or more, in [-1, 1] units.
        Without any noise the chains do not move.

    Raises
    ------
    ValueError
        If a number is too small; in a run, if the noise level and its bound are both 0.
    """

    card: ClassVar[Card] = Card(
        title="Gibbs sampler",
        paper="Zach et al.: A Statistical Benchmark for Diffusion Posterior Sampling Algorithms, "
        "ICLR 2026 (arXiv 2509.12821)",
        equations="Gaussian latent machines: variances given increments (Student: Gamma; Laplace: "
        "generalised inverse Gaussian; Bernoulli-Laplace: jumps flipped one by one with their "
        "sizes integrated out), then the increments given the variances",
        deviations=(
            "Only for Lévy signals: it bounds a comparison from above and is no method for images.",
            "The matrices are those of the increments and not of the samples, and bounded below by "
            "the identity. The law is the same.",
            "A jump is tested once per sweep. The released code can take a jump back in the same "
            "step with the numbers of before, which is not a Gibbs step.",
            "Several chains with split R-hat, where the paper runs one.",
            "A sample takes the variances of a random state of the chains and draws the increments "
            "again, so no two samples are equal.",
        ),
    )
    needs: ClassVar[frozenset[str]] = frozenset({"increments", "linear"})
    version: ClassVar[int] = 1

    chains: int = 4
    burn_in: int = 400
    kept: int = 500
    thin: int = 4
    sigma_floor: float = 0.0

    def __post_init__(self) -> None:
        for name, least in (
            ("chains", 1),
            ("burn_in", 0),
            ("kept", 4),
            ("thin", 1),
            ("sigma_floor", 0),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)}: give {least} or more")

    @override
    def fit(self, obs: Observation, prior: Prior, noise: Noise) -> GibbsPosterior:
        if not isinstance(prior, LevyPrior):
            raise ValueError(
                f"the Gibbs sampler needs a Lévy prior, not a {type(prior).__name__}; choose "
                "another prior"
            )
        sigma = max(self.sigma_floor, obs.operator.sigma)
        if not sigma > 0:
            raise ValueError(
                "the Gibbs sampler needs noise in the measurement; give operator.sigma or "
                "solver.sigma_floor above 0"
            )
        problem = _Problem.of(obs, prior, sigma)
        latents = _LATENTS[type(prior.law)](prior.law, problem, noise)
        shape = (self.chains, math.prod(prior.image_shape))
        uniform = noise.uniform(shape).double()
        increments = prior.law.quantile((uniform + 2**-25).clamp_max(1 - 2**-25))
        states, variances = [], []
        for sweep in range(1, self.burn_in + self.kept * self.thin + 1):
            variance = latents.given(increments)
            increments = problem.draw(variance, noise.normal(shape).double())
            if sweep > self.burn_in and (sweep - self.burn_in) % self.thin == 0:
                states.append(running_sum(increments).float())
                variances.append(variance.float())
        return GibbsPosterior(
            problem, torch.stack(states, 2), torch.stack(variances, 2), prior.image_shape, noise
        )


class _Problem(NamedTuple):
    """The likelihood of the increments of ``N`` images: ``exp(-u' G u / 2 + h' u)``; float64."""

    G: Tensor  # (N, L, L)
    h: Tensor  # (N, L)

    @classmethod
    def of(cls, obs: Observation, prior: Prior, sigma: float) -> _Problem:
        A = matrices(obs.operator, obs.n, prior)
        H = running_sum(A.flip(-1)).flip(-1) / sigma
        y = obs.y.flatten(1).double() / sigma
        return cls(H.mT @ H, torch.einsum("nml,nm->nl", H, y))

    def factor(self, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Return roots ``r`` of variances ``(N, C, L)``, and the Cholesky factor of ``1 + r G r``.

        The matrix is at least the identity, and a variance of 0 is no exception.
        """
        root = variance.sqrt()
        inner = root[..., :, None] * self.G[:, None] * root[..., None, :]
        inner.diagonal(dim1=-2, dim2=-1).add_(1)
        # a row that is not a number must not stop the others
        factor, failed = torch.linalg.cholesky_ex(inner)
        return root, factor.masked_fill(failed[..., None, None] != 0, math.nan)

    def draw(self, variance: Tensor, normal: Tensor) -> Tensor:
        """Draw increments ``(N, C, L)`` given their variances."""
        root, factor = self.factor(variance)
        right = (root * self.h[:, None])[..., None]
        white = torch.linalg.solve_triangular(factor, right, upper=False) + normal[..., None]
        return root * torch.linalg.solve_triangular(factor.mT, white, upper=True)[..., 0]


@dataclass
class _Latents:
    """The variances of the increments, as a state of the chains."""

    law: Law
    problem: _Problem
    noise: Noise

    def given(self, u: Tensor) -> Tensor:
        """Draw variances ``(N, C, L)`` given increments."""
        raise NotImplementedError


class _GaussLatents(_Latents):
    @override
    def given(self, u: Tensor) -> Tensor:
        return torch.full_like(u, self.law.variance)


class _LaplaceLatents(_Latents):
    @override
    def given(self, u: Tensor) -> Tensor:
        return self.law.scale**2 * self.mixing((u / self.law.scale).square())

    def mixing(self, square: Tensor) -> Tensor:
        """Draw from GIG(1/2, 1, square): one over an inverse Gaussian of shape 1.

        Michael, Schucany and Haas, "Generating random variates using transformations with multiple
        roots", The American Statistician 1976; written without a difference of large numbers.
        """
        shape = square.shape[1:]
        mean = square.clamp_min(SMALLEST).rsqrt()
        w = mean * self.noise.normal(shape).double().square() / 2
        small = mean / (1 + w + (w * (w + 2)).sqrt())
        first = self.noise.uniform(shape).double() * (mean + small) <= mean
        return torch.where(first, small, mean.square() / small).reciprocal()


class _StudentLatents(_Latents):
    @override
    def given(self, u: Tensor) -> Tensor:
        assert isinstance(self.law, Student)
        k = self.law.freedom
        normals = self.noise.normal((k + 1, *u.shape[1:])).double()  # a Gamma of half-integer shape
        rate = k + (u / self.law.scale).square()
        return self.law.scale**2 * rate / normals.square().sum(1)


class _JumpLatents(_LaplaceLatents):
    """Which increments are jumps, and the variances of jumps."""

    active: Tensor | None = None

    @override
    def given(self, u: Tensor) -> Tensor:
        assert isinstance(self.law, BernoulliLaplace)
        active = u != 0 if self.active is None else self.active
        fresh = -2 * torch.log1p(-self.noise.uniform(u.shape[1:]).double())
        mixed = self.mixing((u / self.law.scale).square())
        size = self.law.scale**2 * torch.where(active, mixed, fresh)
        odds = math.log(self.law.jumps / (1 - self.law.jumps))
        self.active = self._flipped(active.clone(), size, odds)
        return torch.where(self.active, size, 0.0)

    def _flipped(self, active: Tensor, size: Tensor, odds: float) -> Tensor:
        """Flip jumps ``(N, C, L)`` one after the other, with the increments integrated out.

        ``C = H' B^-1 H`` and ``q = H' B^-1 y``, where ``B`` is the covariance of ``y``, change by a
        multiple of one column of ``C`` with every flip.
        """
        shape = size.shape[:2]
        C, q = self._evidence(torch.where(active, size, 0.0))
        chance = self.noise.uniform(size.shape[1:]).double().flatten(0, 1)
        active, size = active.flatten(0, 1), size.flatten(0, 1)
        for i in range(size.shape[1]):
            was, w = active[:, i], size[:, i]
            change = torch.where(was, -w, w)
            growth = 1 + change * C[:, i, i]
            volume = torch.where(was, 0.5, -0.5) * growth.log()
            jump = chance[:, i] < torch.sigmoid(odds + volume + w * q[:, i] ** 2 / (2 * growth))
            flips = (jump != was).nonzero()[:, 0]
            column, factor = C[flips, :, i], (change / growth)[flips, None]
            q[flips] -= factor * q[flips, i, None] * column
            C[flips] -= (factor * column)[:, :, None] * column[:, None]
            active[:, i] = jump
        return active.unflatten(0, shape)

    def _evidence(self, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``C`` ``(N C, L, L)`` and ``q`` ``(N C, L)`` for variances ``(N, C, L)``."""
        G, h = self.problem.G[:, None], self.problem.h[:, None]
        root, factor = self.problem.factor(variance)
        both = torch.cat([G.expand(*variance.shape, -1), h.expand_as(variance)[..., None]], -1)
        white = torch.linalg.solve_triangular(factor, root[..., None] * both, upper=False)
        C, q = (both - white[..., :-1].mT @ white).flatten(0, 1).split([len(G[0, 0]), 1], -1)
        return C.contiguous(), q[..., 0].contiguous()


_LATENTS: dict[type[Law], type[_Latents]] = {
    Gauss: _GaussLatents,
    Laplace: _LaplaceLatents,
    Student: _StudentLatents,
    BernoulliLaplace: _JumpLatents,
}


@dataclass(frozen=True)
class GibbsPosterior:
    """The states of the chains of a batch of images.

    Parameters
    ----------
    problem : _Problem
        The likelihoods.
    states : Tensor
        Signals ``(N, chains, kept, L)``, float32.
    variances : Tensor
        Variances of the increments from which each state was drawn, shaped alike.
    shape : tuple[int, int, int]
        Shape of an image.
    noise : Noise
        The source of randomness, one row per image.
    """

    problem: _Problem
    states: Tensor
    variances: Tensor
    shape: tuple[int, int, int]
    noise: Noise

    @cached_property
    def mean(self) -> Tensor:
        """The mean of all states, float64 ``(N, C, H, W)``."""
        return self.states.double().mean((1, 2)).unflatten(-1, self.shape)

    @cached_property
    def rhat(self) -> Tensor:
        """The largest split R-hat of a sample of the signal, ``(N,)``."""
        return split_rhat(self.states).amax(-1)

    @cached_property
    def ess(self) -> Tensor:
        """The smallest effective sample size of a sample of the signal, ``(N,)``."""
        return effective_size(self.states).amin(-1)

    def sample(self, draws: Sequence[int]) -> Samples:
        """Draw samples; see :meth:`solvers.base.Posterior.sample`."""
        rows, length = len(self.states), self.states.shape[-1]
        fresh = self.noise.draws(draws)
        pool = self.variances.flatten(1, 2)
        chosen = (fresh.uniform(()).double() * pool.shape[1]).long().view(rows, -1)
        chosen = chosen.clamp_max(pool.shape[1] - 1)
        variance = pool.gather(1, chosen[..., None].expand(-1, -1, length)).double()
        normal = fresh.normal((length,)).double().view_as(variance)
        signals = running_sum(self.problem.draw(variance, normal))
        return Samples(signals.float().unflatten(-1, self.shape))
