"""LanPaint: Langevin steps at every level let the hole and its surroundings agree."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.priors.base import Condition, Prior
from posterior_bench.priors.process import Level
from posterior_bench.solvers.base import Card, Noise, Observation, Sampler
from posterior_bench.solvers.shared.latent_mask import masked_state

CHOICES = {
    "dynamics": ("overdamped", "underdamped"),
    "ramp": ("count", "step"),
    "known": ("frozen", "chain"),
}


@dataclass(frozen=True)
class LanPaint(Sampler):
    """LanPaint of Zheng et al. (2025): replacement sampling with Langevin steps at every level.

    Parameters
    ----------
    steps : int, default 20
        Number of levels. Each takes one network call, and one more per Langevin step.
    inner : int, default 5
        Most Langevin steps of a level, 0 or more.
    lam : float, default 5.0
        How much more the observed part follows the observation than the prediction, 0 or more.
    step : float, default 0.2
        Time of a Langevin step, positive, for a state of unit variance.
    dynamics : str, default 'overdamped'
        ``overdamped`` as in the authors' current node, or ``underdamped`` as in the paper.
    friction : float, default 15.0
        Friction of the underdamped dynamics, positive; below 2 they oscillate.
    ramp : str, default 'count'
        What falls with the share of noise in the state: the ``count`` of Langevin steps, or the
        time of a ``step``.
    early_stop : int, default 1
        How many levels at the clean end have no Langevin steps.
    known : str, default 'frozen'
        How the observation is noised: ``frozen`` has one noise for all levels, ``chain`` one path
        of the noise process.
    guidance : float, default 1.0
        Classifier-free guidance weight; 1 means no guidance.
    guidance_known : float | None, default None
        Guidance weight of the prediction that pulls the observed part; None = ``guidance``.
    grid : str, default 'native'
        Law of the noise levels: ``native`` or another kind of :meth:`priors.base.Prior.grid`.

    Raises
    ------
    ValueError
        If a choice is unknown, ``inner``, ``lam`` or ``early_stop`` is negative, or ``step`` or
        ``friction`` is not positive.
    """

    card: ClassVar[Card] = Card(
        title="LanPaint",
        paper="Zheng et al., LanPaint: Training-Free Diffusion Inpainting with Asymptotically "
        "Exact and Fast Conditional Sampling, TMLR 2025",
        equations="Section 4: the bidirectional guided score, and fast Langevin dynamics",
        deviations=(
            "There are two algorithms of this name. The defaults are those of the authors' current "
            "node: overdamped steps of constant time, fewer at cleaner levels, one noise. The "
            "preset authors is the paper's benchmark: underdamped steps, always as many, a path "
            "of noise. On two pixels with correlation 0.9 and 20 steps of a flow the means of the "
            "hidden pixel are 0.75 and, on the benchmark's levels, 0.83; the exact one is 0.9.",
            "A step is the exact flow with a frozen force. From the second step of a level on, "
            "half of it comes before the new force and half after; with underdamped steps the "
            "change of the force moves the velocity. The constant alpha of the benchmark is 0.",
            "The levels are those of the prior. The node takes those of its host, and the "
            "benchmark has levels between two training steps.",
            "A number of Langevin steps that is halfway is rounded to the even number, as in the "
            "node, but round-off cannot decide: at equal shares of noise and image it is 2 of 5.",
            "A latent cell is observed if all of its pixels are, and the hole is grey before it is "
            "encoded. The released benchmark encodes the whole clean image.",
            "Noise on the measurement is not modelled: y is noised as if it were the clean image.",
            "A step costs a network call. With a guidance_known other than guidance, the calls "
            "with and without condition are two and not one of twice the size.",
        ),
    )
    needs: ClassVar[frozenset[str]] = frozenset({"mask"})
    version: ClassVar[int] = 1

    steps: int = 20
    inner: int = 5
    lam: float = 5.0
    step: float = 0.2
    dynamics: str = "overdamped"
    friction: float = 15.0
    ramp: str = "count"
    early_stop: int = 1
    known: str = "frozen"
    guidance: float = 1.0
    guidance_known: float | None = None
    grid: str = "native"

    def __post_init__(self) -> None:
        for name, valid in CHOICES.items():
            if getattr(self, name) not in valid:
                raise ValueError(
                    f"unknown {name} '{getattr(self, name)}'; valid: {', '.join(valid)}"
                )
        for name in ("inner", "lam", "early_stop"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        for name in ("step", "friction"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")

    @override
    def draw(self, obs: Observation, prior: Prior, noise: Noise) -> Tensor:
        assert obs.operator.mask is not None
        view, shape = prior.view("vp"), prior.latent_shape  # states of about unit variance
        process, levels = view.process, view.grid(self.steps, self.grid)
        observed, mask = masked_state(prior, obs.operator.At(obs.y), obs.operator.mask)
        # Start from pure noise, and noise the observation.
        z, kept = levels[0].sigma * noise.normal(shape), noise.normal(shape)
        seen = process.add_noise(observed, levels[0], kept)
        for left, (t, s) in zip(range(self.steps, 0, -1), pairwise(levels), strict=True):
            # Put the noised observation in.
            z = torch.where(mask, seen, z)
            # Let the hole and its surroundings agree.
            if count := self._count(t, left):
                z = self._langevin(z, t, count, observed, mask, obs.cond, view, noise)
            # Predict the clean image, with the observation in its place.
            x0 = torch.where(mask, observed, view.denoise(z, t, obs.cond, self.guidance))
            # Step down, and the observation with the same noise or along the same path.
            z = process.bridge(z, x0, t, s, 0.0, None)
            if self.known == "chain":
                seen = process.bridge(seen, observed, t, s, 1.0, noise.normal(shape))
            else:
                seen = process.add_noise(observed, s, kept)
        return prior.decode(z)

    def _count(self, t: Level, left: int) -> int:
        """Return the number of Langevin steps at level ``t``, the first of ``left`` levels."""
        if left <= self.early_stop:
            return 0
        # What is behind the ninth digit is round-off, and must not decide how a half is rounded.
        return self.inner if self.ramp == "step" else round(round(self.inner * _share(t), 9))

    def _langevin(
        self,
        z: Tensor,
        t: Level,
        count: int,
        observed: Tensor,
        mask: Tensor,
        cond: Condition | None,
        view: Prior,
        noise: Noise,
    ) -> Tensor:
        """Return states after ``count`` Langevin steps at level ``t``, in VP coordinates."""
        q, lam = _share(t), self.lam
        springs = _Springs(1 / q, (1 + lam) / q, mask.to(z))
        time = self.step * (q if self.ramp == "step" else 1.0)
        state = (
            _Overdamped(z, springs, noise)
            if self.dynamics == "overdamped"
            else _Underdamped(z, springs, noise, self.friction)
        )

        def force(z: Tensor) -> Tensor:
            """Return the score without the pull of the springs."""
            x0, wide = self._predictions(z, t, cond, view)
            guided = t.alpha * ((1 + lam) * observed - lam * wide) + lam * z
            return torch.where(mask, guided, t.alpha * x0) / q

        held = force(state.x)
        state.flow(held, time)
        for _ in range(count - 1):
            # Flow half the time, take the new force into account, flow the other half.
            state.flow(held, time / 2)
            new = force(state.x)
            state.push(new - held, time)
            state.flow(held, time / 2)
            held = new
        return state.x

    def _predictions(
        self, z: Tensor, t: Level, cond: Condition | None, view: Prior
    ) -> tuple[Tensor, Tensor]:
        """Return the clean images predicted for the hole and for the observed part."""
        weights = self.guidance, self.guidance_known
        if weights[1] is None or weights[1] == weights[0]:
            x0 = view.denoise(z, t, cond, self.guidance)
            return x0, x0
        if cond is None or cond.null is None:
            raise ValueError(
                f"guidance_known {weights[1]} needs a condition and a trained null condition; "
                "leave it out"
            )
        given, null = view.denoise(z, t, cond), view.denoise(z, t, Condition(cond.null))
        return null + weights[0] * (given - null), null + weights[1] * (given - null)


def _share(t: Level) -> float:
    """Return the share of noise in the variance of a state, as the clean image has variance 1."""
    return float(t.sigma**2 / (t.alpha**2 + t.sigma**2))


# -- Langevin dynamics with springs, of which the exact flow is known ------------------------------


@dataclass(frozen=True)
class _Springs:
    """Stiffnesses ``A``: one in the hole, one in the observed part, where ``mask`` is 1."""

    hidden: float
    observed: float
    mask: Tensor

    def each(self, f: Callable[[float], tuple[float, ...]]) -> list[Tensor]:
        """Return the numbers ``f(A)`` of every pixel, each shaped like the mask."""
        pairs = zip(f(self.hidden), f(self.observed), strict=True)
        return [hidden + (observed - hidden) * self.mask for hidden, observed in pairs]


class _Overdamped:
    """States ``x`` with ``dx = (C - A x) dt + sqrt(2) dW``."""

    def __init__(self, x: Tensor, springs: _Springs, noise: Noise):
        self.x, self.springs, self.noise = x, springs, noise
        (self.root,) = springs.each(lambda a: (math.sqrt(a),))

    def push(self, change: Tensor, time: float) -> None:
        """Let a change of the force act for a time."""
        self.x = self.x + time * change

    def flow(self, force: Tensor, time: float) -> None:
        """Draw the states after a time with a force ``C`` that does not change."""
        rest = force / self.root
        self.x = (rest + self.stretched(self.root * self.x - rest, time)) / self.root

    def stretched(self, r: Tensor, time: float) -> Tensor:
        """Draw ``r = sqrt(A) (x - C / A)``, which has unit variance in the end, after a time."""
        left, spread = self.springs.each(
            lambda a: (math.exp(-a * time), math.sqrt(-math.expm1(-2 * a * time)))
        )
        return left * r + spread * self.fresh()

    def fresh(self) -> Tensor:
        """Return standard normals, shaped like the states."""
        return self.noise.normal(self.x.shape[1:])


class _Underdamped(_Overdamped):
    """States with a velocity: ``dx = g v dt``, ``dv = (g (C - A x) - g^2 v) dt + sqrt(2) g dW``.

    ``g = friction sqrt(A)``. For high friction ``x`` moves as if it were overdamped. The law of
    ``x`` at rest is the same, and the velocity is standard normal.
    """

    def __init__(self, x: Tensor, springs: _Springs, noise: Noise, friction: float):
        super().__init__(x, springs, noise)
        self.friction, self.v = friction, self.fresh()

    @override
    def push(self, change: Tensor, time: float) -> None:
        self.v = self.v + time * self.friction * self.root * change

    @override
    def stretched(self, r: Tensor, time: float) -> Tensor:
        rr, rv, vr, vv, r1, v1, v2 = self.springs.each(lambda a: _step(a * time, self.friction))
        first, second = self.fresh(), self.fresh()
        moved = rr * r + rv * self.v + r1 * first
        self.v = vr * r + vv * self.v + v1 * first + v2 * second
        return moved


@lru_cache(maxsize=64)
def _step(time: float, friction: float) -> tuple[float, ...]:
    """Return flow and deviations of ``r`` and ``v`` over a time, for springs of stiffness 1.

    Returns
    -------
    tuple of float
        The matrix that acts on ``(r, v)``, then the lower triangle of the root of the covariance of
        what is added. At rest the covariance is the identity.
    """
    drift = torch.tensor([[0, friction], [-friction, -(friction**2)]], dtype=torch.float64)
    flow = torch.linalg.matrix_exp(time * drift)
    (var_r, cov), (_, var_v) = (torch.eye(2, dtype=torch.float64) - flow @ flow.T).tolist()
    r1 = math.sqrt(max(var_r, 0.0))
    v1 = cov / r1 if r1 > 0 else 0.0
    return (*flow.flatten().tolist(), r1, v1, math.sqrt(max(var_v - v1**2, 0.0)))
