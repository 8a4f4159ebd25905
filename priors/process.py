"""Noise processes: pure functions of noise levels.

Every formula below reads only ``alpha`` and ``sigma`` of ``z_t = alpha_t x0 + sigma_t eps``, so VE,
VP and rectified flow share one implementation; a process adds only the map between a level and what
its network was trained on. Levels are float64; coefficients are cast to the dtype of the image at
the very end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

Scalar = float | Tensor


@dataclass(frozen=True)
class Level:
    """A noise level ``z = alpha x0 + sigma eps``.

    ``alpha`` and ``sigma`` are float64 scalars, or float64 tensors ``(N, 1, 1, 1)`` when the rows
    of a batch sit at different levels (see :meth:`stack`). ``t`` is what the network is fed.
    """

    alpha: Scalar
    sigma: Scalar
    t: Scalar = math.nan

    @property
    def ratio(self) -> Scalar:
        """``sigma / alpha``, the noise level in VE coordinates; infinite where a flow has alpha =
        0.
        """
        if isinstance(self.alpha, Tensor) or isinstance(self.sigma, Tensor):
            return self.sigma / self.alpha
        return self.sigma / self.alpha if self.alpha > 0 else math.inf

    @staticmethod
    def stack(levels: Sequence[Level]) -> Level:
        """One level per row: fields of shape ``(N, 1, 1, 1)`` (``t``: ``(N,)``)."""

        def column(name: str) -> Tensor:
            return torch.tensor([getattr(level, name) for level in levels], dtype=torch.float64)

        return Level(
            column("alpha").view(-1, 1, 1, 1), column("sigma").view(-1, 1, 1, 1), column("t")
        )


CLEAN = Level(1.0, 0.0)
"""The end of every chain: ``z = x0``. It is never fed to a network."""


def _times(coefficient: Scalar, x: Tensor) -> Tensor:
    """``coefficient * x`` in the dtype of ``x``."""
    if isinstance(coefficient, Tensor):
        coefficient = coefficient.to(x)
    return coefficient * x


def _sqrt(value: Scalar) -> Scalar:
    """Square root with round-off below zero removed."""
    return value.clamp_min(0).sqrt() if isinstance(value, Tensor) else math.sqrt(max(value, 0.0))


@dataclass(frozen=True)
class Transition:
    """Coefficients of ``q(z_t | z_s)`` and of ``q(z_s | z_t, x0)`` for ``s`` cleaner than ``t``.

    ``z_t = a z_s + N(0, v)`` and ``z_s = c0 x0 + ct z_t + N(0, var)`` (VIPaint Eq. 17 and 18, with
    ``a = alpha_t / alpha_s`` and ``v = sigma_t^2 - a^2 sigma_s^2``).
    """

    a: Scalar
    v: Scalar
    c0: Scalar
    ct: Scalar
    var: Scalar


class Process:
    """Shared arithmetic of all noise processes. Subclasses map ratios and native indices to
    levels.
    """

    kind: str
    ratio_min: float
    ratio_max: float

    @property
    def trained_kind(self) -> str:
        """The kind of the checkpoint itself, whatever the coordinates of this process."""
        return self.kind

    @property
    def spec(self) -> dict[str, str | float]:
        """The kind and what rebuilds the process, as ``prior.json`` records it."""
        raise ValueError(f"a {type(self).__name__} process cannot be written to a file")

    # -- levels ------------------------------------------------------------------------------------

    def level(self, ratio: float) -> Level:
        """The level with ``sigma / alpha = ratio``, clamped to the range the network was trained
        on.
        """
        raise NotImplementedError

    def level_at_index(self, index: float) -> Level:
        """The level at a native index of the checkpoint (a training step of VP, ``1000 t`` of a
        flow).
        """
        raise NotImplementedError

    def index(self, level: Level) -> float:
        """The native index of a level, for display beside its ratio."""
        raise NotImplementedError

    def clamp(self, ratio: float) -> float:
        """``ratio`` moved into ``[ratio_min, ratio_max]``."""
        return min(max(ratio, self.ratio_min), self.ratio_max)

    # -- the primitives every solver is built from -------------------------------------------------

    @staticmethod
    def transition(s: Level, t: Level) -> Transition:
        """Coefficients between a level ``s`` and a noisier level ``t``; no division by ``alpha_t``
        (flow at t = 1).
        """
        a = t.alpha / s.alpha
        v = t.sigma**2 - a**2 * s.sigma**2
        return Transition(
            a, v, s.alpha * v / t.sigma**2, a * s.sigma**2 / t.sigma**2, v * s.sigma**2 / t.sigma**2
        )

    @staticmethod
    def add_noise(x0: Tensor, level: Level, noise: Tensor) -> Tensor:
        """A draw of ``q(z_t | x0)``."""
        return _times(level.alpha, x0) + _times(level.sigma, noise)

    @staticmethod
    def eps(z: Tensor, x0: Tensor, level: Level) -> Tensor:
        """The noise that carries ``x0`` to ``z``: ``(z - alpha x0) / sigma``."""
        return _times(1 / level.sigma, z) - _times(level.alpha / level.sigma, x0)

    @classmethod
    def bridge(
        cls,
        z_t: Tensor,
        x0: Tensor,
        t: Level,
        s: Level,
        eta: float,
        noise: Tensor | None,
        eps: Tensor | None = None,
    ) -> Tensor:
        """One step of the generalised DDIM family from ``t`` down to ``s`` (Song et al. 2021, Eq.
        12).

        ``eta = 1`` is the ancestral (DDPM) step with the small posterior variance, ``eta = 0`` is
        DDIM. ``eps`` defaults to the noise implied by ``x0``; methods that correct ``x0`` but keep
        the network's own noise pass it.
        """
        mean, var = cls.bridge_moments(z_t, x0, t, s, eta, eps)
        return mean if noise is None or eta == 0 else mean + _times(_sqrt(var), noise)

    @classmethod
    def bridge_moments(
        cls, z_t: Tensor, x0: Tensor, t: Level, s: Level, eta: float, eps: Tensor | None = None
    ) -> tuple[Tensor, Scalar]:
        """Mean and variance of :meth:`bridge`; the variance is ``eta^2`` times that of the
        posterior.
        """
        var = eta**2 * cls.transition(s, t).var
        direction = cls.eps(z_t, x0, t) if eps is None else eps
        return _times(s.alpha, x0) + _times(_sqrt(s.sigma**2 - var), direction), var

    @classmethod
    def renoise(cls, z_s: Tensor, s: Level, t: Level, noise: Tensor) -> Tensor:
        """A draw of ``q(z_t | z_s)``: back up from ``s`` to the noisier ``t`` in one jump."""
        step = cls.transition(s, t)
        return _times(step.a, z_s) + _times(_sqrt(step.v), noise)

    @classmethod
    def posterior(cls, z_t: Tensor, x0: Tensor, s: Level, t: Level) -> tuple[Tensor, Scalar]:
        """Mean and variance of ``q(z_s | z_t, x0)``; valid where ``alpha_t = 0``."""
        step = cls.transition(s, t)
        return _times(step.c0, x0) + _times(step.ct, z_t), step.var

    @classmethod
    def learned_step(
        cls, z_t: Tensor, x0: Tensor, t: Level, s: Level, fraction: Tensor, noise: Tensor
    ) -> Tensor:
        """One ancestral step from ``t`` down to ``s`` with a variance that the network has learned.

        In logarithms the variance lies between that of ``q(z_s | z_t, x0)`` (``fraction`` 0) and
        that of ``q(z_t | z_s)`` (1), element by element (Nichol and Dhariwal 2021, Eq. 15). The
        last step has no noise.
        """
        mean, small = cls.posterior(z_t, x0, s, t)
        if not isinstance(s.sigma, Tensor) and s.sigma == 0:
            return mean
        variances = small, cls.transition(s, t).v
        low, high = (
            torch.as_tensor(v, dtype=torch.float64).to(z_t.device).log() for v in variances
        )
        spread = (low + fraction.double() * (high - low)).div(2).exp()
        return mean + spread.to(z_t) * noise


class VE(Process):
    """Variance exploding, EDM coordinates: ``alpha = 1``; the network is fed ``ln(sigma) / 4``
    (Karras et al. 2022).
    """

    kind = "ve"

    def __init__(self, ratio_min: float = 0.002, ratio_max: float = 80.0):
        if not 0 < ratio_min < ratio_max < math.inf:
            raise ValueError(f"VE needs 0 < ratio_min < ratio_max, got {ratio_min} and {ratio_max}")
        self.ratio_min, self.ratio_max = ratio_min, ratio_max

    @property
    def spec(self) -> dict[str, str | float]:
        return {"kind": "ve", "ratio_min": self.ratio_min, "ratio_max": self.ratio_max}

    def level(self, ratio: float) -> Level:
        sigma = self.clamp(ratio)
        return Level(1.0, sigma, math.log(sigma) / 4)

    def level_at_index(self, index: float) -> Level:
        raise ValueError(
            "a VE prior has no native index; name the noise level by its ratio sigma/alpha"
        )

    def index(self, level: Level) -> float:
        return math.nan


class VP(Process):
    """Variance preserving, from the checkpoint's own ``alphas_cumprod``; the network is fed the
    index.

    Between two indices ``ln(sigma / alpha)`` is linear in the index (k-diffusion), exact on the
    training grid.
    """

    kind = "vp"

    def __init__(self, alphas_cumprod: Tensor):
        abar = alphas_cumprod.double()
        self.log_ratio = ((1 - abar) / abar).sqrt().log()
        self._schedule: dict[str, str | float] | None = None
        self.ratio_min, self.ratio_max = (
            self.log_ratio[0].exp().item(),
            self.log_ratio[-1].exp().item(),
        )

    @classmethod
    def scheduled(
        cls,
        schedule: str,
        beta_start: float | None = None,
        beta_end: float | None = None,
        steps: int = 1000,
    ) -> VP:
        """``linear`` betas (DDPM, ADM), ``scaled_linear`` (latent diffusion: linear in
        ``sqrt(beta)``), or ``cosine``.

        The last one (Nichol and Dhariwal 2021, Eq. 17, betas capped at 0.999) takes no
        ``beta_start`` and ``beta_end``.
        """
        if schedule == "cosine":
            if beta_start is not None or beta_end is not None:
                raise ValueError(
                    "a cosine schedule takes no beta_start and beta_end; leave them out"
                )
            process = cls((1 - _cosine_betas(steps)).cumprod(0))
            process._schedule = {"schedule": schedule, "steps": steps}
            return process
        if beta_start is None or beta_end is None:
            raise ValueError(f"a {schedule} schedule is missing its beta_start and beta_end")
        if schedule == "linear":
            betas = torch.linspace(beta_start, beta_end, steps, dtype=torch.float64)
        elif schedule == "scaled_linear":
            betas = torch.linspace(beta_start**0.5, beta_end**0.5, steps, dtype=torch.float64) ** 2
        else:
            raise ValueError(f"unknown schedule '{schedule}'; valid: linear, scaled_linear, cosine")
        process = cls((1 - betas).cumprod(0))
        process._schedule = {
            "schedule": schedule,
            "beta_start": beta_start,
            "beta_end": beta_end,
            "steps": steps,
        }
        return process

    @property
    def spec(self) -> dict[str, str | float]:
        if self._schedule is None:
            raise ValueError(
                "a VP process built from a bare table cannot be written to a file; use VP.scheduled"
            )
        return {"kind": "vp", **self._schedule}

    def level_at_index(self, index: float) -> Level:
        last = len(self.log_ratio) - 1
        if not 0 <= index <= last:
            raise ValueError(f"index {index} is outside the checkpoint's range 0..{last}")
        low = min(int(index), last - 1)
        weight = index - low
        log_ratio = ((1 - weight) * self.log_ratio[low] + weight * self.log_ratio[low + 1]).item()
        alpha2 = 1 / (1 + math.exp(2 * log_ratio))
        sigma2 = 1 / (1 + math.exp(-2 * log_ratio))
        return Level(math.sqrt(alpha2), math.sqrt(sigma2), float(index))

    def level(self, ratio: float) -> Level:
        return self.level_at_index(self._index_of(self.clamp(ratio)))

    def index(self, level: Level) -> float:
        return float(level.t)

    def _index_of(self, ratio: float) -> float:
        log_ratio, table = math.log(ratio), self.log_ratio
        high = int(
            torch.searchsorted(table, torch.tensor(log_ratio, dtype=table.dtype)).clamp(
                1, len(table) - 1
            )
        )
        low_value, high_value = table[high - 1].item(), table[high].item()
        weight = (log_ratio - low_value) / (high_value - low_value)
        return min(max(high - 1 + weight, 0.0), float(len(table) - 1))


def _cosine_betas(steps: int) -> Tensor:
    """Betas whose cumulative product follows ``cos((t / T + 0.008) / 1.008 * pi / 2)^2``."""
    at = torch.arange(steps + 1, dtype=torch.float64) / steps
    abar = ((at + 0.008) / 1.008 * math.pi / 2).cos() ** 2
    return (1 - abar[1:] / abar[:-1]).clamp_max(0.999)


class Flow(Process):
    """Rectified flow ``z = (1 - u) x0 + u eps``; the network is fed ``1000 u``. ``shift`` warps the
    index only.
    """

    kind = "flow"

    def __init__(self, shift: float = 1.0, u_min: float = 0.001, u_max: float = 1.0):
        if not 0 < u_min < u_max <= 1 or shift <= 0:
            raise ValueError(
                f"a flow needs 0 < u_min < u_max <= 1 and shift > 0, got {u_min}, {u_max} and "
                f"{shift}"
            )
        self.shift, self.u_min, self.u_max = shift, u_min, u_max
        self.ratio_min = u_min / (1 - u_min)
        self.ratio_max = u_max / (1 - u_max) if u_max < 1 else math.inf

    @property
    def spec(self) -> dict[str, str | float]:
        return {"kind": "flow", "shift": self.shift, "u_min": self.u_min, "u_max": self.u_max}

    def _level(self, u: float) -> Level:
        return Level(1 - u, u, 1000 * u)

    def level(self, ratio: float) -> Level:
        ratio = self.clamp(ratio)
        return self._level(1.0 if math.isinf(ratio) else ratio / (1 + ratio))

    def level_at_index(self, index: float) -> Level:
        """``index`` in 0..1000 is the unshifted time, as printed by the Stable Diffusion 3
        schedulers.
        """
        time = index / 1000
        return self._level(self.shift * time / (1 + (self.shift - 1) * time))

    def index(self, level: Level) -> float:
        return float(1000 * level.sigma / (self.shift - (self.shift - 1) * level.sigma))


class Rescaled(Process):
    """Another process in VP (``alpha^2 + sigma^2 = 1``) or VE (``alpha = 1``) coordinates; ``t`` is
    untouched.
    """

    def __init__(self, base: Process, kind: str):
        if kind not in ("vp", "ve"):
            raise ValueError(f"unknown view '{kind}'; valid: vp, ve")
        self.base, self.kind = base, kind
        self.ratio_min, self.ratio_max = base.ratio_min, base.ratio_max

    @property
    def trained_kind(self) -> str:
        return self.base.trained_kind

    def scale(self, native: Level) -> Scalar:
        """The factor ``c`` in ``z_view = z_native / c``."""
        return native.alpha if self.kind == "ve" else _sqrt(native.alpha**2 + native.sigma**2)

    def _rescale(self, native: Level) -> Level:
        c = self.scale(native)
        if self.kind == "ve" and not isinstance(c, Tensor) and c == 0:
            raise ValueError("a VE view has no level at alpha = 0; start the flow below u = 1")
        return replace(native, alpha=native.alpha / c, sigma=native.sigma / c)

    def level(self, ratio: float) -> Level:
        return self._rescale(self.base.level(ratio))

    def level_at_index(self, index: float) -> Level:
        return self._rescale(self.base.level_at_index(index))

    def index(self, level: Level) -> float:
        return self.base.index(self.base.level(float(level.ratio)))


PROCESSES: dict[str, Callable[..., Process]] = {"ve": VE, "vp": VP.scheduled, "flow": Flow}
"""How to build each kind from the settings of its :attr:`Process.spec`."""
