"""MGDM: a state further down is fitted to the measurement, and the clean image drawn from it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.priors.base import Prior
from posterior_bench.priors.process import Level, Scalar, as_factor
from posterior_bench.solvers.base import Card, Noise, Observation, Sampler
from posterior_bench.solvers.shared.levels import seen_from
from posterior_bench.solvers.shared.likelihood import gaussian_nll


@dataclass(frozen=True)
class MGDM(Sampler):
    """Mixture-guided diffusion model of Janati et al. (2025).

    At every level it runs Gibbs sampling of ``z_tau``, ``x0`` and ``z_t``, where tau is a level
    below ``t``.

    Parameters
    ----------
    levels : int, default 100
        Number of noise levels, the clean end included, 4 or more; the loop visits ``levels - 3`` of
        them.
    repeats : int, default 1
        Gibbs sweeps at each level, 1 or more.
    late : float, default 0.7
        Share of the levels after which tau is the next level, 0 or more; before, tau is drawn from
        all levels below.
    fit_steps : int, default 5
        Adam steps of a fit, one backward pass each, 0 or more.
    late_steps : int, default 20
        Adam steps of a fit at late levels, 0 or more.
    every : int, default 0
        Every so many levels a fit also has ``late_steps``; 0 means never.
    lr : float, default 0.03
        Learning rate of Adam, positive, on mean and log deviation in VP coordinates.
    inner_steps : int, default 19
        Ancestral steps from ``z_tau`` to ``x0``, 1 or more, one network call each.
    sigma_floor : float, default 0.05
        Lower bound on the noise level assumed for the measurement, positive, in [-1, 1] units.
    clip : bool, default False
        Clip x0 to [-1, 1], outside of the fit; latents are never clipped.
    guidance : float, default 1.0
        Classifier-free guidance weight; 1 means no guidance. Gradients go through both branches.
    grid : str, default 'native'
        Law of the noise levels: ``native`` or another kind of :meth:`priors.base.Prior.grid`.

    Raises
    ------
    ValueError
        If a count is too small, or ``lr`` or ``sigma_floor`` is not positive.
    """

    card: ClassVar[Card] = Card(
        title="MGDM",
        paper="Janati et al., A Mixture-Based Framework for Guiding Diffusion Models, ICML 2025",
        equations="Algorithm 1: z_tau from a Gaussian fitted to p(y | x0(z_tau)) q(z_tau | x0, "
        "z_t), then x0, then z_t",
        deviations=(
            "Every row draws a tau of its own, from the levels of the loop. The released code "
            "draws it from all training steps between the 10th and the next level.",
            "There are always inner_steps calls below tau; the released code makes fewer close to "
            "the end.",
            "The network is told the level of its input; the released code is one training step "
            "off.",
        ),
    )
    needs: ClassVar[frozenset[str]] = frozenset({"grad"})
    version: ClassVar[int] = 2
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
        never_negative = dict.fromkeys(("late", "fit_steps", "late_steps", "every"), 0)
        for name, value in {"levels": 4, "repeats": 1, "inner_steps": 1, **never_negative}.items():
            if getattr(self, name) < value:
                raise ValueError(f"{name} must be at least {value}, got {getattr(self, name)}")
        if not (self.lr > 0 and self.sigma_floor > 0):
            raise ValueError(
                f"lr and sigma_floor must be positive, got {self.lr} and {self.sigma_floor}"
            )

    @override
    def draw(self, obs: Observation, prior: Prior, noise: Noise) -> Tensor:
        prior = prior.view("vp")
        process, shape = prior.process, prior.latent_shape
        levels = prior.grid(self.levels - 1, self.grid)
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
                start = Diagonal(*process.posterior(z_t, x0, tau, t))
                z_tau = self._fitted(start, tau, steps, obs, prior, noise)
                # Draw the clean image from it.
                x0 = self._ancestral(z_tau, taus, obs, prior, noise)
                # Draw the state of the level again, between the last one and the one below.
                upper, lower = seen_from(tau, above), seen_from(tau, t)
                z_t = process.bridge(z, z_tau, upper, lower, 1.0, noise.normal(shape))
            z = z_t
        return prior.decode(x0)

    def _plan(
        self, i: int, levels: list[Level], rows: int, noise: Noise
    ) -> tuple[list[Level], int]:
        """Return the level tau of every row, and the number of Adam steps of the fit.

        At late levels tau is the next level; before, any level below.
        """
        late, below = i >= self.late * self.levels, levels[i + 2 : -1]
        long = late or (self.every > 0 and i % self.every == 0)
        steps = self.late_steps if long else self.fit_steps
        picks = (
            [0] * rows if late else (noise.host_uniform(()).double() * len(below)).long().tolist()
        )
        return [below[pick] for pick in picks], steps

    @torch.enable_grad()
    def _fitted(
        self, q: Diagonal, tau: Level, steps: int, obs: Observation, prior: Prior, noise: Noise
    ) -> Tensor:
        """Draw from ``q`` after a fit to ``q(z_tau | x0, z_t) p(y | x0(z_tau))``.

        The fit starts from the first factor.
        """
        adam = torch.optim.Adam(q.parameters, lr=self.lr)
        sigma = max(self.sigma_floor, obs.operator.sigma)
        for _ in range(steps):
            z = q.draw(noise.normal(prior.latent_shape))
            x0 = prior.denoise(z, tau, obs.cond, self.guidance)
            loss = gaussian_nll(prior.decode(x0), obs, sigma) + q.kl()
            # Adam on the sum over rows: it is elementwise, so the rows stay apart.
            adam.zero_grad()
            loss.sum().backward(inputs=q.parameters)
            adam.step()
        return q.draw(noise.normal(prior.latent_shape)).detach()

    def _ancestral(
        self, z: Tensor, start: list[Level], obs: Observation, prior: Prior, noise: Noise
    ) -> Tensor:
        """Draw from the prior's ``p(x0 | z)``, every row from a level of its own."""
        grids = {
            level: prior.grid(self.inner_steps, self.grid, start=level) for level in set(start)
        }
        columns = zip(*(grids[level] for level in start), strict=True)
        for t, s in pairwise([Level.stack(levels) for levels in columns]):
            x0 = prior.denoise(z, t, obs.cond, self.guidance)
            x0 = x0.clamp(-1, 1) if self.clip and not prior.is_latent else x0
            z = prior.process.bridge(z, x0, t, s, 1.0, noise.normal(prior.latent_shape))
        return z


