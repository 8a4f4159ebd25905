"""Long Markov chains on the exact posterior: the reference for nonlinear operators."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Self

import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.operators.base import Operator
from posterior_bench.priors.base import Prior
from posterior_bench.priors.mixture import MixturePrior
from posterior_bench.priors.running_sum import running_sum
from posterior_bench.solvers.base import Card, Noise, Observation, Samples, Solver
from posterior_bench.solvers.shared.chains import effective_size, split_rhat
from posterior_bench.solvers.shared.likelihood import gradient

ACCEPTED = 0.574
"""The share of accepted Langevin proposals that is best in many dimensions."""

WIDER = 1.5
"""Factor of the covariances of independent proposals, so that they reach the tails."""

RAREST = 0.01
"""Least weight of a component among independent proposals."""


@dataclass(frozen=True)
class LongRun(Solver):
    """Draw from ``p(x0 | y)`` of a Gaussian mixture under any operator, by Markov chains.

    It makes no network call. Many particles start as exact draws of the prior. In ``stages`` the
    likelihood is raised from power 0 to 1: at each the particles are weighted, resampled and moved.
    Then every particle is a chain of ``steps`` steps. A step is a Langevin proposal and an
    independent proposal, each accepted or rejected by Metropolis and Hastings. The independent
    proposals come from a mixture that was fitted to the particles, so chains change their mode.

    Parameters
    ----------
    particles : int, default 128
        Number of particles, and of chains.
    stages : int, default 16
        Number of powers of the likelihood. The powers of an image are chosen so that each keeps
        half of the effective particles; the last one is 1.
    moves : int, default 4
        Langevin steps after each stage.
    steps : int, default 400
        Recorded steps of every chain.
    kept : int, default 40
        Steps of every chain, evenly spaced, from which samples are chosen.

    Raises
    ------
    ValueError
        If a number is not positive or too small; in a run, if the prior is no mixture, the operator
        has masks, or there is no noise.
    """

    card: ClassVar[Card] = Card(
        title="Long-run reference",
        paper="Del Moral, Doucet, Jasra: Sequential Monte Carlo samplers, JRSS B 2006; Roberts, "
        "Tweedie: Exponential convergence of Langevin distributions, Bernoulli 1996",
        equations="annealed likelihoods with resampling; Metropolis-adjusted Langevin steps",
        deviations=(
            "Only for mixtures of few dimensions: it bounds a comparison from above and is no "
            "method for images.",
            "Langevin proposals are scaled by the covariance of the particles within the "
            "components. A step also has an independent proposal, from a mixture fitted to the "
            "particles.",
        ),
    )
    needs: ClassVar[frozenset[str]] = frozenset({"exact", "low_dimension", "nonlinear"})
    work: ClassVar[tuple[str, ...]] = ()

    particles: int = 128
    stages: int = 16
    moves: int = 4
    steps: int = 400
    kept: int = 40

    def __post_init__(self) -> None:
        least = {"particles": 2, "stages": 1, "moves": 0, "steps": 4, "kept": 1}
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise ValueError(f"{name} {getattr(self, name)} is too small; give {bound} or more")
        if self.kept > self.steps:
            raise ValueError(f"kept {self.kept} is more than the {self.steps} steps of a chain")

    @override
    def lacks(self, has: frozenset[str], sigma: float) -> frozenset[str]:
        return super().lacks(has, sigma) | (frozenset() if sigma > 0 else {"noise"})

    @override
    def fit(self, obs: Observation, prior: Prior, noise: Noise) -> LongRunPosterior:
        if not isinstance(prior, MixturePrior):
            raise ValueError(
                f"the exact density needs a Gaussian mixture, not a {type(prior).__name__}; "
                "choose another prior"
            )
        if obs.operator.mask is not None:
            raise ValueError("an operator with masks is linear; use solver=exact")
        populations = self._started(obs, prior, noise)
        plain = torch.stack([population.effective() for population in populations])
        for stage in range(self.stages):
            uniform = noise.uniform(())
            for population, u in zip(populations, uniform.double(), strict=True):
                population.temper(u, last=stage == self.stages - 1)
            for _ in range(self.moves):
                for population, step in self._steps(populations, noise):
                    population.move(step, adapt=True)
        for population in populations:
            population.fit_proposal()
        chains = [torch.stack(states, 1) for states in self._recorded(populations, noise)]
        return LongRunPosterior(prior, torch.stack(chains), plain, self.kept, noise)

    # All images take the same number of random numbers, and each image is computed by itself:
    # so an image does not depend on its neighbours, bit for bit.

    def _started(self, obs: Observation, prior: MixturePrior, noise: Noise) -> list[_Population]:
        uniform = noise.uniform((self.particles,))
        normal = noise.normal((self.particles, *prior.image_shape))
        rows = zip(obs.y, uniform, normal, strict=True)
        return [
            _Population(_Posterior(obs.operator, prior, y), prior.sample(u, n)) for y, u, n in rows
        ]

    def _steps(
        self, populations: Sequence[_Population], noise: Noise
    ) -> Iterator[tuple[_Population, _Step]]:
        normal = noise.normal((self.particles, populations[0].x.shape[1])).double()
        uniform = noise.uniform((self.particles,)).double()
        for i, population in enumerate(populations):
            yield population, _Step(normal[i], uniform[i])

    def _recorded(self, populations: Sequence[_Population], noise: Noise) -> list[list[Tensor]]:
        """Run the chains; return the states ``(particles, d)`` of every image and step."""
        states: list[list[Tensor]] = [[] for _ in populations]
        for _ in range(self.steps):
            for population, step in self._steps(populations, noise):
                population.move(step)
            which = noise.uniform((self.particles,)).double()
            jumps = self._steps(populations, noise)
            for (population, step), u, kept in zip(jumps, which, states, strict=True):
                population.jump(step, u)
                kept.append(population.x)
        return states


class LongRunPosterior:
    """The chains of a batch of images, and what they say of their own precision.

    Parameters
    ----------
    prior : MixturePrior
        The prior.
    chains : Tensor
        States ``(N, chains, steps, d)``, float64.
    plain : Tensor
        Effective share of draws of the prior that are weighted by the likelihood, ``(N,)``.
    kept : int
        Steps of every chain from which samples are chosen.
    noise : Noise
        The source of randomness, one row per image.

    Attributes
    ----------
    mean : Tensor
        Posterior means ``(N, C, H, W)``, float64.
    mode_weights : Tensor
        Posterior weights of the prior's components, ``(N, K)``.
    rhat : Tensor
        Largest split R-hat ``(N,)`` of all values and mode weights.
    ess : Tensor
        Smallest effective sample size ``(N,)`` of all values and mode weights.
    error : Tensor
        Standard error ``(N,)`` of the mean, relative to the spread of the posterior.
    """

    def __init__(
        self, prior: MixturePrior, chains: Tensor, plain: Tensor, kept: int, noise: Noise
    ) -> None:
        n, count, steps, _ = chains.shape
        images = chains.reshape(-1, *prior.image_shape)
        shares = prior.responsibilities(images).view(n, count, steps, -1)
        self.noise, self.plain = noise, plain
        self.mean = images.view(n, -1, *prior.image_shape).mean(1)
        self.mode_weights = shares.mean((1, 2))
        # rounded, or components that hardly occur would decide
        every = torch.cat([chains, shares.round(decimals=2)], dim=-1)
        sizes = effective_size(every)
        self.rhat, self.ess = split_rhat(every).amax(1), sizes.amin(1)
        variance = chains.flatten(1, 2).var(1)
        squares = (variance / sizes[:, : variance.shape[1]]).sum(1)
        self.error = (squares / variance.sum(1)).sqrt()
        places = torch.linspace(0, steps - 1, kept).round().long()
        self._pool = chains[:, :, places].reshape(n, -1, *prior.image_shape)

    def sample(self, draws: Sequence[int]) -> Samples:
        """Draw samples; see :meth:`solvers.base.Posterior.sample`."""
        n, size = self._pool.shape[:2]
        uniform = self.noise.draws(draws).uniform(()).double().view(n, -1)
        chosen = (uniform * size).long().clamp_max(size - 1)
        rows = zip(self._pool, chosen, strict=True)
        return Samples(torch.stack([pool[places] for pool, places in rows]).float())


class _Step(NamedTuple):
    """Random numbers of one step: ``normal`` ``(P, d)`` and ``uniform`` ``(P,)``."""

    normal: Tensor
    uniform: Tensor


class _Densities(NamedTuple):
    """Logarithms ``(P,)`` of the prior and the likelihood, with their gradients ``(P, d)``."""

    prior: Tensor
    likelihood: Tensor
    prior_slope: Tensor
    likelihood_slope: Tensor

    def at(self, power: float) -> tuple[Tensor, Tensor]:
        """Return log density and gradient of the prior times a power of the likelihood."""
        return (
            self.prior + power * self.likelihood,
            self.prior_slope + power * self.likelihood_slope,
        )

    def where(self, chosen: Tensor, other: Self) -> Self:
        """Return these values where ``chosen`` ``(P,)``, else those of ``other``."""
        return type(self)(*(_where(chosen, a, b) for a, b in zip(self, other, strict=True)))


class _Mixture:
    """The density of a mixture at states ``(P, d)``: its components with inverse roots."""

    def __init__(self, weights: Tensor, means: Tensor, covariances: Tensor) -> None:
        self.weights, self.means = weights / weights.sum(), means
        self.roots = torch.stack([_root(covariance) for covariance in covariances])
        eye = torch.eye(means.shape[1]).to(means)
        self.whiten = torch.linalg.solve_triangular(self.roots, eye, upper=False)
        log_volume = self.roots.diagonal(dim1=1, dim2=2).log().sum(1)
        self.log_height = (self.weights.log() - log_volume)[:, None]

    def joint(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return log densities ``(K, P)`` of the components, and states whitened by each."""
        white = (x - self.means[:, None]) @ self.whiten.mT
        return self.log_height - white.square().sum(2) / 2, white

    def log_density(self, x: Tensor) -> Tensor:
        """Return the log density ``(P,)`` up to a number."""
        return self.joint(x)[0].logsumexp(0)

    def with_slope(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log density and its gradient ``(P, d)``."""
        joint, white = self.joint(x)
        slope = -(joint.softmax(0)[..., None] * (white @ self.whiten)).sum(0)
        return joint.logsumexp(0), slope

    def sample(self, uniform: Tensor, normal: Tensor) -> Tensor:
        """Return one draw for every row of the random numbers."""
        k = torch.searchsorted(running_sum(self.weights), uniform).clamp_max(len(self.weights) - 1)
        draws = normal @ self.roots.mT + self.means[:, None]
        return draws[k, torch.arange(len(k), device=k.device)]


class _Posterior:
    """The posterior of one image: densities of states ``(P, d)``."""

    def __init__(self, operator: Operator, prior: MixturePrior, y: Tensor) -> None:
        self.operator, self.shape, self.y = operator, prior.image_shape, y.double()
        self.prior = _Mixture(prior.weights, prior.means, prior.covariances)
        self.covariances = prior.covariances

    def densities(self, x: Tensor) -> _Densities:
        prior, prior_slope = self.prior.with_slope(x)
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            y = self.y.expand(len(x), *self.y.shape)
            likelihood = self.operator.log_likelihood(x.unflatten(1, self.shape), y)
            slope = gradient(likelihood, x)
        return _Densities(prior, likelihood.detach(), prior_slope, slope)


class _Population:
    """The particles ``x`` ``(P, d)`` of one image, float64."""

    def __init__(self, posterior: _Posterior, images: Tensor) -> None:
        self.posterior, self.power, self.size = posterior, 0.0, 1.0
        self.x = images.double().flatten(1)
        self.density = posterior.densities(self.x)
        self.root = _root(posterior.covariances.mean(0))

    def effective(self) -> Tensor:
        """Return the share of the particles that the likelihood leaves effective."""
        return _effective(self.density.likelihood)

    def temper(self, uniform: Tensor, last: bool) -> None:
        """Raise the power of the likelihood, and resample the particles by their weights."""
        power = 1.0 if last else _next_power(self.density.likelihood, self.power)
        weights = ((power - self.power) * self.density.likelihood).softmax(0)
        places = (torch.arange(len(weights), device=uniform.device) + uniform) / len(weights)
        chosen = torch.searchsorted(running_sum(weights), places).clamp_max(len(weights) - 1)
        self.x, self.power = self.x[chosen], power
        self.density = _Densities(*(values[chosen] for values in self.density))
        self.root = _root(self._within().mean)

    def move(self, step: _Step, adapt: bool = False) -> None:
        """Propose a step of Langevin dynamics to every particle."""
        here, slope = self.density.at(self.power)
        half = self.size**2 / 2
        forward = self.size * step.normal @ self.root.T
        x = self.x + half * slope @ self.root @ self.root.T + forward
        density = self.posterior.densities(x)
        there, back = density.at(self.power)
        white = torch.linalg.solve_triangular(
            self.root, (self.x - x - half * back @ self.root @ self.root.T).T, upper=False
        )
        log_ratio = (step.normal.square().sum(1) - white.square().sum(0) / self.size**2) / 2
        accepted = self._accept(x, density, there - here + log_ratio, step.uniform)
        if adapt:
            self.size *= 2.0 ** (2 * (accepted - ACCEPTED))

    def fit_proposal(self) -> None:
        """Fit the mixture of the independent proposals to the particles."""
        within, posterior = self._within(), self.posterior
        few = within.counts < 2 * self.x.shape[1]
        means = torch.where(few[:, None], posterior.prior.means, within.means)
        covariances = torch.where(few[:, None, None], posterior.covariances, within.covariances)
        weights = (within.counts / within.counts.sum()).clamp_min(RAREST)
        self.proposal = _Mixture(weights, means, WIDER * covariances)

    def jump(self, step: _Step, which: Tensor) -> None:
        """Propose a draw of the fitted mixture to every particle."""
        x = self.proposal.sample(which, step.normal)
        density = self.posterior.densities(x)
        new, old = self.proposal.log_density(x), self.proposal.log_density(self.x)
        gained = density.at(self.power)[0] - self.density.at(self.power)[0]
        self._accept(x, density, gained + old - new, step.uniform)

    def _accept(self, x: Tensor, density: _Densities, log_ratio: Tensor, uniform: Tensor) -> float:
        """Accept proposals by Metropolis and Hastings; return the share of accepted ones."""
        accepted = uniform.log() < log_ratio.nan_to_num(-torch.inf)
        self.x = _where(accepted, x, self.x)
        self.density = density.where(accepted, self.density)
        return accepted.double().mean().item()

    def _within(self) -> _Within:
        """Return the moments of the particles within the components of the prior."""
        shares = self.posterior.prior.joint(self.x)[0].softmax(0).T
        counts = shares.sum(0)
        means = shares.T @ self.x / counts.clamp_min(1e-9)[:, None]
        centred = self.x[:, None] - means
        sums = torch.einsum("nk,nki,nkj->kij", shares, centred, centred)
        # a little of the prior keeps them regular if all particles are copies of one
        little = 1e-8 * self.posterior.covariances
        covariances = sums / counts.clamp_min(1e-9)[:, None, None] + little
        return _Within(counts, means, covariances, sums.sum(0) / len(self.x) + little.mean(0))


class _Within(NamedTuple):
    """Moments by component: counts ``(K,)``, means, covariances and their mean ``(d, d)``."""

    counts: Tensor
    means: Tensor
    covariances: Tensor
    mean: Tensor


def _where(chosen: Tensor, one: Tensor, other: Tensor) -> Tensor:
    return torch.where(chosen.view(-1, *[1] * (one.ndim - 1)), one, other)


def _effective(log_weights: Tensor) -> Tensor:
    """Return the effective share of weighted particles, from ``1 / P`` to 1."""
    weights = log_weights.softmax(0)
    return 1 / (weights.square().sum() * len(weights))


def _next_power(likelihood: Tensor, power: float) -> float:
    """Return the power that leaves half of the particles effective, at most 1."""
    if _effective((1 - power) * likelihood) >= 0.5:
        return 1.0
    low, high = power, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        enough = bool(_effective((middle - power) * likelihood) >= 0.5)
        low, high = (middle, high) if enough else (low, middle)
    return low


def _root(covariance: Tensor) -> Tensor:
    """Return the Cholesky factor of a covariance that a little noise keeps regular."""
    little = 1e-9 * covariance.diagonal().mean()
    eye = torch.eye(len(covariance)).to(covariance)
    root: Tensor = torch.linalg.cholesky(covariance + little * eye)
    return root
