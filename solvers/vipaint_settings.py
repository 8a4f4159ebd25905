"""What can be set in VIPaint; :class:`solvers.vipaint.VIPaint` says what each setting means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from solvers.base import Solver
from solvers.likelihood import NLL

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
"""What each brings back of the released code is said on the card of :class:`solvers.vipaint.VIPaint`."""


def parse(compat: str | Sequence[str]) -> frozenset[str]:
    """The switches of a ``compat`` setting: ``none``, ``released`` (all of them), or a list of their names."""
    names = (compat,) if isinstance(compat, str) else tuple(compat)
    if names in (("none",), ("released",)):
        return frozenset(SWITCHES if names == ("released",) else ())
    if unknown := sorted(set(names) - set(SWITCHES)):
        raise ValueError(f"unknown compat {', '.join(unknown)}; valid: none, released, or a list of {list(SWITCHES)}")
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
    prior_levels: int = 100
    prior_law: str = "importance"
    full_bound: bool = False
    refine_steps: int = 700
    refine_scale: float = 5.0
    refine_eta: float = 1.0
    refine_term: str = "norm"
    guidance_fit: float = 1.0
    guidance_sample: float = 1.0
    compat: str | Sequence[str] = "none"

    def __post_init__(self) -> None:
        if bool(self.keypoints) == bool(self.keypoint_indices):
            raise ValueError("give keypoints (sigma/alpha) or keypoint_indices (native) and set the other to []")
        if any(a <= b for a, b in pairwise(self.keypoints or self.keypoint_indices)):
            raise ValueError("keypoints go from the noisiest down, without repetition, for example [5.0, 2.0]")
        if len(self.mean_noise) != 2 or len(self.lr) != 3:
            raise ValueError("mean_noise takes two numbers (top, lower) and lr three (mu, gamma, tau)")
        if not (0 < self.gamma < 1 and 0 < self.eta <= 1 and self.prior_levels > 1 and self.monte_carlo > 0):
            raise ValueError("need 0 < gamma < 1, 0 < eta <= 1, prior_levels >= 2 and monte_carlo >= 1")
        if self.likelihood not in NLL or self.refine_term not in ("norm", "nll"):
            raise ValueError(f"likelihood is one of {', '.join(NLL)}; refine_term is norm or nll")
        if self.prior_law not in ("importance", "uniform"):
            raise ValueError(f"unknown prior_law '{self.prior_law}'; valid: importance, uniform")
        if parse(self.compat) and (self.prior_law != "uniform" or self.full_bound):
            raise ValueError("compat goes with prior_law=uniform and full_bound=false, as in the released code")
