"""How often a solver calls the network, counted in seconds and without the network.

The solver runs once on one small random image. Its prior is a stand-in of the same kind (process,
latents, inpainting) whose network costs nothing (:func:`bench.engine.budget.weightless`). How many calls a
solver makes depends on its settings alone, whatever the size of the images; only those with a line
search (CoPaint) make a few more or less on real images.

Of a solver of this product with many steps, and no other setting of that kind, a few shorter runs
are counted. Where all of them lie exactly on a line, so does the long one, and it is left out.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import torch

from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.conformance.small_priors import small_prior
from posterior_bench.bench.core.errors import TimeoutExceeded, UserError
from posterior_bench.bench.core.streams import Key, Noise
from posterior_bench.bench.engine.budget import Trial, weightless, with_work
from posterior_bench.bench.engine.failures import one_line
from posterior_bench.bench.engine.limits import watch_of
from posterior_bench.bench.engine.measurement import build_operator
from posterior_bench.priors.base import Meter, Prior, Shape
from posterior_bench.priors.nets import Inpainter
from posterior_bench.priors.process import VE, VP, Flow, Process
from posterior_bench.solvers.base import Observation, Solver


@dataclass(frozen=True)
class Kind:
    """What the number of calls may depend on of a prior; ``shape`` is that of its images, None
    where it is unknown.
    """

    process: Process
    latent: bool = False
    inpaint: bool = False
    learned_var: bool = False
    exact: bool = False
    shape: Shape | None = None

    @classmethod
    def of(cls, prior: Prior) -> Kind:
        """The kind of a prior, which may lie on the meta device."""
        inpaint, exact = isinstance(prior.net, Inpainter), prior.net is None
        return cls(
            prior.process, prior.is_latent, inpaint, prior.learned_var, exact, prior.image_shape
        )

    @classmethod
    def described(cls, text: str) -> Kind:
        """What the first line of a prior's YAML file lets expect, of a prior whose files are not
        here.
        """
        words = text.partition("`")[0]
        latent = any(word in words for word in ("latent", "Stable Diffusion", "DiT"))
        flow, ve = "flow" in words or "Diffusion 3" in words, "EDM" in words
        process = Flow() if flow else VE() if ve else VP.scheduled("scaled_linear", 0.00085, 0.012)
        return cls(process, latent, "inpainting" in words)

    @property
    def key(self) -> tuple[Any, ...]:
        """Kinds with one key have the same counts."""
        process = self.process
        spec = (
            process.spec
            if isinstance(process, VE | VP | Flow)
            else {"kind": type(process).__name__}
        )
        return (str(spec), self.latent, self.inpaint, self.learned_var, self.exact)

    def stand_in(self, needs: frozenset[str] = frozenset(), real_size: bool = False) -> Prior:
        """A small prior of this kind, with what a solver needs; of the real size where an operator
        wants that.
        """
        if "exact" in needs:
            return copy(small_prior("exact"))
        whole = "features" in needs
        name = "inpainting" if self.inpaint else "latent" if self.latent else "network"
        prior = copy(small_prior(name))
        prior.process, prior.meter = self.process, Meter()
        prior.learned_var = self.learned_var and not whole
        if real_size and self.shape is not None and not whole:
            _, height, width = self.shape
            prior.image_shape = self.shape
            prior.latent_shape = (4, height // 8, width // 8) if self.latent else self.shape
        return prior


@dataclass(frozen=True)
class Counts:
    """Calls for one image: of its ``fit``, which its draws share, and of one ``draw``; names are a
    meter's.

    ``fit_seconds`` and ``draw_seconds``: what the solver itself took for that on this machine, its
    network apart.
    """

    fit: Mapping[str, float]
    draw: Mapping[str, float]
    fit_seconds: float
    draw_seconds: float

    def of_row(self, draws: int) -> dict[str, float]:
        """The calls of one row, with its share of the fit."""
        return {name: self.fit[name] / draws + count for name, count in self.draw.items()}


SHORT = (12, 25, 47, 90)
"""Steps of the shorter runs; with no common period, so that what happens every few steps leaves the
line."""


class Uncounted(Exception):
    """The calls of a solver cannot be counted; the message says why."""


def count(solver: Solver, kind: Kind, operator: Mapping[str, Any], seconds: float) -> Counts:
    """The calls of a solver; raises Uncounted where it fails, and after so many seconds."""
    end = time.monotonic() + seconds
    try:
        solver = _ready(solver)
        if list(solver.workload) == ["steps"] and type(solver).__module__.startswith(
            "posterior_bench.solvers."
        ):
            found = _on_a_line(solver, kind, operator, end)
            if found is not None:
                return found
        return _count(solver, kind, operator, end, real_size=False)
    except TimeoutExceeded:
        raise Uncounted(
            f"counting its passes takes more than {seconds:.0f} s; max_seconds=N allows more"
        ) from None
    except Exception as first:
        try:
            return _count(_ready(solver), kind, operator, end, real_size=True)
        except Exception:
            raise Uncounted(
                f"its passes cannot be counted on small images: {one_line(first)}"
            ) from None


def _ready(solver: Solver) -> Any:
    """The solver without modules, which were trained for one prior and call no network."""
    without: Any = replace(solver, modules=None) if getattr(solver, "modules", None) else solver  # type: ignore[type-var]
    return without


def trial(
    solver: Solver, kind: Kind, operator: Mapping[str, Any], draws: int, unit: str, real_size: bool
) -> Trial:
    """A small image of the operator, behind half a mask, and the stand-in."""
    prior = kind.stand_in(solver.needs, real_size)
    channels, height, width = prior.image_shape
    mask = torch.zeros(1, 1, height, width, dtype=torch.bool)
    mask[..., : width // 2] = True
    built = build_operator(operator, mask, channels)
    keys = [Key(0, "plan", "0")]
    truth = 0.4 * Noise(keys, "truth").normal(prior.image_shape)
    y = built.observe(truth, Noise(keys, "noise").normal(built.A(truth).shape[1:]))
    distance = None if getattr(solver, "perceptual", "none") == "none" else _distance
    cond = prior.condition(torch.zeros(1, dtype=torch.long))
    return Trial(prior, Observation(y, built, cond, distance), keys, draws, unit)


def _distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a - b).square().flatten(1).mean(1)


def _on_a_line(
    solver: Solver, kind: Kind, operator: Mapping[str, Any], end: float
) -> Counts | None:
    """The calls as those of shorter runs foretell them; None where they do not, and for few
    steps.
    """
    steps = solver.workload["steps"]
    if steps <= 2 * sum(SHORT) or solver.growth:
        return None

    def shortened(steps: int) -> Solver:
        return replace(solver, steps=steps)  # type: ignore[type-var]  # every solver is a dataclass

    try:
        runs = [_count(shortened(few), kind, operator, end, real_size=False) for few in SHORT]
    except ValueError:
        return None  # so few steps do not go with its other settings

    def foretold(values: list[float], exact: bool = True) -> float:
        slope = (values[-1] - values[0]) / (SHORT[-1] - SHORT[0])
        line = [values[0] + slope * (few - SHORT[0]) for few in SHORT]
        if exact and line != values:
            raise ArithmeticError
        return values[0] + slope * (steps - SHORT[0])

    try:
        fit = {name: foretold([run.fit[name] for run in runs]) for name in runs[0].fit}
        draw = {name: foretold([run.draw[name] for run in runs]) for name in runs[0].draw}
    except ArithmeticError:
        return None
    seconds = (
        foretold([getattr(run, name) for run in runs], False)
        for name in ("fit_seconds", "draw_seconds")
    )
    return Counts(fit, draw, *(max(value, 0.0) for value in seconds))


def _count(
    solver: Solver, kind: Kind, operator: Mapping[str, Any], end: float, real_size: bool
) -> Counts:
    tried = trial(solver, kind, operator, 1, "nfe", real_size)
    prior, noise = tried.prior, Noise(tried.keys, "solver")
    with (
        weightless(prior, "features" in solver.needs),
        prior.metered(watch=watch_of(end - time.monotonic())) as meter,
    ):
        start = time.perf_counter()
        posterior = solver.fit(tried.obs, prior, noise)
        fitted, middle = meter.counts(), time.perf_counter()
        posterior.sample([0])
        end = time.perf_counter()
    drawn = {name: value - fitted[name] for name, value in meter.counts().items()}
    return Counts(fitted, drawn, middle - start, end - middle)


def for_budget(
    config: JobConfig, choices: Mapping[str, Any], solver: Solver, kind: Kind
) -> JobConfig:
    """The configuration with the solver's work chosen for its budget, as a run chooses it, on the
    stand-in.

    Raises Inapplicable like :func:`bench.engine.budget.within_budget`, and Uncounted.
    """
    if config.budget is None:
        return config

    def small(unit: str) -> Trial:
        return trial(solver, kind, config.operator, config.draws, unit, real_size=False)

    try:
        return with_work(config, choices, solver, small)
    except UserError as error:
        if type(error) is not UserError:
            raise
        raise Uncounted(str(error)) from None
