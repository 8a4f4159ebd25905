"""What can be set in VIPaint; :class:`solvers.vipaint.VIPaint` says what each setting means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor

from posterior_bench.solvers.base import Observation, Solver, lacking
from posterior_bench.solvers.shared.likelihood import NLL, perceptual_distance

SWITCHES: dict[str, str] = {
    "kl_mean_term": "The squared difference of means is multiplied by sigma_p^2 / 2 instead of "
    "divided.",
    "reduction": "KL terms are means over elements; the likelihood is 100 times a mean over pixels.",
    "top_param": "mu at the top is in clean units: z = sqrt(1 - tau^2) mu + tau eps. VP only.",
    "lower_mu_scale": "mu at lower keypoints is multiplied by alpha once more.",
    "prior_cond": "The conditionals of Eq. 41 to 46 as printed, with their prediction of z_Te.",
    "prior_weight": "The prior term is weighted by (T - T_e) / 2.",
    "prior_entropy": "The entropy of q(z_Te) is left out.",
    "prior_grid": "The prior term's levels start above the largest tau of the image, less the two "
    "lowest.",
    "encode_noise": "Unit noise is added to what the encoder makes of the observation, one draw "
    "per keypoint.",
    "refine_noise": "No noise is added in the refinement.",
    "refine_grad": "The refinement's gradient is that of a mean over monte_carlo samples.",
    "cfg_stage_a": "The keypoints are drawn with guidance_sample, though fitted with guidance_fit.",
}
"""What each brings back of the released code; the card of :class:`solvers.vipaint.VIPaint` shows
them."""


def parse(compat: str | Sequence[str]) -> frozenset[str]:
    """The switches of a ``compat`` setting: ``none``, ``released`` (all of them), or a list of
    their names.
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


@dataclass(frozen=True)
class Settings(Solver):
    """Fields and their checks; the defaults are the paper's for ImageNet64, where it gives them.

    Raises ValueError for settings that contradict each other or name nothing.
    """

    keypoints: Sequence[float] = (5.0, 2.0)
    keypoint_indices: Sequence[float] = ()
    eta: float = 1.0
    mean_noise: Sequence[float] = (0.01, 0.01)
    spread: float = 1.0
    gamma: float = 0.5
    iterations: int = 50
    monte_carlo: int = 5
    lr: Sequence[float] = (0.1, 0.1, 0.01)
    beta: float = 1.0
    likelihood: str = "laplace"
    scale: float = 0.05
    perceptual: str = "none"
    perceptual_weight: float = 1.0
    prior_levels: int = 100
    prior_law: str = "importance"
    full_bound: bool = False
    refine_steps: int = 700
    refine_scale: float = 5.0
    refine_eta: float = 1.0
    refine_term: str = "norm"
    refine_order: str = "after"
    guidance_fit: float = 1.0
    guidance_sample: float = 1.0
    compat: str | Sequence[str] = "none"

    def __post_init__(self) -> None:
        if bool(self.keypoints) == bool(self.keypoint_indices):
            raise ValueError(
                "give keypoints (sigma/alpha) or keypoint_indices (native) and set the other to []"
            )
        if any(a <= b for a, b in pairwise(self.keypoints or self.keypoint_indices)):
            raise ValueError(
                "keypoints go from the noisiest down, without repetition, for example [5.0, 2.0]"
            )
        if len(self.mean_noise) != 2 or len(self.lr) != 3:
            raise ValueError(
                "mean_noise takes two numbers (top, lower) and lr three (mu, gamma, tau)"
            )
        if not (
            0 < self.gamma < 1
            and 0 < self.eta <= 1
            and self.prior_levels > 1
            and self.monte_carlo > 0
        ):
            raise ValueError(
                "need 0 < gamma < 1, 0 < eta <= 1, prior_levels >= 2 and monte_carlo >= 1"
            )
        if self.likelihood not in NLL or self.refine_term not in ("norm", "nll"):
            raise ValueError(f"likelihood is one of {', '.join(NLL)}; refine_term is norm or nll")
        if self.refine_order not in ("after", "before") or self.perceptual_weight < 0:
            raise ValueError("refine_order is after or before, and perceptual_weight is 0 or more")
        if self.prior_law not in ("importance", "uniform"):
            raise ValueError(f"unknown prior_law '{self.prior_law}'; valid: importance, uniform")
        if parse(self.compat) and (self.prior_law != "uniform" or self.full_bound):
            raise ValueError(
                "compat goes with prior_law=uniform and full_bound=false, as in the released code"
            )

    @property
    def pictured(self) -> frozenset[int]:
        """Iterations that leave a picture: every 50th (VIPaint, Fig. 4), every tenth of up to 100,
        and the last.
        """
        return frozenset(
            {*range(0, self.iterations, 50 if self.iterations > 100 else 10), self.iterations - 1}
        )

    def lacks(self, has: frozenset[str], sigma: float) -> frozenset[str]:
        """A perceptual distance compares images with a hole: it needs a mask, and exists for no
        other operator.
        """
        return lacking(self.needs if self.perceptual == "none" else self.needs | {"mask"}, has)

    def nll(self, x: Tensor, obs: Observation) -> Tensor:
        """What images ``x`` ``(N, C, H, W)`` owe to the observation, in nats, ``(N,)``: VIPaint's
        likelihood.

        The perceptual distance stands beside the *mean* of the other term, as published, so its
        factor is times the number of scalars of ``y``. Raises ValueError where the observation came
        without that distance.
        """
        nats = NLL[self.likelihood](x, obs, self.scale)
        if self.perceptual == "none":
            return nats
        return nats + self.perceptual_weight * obs.y[0].numel() * perceptual_distance(x, obs)
