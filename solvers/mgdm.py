"""MGDM: at every level a state further down is fitted to the measurement, and the clean image is
drawn from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from posterior_bench.priors.base import Prior
from posterior_bench.priors.process import Level
from posterior_bench.solvers.base import Card, Noise, Observation, Sampler
from posterior_bench.solvers.diagonal import Diagonal
from posterior_bench.solvers.shared.levels import seen_from
from posterior_bench.solvers.shared.likelihood import gaussian_nll


@dataclass(frozen=True)
class MGDM(Sampler):
    """Mixture-guided diffusion model of Janati et al. (2025): Gibbs sampling of ``z_tau``, ``x0``
    and ``z_t``.

    Parameters
    ----------
    levels : int, default 100
        Noise levels, the clean end included; the loop visits ``levels - 3`` of them.
    repeats : int, default 1
        Gibbs sweeps at each.
    late : float, default 0.7
        Share of levels after which tau is the next level; before it is drawn from all below.
    fit_steps : int, default 5
        Adam steps of a fit, one backward pass each.
    late_steps : int, default 20
        Those at late levels.
    every : int, default 0
        Distance of levels that have late_steps all along; 0 is none.
    lr : float, default 0.03
        Of Adam, on mean and log deviation in VP coordinates.
    inner_steps : int, default 19
        Ancestral steps from ``z_tau`` to ``x0``.
    sigma_floor : float, default 0.05
        Noise the measurement is taken to have at least, in [-1, 1] units.
    clip : bool, default False
        Clip x0 to [-1, 1], outside of the fit; latents are never clipped.
    guidance : float, default 1.0
        Classifier-free guidance weight, 1 = none; gradients go through both branches.
    grid : str, default 'native'
        Kind of :meth:`priors.base.Prior.grid`.

    Notes
    -----
    Raises ValueError for counts that are too small, and for ``lr`` or ``sigma_floor`` not positive.
    """

    card: ClassVar[Card] = Card(
        title="MGDM",
        paper="Janati et al., A Mixture-Based Framework for Guiding Diffusion Models, ICML 2025",
        equations="Algorithm 1: z_tau from a Gaussian fitted to p(y | x0(z_tau)) q(z_tau | x0, "
        "z_t), then x0, then z_t",
        deviations=(
            "Every row draws a tau of its own, from the levels of the loop; the released code "
            "draws it from all "
            "training steps between the 10th and the next level.",
            "There are always inner_steps calls below tau; the released code makes fewer close to "
            "the end.",
            "The network is told the level of its input; the released code is one training step "
            "off.",
        ),
    )
    needs: ClassVar[frozenset[str]] = frozenset({"grad"})
    version: ClassVar[int] = 1
    work: ClassVar[tuple[str, ...]] = ("levels",)

    levels: int = 100
    repeats: int = 1
    late: float = 0.7
    fit_steps: int = 5
    late_steps: int = 20
    every: int = 0
    lr: float = 0.03
    inner_steps: int = 19
    sigma_floor: float = 0.05
    clip: bool = False
    guidance: float = 1.0
    grid: str = "native"

    def __post_init__(self) -> None:
        least = {
            "levels": 4,
            "repeats": 1,
            "late": 0,
            "fit_steps": 0,
            "late_steps": 0,
            "every": 0,
            "inner_steps": 1,
        }
        for name, value in least.items():
            if getattr(self, name) < value:
                raise ValueError(f"{name} must be at least {value}, got {getattr(self, name)}")
        if not (self.lr > 0 and self.sigma_floor > 0):
            raise ValueError(
                f"lr and sigma_floor must be positive, got {self.lr} and {self.sigma_floor}"
            )

    def draw(self, obs: Observation, prior: Prior, noise: Noise) -> Tensor:
        prior = prior.view("vp")
        process, shape, levels = (
            prior.process,
            prior.latent_shape,
            prior.grid(self.levels - 1, self.grid),
        )
        # Start from pure noise and its prediction.
        z = levels[0].sigma * noise.normal(shape)
        x0 = prior.denoise(z, levels[0], obs.cond, self.guidance)
        for i, (above, t) in enumerate(pairwise(levels[:-2])):
            # Draw the state of the next level, between the last one and the clean image.
            z_t = process.bridge(z, x0, above, t, 1.0, noise.normal(shape))
            for _ in range(self.repeats):
                # Draw a state below it, given the clean image and the measurement.
                taus, steps = self._plan(i, levels, obs.n, noise)
                tau = Level.stack(taus)
                z_tau = self._fitted(
                    Diagonal(*process.posterior(z_t, x0, tau, t)), tau, steps, obs, prior, noise
                )
                # Draw the clean image from that.
                x0 = self._ancestral(z_tau, taus, obs, prior, noise)
                # Draw the state of the level again, between the last one and the one below.
                z_t = process.bridge(
                    z, z_tau, seen_from(tau, above), seen_from(tau, t), 1.0, noise.normal(shape)
                )
            z = z_t
        return prior.decode(x0)

    def _plan(
        self, i: int, levels: list[Level], rows: int, noise: Noise
    ) -> tuple[list[Level], int]:
        """tau of every row, late the next level and before that any below, and the Adam steps of
        the fit.
        """
        late, below = i >= self.late * self.levels, levels[i + 2 : -1]
        steps = (
            self.late_steps if late or (self.every > 0 and i % self.every == 0) else self.fit_steps
        )
        picks = [0] * rows if late else (noise.uniform(()).double() * len(below)).long().tolist()
        return [below[pick] for pick in picks], steps

    @torch.enable_grad()
    def _fitted(
        self, q: Diagonal, tau: Level, steps: int, obs: Observation, prior: Prior, noise: Noise
    ) -> Tensor:
        """A draw of ``q`` after it was fitted, from ``q(z_tau | x0, z_t)``, to that times ``p(y |
        x0(z_tau))``.
        """
        adam, sigma = (
            torch.optim.Adam(q.parameters, lr=self.lr),
            max(self.sigma_floor, obs.operator.sigma),
        )
        for _ in range(steps):
            x0 = prior.denoise(
                q.draw(noise.normal(prior.latent_shape)), tau, obs.cond, self.guidance
            )
            loss = gaussian_nll(prior.decode(x0), obs, sigma) + q.kl()
            adam.zero_grad()
            loss.sum().backward(
                inputs=q.parameters
            )  # over rows: Adam is elementwise, so none sees another
            adam.step()
        return q.draw(noise.normal(prior.latent_shape)).detach()

    def _ancestral(
        self, z: Tensor, start: list[Level], obs: Observation, prior: Prior, noise: Noise
    ) -> Tensor:
        """A draw of the prior's ``p(x0 | z)``, every row from a level of its own."""
        grids = {
            level: prior.grid(self.inner_steps, self.grid, start=level) for level in set(start)
        }
        for t, s in pairwise(
            [Level.stack(levels) for levels in zip(*(grids[level] for level in start), strict=True)]
        ):
            x0 = prior.denoise(z, t, obs.cond, self.guidance)
            x0 = x0.clamp(-1, 1) if self.clip and not prior.is_latent else x0
            z = prior.process.bridge(z, x0, t, s, 1.0, noise.normal(prior.latent_shape))
        return z
