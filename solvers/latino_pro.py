"""LATINO-PRO: LATINO, with the prompt that the measurement makes most likely."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.priors.base import Prior
from posterior_bench.priors.process import Level
from posterior_bench.solvers.base import Card, Noise, Observation, Posterior, Samples
from posterior_bench.solvers.latino import LATINO, check_delta

COMPAT = ("none", "released")
DECAY, CONSTANT_ROUNDS, SMALLEST = 0.9, 10, 0.001
"""The step of round j is multiplied by ``max(0.9^max(0, j - 10), 0.001)``."""


@dataclass(frozen=True)
class LATINOPro(LATINO):
    """LATINO with prompt optimisation of Spagnoletti et al. (2025).

    The embedding of the prompt climbs the likelihood of the measurement, by stochastic
    approximation: each round is a short LATINO chain, in which every new state ``z_s`` adds the
    gradient of ``log N(z_s; alpha_s G(z_t), sigma_s^2)`` in the embedding, with length 1 for every
    token. The prompt is fitted once per image, for all its draws.

    Parameters
    ----------
    steps : int, default 8
        Number of levels of the last chain, which draws the sample.
    delta : float or str, default 'inpainting'
        Step of the pull in the last chain, as in :class:`LATINO`.
    sigma_floor : float, default 0.01
        Lower bound on the noise level assumed for the measurement, positive, in [-1, 1] units.
    clip : bool, default True
        Clip x0 to [-1, 1], before and after the proximal step.
    guidance : float, default 1.0
        Classifier-free guidance weight; 1 means no guidance. The gradient goes through both
        branches.
    grid : str, default 'trailing'
        Law of the noise levels, as in :class:`LATINO`.
    rounds : int, default 15
        Number of rounds of the fit, 1 or more.
    round_steps : int, default 4
        Number of levels of a round, 2 or more. All but the last one take a gradient.
    round_delta : float or str or None, default None
        ``delta`` of the rounds; None takes the one of the last chain.
    lr : float, default 0.08
        Length of a step of every token, per gradient, positive.
    radius : float, default 15.0
        Largest distance of a token from its start, positive.
    kept_tokens : int, default 4
        Tokens at the beginning of the prompt that stay as they are, 0 or more.
    compat : str, default 'none'
        ``none`` or ``released``.

    Raises
    ------
    ValueError
        If a setting is out of range.
    """

    card: ClassVar[Card] = Card(
        title="LATINO-PRO",
        paper="Spagnoletti et al., LATINO-PRO: LAtent consisTency INverse sOlver with PRompt "
        "Optimization, ICCV 2025",
        equations="LATINO with stochastic approximation proximal gradient steps on the prompt, "
        "written from a description of the released code; the paper's own formulas were not "
        "compared",
        deviations=(
            "What is said of LATINO holds here too: few-step models, the start, the released "
            "configurations that fail, and norms and noise levels (`bench show solver=latino`).",
            "Prompt and state are fitted once per image; every draw renoises the state and runs "
            "the last chain. The released code makes one sample an image.",
            "Only the embeddings of the tokens are fitted, not the pooled one. Four samples of the "
            "prior a round, which the released code only saves as pictures, are not drawn.",
            "A fit costs rounds x round_steps passes forward and rounds x (round_steps - 1) "
            "backward, a draw steps passes forward.",
        ),
        compat={
            "released": "The gradients of a round are added to those of all rounds before. So a "
            "token moves by up to 0.24 (j + 1) in round j, not by 0.24, and reaches radius 15 in "
            "round 11 at the earliest."
        },
    )
    needs: ClassVar[frozenset[str]] = frozenset({"prompt_grad", "prox"})
    version: ClassVar[int] = 1
    work: ClassVar[tuple[str, ...]] = ("rounds", "steps")

    rounds: int = 15
    round_steps: int = 4
    round_delta: float | str | None = None
    lr: float = 0.08
    radius: float = 15.0
    kept_tokens: int = 4
    compat: str = "none"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rounds < 1:
            raise ValueError(f"rounds must be at least 1, got {self.rounds}")
        if not 2 <= self.round_steps <= 1000:
            raise ValueError(f"round_steps must be 2 to 1000, got {self.round_steps}")
        if self.round_delta is not None:
            check_delta("round_delta", self.round_delta)
        for name in ("lr", "radius"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.kept_tokens < 0:
            raise ValueError(f"kept_tokens must be 0 or more, got {self.kept_tokens}")
        if self.compat not in COMPAT:
            raise ValueError(f"unknown compat '{self.compat}'; valid: {', '.join(COMPAT)}")

    @override
    def fit(self, obs: Observation, prior: Prior, noise: Noise) -> Posterior:
        obs = replace(obs, cond=prior.embedded(obs.cond, obs.n))
        levels = self.levels(prior, self.round_steps)
        start = tokens = _tokens(obs)
        climb = torch.zeros_like(tokens)
        z0 = self.start(obs, prior)
        for j in range(self.rounds):
            # Run a short chain from the last clean state, and gather the gradients of the prompt.
            z = self.noised(z0, levels[0], prior, noise)
            z0, gradient = self._round(z, levels, obs, prior, noise)
            climb = climb + gradient if self.compat == "released" else gradient
            # Climb, but stay in a ball around the first prompt.
            lr = self.lr * max(DECAY ** max(0, j - CONSTANT_ROUNDS), SMALLEST)
            tokens = start + _shortened(tokens + lr * climb - start, self.radius)
            obs = _told(obs, tokens)
        return _Fitted(self, obs, prior, noise, z0)

    def _round(
        self, z: Tensor, levels: list[Level], obs: Observation, prior: Prior, noise: Noise
    ) -> tuple[Tensor, Tensor]:
        """Return the clean state at the end of a chain, and the sum of the prompt's gradients."""
        delta = self.delta if self.round_delta is None else self.round_delta
        climb = torch.zeros_like(_tokens(obs))
        last = levels[-2]
        for t, s in pairwise(levels):
            with torch.set_grad_enabled(t is not last):
                tokens = _tokens(obs).detach().requires_grad_(t is not last)
                mean = prior.denoise(z, t, _told(obs, tokens).cond, self.guidance)
            z = self.noised(self.pulled(mean.detach(), t, delta, obs, prior), s, prior, noise)
            if t is last:
                break
            with torch.enable_grad():
                log = -(z - s.alpha * mean).square().sum() / (2 * s.sigma**2)
            climb = climb + _unit(torch.autograd.grad(log, tokens)[0])
        climb[:, : self.kept_tokens] = 0
        return z, climb


