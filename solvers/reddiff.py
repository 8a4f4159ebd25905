"""RED-Diff: fit an image to the measurement while denoisers of all levels pull it to the prior."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.priors.base import Prior
from posterior_bench.priors.process import Level, as_factor
from posterior_bench.solvers.base import Card, Noise, Observation, Sampler
from posterior_bench.solvers.shared.levels import loop_grid
from posterior_bench.solvers.shared.likelihood import gradient

TIMES = ("annealed", "random")
REDUCTIONS = ("mean", "sum")
COMPAT = ("none", "released")
WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": torch.ones_like,
    "sqrt": lambda ratio: ratio**-0.5,
    "log": lambda ratio: torch.log1p(ratio) / ratio,
    "square": lambda ratio: ratio,
    "const": lambda ratio: 1 / ratio,
}
"""Weight of ``x - D(z_t)`` by the ratio sigma/alpha: the paper's ``w_t`` times alpha/sigma."""


@dataclass(frozen=True)
class REDDiff(Sampler):
    """RED-Diff of Mardani et al. (2024), Algorithm 1; RED-Diff-V with random noise levels.

    The prior's loss ``lam w_t <eps - xi, x>`` has exactly the gradient ``lam w_t (alpha / sigma)
    (x - D(z_t))``, so no gradient enters the network.

    Parameters
    ----------
    steps : int, default 1000
        Number of Adam steps, one network call each, and of levels of the grid.
    lam : float, default 0.25
        Weight of the prior, 0 or more.
    times : str, default 'annealed'
        ``annealed`` walks once down the grid; ``random`` draws a level per image and step.
    lr : float, default 0.1
        Learning rate of Adam, positive. Every image has an Adam state of its own.
    betas : tuple[float, float], default (0.9, 0.99)
        Decay rates of Adam.
    weight : str, default 'linear'
        Law of ``w_t`` as a function of sigma/alpha: ``linear``, ``sqrt``, ``log``, ``square`` or
        ``const``.
    reduction : str, default 'mean'
        Losses are a ``mean`` over an image's scalars, hidden ones included, or a ``sum``. Adam is
        invariant to the scale of a loss, but for its constant 1e-8.
    sigma0 : float, default 0.0
        Standard deviation of noise on the image before it is diffused, 0 or more, in units of the
        state.
    guidance : float, default 1.0
        Classifier-free guidance weight; 1 means no guidance.
    grid : str, default 'native'
        Law of the noise levels: ``native`` or another kind of :meth:`priors.base.Prior.grid`.
    compat : str, default 'none'
        ``none`` or ``released``.

    Raises
    ------
    ValueError
        If a name is unknown or a setting is out of range.
    """

    card: ClassVar[Card] = Card(
        title="RED-Diff and RED-Diff-V",
        paper="Mardani et al., A Variational Perspective on Solving Inverse Problems with "
        "Diffusion Models, ICLR 2024",
        equations="Algorithm 1, in the form lam w_t (alpha / sigma) (x - D(z_t)) + At (A x - y)",
        deviations=(
            "Losses are means over the scalars of each image. With the batch in the mean, Adam's "
            "constant 1e-8 would make the batch size matter.",
            "Random levels are drawn evenly over the grid, one per image; the released code has no "
            "such mode.",
            "The annealed grid is the prior's own, and the output is the image after the last Adam "
            "step.",
            "On a latent prior the latent is fitted through the decoder; each loss is a mean over "
            "its own scalars.",
            "The method seeks a mode: the spread of draws comes from xi alone and is far below "
            "that of the posterior.",
        ),
        compat={
            "released": "Means run over the batch too, and the output is the image before the last "
            "Adam step. grid=native takes every (1000 / steps)-th training step, down to 0, on a "
            "prior that has 1000; steps has to divide 1000. On a golden run of the released code, "
            "two images of 3 x 4 x 4 with a mixture prior and a mask, samples were 0.020 apart "
            "before the levels were taken over; now 2e-14."
        },
    )
    version: ClassVar[int] = 2

    steps: int = 1000
    lam: float = 0.25
    times: str = "annealed"
    lr: float = 0.1
    betas: tuple[float, float] = (0.9, 0.99)
    weight: str = "linear"
    reduction: str = "mean"
    sigma0: float = 0.0
    guidance: float = 1.0
    grid: str = "native"
    compat: str = "none"

    def __post_init__(self) -> None:
        names = {"times": TIMES, "weight": WEIGHTS, "reduction": REDUCTIONS, "compat": COMPAT}
        for name, valid in names.items():
            if getattr(self, name) not in valid:
                raise ValueError(
                    f"unknown {name} '{getattr(self, name)}'; valid: {', '.join(valid)}"
                )
        if not (self.lam >= 0 and self.sigma0 >= 0 and self.lr > 0):
            raise ValueError(
                f"lam {self.lam} and sigma0 {self.sigma0} must be 0 or more, lr {self.lr} positive"
            )

    @override
    def draw(self, obs: Observation, prior: Prior, noise: Noise) -> Tensor:
        process, shape = prior.process, prior.latent_shape
        levels = loop_grid(prior, self.steps, self.grid, self.compat, "leading")[:-1]
        # Start from the first guess, which leaves the hole empty.
        x = mu = prior.encode(obs.operator.first_guess(obs.y)).clone()
        adam = torch.optim.Adam([mu], lr=self.lr, betas=self.betas)
        for step in range(self.steps):
            # Choose a level, and diffuse the image to it.
            t = levels[step] if self.times == "annealed" else self._random(levels, noise)
            x = mu + self.sigma0 * noise.normal(shape) if self.sigma0 > 0 else mu.clone()
            z_t = process.add_noise(x, t, noise.normal(shape))
            # One Adam step towards the denoised image and towards the measurement.
            with torch.no_grad():
                x0 = prior.denoise(z_t, t, obs.cond, self.guidance)
            mu.grad = self._prior_slope(x, x0, t) + self._data_slope(x, obs, prior)
            adam.step()
        return prior.decode(x if self.compat == "released" else mu)

    def _random(self, levels: list[Level], noise: Noise) -> Level:
        """Draw a level for every row, evenly from the grid."""
        picks = (noise.host_uniform(()).double() * len(levels)).long().clamp_max(len(levels) - 1)
        return Level.stack([levels[i] for i in picks.tolist()])

    def _prior_slope(self, x: Tensor, x0: Tensor, t: Level) -> Tensor:
        # A flow starts at an infinite ratio.
        ratio = torch.as_tensor(t.ratio, dtype=torch.float64).clamp_max(1e6)
        weight = as_factor(WEIGHTS[self.weight](ratio), x)
        return self.lam * weight * (x - x0) / self._count(x)

    def _data_slope(self, x: Tensor, obs: Observation, prior: Prior) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            squares = obs.operator.residual(prior.decode(x), obs.y).square().flatten(1).sum(1)
            return gradient(squares / (2 * self._count(obs.y)), x)

    def _count(self, value: Tensor) -> int:
        """Return the number of scalars that share a loss."""
        shared = len(value) if self.compat == "released" else 1
        return 1 if self.reduction == "sum" else shared * value[0].numel()
