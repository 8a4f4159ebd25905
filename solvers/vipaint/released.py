"""The released latent code of VIPaint, as named switches over the corrected chain.

Each switch brings back one difference, so that its effect can be measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.priors.base import Prior
from posterior_bench.priors.process import Level, Process, Scalar, as_factor
from posterior_bench.solvers.shared.levels import seen_from
from posterior_bench.solvers.vipaint.chain import Chain, Denoiser, rows
from posterior_bench.solvers.vipaint.intervals import Intervals

SWITCHES: dict[str, str] = {
    "kl_mean_term": "The KL multiplies the squared difference of means by sigma_p^2 / 2; the "
    "correct factor is 1 / (2 sigma_p^2).",
    "reduction": "KL terms are means over elements; the likelihood is 100 times a pixel mean.",
    "top_param": "mu at the top keypoint is in clean units: z = sqrt(1 - tau^2) mu + tau eps. Only "
    "for priors with sigma below 1 (VP or flow).",
    "lower_mu_scale": "mu at the lower keypoints is multiplied by alpha once more.",
    "prior_cond": "The conditionals of Eq. 41 to 46 are used as printed, with their prediction of "
    "z_Te.",
    "prior_weight": "The prior term is weighted by (T - T_e) / 2.",
    "prior_entropy": "The entropy of q(z_Te) is left out.",
    "prior_grid": "The prior term draws only levels above the largest tau of the image, without "
    "the two lowest of them. On a prior with native indices the levels are those of the released "
    "code, whatever prior_levels says: EDM's law with rho 7 for the index, cut to whole numbers.",
    "mu_shift": "In every iteration of the fit, between the gradient and the step of Adam, every "
    "lower mean loses its smallest element: a function of the released code that scales a picture "
    "for plotting writes into the parameter. The means drift upwards.",
    "encode_noise": "Unit noise is added to the encoded observation at the start, one draw per "
    "keypoint.",
    "refine_noise": "The refinement adds no noise.",
    "refine_levels": "The refinement calls the network at every native index from that of the last "
    "keypoint down to 1, whatever refine_steps says, and the sample is the prediction at 1. Only "
    "for priors with native indices.",
    "refine_grad": "The guiding gradient is that of a mean over monte_carlo samples.",
    "cfg_stage_a": "The keypoints are drawn with guidance_sample, though fitted with guidance_fit.",
}
"""What each switch brings back of the released code; VIPaint's card shows it."""


def parse(compat: str | Sequence[str]) -> frozenset[str]:
    """Return the switches that a setting ``compat`` turns on.

    Parameters
    ----------
    compat : str | Sequence[str]
        ``none``, ``released`` (all switches), or names of :data:`SWITCHES`.

    Returns
    -------
    frozenset[str]
        Names of switches.

    Raises
    ------
    ValueError
        If a name is unknown.
    """
    names = (compat,) if isinstance(compat, str) else tuple(compat)
    if names in (("none",), ("released",)):
        return frozenset(SWITCHES if names == ("released",) else ())
    if unknown := sorted(set(names) - set(SWITCHES)):
        raise ValueError(
            f"unknown compat {', '.join(unknown)}; valid: none, released, or a list of "
            f"{list(SWITCHES)}"
        )
    return frozenset(names)


def levels_above(process: Process, top: Level) -> list[Level] | None:
    """Return the released code's levels from the noisiest down to the top keypoint.

    Parameters
    ----------
    process : Process
        Noise process of the prior.
    top : Level
        The top keypoint, which is the last level.

    Returns
    -------
    list[Level] or None
        The levels; None for a prior without native indices, for which the released code has none.
    """
    index = process.index(top)
    if math.isnan(index):
        return None
    high, low = 999 ** (1 / 7), 2 ** (1 / 7)
    law = [int((high + i / 999 * (low - high)) ** 7) for i in range(1000)]
    return [*(process.level_at_index(k) for k in dict.fromkeys(law) if k > index), top]


