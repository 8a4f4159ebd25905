"""How often a solver calls the network, counted in seconds and without the network.

The solver runs once on one small random image. Its prior is a stand-in of the same kind (process,
latents, inpainting) whose network costs nothing (:func:`bench.engine.budget.weightless`). The
number of calls depends only on the solver's settings, not on the size of the images; solvers with
a line search (CoPaint) make a few calls more or fewer on real images.

A solver of this product with many steps, and with no other setting for its work, is counted in
four short runs. If all four lie exactly on a line, the long run lies on it too and is not made.
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
from posterior_bench.priors.process import VE, VP, Flow, Process, Rescaled
from posterior_bench.solvers.base import Observation, Solver

SHORT = (12, 25, 47, 90)
"""Steps of the short runs. They have no common period, so work that a solver does every few steps
leaves the line."""


class CannotCount(Exception):
    """The calls of a solver cannot be counted; the message says why."""


@dataclass(frozen=True)
class PriorKind:
    """The properties of a prior on which the number of calls may depend.

    Parameters
    ----------
    process : Process
        The diffusion process.
    latent, inpaint, learned_var, exact : bool, default False
        Whether it has latents, a network for inpainting, learned variances, a closed form.
    shape : (int, int, int) or None, default None
        The shape of its images; None where it is unknown.
    """

    process: Process
    latent: bool = False
    inpaint: bool = False
    learned_var: bool = False
    exact: bool = False
    shape: Shape | None = None

    @classmethod
    def of(cls, prior: Prior) -> PriorKind:
        """Return the kind of a prior, which may lie on the meta device."""
        inpaint, exact = isinstance(prior.net, Inpainter), prior.net is None
        return cls(
            prior.process, prior.is_latent, inpaint, prior.learned_var, exact, prior.image_shape
        )

    @classmethod
    def described(cls, text: str) -> PriorKind:
        """Guess the kind of a prior whose files are not here.

        Parameters
        ----------
        text : str
            The first line of the prior's YAML file.
        """
        words = text.partition("`")[0]
        latent = any(word in words for word in ("latent", "Stable Diffusion", "DiT"))
        flow, ve = "flow" in words or "Diffusion 3" in words, "EDM" in words
        process = Flow() if flow else VE() if ve else VP.scheduled("scaled_linear", 0.00085, 0.012)
        return cls(process, latent, "inpainting" in words)

    @property
    def key(self) -> tuple[Any, ...]:
        """A key; kinds with equal keys have equal counts."""
        return (_spec(self.process), self.latent, self.inpaint, self.learned_var, self.exact)

    def stand_in(self, needs: frozenset[str] = frozenset(), real_size: bool = False) -> Prior:
        """Return a small prior of this kind.

        Parameters
        ----------
        needs : frozenset of str, default frozenset()
            What the solver needs; see :attr:`solvers.base.Solver.needs`.
        real_size : bool, default False
            Whether images have the real shape, for operators that accept no other.
        """
        for name in ("exact", "increments"):
            if name in needs:
                return copy(small_prior(name))
        whole = "features" in needs
        name = "inpainting" if self.inpaint else "latent" if self.latent else "network"
        name = "text" if "prompt_grad" in needs else name
        prior = copy(small_prior(name))
        prior.process, prior.meter = self.process, Meter()
        prior.learned_var = self.learned_var and not whole
        if real_size and self.shape is not None and not whole:
            _, height, width = self.shape
            prior.image_shape = self.shape
            prior.latent_shape = (4, height // 8, width // 8) if self.latent else self.shape
        return prior


@dataclass(frozen=True)
class CallCounts:
    """The calls that a solver makes for one image, by the names of a meter.

    Parameters
    ----------
    fit : Mapping of str to float
        Calls of the fit, which all draws of the image share.
    draw : Mapping of str to float
        Calls of one draw.
    fit_seconds, draw_seconds : float
        Seconds that the solver itself took for them on this machine, without a network.
    """

    fit: Mapping[str, float]
    draw: Mapping[str, float]
    fit_seconds: float
    draw_seconds: float

    def of_row(self, draws: int) -> dict[str, float]:
        """Return the calls of one row, with its share of the fit."""
        return {name: self.fit[name] / draws + count for name, count in self.draw.items()}

    def overhead(self, draws: int) -> float:
        """Return the seconds of the solver itself for one row, with its share of the fit."""
        return self.fit_seconds / draws + self.draw_seconds


def _spec(process: Process) -> str:
    """Return what tells a process from others; views of different processes differ."""
    if isinstance(process, Rescaled):
        return f"{process.kind} view of {_spec(process.base)}"
    known = isinstance(process, VE | VP | Flow)
    return str(process.spec if known else {"kind": type(process).__name__})


def count_calls(
    solver: Solver, kind: PriorKind, operator: Mapping[str, Any], seconds: float
) -> CallCounts:
    """Count the calls of a solver.

    Parameters
    ----------
    solver : Solver
        The solver with its settings.
    kind : PriorKind
        The kind of the prior.
    operator : Mapping
        The node of the operator.
    seconds : float
        How long this may take.

    Raises
    ------
    CannotCount
        If the solver fails, or time is up.
    """
    end = time.monotonic() + seconds
    try:
        solver = _without_modules(solver)
        if list(solver.workload) == ["steps"] and type(solver).__module__.startswith(
            "posterior_bench.solvers."
        ):
            counts = _on_a_line(solver, kind, operator, end)
            if counts is not None:
                return counts
        return _counted_run(solver, kind, operator, end, real_size=False)
    except TimeoutExceeded:
        raise CannotCount(
            f"counting its passes takes more than {seconds:.0f} s; max_seconds=N allows more"
        ) from None
    except Exception as first:
        try:
            return _counted_run(_without_modules(solver), kind, operator, end, real_size=True)
        except Exception:
            raise CannotCount(
                f"its passes cannot be counted on small images: {one_line(first)}"
            ) from None


def _without_modules(solver: Solver) -> Any:
    """Return the solver without modules, which were trained for one prior and call no network."""
    without: Any = replace(solver, modules=None) if getattr(solver, "modules", None) else solver  # type: ignore[type-var]
    return without


def small_trial(
    solver: Solver,
    kind: PriorKind,
    operator: Mapping[str, Any],
    draws: int,
    unit: str,
    real_size: bool,
) -> Trial:
    """Return a trial on one small image, whose left half the mask shows, and the stand-in prior.

    Parameters
    ----------
    solver : Solver
        Says what it needs of the prior.
    kind : PriorKind
        The kind of the prior.
    operator : Mapping
        The node of the operator.
    draws : int
        Draws of the image.
    unit : str
        The unit of the counts: ``nfe`` or ``passes``.
    real_size : bool
        Whether the image has the real shape.
    """
    prior = kind.stand_in(solver.needs, real_size)
    channels, height, width = prior.image_shape
    mask = torch.zeros(1, 1, height, width, dtype=torch.bool)
    mask[..., : width // 2] = True
    built = build_operator(operator, mask, channels)
    keys = [Key(0, "plan", "0")]
    truth = 0.4 * Noise(keys, "truth").normal(prior.image_shape)
    y = built.observe(truth, Noise(keys, "noise").normal(built.A(truth).shape[1:]))
    distance = None if getattr(solver, "perceptual", "none") == "none" else mean_square
    cond = prior.condition(torch.zeros(1, dtype=torch.long))
    return Trial(prior, Observation(y, built, cond, distance), keys, draws, unit)


def mean_square(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return a distance per image that costs nothing, in place of a perceptual one."""
    return (a - b).square().flatten(1).mean(1)


