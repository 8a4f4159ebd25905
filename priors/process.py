"""Noise processes: pure functions of noise levels.

Every formula below reads only ``alpha`` and ``sigma`` of ``z_t = alpha_t x0 + sigma_t eps``, so VE,
VP and rectified flow share one implementation. A process adds only the map between a level and the
number that its network was trained to read. Levels are float64; coefficients are cast to the dtype
of the image last.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from typing_extensions import override

Scalar = float | Tensor


@dataclass(frozen=True)
class Level:
    """A noise level: ``z = alpha x0 + sigma eps``.

    Parameters
    ----------
    alpha : float or Tensor
        Factor of the image, a float64 scalar; 1 without noise, 0 where a flow starts. For a batch
        whose rows have different levels, a float64 tensor ``(N, 1, 1, 1)`` (see :meth:`stack`).
    sigma : float or Tensor
        Standard deviation of the noise, 0 or more; of the same kind as ``alpha``.
    t : float or Tensor, default nan
        Time that the network is fed, a scalar or ``(N,)``; nan for a level that no network reads.

    Examples
    --------
    >>> Level(alpha=0.6, sigma=0.3).ratio
    0.5
    """

    alpha: Scalar
    sigma: Scalar
    t: Scalar = math.nan

    @property
    def ratio(self) -> Scalar:
        """Noise level in VE coordinates, ``sigma / alpha``; infinite where alpha is 0."""
        if isinstance(self.alpha, Tensor) or isinstance(self.sigma, Tensor):
            return self.sigma / self.alpha
        return self.sigma / self.alpha if self.alpha > 0 else math.inf

    @property
    def flow_time(self) -> float:
        """Time that a flow gives to a scalar level, ``sigma / (alpha + sigma)``, 0 to 1."""
        return float(self.sigma / (self.alpha + self.sigma))

    @staticmethod
    def stack(levels: Sequence[Level]) -> Level:
        """Gather one level per row into a single level of tensors.

        Parameters
        ----------
        levels : Sequence[Level]
            ``N`` scalar levels.

        Returns
        -------
        Level
            ``alpha`` and ``sigma`` of shape ``(N, 1, 1, 1)`` and ``t`` of shape ``(N,)``, all
            float64.
        """

        def column(name: str) -> Tensor:
            return torch.tensor([getattr(level, name) for level in levels], dtype=torch.float64)

        return Level(
            column("alpha").view(-1, 1, 1, 1), column("sigma").view(-1, 1, 1, 1), column("t")
        )


CLEAN = Level(1.0, 0.0)
"""The end of every chain: ``z = x0``. It is never fed to a network."""


def as_factor(coefficient: Tensor, x: Tensor) -> Tensor:
    """Return numbers of the host so that they can multiply ``x``; nobody waits for a GPU.

    Parameters
    ----------
    coefficient : Tensor
        One number, or one per row, that broadcasts to ``x``.
    x : Tensor
        The state.

    Returns
    -------
    Tensor
        The numbers in the dtype of ``x``. One number stays on the host: a kernel takes it from
        there. More of them go to the device of ``x``.
    """
    numbers = coefficient.to(x.dtype)
    return numbers if numbers.ndim == 0 and numbers.is_cpu else sent(numbers, x.device)


def sent(numbers: Tensor, device: torch.device) -> Tensor:
    """Return numbers of the host on a device; nobody waits for a GPU.

    Parameters
    ----------
    numbers : Tensor
        A few numbers.
    device : torch.device
        Where they go.

    Returns
    -------
    Tensor
        The numbers. On the way to a GPU they pass through pinned memory, because a copy from other
        memory waits until the GPU has done everything before it.
    """
    if numbers.is_cpu and device.type.startswith("cuda"):
        return numbers.pin_memory().to(device, non_blocking=True)
    return numbers.to(device)


def _times(coefficient: Scalar, x: Tensor) -> Tensor:
    """Return ``coefficient * x`` in the dtype of ``x``."""
    return (as_factor(coefficient, x) if isinstance(coefficient, Tensor) else coefficient) * x


def _sqrt(value: Scalar) -> Scalar:
    """Return the square root, with round-off below zero removed."""
    return value.clamp_min(0).sqrt() if isinstance(value, Tensor) else math.sqrt(max(value, 0.0))


@dataclass(frozen=True)
class Transition:
    """Coefficients of ``q(z_t | z_s)`` and of ``q(z_s | z_t, x0)`` for ``s`` cleaner than ``t``.

    ``z_t = a z_s + N(0, v)`` and ``z_s = c0 x0 + ct z_t + N(0, var)``, with
    ``a = alpha_t / alpha_s`` and ``v = sigma_t^2 - a^2 sigma_s^2`` (VIPaint, Eq. 17 and 18).

    Attributes
    ----------
    a, v : float or Tensor
        Factor and variance of the step from ``s`` up to ``t``.
    c0, ct : float or Tensor
        Factors of ``x0`` and ``z_t`` in the mean of ``z_s``.
    var : float or Tensor
        Variance of ``z_s`` given ``z_t`` and ``x0``.
    """

    a: Scalar
    v: Scalar
    c0: Scalar
    ct: Scalar
    var: Scalar


class Process:
    """Base class of noise processes: the arithmetic that all of them share.

    A subclass sets the attributes below and implements :meth:`level`, :meth:`level_at_index` and
    :meth:`index`, which map ratios and native indices to levels. It implements ``spec`` too if a
    prior with this process is to be written to a file.

    Attributes
    ----------
    kind : str
        Coordinates of ``z``: ``ve``, ``vp`` or ``flow``.
    ratio_min, ratio_max : float
        Range of ``sigma / alpha`` that the network was trained on; ``ratio_max`` is infinite for a
        flow that starts at pure noise.

    Notes
    -----
    In all methods ``t`` is a noisy level and ``s`` a cleaner one. States ``z`` and images ``x0``
    have the shape ``(N, C, H, W)``; results have the shape and dtype of the state. Nothing is
    clipped, and randomness comes only from the argument ``noise``.
    """

    kind: str
    ratio_min: float
    ratio_max: float

    @property
    def trained_kind(self) -> str:
        """The kind of the checkpoint itself, whatever the coordinates of this process."""
        return self.kind

    @property
    def training_steps(self) -> int | None:
        """Number of training steps that native indices count from 0; None if time is continuous."""
        return None

    @property
    def spec(self) -> dict[str, str | float]:
        """The kind and the settings that rebuild the process, as ``prior.json`` records them.

        Raises
        ------
        ValueError
            If the process cannot be written to a file.
        """
        raise ValueError(f"a {type(self).__name__} process cannot be written to a file")

    # -- levels ------------------------------------------------------------------------------------

    def level(self, ratio: float) -> Level:
        """Return the level with ``sigma / alpha = ratio``.

        Parameters
        ----------
        ratio : float
            Noise level in VE coordinates, above 0. A ratio outside ``[ratio_min, ratio_max]`` is
            moved to the nearer end.

        Returns
        -------
        Level
            The level, with the time that the network reads.
        """
        raise NotImplementedError

    def level_at_index(self, index: float) -> Level:
        """Return the level at a native index of the checkpoint.

        Parameters
        ----------
        index : float
            A training step of a VP checkpoint, from 0 on, which may lie between two steps; or
            ``1000 t`` of a flow, 0 to 1000.

        Returns
        -------
        Level
            The level, with the time that the network reads.

        Raises
        ------
        ValueError
            If the index is out of range, or the checkpoint has no native index (VE).
        """
        raise NotImplementedError

    def index(self, level: Level) -> float:
        """Return the native index of a level, to show it beside the ratio; nan for a VE process.

        Parameters
        ----------
        level : Level
            A scalar level of this process.

        Returns
        -------
        float
            The inverse of :meth:`level_at_index`.
        """
        raise NotImplementedError

    def clamp(self, ratio: float) -> float:
        """Move a ratio into ``[ratio_min, ratio_max]``.

        Parameters
        ----------
        ratio : float
            Any ratio ``sigma / alpha``.

        Returns
        -------
        float
            The nearest ratio in the range.
        """
        return min(max(ratio, self.ratio_min), self.ratio_max)

    # -- the primitives every solver is built from -------------------------------------------------

    @staticmethod
    def transition(s: Level, t: Level) -> Transition:
        """Return the coefficients between two levels; see :class:`Transition`.

        Parameters
        ----------
        s : Level
            The cleaner level.
        t : Level
            The noisier level. Nothing is divided by its ``alpha``, so a flow may start at
            ``alpha = 0``.

        Returns
        -------
        Transition
            Coefficients in float64.
        """
        a = t.alpha / s.alpha
        v = t.sigma**2 - a**2 * s.sigma**2
        return Transition(
            a, v, s.alpha * v / t.sigma**2, a * s.sigma**2 / t.sigma**2, v * s.sigma**2 / t.sigma**2
        )

    @staticmethod
    def add_noise(x0: Tensor, level: Level, noise: Tensor) -> Tensor:
        """Draw from ``q(z_t | x0)``: return ``alpha x0 + sigma noise``.

        Parameters
        ----------
        x0 : Tensor
            Clean states ``(N, C, H, W)``.
        level : Level
            The level to go to.
        noise : Tensor
            Standard-normal numbers, shaped like ``x0``.

        Returns
        -------
        Tensor
            Noisy states, shaped like ``x0``.
        """
        return _times(level.alpha, x0) + _times(level.sigma, noise)

    @staticmethod
    def eps(z: Tensor, x0: Tensor, level: Level) -> Tensor:
        """Return the noise that leads from ``x0`` to ``z``: ``(z - alpha x0) / sigma``.

        Parameters
        ----------
        z : Tensor
            Noisy states ``(N, C, H, W)``.
        x0 : Tensor
            Clean states, shaped like ``z``.
        level : Level
            The level of ``z``, with ``sigma`` above 0.

        Returns
        -------
        Tensor
            The noise, shaped like ``z``.
        """
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
        """Take one step of the generalised DDIM family from ``t`` down to ``s``.

        Parameters
        ----------
        z_t : Tensor
            States ``(N, C, H, W)`` at level ``t``.
        x0 : Tensor
            Clean states, usually the denoiser's estimate.
        t : Level
            The level of ``z_t``.
        s : Level
            The cleaner level to go to.
        eta : float
            Share of the posterior's standard deviation that is drawn: 0 is DDIM, which is
            deterministic, and 1 is the ancestral (DDPM) step.
        noise : Tensor or None
            Standard-normal numbers, shaped like ``z_t``; None returns the mean.
        eps : Tensor or None, default None
            The noise in ``z_t``. None computes it from ``x0``; methods that correct ``x0`` but keep
            the network's own noise pass it.

        Returns
        -------
        Tensor
            States at level ``s``, shaped like ``z_t``.

        References
        ----------
        Song et al., "Denoising diffusion implicit models", 2021, Eq. 12.
        """
        mean, var = cls.bridge_moments(z_t, x0, t, s, eta, eps)
        return mean if noise is None or eta == 0 else mean + _times(_sqrt(var), noise)

    @classmethod
    def bridge_moments(
        cls, z_t: Tensor, x0: Tensor, t: Level, s: Level, eta: float, eps: Tensor | None = None
    ) -> tuple[Tensor, Scalar]:
        """Return mean and variance of :meth:`bridge`.

        Parameters
        ----------
        z_t, x0 : Tensor
            States at level ``t`` and clean states, both ``(N, C, H, W)``.
        t, s : Level
            The level of ``z_t`` and the cleaner level to go to.
        eta : float
            Share of the posterior's standard deviation.
        eps : Tensor or None, default None
            The noise in ``z_t``; None computes it from ``x0``.

        Returns
        -------
        tuple[Tensor, float or Tensor]
            The mean, shaped like ``z_t``, and the variance, ``eta^2`` times the posterior's.
        """
        var = eta**2 * cls.transition(s, t).var
        direction = cls.eps(z_t, x0, t) if eps is None else eps
        return _times(s.alpha, x0) + _times(_sqrt(s.sigma**2 - var), direction), var

    @classmethod
    def renoise(cls, z_s: Tensor, s: Level, t: Level, noise: Tensor) -> Tensor:
        """Draw from ``q(z_t | z_s)``: go from ``s`` back up to the noisier ``t`` in one jump.

        Parameters
        ----------
        z_s : Tensor
            States ``(N, C, H, W)`` at level ``s``.
        s, t : Level
            The level of ``z_s`` and the noisier level to go to.
        noise : Tensor
            Standard-normal numbers, shaped like ``z_s``.

        Returns
        -------
        Tensor
            States at level ``t``, shaped like ``z_s``.
        """
        step = cls.transition(s, t)
        return _times(step.a, z_s) + _times(_sqrt(step.v), noise)

    @classmethod
    def posterior(cls, z_t: Tensor, x0: Tensor, s: Level, t: Level) -> tuple[Tensor, Scalar]:
        """Return mean and variance of ``q(z_s | z_t, x0)``; valid also at ``alpha_t = 0``.

        Parameters
        ----------
        z_t, x0 : Tensor
            States at level ``t`` and clean states, both ``(N, C, H, W)``.
        s, t : Level
            The cleaner level and the level of ``z_t``.

        Returns
        -------
        tuple[Tensor, float or Tensor]
            The mean, shaped like ``z_t``, and the variance.
        """
        step = cls.transition(s, t)
        return _times(step.c0, x0) + _times(step.ct, z_t), step.var

    @classmethod
    def learned_step(
        cls, z_t: Tensor, x0: Tensor, t: Level, s: Level, fraction: Tensor, noise: Tensor
    ) -> Tensor:
        """Take one ancestral step from ``t`` down to ``s`` with a learned variance.

        In logarithms, the variance lies between that of ``q(z_s | z_t, x0)`` (``fraction`` 0) and
        that of ``q(z_t | z_s)`` (``fraction`` 1), element by element. The last step adds no noise.

        Parameters
        ----------
        z_t, x0 : Tensor
            States at level ``t`` and clean states, both ``(N, C, H, W)``.
        t, s : Level
            The level of ``z_t`` and the cleaner level to go to.
        fraction : Tensor
            The network's output, shaped like ``z_t`` (see ``Prior.denoise_with_variance``).
        noise : Tensor
            Standard-normal numbers, shaped like ``z_t``.

        Returns
        -------
        Tensor
            States at level ``s``, shaped like ``z_t``.

        References
        ----------
        Nichol and Dhariwal, "Improved denoising diffusion probabilistic models", 2021, Eq. 15.
        """
        mean, small = cls.posterior(z_t, x0, s, t)
        if not isinstance(s.sigma, Tensor) and s.sigma == 0:
            return mean
        variances = small, cls.transition(s, t).v
        low, high = (torch.as_tensor(v, dtype=torch.float64).log() for v in variances)
        fraction = fraction.double()
        spread = as_factor(low, fraction) + fraction * as_factor(high - low, fraction)
        spread = spread.div(2).exp()
        return mean + spread.to(z_t) * noise


class VE(Process):
    """Variance exploding process in EDM coordinates: ``alpha = 1``.

    The network is fed ``ln(sigma) / 4`` (Karras et al. 2022).

    Parameters
    ----------
    ratio_min : float, default 0.002
        The smallest noise level, above 0.
    ratio_max : float, default 80.0
        The largest noise level.

    Raises
    ------
    ValueError
        Unless ``0 < ratio_min < ratio_max < inf``.
    """

    kind = "ve"

    def __init__(self, ratio_min: float = 0.002, ratio_max: float = 80.0):
        if not 0 < ratio_min < ratio_max < math.inf:
            raise ValueError(f"VE needs 0 < ratio_min < ratio_max, got {ratio_min} and {ratio_max}")
        self.ratio_min, self.ratio_max = ratio_min, ratio_max

    @property
    @override
    def spec(self) -> dict[str, str | float]:
        return {"kind": "ve", "ratio_min": self.ratio_min, "ratio_max": self.ratio_max}

    @override
    def level(self, ratio: float) -> Level:
        sigma = self.clamp(ratio)
        return Level(1.0, sigma, math.log(sigma) / 4)

    @override
    def level_at_index(self, index: float) -> Level:
        raise ValueError(
            "a VE prior has no native index; name the noise level by its ratio sigma/alpha"
        )

    @override
    def index(self, level: Level) -> float:
        return math.nan


class VP(Process):
    """Variance preserving process: ``alpha^2 + sigma^2 = 1``, on the checkpoint's own schedule.

    The network is fed the index. Between two indices ``ln(sigma / alpha)`` is linear in the index,
    as in k-diffusion; on the training grid it is exact.

    Parameters
    ----------
    alphas_cumprod : Tensor
        ``alpha^2`` at every training step, ``(T,)``, falling.

    Notes
    -----
    A process made this way cannot be written to a file; :meth:`scheduled` builds one that can.
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
        """Build the process from the name of its schedule.

        Parameters
        ----------
        schedule : str
            ``linear``: linear betas (DDPM, ADM). ``scaled_linear``: betas linear in ``sqrt(beta)``
            (latent diffusion). ``cosine``: Nichol and Dhariwal 2021, Eq. 17, with betas capped at
            0.999.
        beta_start, beta_end : float or None, default None
            The first and last beta; a cosine schedule takes none.
        steps : int, default 1000
            Number of training steps.

        Returns
        -------
        VP
            The process.

        Raises
        ------
        ValueError
            If the schedule is unknown, or betas are missing or not wanted.
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
    @override
    def spec(self) -> dict[str, str | float]:
        if self._schedule is None:
            raise ValueError(
                "a VP process built from a bare table cannot be written to a file; use VP.scheduled"
            )
        return {"kind": "vp", **self._schedule}

    @property
    @override
    def training_steps(self) -> int:
        return len(self.log_ratio)

    @override
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

    @override
    def level(self, ratio: float) -> Level:
        return self.level_at_index(self._index_of(self.clamp(ratio)))

    @override
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
    """Return betas whose cumulative product follows ``cos((t / T + 0.008) / 1.008 * pi / 2)^2``."""
    at = torch.arange(steps + 1, dtype=torch.float64) / steps
    abar = ((at + 0.008) / 1.008 * math.pi / 2).cos() ** 2
    return (1 - abar[1:] / abar[:-1]).clamp_max(0.999)


class Flow(Process):
    """Rectified flow: ``z = (1 - u) x0 + u eps``; the network is fed ``1000 u``.

    Parameters
    ----------
    shift : float, default 1.0
        Shift of the schedule, above 0. It changes only the map from an index to ``u``.
    u_min : float, default 0.001
        The cleanest time that the network was trained on.
    u_max : float, default 1.0
        The noisiest time, at most 1, which is pure noise.

    Raises
    ------
    ValueError
        Unless ``0 < u_min < u_max <= 1`` and ``shift > 0``.
    """

    kind = "flow"

    def __init__(self, shift: float = 1.0, u_min: float = 0.001, u_max: float = 1.0):
        if not 0 < u_min < u_max <= 1 or shift <= 0:
            raise ValueError(
                "a flow needs 0 < u_min < u_max <= 1 and shift > 0, "
                f"got {u_min}, {u_max} and {shift}"
            )
        self.shift, self.u_min, self.u_max = shift, u_min, u_max
        self.ratio_min = u_min / (1 - u_min)
        self.ratio_max = u_max / (1 - u_max) if u_max < 1 else math.inf

    @property
    @override
    def spec(self) -> dict[str, str | float]:
        return {"kind": "flow", "shift": self.shift, "u_min": self.u_min, "u_max": self.u_max}

    def _level(self, u: float) -> Level:
        return Level(1 - u, u, 1000 * u)

    @override
    def level(self, ratio: float) -> Level:
        ratio = self.clamp(ratio)
        return self._level(1.0 if math.isinf(ratio) else ratio / (1 + ratio))

    @override
    def level_at_index(self, index: float) -> Level:
        """Return the level at an unshifted time, 0 to 1000, as in the schedulers of diffusers."""
        time = index / 1000
        return self._level(self.shift * time / (1 + (self.shift - 1) * time))

    @override
    def index(self, level: Level) -> float:
        return float(1000 * level.sigma / (self.shift - (self.shift - 1) * level.sigma))


VIEWS = ("vp", "ve", "flow")
"""The coordinates that a process can be seen in."""


class Rescaled(Process):
    """Another process in coordinates of VP, VE or a flow.

    In these ``alpha^2 + sigma^2 = 1``, ``alpha = 1`` or ``alpha + sigma = 1``. The time ``t`` that
    the network is fed does not change, and neither does the range of ``sigma / alpha``: a flow
    made from another process starts at its ``ratio_max``, not at pure noise.

    Parameters
    ----------
    base : Process
        The process of the checkpoint.
    kind : str
        The coordinates: ``vp``, ``ve`` or ``flow``.

    Raises
    ------
    ValueError
        If ``kind`` is unknown.
    """

    def __init__(self, base: Process, kind: str):
        if kind not in VIEWS:
            raise ValueError(f"unknown view '{kind}'; valid: {', '.join(VIEWS)}")
        self.base, self.kind = base, kind
        self.ratio_min, self.ratio_max = base.ratio_min, base.ratio_max

    @property
    @override
    def trained_kind(self) -> str:
        return self.base.trained_kind

    @property
    @override
    def training_steps(self) -> int | None:
        return self.base.training_steps

    def scale(self, native: Level) -> Scalar:
        """Return the factor ``c`` in ``z_view = z_native / c``.

        Parameters
        ----------
        native : Level
            A level of the base process.

        Returns
        -------
        float or Tensor
            ``alpha`` for VE coordinates, ``sqrt(alpha^2 + sigma^2)`` for VP, ``alpha + sigma`` for
            a flow.
        """
        if self.kind == "flow":
            return native.alpha + native.sigma
        return native.alpha if self.kind == "ve" else _sqrt(native.alpha**2 + native.sigma**2)

    def _rescale(self, native: Level) -> Level:
        c = self.scale(native)
        if self.kind == "ve" and not isinstance(c, Tensor) and c == 0:
            raise ValueError("a VE view has no level at alpha = 0; start the flow below u = 1")
        return replace(native, alpha=native.alpha / c, sigma=native.sigma / c)

    @override
    def level(self, ratio: float) -> Level:
        return self._rescale(self.base.level(ratio))

    @override
    def level_at_index(self, index: float) -> Level:
        return self._rescale(self.base.level_at_index(index))

    @override
    def index(self, level: Level) -> float:
        return self.base.index(self.base.level(float(level.ratio)))


PROCESSES: dict[str, Callable[..., Process]] = {"ve": VE, "vp": VP.scheduled, "flow": Flow}
"""How to build each kind from the settings of its :attr:`Process.spec`."""