class Diagonal:
    """A Gaussian ``N(mean + shift, var exp(2 stretch))`` with elementwise parameters.

    The parameters ``shift`` and ``stretch`` start at zero. So a step of Adam is a step on mean and
    log deviation, and at the start the gradient of the KL is zero in any precision.

    Parameters
    ----------
    mean : Tensor
        Initial means ``(N, C, H, W)``.
    var : Scalar
        Initial variance: a positive number, or one per row, ``(N, 1, 1, 1)``.
    """

    def __init__(self, mean: Tensor, var: Scalar):
        self.mean, self.var = mean, as_factor(torch.as_tensor(var), mean)
        self.shift, self.stretch = (torch.zeros_like(mean).requires_grad_() for _ in range(2))

    @property
    def parameters(self) -> list[Tensor]:
        """The tensors that an optimiser moves."""
        return [self.shift, self.stretch]

    def draw(self, xi: Tensor) -> Tensor:
        """Turn standard normals ``(N, C, H, W)`` into a draw, differentiable in the parameters."""
        return self.mean + self.shift + self.var.sqrt() * self.stretch.exp() * xi

    def kl(self) -> Tensor:
        """Return the KL to the initial ``N(mean, var)`` in nats, ``(N,)``."""
        elements = (2 * self.stretch).exp() - 1 - 2 * self.stretch + self.shift.square() / self.var
        return 0.5 * elements.flatten(1).sum(1)
