"""DDNM: the measurement replaces what the operator sees of the prediction; the rest is the prior's.

What the operator sees is the range space of ``A``; the rest is its null space.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.operators.spectrum import Spectrum
from posterior_bench.priors.base import Prior
from posterior_bench.priors.process import Level
from posterior_bench.solvers.base import Card, Noise, Observation, Sampler, lacking
from posterior_bench.solvers.shared.levels import loop_grid
from posterior_bench.solvers.shared.walk import walk

COMPAT = ("none", "released")


@dataclass(frozen=True)
class DDNM(Sampler):
    """Denoising diffusion null-space models of Wang et al. (2023), Algorithms 1 and 2.

    Parameters
    ----------
    steps : int, default 100
        Number of steps; without time travel one network call each.
    eta : float, default 0.85
        Share of fresh noise in each step, in [0, 1]: 1 is fresh noise alone, 0 is DDIM.
    travel_length : int, default 1
        Number of levels that the time travel climbs.
    travel_repeat : int, default 1
        How often each stretch of levels is walked in all; 1 means no time travel.
    plus : bool, default True
        Use DDNM+ for noisy measurements; the operator needs known singular values. False treats a
        noisy measurement as exact.
    clip : bool, default False
        Clip x0 to [-1, 1].
    guidance : float, default 1.0
        Classifier-free guidance weight; 1 means no guidance.
    grid : str, default 'native'
        Law of the noise levels: ``native`` or another kind of :meth:`priors.base.Prior.grid`.
    compat : str, default 'none'
        ``none`` or ``released``.

    Raises
    ------
    ValueError
        If ``eta`` is outside [0, 1], the schedule of the time travel is impossible, or ``compat``
        is unknown; in a run, if DDNM+ meets an operator without known singular values.
    """

    card: ClassVar[Card] = Card(
        title="DDNM and DDNM+",
        paper="Wang et al., Zero-Shot Image Restoration Using Denoising Diffusion Null-Space "
        "Model, ICLR 2023",
        equations="Eq. 13 and Algorithm 1; Section 3.3 and Algorithm 2 for DDNM+ and time travel",
        deviations=(
            "Singular values below the operator's rcond count as hidden. The released blurs also "
            "cut them off where they make the measurement.",
            "DDNM+ turns the predicted noise into singular coordinates and back. The released code "
            "leaves out the first of the two turns for super-resolution and blurs.",
            "A measurement without noise always takes the plain DDNM step, as released. The limit "
            "of DDNM+ would use fresh noise alone on observed pixels, which differs for eta < 1.",
            "Levels run evenly from the noisiest to the cleanest of the prior.",
            "Here eta multiplies the noise level, not the posterior deviation: eta = 1 is not "
            "ancestral sampling.",
        ),
        compat={
            "released": "Time travel renoises the uncorrected prediction of the last step instead "
            "of its state. grid=native takes every (1000 / steps)-th training step, down to 0, on "
            "a prior that has 1000; steps has to divide 1000. On golden runs of the released code, "
            "3 x 4 x 4 with a mixture prior and a mask, samples were up to 0.053 apart before the "
            "levels were taken over; now 9e-16."
        },
    )
    needs: ClassVar[frozenset[str]] = frozenset({"linear", "pinv", "pixel"})
    version: ClassVar[int] = 2

    steps: int = 100
    eta: float = 0.85
    travel_length: int = 1
    travel_repeat: int = 1
    plus: bool = True
    clip: bool = False
    guidance: float = 1.0
    grid: str = "native"
    compat: str = "none"

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta {self.eta} is outside [0, 1]; 1 is fresh noise alone, 0 is DDIM")
        if self.compat not in COMPAT:
            raise ValueError(f"unknown compat '{self.compat}'; valid: {', '.join(COMPAT)}")
        # Refuse an impossible schedule before any work.
        walk(self.steps, self.travel_length, self.travel_repeat)

    @property
    @override
    def workload(self) -> dict[str, int]:
        travel = {"travel_length": self.travel_length} if self.travel_repeat > 1 else {}
        return {"steps": self.steps, **travel}

    @override
    def lacks(self, has: frozenset[str], sigma: float) -> frozenset[str]:
        needs = self.needs | {"svd"} if self.plus and sigma > 0 else self.needs
        return lacking(needs, has)

    @override
    def draw(self, obs: Observation, prior: Prior, noise: Noise) -> Tensor:
        process, shape = prior.process, prior.latent_shape
        levels = loop_grid(prior, self.steps, self.grid, self.compat, "leading")
        noisy = self.plus and obs.operator.sigma > 0
        if noisy and "svd" not in obs.operator.caps:
            raise ValueError(
                "DDNM+ needs the singular values of a noisy operator, and this one has none; "
                "set solver.plus=false"
            )
        spectrum = obs.operator.spectrum(obs.y) if noisy else None
        # What the measurement says of every singular coordinate, the same in all steps.
        measured = spectrum.solution(obs.y) if spectrum is not None else obs.y
        # Start from pure noise.
        z = x0 = levels[0].sigma * noise.normal(shape)
        for i, j in walk(self.steps, self.travel_length, self.travel_repeat):
            t, s, fresh = levels[i], levels[j], noise.normal(shape)
            if j < i:
                # Travel back up.
                released = self.compat == "released"
                z = process.add_noise(x0, s, fresh) if released else process.renoise(z, t, s, fresh)
                continue
            # Predict the clean image and the noise.
            x0 = prior.denoise(z, t, obs.cond, self.guidance)
            x0 = x0.clamp(-1, 1) if self.clip else x0
            eps = process.eps(z, x0, t)
            # Replace the part that the operator sees by the measurement, and step down.
            if spectrum is not None:
                z = self._noisy_step(x0, eps, s, fresh, measured, obs.operator.sigma, spectrum)
            else:
                missing = obs.operator.pinv(obs.operator.residual(x0, obs.y))
                z = self._step(x0 + missing, eps, s, fresh)
        return z

    def _step(self, x: Tensor, eps: Tensor, s: Level, fresh: Tensor) -> Tensor:
        """Return ``x`` at level ``s``; its noise mixes the prediction's noise with fresh noise."""
        return s.alpha * x + s.sigma * (self.eta * fresh + math.sqrt(1 - self.eta**2) * eps)

    def _noisy_step(
        self,
        x0: Tensor,
        eps: Tensor,
        s: Level,
        fresh: Tensor,
        measured: Tensor,
        sigma_y: float,
        spectrum: Spectrum,
    ) -> Tensor:
        """Return the DDNM+ step, formed in the singular coordinates of the operator.

        The noise that the measurement already carries is not added again.
        """
        x0, eps = spectrum.coordinates(x0), spectrum.coordinates(eps)
        seen = spectrum.values > 0
        carried = s.alpha * sigma_y / torch.where(seen, spectrum.values, 1.0)
        # Below the noise of the measurement only part of the correction fits; fresh noise fills
        # the rest.
        fits = s.sigma >= carried
        part = math.sqrt(1 - self.eta**2) * s.sigma / carried
        share = torch.where(fits, 1.0, part).to(x0)
        left = (s.sigma**2 - carried**2).clamp_min(0).sqrt()
        spread = torch.where(fits, left, self.eta * s.sigma).to(x0)
        missing = measured - x0
        corrected = s.alpha * (x0 + share * missing) + spread * fresh
        return spectrum.image(torch.where(seen, corrected, self._step(x0, eps, s, fresh)))
