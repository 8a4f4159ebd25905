"""DMPlug: find the seed from which a few deterministic steps lead to an image that fits y."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

from torch import Tensor
from typing_extensions import override

from posterior_bench.priors.base import Prior
from posterior_bench.priors.process import Level
from posterior_bench.solvers.base import Card, Noise, Observation, Sampler
from posterior_bench.solvers.shared.likelihood import observed_count, squares
from posterior_bench.solvers.shared.minimise import minimise


@dataclass(frozen=True)
class DMPlug(Sampler):
    """Diffusion model as a plug-in generator, Wang et al. (2024).

    Adam minimises the mean of ``(y - A G(seed))^2`` over the seed, where ``G`` is a short DDIM
    chain that is differentiated from end to end. The seed is the state at the first level, in VP
    coordinates, for every prior. On a latent prior the chain ends in the decoder.

    Parameters
    ----------
    iterations : int, default 5000
        Adam steps, 0 or more. Each takes ``steps`` network calls and as many backward passes; one
        more run of the chain gives the sample.
    lr : float, default 0.01
        Learning rate of Adam, positive, in units of the seed.
    steps : int, default 3
        DDIM steps of the chain. A gradient keeps the graphs of all of them.
    ratio_max : float, default 9.49
        Level of the seed, as sigma/alpha, positive. The default is training step 666 of the DDPM
        schedule.
    stop : float, default 0.0
        A row stands still once the RMS of its residual, over the observed scalars, is below
        ``stop`` times the noise level of the measurement; 0 or more, and 0 means never.
    clip : bool, default True
        Clip x0 to [-1, 1] in every step, inside the gradient; latents are never clipped.
    guidance : float, default 1.0
        Classifier-free guidance weight, inside the gradient too; 1 means no guidance.
    grid : str, default 'native'
        Law of the noise levels: ``native`` or another kind of :meth:`priors.base.Prior.grid`.

    Raises
    ------
    ValueError
        If a setting is out of range.
    """

    card: ClassVar[Card] = Card(
        title="DMPlug",
        paper="Wang et al., DMPlug: A Plug-in Method for Solving Inverse Problems with Diffusion "
        "Models, NeurIPS 2024",
        equations="The formulation of the paper: argmin over the seed of the mean of (y - A "
        "G(seed))^2, with G a DDIM chain of 3 steps",
        deviations=(
            "Printed numbers of this method cannot be compared with ours: the released code "
            "reports the best PSNR, the best SSIM and the best LPIPS over all iterations, each "
            "against the true image. Here the sample is that of the last iteration.",
            "A sample takes steps (1 + iterations) network calls and steps iterations backward "
            "passes for every row; a row that has stopped is evaluated all the same. The released "
            "loop evaluates no image after its last Adam step: its n iterations are n - 1 here.",
            "Every row has its own loss; the released code runs one image at a time.",
            "The rule by which the paper stops early is left out. The released script has none; "
            "stop compares the residual with the noise.",
            "The method seeks a fit and has no term that keeps the seed near its law: the spread "
            "of draws comes from the first seeds alone.",
        ),
    )
    needs: ClassVar[frozenset[str]] = frozenset({"grad"})
    work: ClassVar[tuple[str, ...]] = ("iterations",)

    iterations: int = 5000
    lr: float = 0.01
    steps: int = 3
    ratio_max: float = 9.49
    stop: float = 0.0
    clip: bool = True
    guidance: float = 1.0
    grid: str = "native"

    def __post_init__(self) -> None:
        for name in ("iterations", "stop"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        for name in ("lr", "ratio_max"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")

    @override
    def draw(self, obs: Observation, prior: Prior, noise: Noise) -> Tensor:
        prior = prior.view("vp")
        levels = prior.grid(self.steps, self.grid, start=prior.level(self.ratio_max))

        def squared_residual(seed: Tensor) -> Tensor:
            return squares(self._generated(seed, levels, obs, prior), obs)

        # Draw a seed, and move it until its image fits the measurement.
        seed = noise.normal(prior.latent_shape)
        seed = minimise(
            squared_residual, seed, self.lr, self.iterations, self._tolerance(obs), early=False
        )
        return self._generated(seed, levels, obs, prior)

    def _generated(
        self, seed: Tensor, levels: Sequence[Level], obs: Observation, prior: Prior
    ) -> Tensor:
        """Return the image at the end of the deterministic chain from ``seed``."""
        z = seed
        for t, s in pairwise(levels):
            x0 = prior.denoise(z, t, obs.cond, self.guidance)
            x0 = x0.clamp(-1, 1) if self.clip and not prior.is_latent else x0
            z = prior.process.bridge(z, x0, t, s, eta=0.0, noise=None)
        return prior.decode(z)

    def _tolerance(self, obs: Observation) -> Tensor:
        """Return the mean of the squares, hidden scalars included, at which each row stops."""
        return (self.stop * obs.operator.sigma) ** 2 * observed_count(obs) / obs.y[0].numel()