def _on_a_line(
    solver: Solver, kind: PriorKind, operator: Mapping[str, Any], end: float
) -> CallCounts | None:
    """Return the calls that short runs predict; None if they are on no line, or steps are few."""
    steps = solver.workload["steps"]
    if steps <= 2 * sum(SHORT) or solver.growth:
        return None

    def shortened(steps: int) -> Solver:
        return replace(solver, steps=steps)  # type: ignore[type-var]  # every solver is a dataclass

    try:
        runs = [_counted_run(shortened(few), kind, operator, end, real_size=False) for few in SHORT]
    except ValueError:
        return None  # its other settings do not allow so few steps
    try:
        fit = {name: _predicted([run.fit[name] for run in runs], steps) for name in runs[0].fit}
        draw = {name: _predicted([run.draw[name] for run in runs], steps) for name in runs[0].draw}
    except ArithmeticError:
        return None
    seconds = (
        _predicted([getattr(run, name) for run in runs], steps, exact=False)
        for name in ("fit_seconds", "draw_seconds")
    )
    return CallCounts(fit, draw, *(max(value, 0.0) for value in seconds))


def _predicted(values: list[float], steps: int, exact: bool = True) -> float:
    """Return the value at ``steps`` on the line through the first and last value of short runs.

    Raises
    ------
    ArithmeticError
        If it must be ``exact`` and another value is off the line.
    """
    slope = (values[-1] - values[0]) / (SHORT[-1] - SHORT[0])
    line = [values[0] + slope * (few - SHORT[0]) for few in SHORT]
    if exact and line != values:
        raise ArithmeticError
    return values[0] + slope * (steps - SHORT[0])


def _counted_run(
    solver: Solver, kind: PriorKind, operator: Mapping[str, Any], end: float, real_size: bool
) -> CallCounts:
    """Return the calls of one run on a small image."""
    trial = small_trial(solver, kind, operator, 1, "nfe", real_size)
    prior, noise = trial.prior, Noise(trial.keys, "solver")
    with (
        weightless(prior, "features" in solver.needs),
        prior.metered(watch=watch_of(end - time.monotonic())) as meter,
    ):
        start = time.perf_counter()
        posterior = solver.fit(trial.obs, prior, noise)
        fitted, middle = meter.counts(), time.perf_counter()
        posterior.sample([0])
        end = time.perf_counter()
    drawn = {name: value - fitted[name] for name, value in meter.counts().items()}
    return CallCounts(fitted, drawn, middle - start, end - middle)


def for_budget(
    config: JobConfig, choices: Mapping[str, Any], solver: Solver, kind: PriorKind
) -> JobConfig:
    """Return the configuration with the solver's work chosen for its budget.

    It is chosen as a run chooses it (:func:`bench.engine.budget.within_budget`), but on the
    stand-in prior.

    Raises
    ------
    Inapplicable
        If no work of the solver stays within the budget.
    CannotCount
        If the solver fails while its calls are counted.
    """
    if config.budget is None:
        return config

    def trial(unit: str) -> Trial:
        return small_trial(solver, kind, config.operator, config.draws, unit, real_size=False)

    try:
        return with_work(config, choices, _without_modules(solver), trial)
    except UserError as error:
        if type(error) is not UserError:
            raise
        raise CannotCount(str(error)) from None
