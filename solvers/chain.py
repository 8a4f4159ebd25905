"""VIPaint's variational chain: a Gaussian-Markov posterior over the noisy states at a few noise levels.

    q(z_1)        = N(mu_1, tau_1^2)                                         top keypoint T_e         (VIPaint Eq. 7)
    q(z_i | z_i-1) = N(gamma_i zbar_i + (1 - gamma_i) mu_i, tau_i^2)          lower keypoints          (Eq. 8)

``zbar_i`` is the mean of the prior's own step from keypoint i-1 down to i. All terms are sums over elements, in nats,
one number per row; a row is one Monte Carlo draw of one image, rows of an image together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from priors.base import Condition, Prior
from priors.process import Level, Scalar
from solvers.prior_term import prior_term


@dataclass
class Chain:
    """Parameters of one posterior per image, ``(N, K, C, h, w)`` each, keypoints noisiest first.

    ``levels``: the K keypoints. ``above``: levels from the noisiest down to the top keypoint, which is the last.
    ``eta``: share of the reverse variance the prior's step keeps between keypoints (Eq. 23; 1 = all of it).
    """

    levels: Sequence[Level]
    above: Sequence[Level]
    eta: float
    mu: Tensor
    log_var: Tensor
    logit: Tensor

    @classmethod
    def start(
        cls,
        prior: Prior,
        levels: Sequence[Level],
        above: Sequence[Level],
        eta: float,
        clean: Tensor,
        xi: Tensor,
        noise: Sequence[float],
        spread: float,
        gamma: float,
    ) -> Chain:
        """The initial posterior around the encoded observation ``clean`` (VIPaint Table 4).

        ``xi``: standard normals ``(N, K, C, h, w)``; ``noise``: their weights at the top and at lower keypoints, in
        units of sigma; ``spread``: lower standard deviations in units of the reverse transition's.
        """
        weights = [noise[0]] + [noise[1]] * (len(levels) - 1)
        means = [
            level.alpha * clean + w * level.sigma * xi[:, i]
            for i, (level, w) in enumerate(zip(levels, weights, strict=True))
        ]
        variances = [levels[0].sigma ** 2]
        variances += [spread**2 * prior.process.transition(s, t).var for t, s in pairwise(levels)]
        mu = torch.stack(means, 1)
        log_var = torch.tensor(variances, dtype=torch.float64).log().to(mu).view(1, -1, 1, 1, 1).expand_as(mu)
        logit = torch.full_like(mu, math.log(gamma / (1 - gamma)))
        return cls(levels, above, eta, *(p.clone().requires_grad_() for p in (mu, log_var, logit)))

    # -- sampling q ---------------------------------------------------------------------------------------------------

    def top(self, xi: Tensor) -> Tensor:
        """A draw of ``q(z)`` at the top keypoint from standard normals ``(rows, C, h, w)``."""
        return self._rows(self.mu[:, 0], xi) + self._rows(self.log_var[:, 0], xi).mul(0.5).exp() * xi

    def down(self, i: int, z: Tensor, x0: Tensor, prior: Prior, xi: Tensor) -> tuple[Tensor, Tensor]:
        """A draw of ``q(z_i | z)`` and ``KL(q || p)`` of this transition; ``x0`` is the prior's prediction from ``z``."""
        t, s = self.levels[i - 1], self.levels[i]
        zbar, var_p = prior.process.bridge_moments(z, x0, t, s, math.sqrt(self.eta))
        gamma, log_var = self._rows(self.logit[:, i], xi).sigmoid(), self._rows(self.log_var[:, i], xi)
        mean = gamma * zbar + (1 - gamma) * self.lower_mean(i, xi)
        return mean + log_var.mul(0.5).exp() * xi, self.kl(mean - zbar, log_var.exp(), var_p)

    def lower_mean(self, i: int, xi: Tensor) -> Tensor:
        """``mu_i``, once per row."""
        return self._rows(self.mu[:, i], xi)

    def kl(self, difference: Tensor, var_q: Scalar, var_p: Scalar) -> Tensor:
        """``KL(N(m, var_q) || N(m - difference, var_p))`` summed over elements, ``(rows,)``."""
        ratio = torch.as_tensor(var_q / var_p).to(difference)
        weight = torch.as_tensor(1 / var_p).to(difference)
        return (0.5 * (ratio - ratio.log() - 1 + weight * difference**2)).flatten(1).sum(1)

    def entropy(self, z: Tensor) -> Tensor:
        """Entropy of ``q(z)`` at the top keypoint, once per row of ``z``, ``(rows,)``."""
        log_var = self._rows(self.log_var[:, 0], z)
        return 0.5 * (1 + math.log(2 * math.pi) + log_var).flatten(1).sum(1)

    # -- where the released code differs (see solvers.vipaint_released) ----------------------------------------------

    refine_noise: ClassVar[float] = 1.0

    def prior_term(
        self, z: Tensor, prior: Prior, cond: Condition | None, guidance: float, u: Tensor, xi: Tensor
    ) -> Tensor:
        """:func:`solvers.prior_term.prior_term` of this chain."""
        return prior_term(self, z, prior, cond, guidance, u, xi)

    def reduce(self, nll: Tensor, y: Tensor) -> Tensor:
        """The likelihood term in the units of the KL terms."""
        return nll

    def refine_reduce(self, term: Tensor, y: Tensor) -> Tensor:
        """The data term of every row as the refinement differentiates it."""
        return term

    def ancestral_guidance(self, fit: float, sample: float) -> float:
        """Classifier-free guidance of the draw down the keypoints."""
        return fit

    @staticmethod
    def _rows(parameter: Tensor, like: Tensor) -> Tensor:
        """One copy of an image's parameter ``(N, C, h, w)`` per row."""
        return parameter.repeat_interleave(len(like) // len(parameter), 0)
