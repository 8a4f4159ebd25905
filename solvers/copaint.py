"""CoPaint: before every deterministic step, optimise the state until its prediction fits y."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.priors.base import Prior
from posterior_bench.priors.process import Level
from posterior_bench.solvers.base import Card, Noise, Observation, Sampler
from posterior_bench.solvers.shared.likelihood import gradient
from posterior_bench.solvers.shared.rows import column
from posterior_bench.solvers.shared.walk import walk

VIEWS = ("native", "vp", "ve")
COMPAT = ("none", "released")
MOST_TRIES = 200
"""In place of the released endless search: 0.8^200 of a step changes no state any more."""


@dataclass(frozen=True)
class CoPaint(Sampler):
    """CoPaint of Zhang et al. (2023), Algorithm 1; CoPaint-TT with ``resamples`` above 1.

    At each level it minimises ``|y - A x0(z)|^2 + weight |z - z_t|^2``, sums over an image, by
    gradient descent. Predictions take one step. The step size at level ``k``, counted from the
    noisiest, is ``lr lr_decay^k alpha_t / alpha_0``. The cleanest level is not denoised.

    Parameters
    ----------
    steps : int, default 250
        Number of noise levels, 2 or more.
    iterations : int, default 2
        Gradient steps per level, 0 or more.
    lr : float, default 0.02
        Size of a gradient step at the noisiest level, 0 or more.
    lr_decay : float, default 1.012
        Factor of the step size from one level to the next, 0 or more.
    scale_lr : bool, default True
        Multiply the step size by ``alpha_t / alpha_0``.
    weight : float, default 0.01
        Weight of the distance to the state before the optimisation, at the noisiest level, 0 or
        more.
    weight_decay : float, default 1.0
        Factor of this weight from one level to the next, 0 or more.
    line_search : int, default 10
        How often a step that raises a row's loss is shrunk by 0.8 before the row stays where it is;
        0 accepts every step. With ``compat=released`` any other number means as often as it takes.
    jump_length : int, default 10
        Number of levels that a jump of the time travel climbs.
    resamples : int, default 1
        How often each stretch of levels is walked in all; 1 means no time travel.
    view : str, default 'vp'
        Coordinates of the state: ``native``, ``vp`` or ``ve``. The same ``lr`` means different
        steps in each.
    clip : bool, default True
        Clip x0 to [-1, 1], inside the gradient; latents are never clipped.
    guidance : float, default 1.0
        Classifier-free guidance weight, inside the gradient too; 1 means no guidance.
    grid : str, default 'native'
        Law of the noise levels: ``native`` or another kind of :meth:`priors.base.Prior.grid`.
    compat : str, default 'none'
        ``none`` or ``released``.

    Raises
    ------
    ValueError
        If there are fewer than 2 steps, a setting is negative, the jump schedule is impossible, or
        ``view`` or ``compat`` is unknown.
    """

    card: ClassVar[Card] = Card(
        title="CoPaint and CoPaint-TT",
        paper="Zhang et al., Towards Coherent Image Inpainting Using Denoising Diffusion Implicit "
        "Models, ICML 2023",
        equations="Algorithm 1 with the one-step prediction of the clean image; time travel for "
        "CoPaint-TT",
        deviations=(
            "Every row has its own loss, step size and acceptance, also with compat=released: each "
            "row is then the released run of one image. The released code shares them over the "
            "batch.",
            "Every gradient step starts from the full step size and shrinks it at most line_search "
            "times; then the row stays where it is. A try is one network call for all rows.",
            "The graph of the accepted step is kept, which makes 1 + iterations network calls per "
            "level instead of 1 + 2 iterations.",
            "Coordinates are VP by default, also for EDM priors, where alpha_t = 1 / sqrt(1 + "
            "sigma^2).",
        ),
        compat={
            "released": "A step size that the search has shrunk stays so for the other gradient "
            "steps of the level. The search shrinks until the loss is no higher; a row whose loss "
            "is NaN from the start does not wait. The sample is clipped to [-1, 1]. On golden runs "
            "of the released code, 3 x 4 x 4 with a mixture prior and a mask, samples were up to "
            "0.50 apart before; now 5e-13. Where no step is shrunk nothing but the clipping "
            "differs."
        },
    )
    needs: ClassVar[frozenset[str]] = frozenset({"grad"})
    version: ClassVar[int] = 2
    work: ClassVar[tuple[str, ...]] = ("steps", "jump_length")
    growth: ClassVar[tuple[str, ...]] = ("lr_decay", "weight_decay")
    margin: ClassVar[float] = 0.1

    steps: int = 250
    iterations: int = 2
    lr: float = 0.02
    lr_decay: float = 1.012
    scale_lr: bool = True
    weight: float = 0.01
    weight_decay: float = 1.0
    line_search: int = 10
    jump_length: int = 10
    resamples: int = 1
    view: str = "vp"
    clip: bool = True
    guidance: float = 1.0
    grid: str = "native"
    compat: str = "none"

    def __post_init__(self) -> None:
        for name, valid in (("view", VIEWS), ("compat", COMPAT)):
            if getattr(self, name) not in valid:
                raise ValueError(
                    f"unknown {name} '{getattr(self, name)}'; valid: {', '.join(valid)}"
                )
        never_negative = ("iterations", "lr", "lr_decay", "weight", "weight_decay", "line_search")
        for name, bound in {"steps": 2, **dict.fromkeys(never_negative, 0)}.items():
            if not getattr(self, name) >= bound:
                raise ValueError(f"{name} must be {bound} or more, got {getattr(self, name)}")
        # Refuse an impossible schedule before any work.
        walk(self.steps, self.jump_length, self.resamples)

    @override
    def draw(self, obs: Observation, prior: Prior, noise: Noise) -> Tensor:
        prior = prior.view(self.view)
        process, shape = prior.process, prior.latent_shape
        levels = prior.grid(self.steps, self.grid)
        # Start from pure noise.
        z = levels[0].sigma * noise.normal(shape)
        for i, j in walk(self.steps, self.jump_length, self.resamples)[:-1]:
            t, s = levels[i], levels[j]
            # Optimise the state, so that its prediction fits the observation.
            scale = float(t.alpha / levels[-2].alpha) if self.scale_lr else 1.0
            lr = self.lr * self.lr_decay**i * scale
            z, x0 = self._optimise(z, t, lr, self.weight * self.weight_decay**i, obs, prior)
            # Step down with the noise of the network, or travel back up.
            if j > i:
                eps = process.eps(z, x0, t)
                z = process.bridge(z, self._clipped(x0, prior), t, s, 0.0, None, eps=eps)
            else:
                z = process.renoise(z, t, s, noise.normal(shape))
        x = prior.decode(z)
        return x.clamp(-1, 1) if self.compat == "released" else x

    def _clipped(self, x0: Tensor, prior: Prior) -> Tensor:
        return x0.clamp(-1, 1) if self.clip and not prior.is_latent else x0

    @torch.enable_grad()
    def _optimise(
        self, z_t: Tensor, t: Level, lr: float, w: float, obs: Observation, prior: Prior
    ) -> tuple[Tensor, Tensor]:
        """Return the optimised state and its prediction."""

        def loss(z: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
            z = z.detach().requires_grad_()
            # Where no gradient step follows, the network need not keep what one needs.
            with torch.set_grad_enabled(steps > 0):
                x0 = prior.denoise(z, t, obs.cond, self.guidance)
                r = obs.operator.residual(prior.decode(self._clipped(x0, prior)), obs.y)
                away = (z - z_t).square().flatten(1).sum(1)
                return z, x0, r.square().flatten(1).sum(1) + w * away

        released = self.compat == "released"
        # Factors of the step of a row whose try has failed; at the end the row stays.
        factors = [*[0.8] * (MOST_TRIES if released else self.line_search), 0.0, 0.0]
        z, x0, value = loss(z_t, self.iterations)
        length = torch.full_like(z, lr)
        for left in reversed(range(self.iterations)):
            # A gradient step, shrunk for the rows whose loss it raises.
            here, before, slope = z.detach(), value.detach(), gradient(value, z)
            if not released:
                length = torch.full_like(z, lr)
            for factor in factors:
                z, x0, value = loss(torch.where(length > 0, here - length * slope, here), left)
                # Written so that a new NaN counts as worse. A row that was NaN before is lost, and
                # the others do not wait for it.
                worse = ~(value <= before) & before.isfinite()
                if self.line_search == 0 or not worse.any():
                    break
                length = torch.where(column(worse, length), factor * length, length)
        return z.detach(), x0.detach()
