"""VIPaint's variational chain: a Gaussian-Markov posterior over the noisy states at a few noise
levels.

    q(z_1)         = N(mu_1, tau_1^2)                                         top keypoint T_e
    (VIPaint Eq. 7) q(z_i | z_i-1) = N(gamma_i zbar_i + (1 - gamma_i) mu_i, tau_i^2)           lower
    keypoints          (Eq. 8)

``zbar_i`` is the mean of the prior's own step from keypoint i-1 down to i. Every term is a sum over
elements, in nats, one number per row. A row is one draw for one image; the rows of an image lie
together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from posterior_bench.priors.process import Level, Process, Scalar
from posterior_bench.solvers.shared.levels import seen_from
from posterior_bench.solvers.vipaint.intervals import Intervals

Denoiser = Callable[[Tensor, Level], Tensor]


class Chain:
    """One posterior per image: ``mu``, ``log_var`` (log tau^2), ``logit`` (of gamma), each ``(N, K,
    C, h, w)``.

    ``levels``: the K keypoints, noisiest first. ``eta``: share of the reverse variance that the
    prior's step keeps between keypoints (Eq. 23). ``intervals``: the levels above the top keypoint.
    """

    # what the released code does differently while sampling; see solvers.vipaint.released
    refine_noise: float = 1.0
    refine_share: float = 1.0
    sampling_guidance_from_top: bool = False

    def __init__(self, process: Process, levels: Sequence[Level], eta: float, intervals: Intervals):
        self.process, self.levels, self.eta, self.intervals = process, levels, eta, intervals

    def start(
        self, clean: Tensor, xi: Tensor, noise: Sequence[float], spread: float, gamma: float
    ) -> None:
        """Set the parameters around the encoded observation ``clean`` ``(N, C, h, w)`` (VIPaint
        Table 4).

        ``xi``: standard normals ``(N, 2, K, C, h, w)``, of which only the released code uses the
        second half. ``noise``: standard deviation of the means at the top and below, in units of
        sigma. ``spread``: lower tau in units of the reverse transition's standard deviation.
        """
        scales = [noise[0], *[noise[1]] * (len(self.levels) - 1)]
        mu = torch.stack(
            [self.start_mean(i, clean, xi[:, :, i], scale) for i, scale in enumerate(scales)], 1
        )
        steps = [self.process.transition(s, t).var for t, s in pairwise(self.levels)]
        variances = torch.tensor(
            [self.levels[0].sigma ** 2, *(spread**2 * var for var in steps)], dtype=torch.float64
        )
        log_var = variances.log().to(mu).view(1, -1, 1, 1, 1).expand_as(mu)
        logit = torch.full_like(mu, math.log(gamma / (1 - gamma)))
        self.mu, self.log_var, self.logit = (
            p.clone().requires_grad_() for p in (mu, log_var, logit)
        )

    def start_mean(self, i: int, clean: Tensor, xi: Tensor, scale: float) -> Tensor:
        """Where ``mu_i`` starts."""
        return self.levels[i].alpha * clean + scale * self.levels[i].sigma * xi[:, 0]

    # -- draws of q and what they cost -------------------------------------------------------------

    def top(self, xi: Tensor) -> Tensor:
        """A draw of ``q`` at the top keypoint from standard normals ``(rows, C, h, w)``."""
        return rows(self.mu[:, 0], xi) + rows(self.log_var[:, 0], xi).mul(0.5).exp() * xi

    def down(self, i: int, z: Tensor, denoise: Denoiser, xi: Tensor) -> tuple[Tensor, Tensor]:
        """From a draw ``z`` at keypoint ``i - 1`` to one at keypoint ``i``, and the KL of q's step
        to the prior's.
        """
        t, s = self.levels[i - 1], self.levels[i]
        zbar, var_p = self.process.bridge_moments(z, denoise(z, t), t, s, math.sqrt(self.eta))
        log_var = rows(self.log_var[:, i], xi)
        shift = (1 - rows(self.logit[:, i], xi).sigmoid()) * (self.lower_mean(i, xi) - zbar)
        return zbar + shift + log_var.mul(0.5).exp() * xi, self.kl(shift, log_var.exp(), var_p)

    def lower_mean(self, i: int, xi: Tensor) -> Tensor:
        """``mu_i``, once per row of ``xi``."""
        return rows(self.mu[:, i], xi)

    def prior_term(self, z: Tensor, denoise: Denoiser, u: Tensor, xi: Tensor) -> Tensor:
        """An unbiased draw of a bound on the KL between ``q`` at the top keypoint and the prior
        (VIPaint Eq. 33 to 37).

        One interval ``(t, s)`` above the top keypoint per row, chosen by ``u`` ``(N, 1)``: the KL
        between ``q(z_s | z_t, z_top)`` and the prior's ``p(z_s | z_t)`` over the interval's
        probability. Minus the entropy of ``q``, which the paper drops; then nothing keeps tau from
        collapsing.
        """
        t, s, weight = self.intervals.draw(u, len(z))
        top_t, top_s = seen_from(self.levels[0], t), seen_from(self.levels[0], s)
        z_t = self.process.add_noise(z, top_t, xi)
        mean_q, _ = self.process.posterior(z_t, z, top_s, top_t)
        mean_p, var_p = self.process.posterior(z_t, denoise(z_t, t), s, t)
        squares = (mean_q - mean_p).square().flatten(1).sum(1)
        distance = 0.5 * (weight / torch.as_tensor(var_p).flatten()).to(z) * squares
        total = distance + z[0].numel() * self.intervals.constant - self.entropy(z)
        if self.intervals.whole:
            noisiest = self.intervals.levels[0]
            end = seen_from(self.levels[0], noisiest)
            total = total + self.kl(end.alpha * z, end.sigma**2, noisiest.sigma**2)
        return total

    def kl(self, shift: Tensor, var_q: Scalar, var_p: Scalar) -> Tensor:
        """``KL(N(m + shift, var_q) || N(m, var_p))``, summed over elements, ``(rows,)``."""
        # in double: the variances of neighbouring levels are nearly equal, and a plain number would
        # become float32
        ratio, weight = (
            torch.as_tensor(v, dtype=torch.float64) for v in (var_q / var_p, 1 / var_p)
        )
        spread = (ratio - ratio.log() - 1).to(shift)
        return 0.5 * (spread + weight.to(shift) * shift.square()).flatten(1).sum(1)

    def entropy(self, z: Tensor) -> Tensor:
        """Entropy of ``q`` at the top keypoint, once per row of ``z``."""
        return 0.5 * (1 + math.log(2 * math.pi) + rows(self.log_var[:, 0], z)).flatten(1).sum(1)

    def data_term(self, nll: Tensor, y: Tensor) -> Tensor:
        """The likelihood ``(rows,)`` in the units of the KL terms."""
        return nll


def rows(parameter: Tensor, like: Tensor) -> Tensor:
    """Every image's parameter ``(N, ...)`` once for each of its rows in ``like``."""
    return parameter.repeat_interleave(len(like) // len(parameter), 0)