class Released(Chain):
    """A chain with some of the released code's differences switched on.

    Parameters
    ----------
    process, levels, eta, intervals
        As for :class:`~solvers.vipaint.chain.Chain`.
    switches : frozenset[str]
        Names of :data:`SWITCHES`.
    batch : int
        Rows per image in the fit; ``refine_grad`` divides by it.

    Raises
    ------
    ValueError
        If ``top_param`` is on and the top keypoint's sigma is 1 or more, or if ``refine_levels`` is
        on and the prior has no native indices.
    """

    def __init__(
        self,
        process: Process,
        levels: Sequence[Level],
        eta: float,
        intervals: Intervals,
        switches: frozenset[str],
        batch: int,
    ):
        if "top_param" in switches and levels[0].sigma >= 1:
            raise ValueError(
                "compat top_param needs a prior with sigma below 1 (VP or flow); "
                "leave it out for VE"
            )
        if "refine_levels" in switches and math.isnan(process.index(levels[-1])):
            raise ValueError(
                "compat refine_levels needs a prior with native indices (VP or flow); "
                "leave it out for VE"
            )
        super().__init__(process, levels, eta, intervals)
        self.switches = switches
        self.refine_noise = 0.0 if "refine_noise" in switches else 1.0
        # A mean over a batch as large as the fit's: every sample gets its share of the gradient,
        # and none depends on the others.
        self.refine_share = 1 / batch if "refine_grad" in switches else 1.0
        self.sampling_guidance_from_top = "cfg_stage_a" in switches

    @override
    def start_mean(self, i: int, clean: Tensor, xi: Tensor, scale: float) -> Tensor:
        clean = clean + xi[:, 1] if "encode_noise" in self.switches else clean
        if i == 0 and "top_param" in self.switches:
            return clean + scale * xi[:, 0]
        return super().start_mean(i, clean, xi, scale)

    @override
    def top(self, xi: Tensor) -> Tensor:
        if "top_param" not in self.switches:
            return super().top(xi)
        # NaN once tau exceeds 1, as in the released code.
        var = rows(self.log_var[:, 0], xi).exp()
        return (1 - var).sqrt() * rows(self.mu[:, 0], xi) + var.sqrt() * xi

    @override
    def lower_mean(self, i: int, xi: Tensor) -> Tensor:
        factor = self.levels[i].alpha if "lower_mu_scale" in self.switches else 1.0
        return factor * super().lower_mean(i, xi)

    @override
    def prior_term(self, z: Tensor, denoise: Denoiser, u: Tensor, xi: Tensor) -> Tensor:
        tau2 = rows(self.log_var[:, 0], z).exp() if "top_param" in self.switches else None
        # Draw an interval per row, and the noisier of its states.
        t, s, weight = self.intervals.draw(u, len(z), self._kept_intervals(u))
        if "prior_weight" in self.switches:
            weight = torch.full_like(weight, self._half_time())
        (a_t, v_t), (a_s, v_s) = self._seen_from_top(t, z, tau2), self._seen_from_top(s, z, tau2)
        z_t = a_t * z + v_t.sqrt() * xi
        x0 = denoise(z_t, t)
        # The step of q, which knows the top state, and the step of the prior.
        mean_q, var_q = self._conditional(z_t, z, s, t, a_s, v_s)
        mean_p, var_p = self.process.posterior(z_t, x0, s, t)
        if "prior_cond" in self.switches:
            (b_t, w_t), (b_s, w_s) = self._seen_from_top(t, z), self._seen_from_top(s, z)
            predicted = (z_t - w_t.sqrt() * self.process.eps(z_t, x0, t)) / b_t
            mean_p, var_p = self._conditional(z_t, predicted, s, t, b_s, w_s)
        return as_factor(weight, z) * self.kl(mean_q - mean_p, var_q, var_p) - self.entropy(z)

    def _kept_intervals(self, u: Tensor) -> Tensor:
        """Return the probabilities of the intervals ``(N, count)``.

        With ``prior_grid`` only intervals noisier than the image's tau are drawn, without the two
        lowest of them. The released code may then fall below the top keypoint and give NaN; this
        code does not.
        """
        uniform = self.intervals.probabilities.expand(len(u), -1)
        if "prior_grid" not in self.switches:
            return uniform
        tau = self.log_var[:, 0].detach().flatten(1).amax(1).mul(0.5).exp().double().cpu()
        sigmas = torch.tensor(
            [level.sigma for level in self.intervals.levels[:-1]], dtype=torch.float64
        )
        kept = ((sigmas > tau[:, None]).sum(1, keepdim=True) - 2).clamp_min(1)
        return (torch.arange(uniform.shape[1]) < kept) / kept.double()

    def _half_time(self) -> float:
        """Return ``(T - T_e) / 2``, in native indices if the prior has any."""
        index, ratio = self.process.index(self.levels[0]), float(self.levels[0].ratio)
        return (self.process.ratio_max - ratio) / 2 if math.isnan(index) else (1000 - index) / 2

    def _seen_from_top(
        self, t: Level, z: Tensor, tau2: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return coefficient and variance of ``q(z_t | z_top)``.

        With ``tau2``, the variance at the top keypoint is tau^2 instead of the schedule's.
        """
        if tau2 is None:
            level = seen_from(self.levels[0], t)
            return _factor(level.alpha, z), _factor(level.sigma**2, z)
        alpha = _factor(t.alpha, z) / (1 - tau2).sqrt()
        return alpha, _factor(t.sigma**2, z) - alpha.square() * tau2

    def _conditional(
        self, z_t: Tensor, z_top: Tensor, s: Level, t: Level, alpha_s: Tensor, var_s: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return mean and variance of ``q(z_s | z_t, z_top)``.

        With ``prior_cond``, alpha(s|top) stands where alpha(t|s) belongs (Eq. 41 to 46).
        """
        step = self.process.transition(s, t)
        a, v = _factor(step.a, z_t), _factor(step.v, z_t)
        total = v + (alpha_s if "prior_cond" in self.switches else a).square() * var_s
        return (alpha_s * v * z_top + a * var_s * z_t) / total, v * var_s / total

    @override
    @torch.no_grad()
    def before_step(self) -> None:
        if "mu_shift" in self.switches:
            lower = self.mu[:, 1:]
            lower -= lower.amin((2, 3, 4), keepdim=True)

    @override
    def refinement_levels(self, prior: Prior, steps: int) -> list[Level]:
        if "refine_levels" not in self.switches:
            return super().refinement_levels(prior, steps)
        last = self.levels[-1]
        below = range(math.ceil(self.process.index(last)) - 1, 0, -1)
        return [last, *map(self.process.level_at_index, below)]

    @override
    def kl(self, shift: Tensor, var_q: Scalar, var_p: Scalar) -> Tensor:
        total = super().kl(shift, var_q, var_p)
        if "kl_mean_term" in self.switches:
            var = as_factor(torch.as_tensor(var_p, dtype=torch.float64), shift)
            spread = super().kl(torch.zeros_like(shift), var_q, var_p)
            total = spread + 0.5 * (var * shift.square()).flatten(1).sum(1)
        return total / shift[0].numel() if "reduction" in self.switches else total

    @override
    def entropy(self, z: Tensor) -> Tensor:
        if "prior_entropy" in self.switches:
            return z.new_zeros(len(z))
        return super().entropy(z) / (z[0].numel() if "reduction" in self.switches else 1)

    @override
    def data_term(self, nll: Tensor, y: Tensor) -> Tensor:
        return 100 * nll / y[0].numel() if "reduction" in self.switches else nll


def _factor(value: Scalar, z: Tensor) -> Tensor:
    """Return a coefficient as a tensor that can multiply ``z``."""
    return as_factor(torch.as_tensor(value), z)
