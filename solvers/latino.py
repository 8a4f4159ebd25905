"""LATINO: a few-step model restores, a proximal step pulls to the measurement, noise is fresh."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.priors.base import Prior
from posterior_bench.priors.process import CLEAN, VP, Level
from posterior_bench.solvers.base import Card, Noise, Observation, Sampler, norm
from posterior_bench.solvers.shared.rows import column

TRAILING = "trailing"
RHO_MAX = 1e12
"""A row that fits its measurement exactly has delta 0: the proximal step then does nothing."""


class Delta(NamedTuple):
    """A published law of the step: one factor for noisy levels, another for the others.

    Parameters
    ----------
    step : int
        Training step of Stable Diffusion, 0 to 999; levels above it are noisy.
    above, below : float
        Factors of the noisy levels and of the others.
    residual : bool, default True
        Whether the factor is multiplied by ``||y - A x0||``, the norm over a whole measurement.
    """

    step: int
    above: float
    below: float
    residual: bool = True


DELTAS: Mapping[str, Delta] = {
    "inpainting": Delta(500, 1.0, 0.5, residual=False),
    "other": Delta(200, 0.01, 1.0, residual=False),
    "superres16": Delta(300, 0.3, 0.2),
    "superres32": Delta(300, 0.15, 0.3),
    "blur": Delta(400, 5e-4, 2e-4),
    "blur_wide": Delta(400, 7e-4, 3e-4),
    "motion": Delta(400, 4e-4, 2e-4),
    "motion_noisy": Delta(400, 5e-5, 9e-5),
    # Stable Diffusion 1.5
    "sd15_superres16": Delta(300, 1.0, 0.1),
    "sd15_superres32": Delta(300, 2.0, 0.9),
    "sd15_blur": Delta(300, 1e-3, 4e-4),
    "sd15_motion": Delta(400, 8e-4, 7e-4),
    # LATINO-PRO: rounds of 4 levels, then 8 levels
    "pro_superres16": Delta(300, 0.03, 0.045),
    "pro_superres32": Delta(300, 0.75, 0.45),
    "pro_superres16_noisy_round": Delta(500, 0.5, 0.08),
    "pro_superres16_noisy": Delta(700, 0.6, 0.2),
    "pro_superres32_noisy": Delta(300, 1.5, 0.9),
    "pro_blur_round": Delta(500, 4e-3, 2e-3),
    "pro_blur": Delta(400, 4e-4, 4e-4),
    "pro_blur_wide": Delta(400, 2e-2, 2e-3),
    "pro_blur_noisy_round": Delta(500, 8e-3, 5e-3),
    "pro_blur_noisy": Delta(400, 8e-3, 5e-3),
    "pro_motion_round": Delta(500, 4e-4, 5e-4),
    "pro_motion": Delta(400, 5e-4, 9e-4),
}
"""The released tables, for noise of 0.02 (``noisy``: 0.1) in [-1, 1] units and 1024 pixels."""


@dataclass(frozen=True)
class LATINO(Sampler):
    """Latent consistency inverse solver of Spagnoletti et al. (2025).

    At every level: ``x0 = D(G(z_t))`` with a model ``G`` that needs few steps; ``x0`` moves to the
    measurement by ``argmin_u gamma / 2 |A u - y|^2 + |u - x0|^2 / 2``, where ``gamma = delta
    sigma_t^2 / sigma_y^2`` with ``sigma_t^2`` of a variance preserving process; and ``z_s = alpha_s
    E(x0) + sigma_s noise``. Nothing is differentiated.

    Parameters
    ----------
    steps : int, default 8
        Number of levels, one network call, one decoding and one encoding each.
    delta : float or str, default 'inpainting'
        Step of the pull: a positive number, or a published table of :data:`DELTAS`. In most tables
        it grows with the norm of the residual over the whole image, so with the number of pixels.
    sigma_floor : float, default 0.01
        Lower bound on the noise level assumed for the measurement, positive, in [-1, 1] units.
    clip : bool, default True
        Clip x0 to [-1, 1], before and after the proximal step.
    guidance : float, default 1.0
        Classifier-free guidance weight; 1 means no guidance.
    grid : str, default 'trailing'
        Law of the noise levels. ``trailing``: every ``1000 / steps``-th training step of Stable
        Diffusion from the last one on (999, 874, ..., 124), by its ratio, on every prior. Else a
        kind of :meth:`priors.base.Prior.grid`.

    Raises
    ------
    ValueError
        If ``steps`` or ``sigma_floor`` is out of range, or ``delta`` is neither positive nor a
        table.
    """

    card: ClassVar[Card] = Card(
        title="LATINO",
        paper="Spagnoletti et al., LATINO-PRO: LAtent consisTency INverse sOlver with PRompt "
        "Optimization, ICCV 2025",
        equations="The LATINO step, written from a description of the released code; the paper's "
        "own formulas were not compared",
        deviations=(
            "Published with few-step models: a consistency model, DMD2. With an ordinary prior x0 "
            "is a posterior mean, and samples are too smooth and too similar.",
            "The start is the first guess of the operator, clipped and noised. The released code "
            "starts from the adjoint: for super-resolution this is a nearly grey image.",
            "The released configurations for inpainting and for super-resolution by 4 and 8 stop "
            "with an error. The code has a table for inpainting, but made no number with it.",
            "Residual norms are per row. The noise level of y and the measurement are in [-1, 1] "
            "units, and hidden pixels are 0; the released code has -1 there.",
        ),
    )
    needs: ClassVar[frozenset[str]] = frozenset({"prox"})
    version: ClassVar[int] = 1

    steps: int = 8
    delta: float | str = "inpainting"
    sigma_floor: float = 0.01
    clip: bool = True
    guidance: float = 1.0
    grid: str = TRAILING

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= 1000:
            raise ValueError(f"steps must be 1 to 1000, got {self.steps}")
        if not self.sigma_floor > 0:
            raise ValueError(f"sigma_floor must be positive, got {self.sigma_floor}")
        check_delta("delta", self.delta)

    @override
    def draw(self, obs: Observation, prior: Prior, noise: Noise) -> Tensor:
        levels = self.levels(prior, self.steps)
        # Start from a first guess, encoded and noised.
        z = self.noised(self.start(obs, prior), levels[0], prior, noise)
        return prior.decode(self.chain(z, levels, obs, prior, noise))

    def levels(self, prior: Prior, steps: int) -> list[Level]:
        """Return ``steps`` levels, noisiest first, and the clean end."""
        if self.grid != TRAILING:
            return prior.grid(steps, self.grid)
        indices = [round(1000 - k * 1000 / steps) - 1 for k in range(steps)]
        ratios = [float(_stable_diffusion().level_at_index(k).ratio) for k in indices]
        return [*map(prior.level, ratios), CLEAN]

    def start(self, obs: Observation, prior: Prior) -> Tensor:
        """Return the encoded first guess, ``(N, *latent_shape)``."""
        return prior.encode(self._clipped(obs.operator.first_guess(obs.y)))

    def noised(self, z0: Tensor, level: Level, prior: Prior, noise: Noise) -> Tensor:
        """Return ``z0`` with fresh noise of a level."""
        return prior.process.add_noise(z0, level, noise.normal(prior.latent_shape))

    def chain(
        self, z: Tensor, levels: list[Level], obs: Observation, prior: Prior, noise: Noise
    ) -> Tensor:
        """Return the clean state at the end of the levels, from a state at the first one."""
        for t, s in pairwise(levels):
            # Predict the clean image in one jump.
            z0 = prior.denoise(z, t, obs.cond, self.guidance)
            # Pull it to the measurement, and forget the noise of the state.
            z = self.noised(self.pulled(z0, t, self.delta, obs, prior), s, prior, noise)
        return z

    def pulled(
        self, z0: Tensor, t: Level, delta: float | str, obs: Observation, prior: Prior
    ) -> Tensor:
        """Decode, take the proximal step of level ``t``, and encode."""
        x0 = self._clipped(prior.decode(z0))
        rho = self._rho(x0, t, delta, obs)
        return prior.encode(self._clipped(obs.operator.prox(x0, obs.y, rho)))

    def _rho(self, x0: Tensor, t: Level, delta: float | str, obs: Observation) -> float | Tensor:
        """Return ``1 / gamma``: a number, or one per row ``(N, 1, 1, 1)``."""
        ratio = float(t.ratio)
        variance = 1 / (1 + ratio**-2)  # sigma_t^2 where alpha_t^2 + sigma_t^2 = 1
        rho = max(self.sigma_floor, obs.operator.sigma) ** 2 / variance
        if not isinstance(delta, str):
            return rho / delta
        table = DELTAS[delta]
        noisy = float(_stable_diffusion().level(ratio).t) > table.step
        rho /= table.above if noisy else table.below
        if not table.residual:
            return rho
        distance = norm(obs.operator.residual(x0, obs.y))
        return column((rho / distance).clamp_max(RHO_MAX), x0)

    def _clipped(self, x: Tensor) -> Tensor:
        return x.clamp(-1, 1) if self.clip else x


def check_delta(name: str, delta: float | str) -> None:
    """Check that a step is a positive number or the name of a table; else ValueError."""
    if isinstance(delta, str):
        if delta not in DELTAS:
            raise ValueError(
                f"unknown {name} '{delta}'; give a positive number or {', '.join(DELTAS)}"
            )
    elif not delta > 0:
        raise ValueError(f"{name} must be positive, got {delta}")


@cache
def _stable_diffusion() -> VP:
    """Return the process of Stable Diffusion, whose training steps the tables count."""
    with torch.device("cpu"):
        return VP.scheduled("scaled_linear", 0.00085, 0.012)
