"""The released latent code of VIPaint, as named switches over the corrected chain; off by default.

Every switch brings back one difference between the released code and the corrected bound. They exist to reproduce
printed numbers, not to be used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from priors.base import Condition, Prior
from priors.process import Level, Process, Scalar
from solvers.chain import Chain
from solvers.prior_term import intervals, relative

SWITCHES = (
    "kl_mean_term",
    "reduction",
    "top_param",
    "lower_mu_scale",
    "prior_cond",
    "prior_weight",
    "prior_entropy",
    "prior_grid",
    "encode_noise",
    "refine_noise",
    "refine_grad",
    "cfg_stage_a",
)


def parse(compat: str) -> frozenset[str]:
    """The switches of a ``compat`` setting: ``none``, ``released`` (all), or names joined by ``+``."""
    if compat in ("none", "released"):
        return frozenset(SWITCHES if compat == "released" else ())
    names = frozenset(compat.split("+"))
    if unknown := names - set(SWITCHES):
        raise ValueError(f"unknown switch {', '.join(sorted(unknown))}; valid: none, released, {', '.join(SWITCHES)}")
    return names


@dataclass
class Released(Chain):
    """A chain with some of the released code's differences switched on."""

    switches: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def with_switches(cls, switches: frozenset[str]) -> type[Released]:
        return type("Released", (cls,), {"switches": switches})

    @classmethod
    def start(cls, prior, levels, above, eta, clean, xi, noise, spread, gamma) -> Released:
        if "encode_noise" in cls.switches:
            # a second use of the start's own normals: the released encoder adds unit noise, one draw per keypoint
            clean_rows = clean[:, None] + xi.flip(1)
        else:
            clean_rows = clean[:, None].expand_as(xi)
        chain = super().start(prior, levels, above, eta, clean, xi, noise, spread, gamma)
        assert isinstance(chain, Released)
        weights = [noise[0]] + [noise[1]] * (len(levels) - 1)
        means = [
            level.alpha * clean_rows[:, i] + w * level.sigma * xi[:, i]
            for i, (level, w) in enumerate(zip(levels, weights, strict=True))
        ]
        if "top_param" in cls.switches:
            means[0] = clean_rows[:, 0] + noise[0] * xi[:, 0]
        chain.mu = torch.stack(means, 1).requires_grad_()
        return chain

    def top(self, xi: Tensor) -> Tensor:
        """``sqrt(1 - tau^2) mu + tau xi``: mu in clean units, coupled to tau; NaN once tau reaches 1."""
        if "top_param" not in self.switches:
            return super().top(xi)
        var = self._rows(self.log_var[:, 0], xi).exp()
        return (1 - var).sqrt() * self._rows(self.mu[:, 0], xi) + var.sqrt() * xi

    def lower_mean(self, i: int, xi: Tensor) -> Tensor:
        mean = super().lower_mean(i, xi)
        return float(self.levels[i].alpha) * mean if "lower_mu_scale" in self.switches else mean

    def kl(self, difference: Tensor, var_q: Scalar, var_p: Scalar) -> Tensor:
        var_q, var_p = (torch.as_tensor(v).to(difference) for v in (var_q, var_p))
        weight = var_p if "kl_mean_term" in self.switches else 1 / var_p
        ratio = var_q / var_p
        terms = 0.5 * (ratio - ratio.log() - 1 + weight * difference**2)
        return terms.flatten(1).mean(1) if "reduction" in self.switches else terms.flatten(1).sum(1)

    def reduce(self, nll: Tensor, y: Tensor) -> Tensor:
        return 100 * nll / y[0].numel() if "reduction" in self.switches else nll

    def entropy(self, z: Tensor) -> Tensor:
        entropy = super().entropy(z)
        if "prior_entropy" in self.switches:
            return torch.zeros_like(entropy)
        return entropy / z[0].numel() if "reduction" in self.switches else entropy

    def prior_term(
        self, z: Tensor, prior: Prior, cond: Condition | None, guidance: float, u: Tensor, xi: Tensor
    ) -> Tensor:
        grid = self._grid()
        count = len(grid) - 2
        k = intervals(u, len(z), count)
        t, s = Level.stack([grid[i] for i in k]), Level.stack([grid[i + 1] for i in k])
        weight = float(count)
        if "prior_weight" in self.switches:
            weight = (prior.process.index(grid[0]) + 1 - prior.process.index(self.levels[0])) / 2
        tau2 = self._rows(self.log_var[:, 0], z).exp() if "top_param" in self.switches else self.levels[0].sigma ** 2
        z_t, mean_q, var_q, mean_p, var_p = self._moments(z, t, s, tau2, prior, cond, guidance, xi)
        return weight * self.kl(mean_q - mean_p, var_q, var_p) - self.entropy(z)

    def _grid(self) -> Sequence[Level]:
        """Levels noisier than the largest tau, without the two lowest intervals."""
        if "prior_grid" not in self.switches:
            return self.above
        tau = self.log_var[:, 0].detach().mul(0.5).exp().max().item()
        kept = [level for level in self.above if level.sigma > max(tau, self.levels[0].sigma)]
        return kept[:-1] if len(kept) > 4 else self.above

    def _moments(self, z, t, s, tau2, prior, cond, guidance, xi):
        """Both transitions ``(t -> s)`` given the top state: q with the drawn one, p with the predicted one."""
        top = self.levels[0]
        if "top_param" in self.switches:
            a_t, a_s = (torch.as_tensor(level.alpha).to(z) / (1 - tau2).sqrt() for level in (t, s))
        else:
            a_t, a_s = (torch.as_tensor(level.alpha / top.alpha).to(z) for level in (t, s))
        v_t, v_s = (torch.as_tensor(level.sigma**2).to(z) - a**2 * tau2 for level, a in ((t, a_t), (s, a_s)))
        z_t = a_t * z + v_t.clamp_min(0).sqrt() * xi
        x0 = prior.denoise(z_t, t, cond, guidance)
        step = Process.transition(s, t)
        a, v = torch.as_tensor(step.a).to(z), torch.as_tensor(step.v).to(z)
        if "prior_cond" not in self.switches:
            mean_p, var_p = prior.process.posterior(z_t, x0, s, t)
            var_q = v * v_s / v_t
            return z_t, a_s * v / v_t * z + a * v_s / v_t * z_t, var_q, mean_p, var_p
        rel_t, rel_s = relative(t, top), relative(s, top)
        eps = prior.process.eps(z_t, x0, t)
        predicted = (z_t - torch.as_tensor(rel_t.sigma).to(z) * eps) / torch.as_tensor(rel_t.alpha).to(z)

        def conditional(z_top: Tensor, alpha_s: Tensor, var_s: Tensor) -> tuple[Tensor, Tensor]:
            total = v + alpha_s**2 * var_s
            return alpha_s * v / total * z_top + a * var_s / total * z_t, v * var_s / total

        mean_q, var_q = conditional(z, a_s, v_s)
        mean_p, var_p = conditional(
            predicted, torch.as_tensor(rel_s.alpha).to(z), torch.as_tensor(rel_s.sigma**2).to(z)
        )
        return z_t, mean_q, var_q, mean_p, var_p

    @property
    def refine_noise(self) -> float:
        return 0.0 if "refine_noise" in self.switches else 1.0

    def refine_reduce(self, term: Tensor, y: Tensor) -> Tensor:
        if "refine_grad" not in self.switches:
            return term
        return (100 * term / y[0].numel()).mean().expand(1)

    def ancestral_guidance(self, fit: float, sample: float) -> float:
        return sample if "cfg_stage_a" in self.switches else fit