@dataclass(frozen=True)
class _Fitted:
    """The posterior under the fitted prompt, with the clean state behind it."""

    solver: LATINOPro
    obs: Observation
    prior: Prior
    noise: Noise
    z0: Tensor

    def sample(self, draws: Sequence[int]) -> Samples:
        solver, prior = self.solver, self.prior
        obs, noise = self.obs.repeat(len(draws)), self.noise.draws(draws)
        levels = solver.levels(prior, solver.steps)
        z = solver.noised(self.z0.repeat_interleave(len(draws), 0), levels[0], prior, noise)
        x = prior.decode(solver.chain(z, levels, obs, prior, noise))
        return Samples(x.unflatten(0, (self.obs.n, len(draws))))


def _tokens(obs: Observation) -> Tensor:
    """Return the embedding of the prompt, ``(N, L, D)``."""
    assert obs.cond is not None
    return obs.cond.values["contexts"]


def _told(obs: Observation, tokens: Tensor) -> Observation:
    """Return the observation with another prompt."""
    assert obs.cond is not None
    return replace(obs, cond=replace(obs.cond, values={**obs.cond.values, "contexts": tokens}))


def _unit(g: Tensor) -> Tensor:
    """Return gradients with length 1 for every token; a token without a gradient stays."""
    length = g.norm(dim=-1, keepdim=True)
    return torch.where(length == 0, g, g / length)


def _shortened(move: Tensor, radius: float) -> Tensor:
    """Return moves ``(N, L, D)`` of tokens, none longer than ``radius``."""
    length = move.norm(dim=-1, keepdim=True)
    return torch.where(length > radius, radius / length, 1.0) * move
