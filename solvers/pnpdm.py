"""PnP-DM: draws from the likelihood and draws from the prior take turns, as in Gibbs sampling."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from posterior_bench.priors.base import Prior
from posterior_bench.priors.process import Level
from posterior_bench.solvers.base import Card, Noise, Observation, Sampler, lacking
from posterior_bench.solvers.shared.likelihood import data_slope

COMPAT = ("none", "released")
LIKELIHOODS = ("exact", "langevin")
SPACINGS = ("shared", "own")

SHARED_TOP = 80.0
"""Noisiest level of the shared grid, as sigma/alpha."""


@dataclass(frozen=True)
class PnPDM(Sampler):
    """Plug-and-play diffusion models of Wu et al. (2024), Algorithm 1: a split Gibbs sampler.

    Two images ``x`` and ``z`` are held together by ``N(z; x, rho^2 I)``. In turn, ``z`` is drawn
    given ``y`` and ``x``, and ``x`` given ``z``; the second draw denoises ``z`` from the level
    ``rho``. At a fixed ``rho`` a long chain has the posterior for a measurement with noise of
    covariance ``sigma_y^2 I + rho^2 A A^T``, so ``rho`` falls from iteration to iteration.

    Parameters
    ----------
    iterations : int, default 100
        Number of iterations, 1 or more.
    steps : int, default 100
        Number of noise levels of the draw from the prior, 1 or more; see ``spacing``.
    rho_max : float, default 10.0
        First coupling ``rho``, positive, as sigma/alpha.
    decay : float, default 0.9
        Factor of ``rho`` per iteration, in (0, 1].
    rho_min : float, default 0.3
        Smallest coupling, positive, at most ``rho_max``.
    spacing : str, default 'shared'
        ``shared``: one grid of ``steps`` levels from 80 down. An iteration calls the network at
        ``rho`` and at the levels below it. ``own``: ``steps`` levels from ``rho`` down in every
        iteration, so a sample costs ``iterations * steps`` network calls.
    likelihood : str, default 'exact'
        How ``z`` is drawn: ``exact``, for linear operators, or ``langevin``, for any operator.
    langevin_steps : int, default 100
        Steps of Langevin dynamics per iteration, 1 or more. They make no network call.
    langevin_lr : float, default 0.2
        Step size in units of ``1 / (1 / sigma_y^2 + 1 / rho^2)``, positive. The dynamics is stable
        below 2 if no gain of the operator exceeds 1. The noise that it leaves has
        ``1 / (1 - langevin_lr / 2)`` times the right variance.
    sigma_floor : float, default 0.001
        Lower bound on the noise level assumed for the measurement, positive, in [-1, 1] units.
    guidance : float, default 1.0
        Classifier-free guidance weight; 1 means no guidance.
    grid : str, default 'karras'
        Law of the noise levels, see :meth:`priors.base.Prior.grid`.
    compat : str, default 'none'
        ``none`` or ``released``.

    Raises
    ------
    ValueError
        If a setting is out of range or unknown, or ``compat=released`` meets ``spacing=own``.
    """

    card: ClassVar[Card] = Card(
        title="PnP-DM",
        paper="Wu et al., Principled Probabilistic Imaging using Diffusion Models as Plug-and-Play "
        "Priors, NeurIPS 2024",
        equations="Algorithm 1, with the likelihood step of Section 3.1 and the prior step of "
        "Section 3.2",
        deviations=(
            "A draw given a linear measurement is the proximal point of perturbed images and "
            "measurements. It has the law of the paper's draw and needs no decomposition.",
            "A draw given the prior starts at rho itself, not at a level of a grid near it, and "
            "its steps have the variance of the posterior instead of Euler's.",
            "The chain starts from white noise of deviation 1; the authors start from zeros for "
            "linear operators. The first rho hides both.",
            "The last image of a chain is reported, and every draw has a chain of its own.",
            "A smaller rho_min follows the measurement more closely and mixes more slowly: a chain "
            "needs about Var / rho^2 iterations at the end.",
            "A blur with mirrored borders takes the proximal point from conjugate gradients, which "
            "end early where rho is much larger than the noise.",
            "Langevin dynamics starts at the last x, as in the paper. Directions that the operator "
            "does not see need more than a hundred steps to forget it where rho is large.",
        ),
        compat={
            "released": "The draw given the prior starts at the first level of the shared grid "
            "below rho, as if its noise were that of this level. Its steps are Euler's, with the "
            "variance 2 t (t - s), larger than t^2 - s^2; the last one goes from the last level "
            "past the prediction, as far again. The moments of the released code in the tests are "
            "met within their error."
        },
    )
    needs: ClassVar[frozenset[str]] = frozenset({"linear", "pixel", "prox"})
    version: ClassVar[int] = 1
    work: ClassVar[tuple[str, ...]] = ("iterations",)
    growth: ClassVar[tuple[str, ...]] = ("decay",)

    iterations: int = 100
    steps: int = 100
    rho_max: float = 10.0
    decay: float = 0.9
    rho_min: float = 0.3
    spacing: str = "shared"
    likelihood: str = "exact"
    langevin_steps: int = 100
    langevin_lr: float = 0.2
    sigma_floor: float = 0.001
    guidance: float = 1.0
    grid: str = "karras"
    compat: str = "none"

    def __post_init__(self) -> None:
        for name in ("iterations", "steps", "langevin_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("langevin_lr", "sigma_floor"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not (0 < self.rho_min <= self.rho_max and 0 < self.decay <= 1):
            raise ValueError("need 0 < rho_min <= rho_max and 0 < decay <= 1")
        for name, valid in (
            ("spacing", SPACINGS),
            ("likelihood", LIKELIHOODS),
            ("compat", COMPAT),
        ):
            if getattr(self, name) not in valid:
                raise ValueError(
                    f"unknown {name} '{getattr(self, name)}'; valid: {', '.join(valid)}"
                )
        if self.compat == "released" and self.spacing == "own":
            raise ValueError("the released code shares one grid of levels; set spacing=shared")

    @override
    def lacks(self, has: frozenset[str], sigma: float) -> frozenset[str]:
        return lacking(self.needs if self.likelihood == "exact" else frozenset({"pixel"}), has)

    @override
    def draw(self, obs: Observation, prior: Prior, noise: Noise) -> Tensor:
        prior = prior.view("ve")
        shared = prior.grid(self.steps, self.grid, start=prior.level(SHARED_TOP))
        # Start from white noise.
        x = noise.normal(prior.latent_shape)
        for i in range(self.iterations):
            top = prior.level(max(self.rho_min, self.rho_max * self.decay**i))
            # Draw an image near x, given the measurement.
            z = self._given_measurement(x, float(top.sigma), obs, prior, noise)
            # Draw an image given the prior, of which the first is a copy with noise of level rho.
            x = self._given_prior(z, self._levels(prior, top, shared), obs, prior, noise)
        return x

    def _levels(self, prior: Prior, top: Level, shared: list[Level]) -> list[Level]:
        """Return the levels of a draw from the prior, from ``top`` down to the clean end."""
        if self.spacing == "own":
            return prior.grid(self.steps, self.grid, start=top)
        below = [level for level in shared if level.sigma < top.sigma]
        # With rho below the whole grid there is one level to start from, the grid's last.
        return below if self.compat == "released" and len(below) > 1 else [top, *below]

    def _given_prior(
        self, z: Tensor, levels: list[Level], obs: Observation, prior: Prior, noise: Noise
    ) -> Tensor:
        """Return a draw from the prior given the state ``z`` at the first of the levels."""
        process = prior.process
        for t, s in pairwise(levels):
            x0, fresh = prior.denoise(z, t, obs.cond, self.guidance), noise.normal(z.shape[1:])
            if self.compat == "released":
                # An Euler step of dz = -2 sigma eps dsigma + sqrt(2 sigma dsigma) noise.
                spread = math.sqrt(2 * t.sigma * (t.sigma - s.sigma)) if s.sigma > 0 else 0.0
                z = z - 2 * (t.sigma - s.sigma) * process.eps(z, x0, t) + spread * fresh
            else:
                z = process.bridge(z, x0, t, s, eta=1.0, noise=fresh)
        return z

    def _given_measurement(
        self, x: Tensor, rho: float, obs: Observation, prior: Prior, noise: Noise
    ) -> Tensor:
        """Return a draw from ``N(z; x, rho^2 I) p(y | z)``."""
        sigma_y = max(self.sigma_floor, obs.operator.sigma)
        if self.likelihood == "langevin":
            return self._langevin(x, rho, sigma_y, obs, prior, noise)
        # Perturb both and take the most likely image: for a linear operator that is a draw.
        near = x + rho * noise.normal(x.shape[1:])
        y = obs.y + sigma_y * noise.normal(obs.y.shape[1:])
        return obs.operator.prox(near, y, (sigma_y / rho) ** 2)

    def _langevin(
        self,
        x: Tensor,
        rho: float,
        sigma_y: float,
        obs: Observation,
        prior: Prior,
        noise: Noise,
    ) -> Tensor:
        """Return the end of Langevin dynamics on ``N(z; x, rho^2 I) p(y | z)`` that starts at x."""
        z, step = x, self.langevin_lr / (1 / sigma_y**2 + 1 / rho**2)
        for _ in range(self.langevin_steps):
            slope = data_slope(z, obs, prior) / sigma_y**2 + (z - x) / rho**2
            z = z - step * slope + math.sqrt(2 * step) * noise.normal(x.shape[1:])
        return z
