"""Runs of released solvers, to be replayed with ours: the problems of ``tests/golden``.

``tests/golden/README.md`` says where they come from and how a replay works.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from posterior_bench.operators.inpainting import Inpainting
from posterior_bench.priors.base import Prior
from posterior_bench.priors.latents import Latent
from posterior_bench.priors.process import CLEAN, VP, Level
from posterior_bench.solvers.base import Observation, Sampler, Solver
from posterior_bench.solvers.copaint import CoPaint
from posterior_bench.solvers.daps import DAPS
from posterior_bench.solvers.ddnm import DDNM
from posterior_bench.solvers.ddrm import DDRM
from posterior_bench.solvers.diffpir import DiffPIR
from posterior_bench.solvers.dps import DPS
from posterior_bench.solvers.pigdm import PiGDM
from posterior_bench.solvers.psld import PSLD
from posterior_bench.solvers.reddiff import REDDiff
from posterior_bench.solvers.repaint import RePaint
from posterior_bench.solvers.resample import ReSample
from posterior_bench.solvers.vipaint import VIPaint
from posterior_bench.solvers.vipaint.released import SWITCHES

GOLDEN = Path(__file__).parents[1] / "golden"

SOLVERS: dict[str, type[Solver]] = {
    "copaint": CoPaint,
    "daps": DAPS,
    "ddnm": DDNM,
    "ddrm": DDRM,
    "diffpir": DiffPIR,
    "dps": DPS,
    "pigdm": PiGDM,
    "psld": PSLD,
    "reddiff": REDDiff,
    "repaint": RePaint,
    "resample": ReSample,
    "vipaint": VIPaint,
}


class Mixture(nn.Module):
    """The network of all cases: a mixture of isotropic Gaussians, its output is the noise.

    It keeps the time of the first row and the input of every call.
    """

    def __init__(self, abar: Tensor, weights: Tensor, means: Tensor, stds: Tensor, learned: bool):
        super().__init__()
        self.log_ratio = ((1 - abar) / abar).sqrt().log()
        self.weights, self.means, self.stds, self.learned = weights, means, stds, learned
        self.calls: list[tuple[float, Tensor]] = []

    def forward(self, z: Tensor, t: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        self.calls.append((t[0].item(), z.detach().clone()))
        # alpha and sigma at the time: ln(sigma / alpha) is linear between the training steps.
        low = t.long().clamp_max(len(self.log_ratio) - 2)
        log_ratio = torch.lerp(self.log_ratio[low], self.log_ratio[low + 1], t - low)
        alpha, sigma = torch.sigmoid(-2 * log_ratio).sqrt(), torch.sigmoid(2 * log_ratio).sqrt()
        alpha, sigma = alpha[:, None, None, None], sigma[:, None, None, None]
        # E[x0 | z], component by component (N, K, C, H, W).
        variance = alpha.flatten(1) ** 2 * self.stds**2 + sigma.flatten(1) ** 2
        d = z[:, None] - alpha[:, None] * self.means
        count = self.means[0].numel()
        logits = (
            self.weights.log()
            - count / 2 * variance.log()
            - d.square().flatten(2).sum(2) / (2 * variance)
        )
        gain = (alpha.flatten(1) * self.stds**2 / variance)[..., None, None, None]
        shares = logits.softmax(1)[..., None, None, None]
        x0 = (shares * (self.means + gain * d)).sum(1)
        eps = (z - alpha * x0) / sigma
        return torch.cat([eps, torch.sin(3 * z.detach())], 1) if self.learned else eps


class Channels(Latent):
    """A linear autoencoder over the channels, in float64."""

    channels, factor = 3, 1

    def __init__(self, decoder: Tensor, encoder: Tensor):
        super().__init__({}, 0.0, 1.0)
        self.decoder, self.encoder = decoder, encoder

    def encode(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        return torch.einsum("ij,njhw->nihw", self.encoder, x)

    def decode(self, z: Tensor) -> Tensor:
        return torch.einsum("ij,njhw->nihw", self.decoder, z)

    def shape(self, image: tuple[int, int, int]) -> tuple[int, int, int]:
        return image


class Replay:
    """Noise that was recorded, and zeros after its end."""

    def __init__(
        self,
        normals: Sequence[Tensor],
        uniforms: Sequence[Tensor] = (),
        later: Sequence[Tensor] = (),
    ):
        self.normals, self.uniforms, self.later = iter(normals), iter(uniforms), later
        self.rows = len(normals[0])

    def normal(self, shape: Sequence[int]) -> Tensor:
        zeros = torch.zeros(self.rows, *shape, dtype=torch.float64)
        drawn = next(self.normals, zeros)
        assert drawn.shape == zeros.shape, "the solver asks for another shape"
        return drawn

    def uniform(self, shape: Sequence[int]) -> Tensor:
        return next(self.uniforms)

    host_uniform = uniform

    def draws(self, draws: Sequence[int]) -> Replay:
        return Replay(self.later)


@dataclass(frozen=True)
class Case:
    """One released run.

    ``name`` is its name in the json, ``about`` what the json says about it.
    """

    name: str
    about: Mapping[str, Any]

    def __str__(self) -> str:
        return self.name

    @cached_property
    def arrays(self) -> dict[str, Tensor]:
        """Arrays of the case by their key."""
        prefix = f"{self.name}/"
        stored = _stored()
        keys = [key for key in stored.files if key.startswith(prefix)]
        return {key.removeprefix(prefix): torch.from_numpy(stored[key]) for key in keys}

    def series(self, name: str) -> list[Tensor]:
        """Return the arrays ``name.0``, ``name.1``, ..., or the rows of the array ``name``."""
        if name in self.arrays:
            return list(self.arrays[name])
        keys = [key for key in self.arrays if key.startswith(f"{name}.")]
        return [self.arrays[key] for key in sorted(keys, key=lambda k: int(k.split(".")[-1]))]

    @property
    def method(self) -> str:
        """Name of the solver in :data:`SOLVERS`."""
        return str(self.about["method"])

    @property
    def tolerance(self) -> float:
        """Largest absolute difference to reach."""
        return float(self.about["tolerance"])

    @property
    def has_levels(self) -> bool:
        """Whether the levels of the released loop are stored."""
        return not self.arrays.keys().isdisjoint(("levels", "levels_above"))

    def solver(self, **changes: object) -> Solver:
        """Return our solver with the settings of the case, without those that it does not have."""
        cls = SOLVERS[self.method]
        settings = {**self.about["settings"], **changes}
        if settings["compat"] == "without_shift":
            settings["compat"] = [name for name in SWITCHES if name != "mu_shift"]
        if "compat" not in {field.name for field in fields(cls)}:
            del settings["compat"]
        return cls(**settings)

    def prior(self, replace_levels: bool) -> tuple[Prior, Mixture]:
        """Return the prior and its network; on demand its grid is the stored one."""
        a = self.arrays
        abar = (1 - torch.from_numpy(_stored()[f"schedule/{self.about['schedule']}"])).cumprod(0)
        learned = self.about["learned_variance"]
        net = Mixture(abar, a["prior_weights"], a["prior_means"], a["prior_stds"], learned)
        prior = Prior(
            VP(abar),
            net,
            (3, 4, 4),
            parameterization="eps",
            learned_var=learned,
            latent=Channels(a["decoder"], a["encoder"]) if self.about["latent"] else None,
        )
        if replace_levels:
            prior.grid = self._stored_grid(prior)
        return prior, net

    def _stored_grid(self, prior: Prior) -> Callable[..., list[Level]]:
        """Return a function that replaces ``prior.grid``."""
        own = prior.grid

        def grid(
            n: int, kind: str = "native", start: Level | None = None, **others: Any
        ) -> list[Level]:
            if "levels" in self.arrays:
                indices = self.arrays["levels"].tolist()
                return [CLEAN if k == -1 else prior.level_at_index(k) for k in indices]
            if kind == "karras" and "levels_above" in self.arrays:
                above = [*self.arrays["levels_above"].tolist(), self.arrays["keypoints"][0].item()]
                return [prior.level_at_index(k) for k in above]
            return own(n, kind, start, **others)

        return grid

    @property
    def observation(self) -> Observation:
        """What the solver sees."""
        a = self.arrays
        return Observation(a["y"], Inpainting(a["mask"], self.about["sigma"]))

    @property
    def noise(self) -> Replay:
        """The recorded noise in the order in which our solver asks for it."""
        normals = self.series("noise_ours") or self.series("noise_released")
        return Replay(normals, self.series("uniform_ours"), self.series("noise_refine_ours"))

    def run(self, replace_levels: bool, **changes: object) -> tuple[dict[str, Tensor], Mixture]:
        """Run our solver; return what ``expected`` is to be compared with, and the network.

        ``sample`` is the image of every row; for VIPaint's fits ``mu``, ``log_var`` and
        ``gamma_logit``.
        """
        prior, net = self.prior(replace_levels)
        solver = self.solver(**changes)
        if isinstance(solver, Sampler):
            x = solver.draw(self.observation, prior, self.noise)
            return {"sample": x.clamp(-1, 1) if self.about.get("clamp_ours") else x}, net
        assert isinstance(solver, VIPaint)
        posterior = solver.fit(self.observation, prior, self.noise)
        chain = posterior.chain
        fitted = {"mu": chain.mu, "log_var": chain.log_var, "gamma_logit": chain.logit}
        out = {name: value.detach()[0] for name, value in fitted.items()}
        if draws := self.about["settings_draws"]:
            net.calls.clear()  # the stored calls are those of the refinement
            out["sample"] = posterior.sample(range(draws)).x[0]
        return out, net


@cache
def _stored() -> Any:
    return np.load(GOLDEN / "released_golden.npz")


def cases() -> list[Case]:
    """Return all cases."""
    described = json.loads((GOLDEN / "released_golden.json").read_text())
    return [Case(name, about) for name, about in described["cases"].items()]
