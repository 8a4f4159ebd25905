"""The conformance suite: what every solver promises, checked on small priors, one result per
promise.

A promise is checked only if those it rests on are kept: where rows mix, nothing is said about a
NaN. So a solver that breaks one promise fails one check, and the table names it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from rich.markup import escape
from rich.table import Table
from torch import Tensor, nn

from posterior_bench.bench.config.build import build, target
from posterior_bench.bench.config.catalog import options
from posterior_bench.bench.config.compose import compose
from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.config.overrides import check as check_overrides
from posterior_bench.bench.config.plugins import admit
from posterior_bench.bench.config.presets import LATENT, default_preset, replacement, settings
from posterior_bench.bench.config.trained_modules import load_modules
from posterior_bench.bench.conformance.reference_pages import field_notes
from posterior_bench.bench.conformance.small_problems import (
    DRAWS,
    IMAGES,
    PRIORS,
    Rig,
    SpyNoise,
    contained,
    counted_evaluations,
    global_generators,
    poisoned,
    reduced,
    restricted,
    small_prior,
    snapshot,
)
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.core.foreign import foreign
from posterior_bench.bench.core.streams import Key
from posterior_bench.bench.core.streams import Noise as SeededNoise
from posterior_bench.bench.engine.cache import shared
from posterior_bench.bench.engine.failures import one_line
from posterior_bench.bench.engine.job import unchecked
from posterior_bench.bench.engine.measurement import Measurement
from posterior_bench.bench.external.models import converted_path
from posterior_bench.priors.base import BudgetExceeded, Prior
from posterior_bench.priors.mixture import MixturePrior
from posterior_bench.solvers.base import Noise, Observation, Solver

PASS, FAIL, WARNING, SKIPPED = "pass", "fail", "warning", "skipped"


class Broken(Exception):
    """A promise is not kept; the message says how."""


class Doubtful(Exception):
    """Nothing is broken, but few solvers mean it; the message says what is odd."""


class Skipped(Exception):
    """A promise cannot be checked here; the message says why."""


@dataclass(frozen=True)
class Result:
    """The outcome of one promise: ``pass``, ``fail``, ``warning`` or ``skipped``, and why where it
    is not the first.
    """

    name: str
    status: str
    reason: str = ""


@dataclass(frozen=True)
class Report:
    """All results for one solver, by where they were obtained: ``code``, then the priors."""

    solver: str
    columns: Mapping[str, Sequence[Result]]

    @property
    def failures(self) -> list[tuple[str, Result]]:
        """Failed promises with the column they failed in."""
        return self._with(FAIL)

    @property
    def warnings(self) -> list[tuple[str, Result]]:
        """What is odd, with the column it was found in."""
        return self._with(WARNING)

    def _with(self, status: str) -> list[tuple[str, Result]]:
        return [
            (name, r)
            for name, results in self.columns.items()
            for r in results
            if r.status == status
        ]


@dataclass(frozen=True)
class Code:
    """What can be said of a solver without running it: its class and its node of the
    configuration.
    """

    cls: type[Solver]
    node: Mapping[str, Any]


@dataclass(frozen=True)
class Trace:
    """A run and what could be seen around it: contents of the observation and of the prior before
    and after, costs.
    """

    x: Tensor
    observation: tuple[Mapping[str, object], Mapping[str, object]]
    surroundings: tuple[Mapping[str, object], Mapping[str, object]]
    counts: Mapping[str, int]
    evaluations: int


@dataclass(frozen=True)
class Subject:
    """A solver on a rig; the run that others are compared with is made once.

    ``whole``: the solver with all its steps, where ``solver`` has few.
    """

    solver: Solver
    rig: Rig
    whole: Solver | None = None

    def run(
        self,
        images: Sequence[int] = IMAGES,
        masks: tuple[str, ...] = ("box",),
        other_truth: bool = False,
    ) -> Tensor:
        """Samples ``(N, D, C, H, W)`` of a fresh measurement; the arguments are those of
        :meth:`Rig.measure`.
        """
        measured = self.rig.measure(images, masks, other_truth)
        return self.solve(measured, self.rig.noise(measured))

    def solve(self, measured: Measurement, noise: Noise) -> Tensor:
        """Samples of a measurement, its truth in the callers' frames as it is in the worker."""
        with contained():
            return self._solve(measured, noise)

    def _solve(self, measured: Measurement, noise: Noise) -> Tensor:
        return self.solver.fit(self.rig.observe(measured), self.rig.prior, noise).sample(DRAWS).x

    @cached_property
    def first(self) -> Trace:
        """The standard run, watched."""
        measured, prior = self.rig.measure(), self.rig.prior
        with contained():
            obs, surroundings = _contents(measured, self.rig.observe(measured)), snapshot(prior)
            with prior.metered() as meter, counted_evaluations(prior) as seen:
                x = self._solve(measured, self.rig.noise(measured))
            after = _contents(measured, self.rig.observe(measured))
            return Trace(x, (obs, after), (surroundings, snapshot(prior)), meter.counts(), seen.nfe)

    @property
    def lacking(self) -> frozenset[str]:
        """What the solver needs and the rig does not have."""
        return self.solver.lacks(
            self.rig.prior.caps | target(self.rig.operator).caps, self.rig.sigma
        )

    @property
    def samples(self) -> Tensor:
        """The samples of the standard run."""
        return self.first.x


# -- what the code says ----------------------------------------------------------------------------


def _card(code: Code) -> None:
    cls: object = code.cls
    if not (isinstance(cls, type) and issubclass(cls, Solver)):
        raise Broken(f"{code.node['_target_']} is no subclass of solvers.base.Solver")
    parameters = getattr(cls, "__dataclass_params__", None)
    if parameters is None or not parameters.frozen:
        raise Broken("the class is no frozen dataclass, so a run could change its settings")
    card = getattr(cls, "card", None)
    missing = [
        name for name in ("title", "paper", "equations") if not str(getattr(card, name, "")).strip()
    ]
    if missing:
        raise Broken(f"the card says nothing under {', '.join(missing)}")


def _settings(code: Code) -> None:
    described = [name for note in field_notes(code.cls) for name in note.fields]
    wanted = [f.name for f in dataclasses.fields(code.cls)]  # type: ignore[arg-type]
    missing = [name for name in wanted if name not in described]
    if missing:
        raise Broken(f"the docstring's section Parameters does not describe {', '.join(missing)}")


def _presets(code: Code) -> None:
    presets = code.node.get("presets")
    if presets is None:
        raise Skipped("there are no presets")
    required = [key for key, value in code.node.items() if value == "???"]
    for name, preset in presets.items():
        _demand_place(name, preset, presets)
        values = settings(preset)
        unknown = values.keys() - code.node.keys()
        if unknown:
            raise Broken(
                f"preset {name} sets {', '.join(sorted(unknown))}, which the file does not list"
            )
        if not required:
            try:
                build({**code.node, **dict.fromkeys(values), "preset": name})
            except UserError as error:
                raise Broken(f"preset {name} does not build: {error}") from error


def _demand_place(name: str, preset: Mapping[str, Any], presets: Mapping[str, Any]) -> None:
    """Raise Broken where a preset does not say well whose place it takes, and when."""
    other, case = preset.get("instead_of"), preset.get("when")
    if other is None and case is None:
        return
    if case is None or other not in {*presets} - {name}:
        raise Broken(
            f"preset {name} says instead_of: {other} and when: {case}; name another preset of the "
            "file, and a case (latent, small)"
        )


# -- what a run shows ------------------------------------------------------------------------------


def _runs(subject: Subject) -> None:
    _ = subject.first


def _output(subject: Subject) -> None:
    x, shape = subject.samples, (len(IMAGES), len(DRAWS), *subject.rig.prior.image_shape)
    if tuple(x.shape) != shape:
        raise Broken(
            f"samples have the shape {tuple(x.shape)}, not (images, draws, C, H, W) = {shape}"
        )
    if x.dtype != torch.float32:
        raise Broken(f"samples are {x.dtype}, not torch.float32")
    if x.requires_grad:
        raise Broken(
            "samples carry a gradient, and with it the memory of the whole run; detach them"
        )


def _finite(subject: Subject) -> None:
    _all_finite(subject.samples, "samples")


def _random(subject: Subject) -> None:
    measured = subject.rig.measure()
    before = global_generators()
    with poisoned():
        subject.solve(measured, subject.rig.noise(measured))
    for name, was, now in zip(
        ("torch", "NumPy", "Python"), before, global_generators(), strict=True
    ):
        if was != now:
            raise Broken(f"the global generator of {name} has moved; use the noise argument alone")


def _measurement(subject: Subject) -> None:
    changed = _changed(*subject.first.observation)
    if changed:
        raise Broken(f"{changed} of the observation changed in place")


def _prior(subject: Subject) -> None:
    changed = _changed(*subject.first.surroundings)
    if changed:
        raise Broken(f"the run left changed: {changed}")


def _repeat(subject: Subject) -> None:
    _equal(subject.run(), subject.samples, "a second run of the same seed")


def _batch(subject: Subject) -> None:
    first = subject.samples[:1]
    _equal(subject.run([IMAGES[0]] * len(IMAGES))[:1], first, "an image in a batch of its copies")
    _equal(subject.run([9, 8, 7, IMAGES[0]])[-1:], first, "an image last in a batch of others")


def _draws(subject: Subject) -> None:
    measured = subject.rig.measure()
    obs, noise = subject.rig.observe(measured), subject.rig.noise(measured)
    with contained():
        posterior = subject.solver.fit(obs, subject.rig.prior, noise)
        # a block of draws is filled up by repetition, as the worker does
        together, alone = posterior.sample([0, 1, 2]).x, posterior.sample([2, 2, 2]).x
    _equal(alone[:, 0], together[:, 2], "draw 2 alone and draw 2 of draws 0 to 2")


def _rows(subject: Subject) -> None:
    noise = SpyNoise(subject.rig.noise(subject.rig.measure()))
    # one measurement, with the noise of four images
    x = subject.solve(subject.rig.measure([IMAGES[0]] * len(IMAGES)), noise)
    if not noise.used:
        raise Skipped("deterministic: it draws no noise")
    if _same(x[0, 0], x[0, 1]):
        raise Broken("two draws of an image are equal, though noise was drawn")
    if _same(x[0, 0], x[1, 0]):
        raise Broken("two images with noise of their own have equal samples")


def _nan(subject: Subject) -> None:
    measured = subject.rig.measure()
    # one row with a NaN measurement, one whose noise, so state, so prediction is NaN
    measured.y[1] = torch.where(measured.y[1] != 0, torch.nan, measured.y[1])
    x = subject.solve(measured, SpyNoise(subject.rig.noise(measured), range(3, 4)))
    _equal(x[[0, 2]], subject.samples[[0, 2]], "images beside others that are NaN")


def _budget(subject: Subject) -> None:
    prior, first = subject.rig.prior, subject.first
    nfe = first.counts["nfe"]
    if nfe != first.evaluations:
        raise Broken(
            f"the meter counts {nfe} network evaluations, but {first.evaluations} were made"
        )
    if nfe == 0:
        raise Skipped("it makes no network call")
    try:
        with prior.metered(limit=nfe - 1) as again:
            subject.run()
    except BudgetExceeded:
        if again.nfe == nfe:
            return
        raise Broken(
            f"two equal runs cost {nfe} and at least {again.nfe} network evaluations"
        ) from None
    if again.nfe < nfe:
        raise Broken(f"two equal runs cost {nfe} and {again.nfe} network evaluations")
    raise Broken("it went on after its budget was spent: BudgetExceeded must not be caught")


def _truth(subject: Subject) -> None:
    if "pinv" not in target(subject.rig.operator).caps:
        raise Skipped(
            "the operator has no pseudo-inverse, so no other image with this measurement is known"
        )
    _equal(subject.run(other_truth=True), subject.samples, "the same measurement of other images")


def _masks(subject: Subject) -> None:
    if not target(subject.rig.operator).takes_mask:
        raise Skipped("the operator takes no mask")
    masks = ("all", "nothing", "all", "nothing")
    x = subject.run(masks=masks)
    for kind in ("all", "nothing"):
        rows = [i for i, mask in enumerate(masks) if mask == kind]
        _all_finite(x[rows], f"samples with {kind} observed")


def _needs(subject: Subject) -> None:
    needs = subject.solver.lacks(frozenset(), subject.rig.sigma)
    measured = subject.rig.measure()
    bare = dataclasses.replace(measured, operator=restricted(measured.operator, needs))
    try:
        x = subject.solve(bare, subject.rig.noise(bare))
    except Exception as error:
        raise Broken(
            f"it asks the operator for what is not among its needs: {one_line(error)}"
        ) from error
    _all_finite(x, "samples with an operator that can do no more than the needs say")


def _heeds(subject: Subject) -> None:
    measured = subject.rig.measure()
    other = dataclasses.replace(measured, y=-measured.y)
    if _same(subject.solve(other, subject.rig.noise(other)), subject.samples):
        raise Doubtful("another measurement gives the same samples: the measurement is not used")


def _agrees(subject: Subject) -> None:
    """Images of a prior in closed form, all steps: here the residual and the range of good samples
    are known.
    """
    prior, rig = subject.rig.prior, subject.rig
    if not isinstance(prior, MixturePrior):
        raise Skipped("what the samples should look like is known on priors in closed form alone")
    likely, others = (_images_of(prior, rig, draw) for draw in (0, 1))
    measured = rig.measure(truth=likely)
    solver = subject.whole or subject.solver
    x = (
        dataclasses.replace(subject, solver=solver)
        .solve(measured, rig.noise(measured))
        .flatten(0, 1)
    )
    largest, usual = x.abs().max().item(), likely.abs().max().item()
    if largest > _FAR * max(usual, 1.0):
        raise Doubtful(
            f"samples reach {largest:.3g}, images of this prior {usual:.2g}: return them in [-1, 1]"
        )
    residual, blind = (_residual(measured, images, rig) for images in (x, others))
    if residual > _SHARE * blind:
        raise Doubtful(
            f"the residual on what was observed is {residual:.2g}, that of images drawn without "
            f"looking {blind:.2g}: "
            "is the mask inverted (True = observed), an image transposed, its range not [-1, 1]?"
        )


_FAR, _SHARE = 3.0, 0.25
"""From which multiple of the prior's range, and share of the prior's residual, samples are odd.

A grey image has half of the prior's residual; of the solvers shipped, DPS leaves most, a ninth.
"""


def _images_of(prior: MixturePrior, rig: Rig, draw: int) -> Tensor:
    """Images ``(N, C, H, W)`` that the prior holds for likely; other ones for another ``draw``."""
    noise = SeededNoise([Key(0, "check", str(i)) for i in IMAGES], "metric", rig.device, draw + 2)
    return prior.sample(noise.uniform(()), noise.normal(prior.image_shape))


def _residual(measured: Measurement, images: Tensor, rig: Rig) -> float:
    """Mean square of what images ``(N * draws, C, H, W)`` would measure minus the measurement."""
    times = len(images) // len(measured.y)
    operator, y = measured.operator.repeat(times), measured.y.repeat_interleave(times, 0)
    return float((operator.A(images) - y).square().mean())


def _bfloat16(subject: Subject) -> None:
    with torch.autocast(subject.rig.device, torch.bfloat16):
        x = subject.run()
    if tuple(x.shape) != tuple(subject.samples.shape):
        raise Broken(f"under bfloat16 autocast samples have the shape {tuple(x.shape)}")
    _all_finite(x, "samples under bfloat16 autocast")


def _gpu(subject: Subject) -> None:
    if not torch.cuda.is_available():
        raise Skipped("there is no GPU here")
    rig, prior = subject.rig, subject.rig.prior
    moved = (
        None
        if rig.modules is None
        else {name: module.to("cuda") for name, module in rig.modules.items()}
    )
    try:
        there = dataclasses.replace(rig, prior=prior.to("cuda"), modules=moved, device="cuda")
        x = dataclasses.replace(subject, rig=there).run()
    finally:
        prior.to(rig.device)
        for module in (rig.modules or {}).values():
            module.to(rig.device)
    if x.device.type != "cuda":
        raise Broken(f"samples are on {x.device.type}, though prior and measurement are on the GPU")
    _all_finite(x, "samples on the GPU")


@dataclass(frozen=True)
class Promise:
    """One line of the suite. ``after``: the promises it rests on; where one of them is broken it is
    not checked.
    """

    name: str
    text: str
    check: Callable[[Any], None]
    after: tuple[str, ...] = ()


STATIC = (
    Promise("card", "a frozen Solver dataclass whose card names title, paper and equations", _card),
    Promise("settings", "every setting is described under Parameters", _settings, ("card",)),
    Promise("presets", "every preset builds", _presets, ("card",)),
)

_CLEAN = ("output", "randomness", "measurement", "prior")
RUNNING = (
    Promise("runs", "a run ends without an error", _runs),
    Promise("output", "samples are float32 (N, D, C, H, W) without a gradient", _output, ("runs",)),
    Promise("finite", "samples are finite", _finite, ("output",)),
    Promise(
        "randomness",
        "no global generator is used: they raise, and their states stay",
        _random,
        ("runs",),
    ),
    Promise(
        "measurement", "y, mask and condition are not changed in place", _measurement, ("runs",)
    ),
    Promise(
        "prior",
        "weights, hooks, gradients, meter and process settings stay as they were",
        _prior,
        ("runs",),
    ),
    Promise("repeat", "the same seed gives the same bits", _repeat, _CLEAN),
    Promise("batch", "neighbours and order do not change an image's bits", _batch, ("repeat",)),
    Promise("draws", "a draw's bits depend on its index alone", _draws, ("batch",)),
    Promise("noise", "images and draws have noise of their own", _rows, ("repeat",)),
    Promise("nan", "a NaN stays in its row", _nan, ("batch", "finite")),
    Promise(
        "budget",
        "the meter counts every network call, and its limit ends the run",
        _budget,
        ("repeat",),
    ),
    Promise("truth", "hidden pixels of the truth change nothing", _truth, ("repeat",)),
    Promise("masks", "all and nothing observed give finite samples", _masks, ("finite",)),
    Promise(
        "needs", "the operator is asked for nothing that the needs do not name", _needs, ("finite",)
    ),
    Promise(
        "heeds", "another measurement gives other samples (else a warning)", _heeds, ("repeat",)
    ),
    Promise(
        "agrees",
        "samples agree with the measurement, in the range of images (else a warning)",
        _agrees,
        ("finite",),
    ),
    Promise("bfloat16", "a run under bfloat16 autocast is finite", _bfloat16, ("finite",)),
    Promise("gpu", "a run on the GPU stays there and is finite", _gpu, ("finite",)),
)


def examine(promises: Sequence[Promise], subject: Code | Subject) -> list[Result]:
    """The result of every promise, in order. An error of the solver is a failure, never an error of
    the suite.

    Raises UserError where the solver cannot run with what the user gave.
    """
    results: dict[str, Result] = {}
    for promise in promises:
        open_ends = [name for name in promise.after if results[name].status != PASS]
        if open_ends:
            results[promise.name] = Result(promise.name, SKIPPED, f"rests on {open_ends[0]}")
            continue
        results[promise.name] = _examine(promise, subject)
    return list(results.values())


def _examine(promise: Promise, subject: Code | Subject) -> Result:
    try:
        with foreign():
            promise.check(subject)
    except (Skipped, ImportError) as reason:  # an optional package is not there
        return Result(promise.name, SKIPPED, str(reason))
    except Broken as reason:
        return Result(promise.name, FAIL, str(reason))
    except Doubtful as reason:
        return Result(promise.name, WARNING, str(reason))
    except UserError:  # what the user gave is wrong, not the solver
        raise
    except Exception as error:
        return Result(promise.name, FAIL, one_line(error))
    return Result(promise.name, PASS)


# -- solvers of the configuration ------------------------------------------------------------------


def reports(solvers: str, overrides: Sequence[str] = ()) -> Iterator[Report]:
    """Check solvers one after the other.

    Parameters
    ----------
    solvers : str
        One solver, several between commas, or ``all``.
    overrides : sequence of str, default ()
        Settings of a run. ``prior=`` checks on that prior instead of the small ones.

    Returns
    -------
    iterator of Report
        The report of every solver.

    Raises
    ------
    UserError
        If a name or setting is unknown; before any work.
    """
    keys = {override.partition("=")[0] for override in overrides}
    names = list(options("solver", plugins=())) if solvers == "all" else solvers.split(",")
    jobs = [(name, check_overrides([f"solver={name}", *overrides])) for name in names]
    own = frozenset(key.removeprefix("solver.") for key in keys if key.startswith("solver."))
    return (_report(name, checked, "prior" in keys, own) for name, checked in jobs)


def _report(name: str, overrides: list[str], with_prior: bool, own: frozenset[str]) -> Report:
    config = unchecked(compose(overrides)[0])
    admit(config.plugins)
    if not with_prior:
        return check_solver(name, config, keep=own)
    config = config.with_settings("prior", converted_path(config.prior))
    prior: Prior = shared("prior", config.prior, "cpu")
    return check_solver(name, config, prior, load_modules(config, "cpu"), keep=own)


def check_solver(
    name: str,
    config: JobConfig,
    prior: Prior | None = None,
    modules: Mapping[str, nn.Module] | None = None,
    keep: frozenset[str] = frozenset(),
    priors: Sequence[str] = tuple(PRIORS),
) -> Report:
    """Check the solver of a resolved configuration on its code, and on every prior that has what it
    needs.

    ``prior``: the one to use instead of the small ``priors``, with the trained ``modules`` for it;
    ``keep``: settings of the solver that are not cut down.
    """
    node = config.solver
    try:
        code = Code(target(node), node)
    except UserError as error:
        return Report(name, {"code": [Result("card", FAIL, str(error))]})
    columns = {"code": examine(STATIC, code)}
    broken = next(
        (r.name for r in columns["code"] if r.name in ("card", "presets") and r.status == FAIL),
        None,
    )
    missing = next((key for key, value in node.items() if value == "???"), None)
    if broken or missing:
        reason = (
            f"rests on {broken}"
            if broken
            else f"solver.{missing} is not set; give solver.{missing}=VALUE"
        )
        return Report(
            name, {**columns, "run": [Result(promise.name, SKIPPED, reason) for promise in RUNNING]}
        )
    candidates = (
        {label: small_prior(label) for label in priors} if prior is None else {"prior": prior}
    )
    try:
        subjects = {
            label: _subject(config, found, modules, keep) for label, found in candidates.items()
        }
    except ImportError as error:  # an optional package is not there
        return Report(
            name,
            {**columns, "run": [Result(promise.name, SKIPPED, str(error)) for promise in RUNNING]},
        )
    fitting = {label: subject for label, subject in subjects.items() if not subject.lacking}
    if not fitting:
        lacking = min((subject.lacking for subject in subjects.values()), key=len)
        reason = (
            f"it needs {', '.join(sorted(lacking))}, which this operator has not, with the "
            f"priors of this check"
        )
        # a name that nothing of ours has is a mistake; another operator or prior may have the
        # others
        status = SKIPPED if lacking <= _capabilities(candidates.values()) else FAIL
        return Report(name, {**columns, "run": [Result("runs", status, reason)]})
    return Report(
        name, columns | {label: examine(RUNNING, subject) for label, subject in fitting.items()}
    )


def _capabilities(priors: Iterable[Prior]) -> frozenset[str]:
    """All that any operator has, these priors and the small ones."""
    operators = (target(option.content).caps for option in options("operator").values())
    small = (small_prior(label).caps for label in PRIORS)
    return frozenset[str]().union(*operators, *small, *(prior.caps for prior in priors))


def _subject(
    config: JobConfig,
    prior: Prior,
    modules: Mapping[str, nn.Module] | None,
    keep: frozenset[str],
) -> Subject:
    """The solver on a prior, on a latent one with the preset meant for it."""
    node = config.solver
    latent = replacement(node.get("presets", {}), default_preset(node), LATENT)
    if prior.is_latent and latent is not None:
        node = {**node, "preset": latent}
    whole: Solver = build(node)
    solver = reduced(whole, keep)
    return Subject(solver, _rig(solver, prior, config.operator, modules), whole)


def _rig(
    solver: Solver,
    prior: Prior,
    operator: Mapping[str, Any],
    modules: Mapping[str, nn.Module] | None,
) -> Rig:
    """The rig with untrained modules and a plain distance where the solver's settings ask for
    either.
    """
    perceptual = _absolute_distance if getattr(solver, "perceptual", "none") != "none" else None
    if (
        modules is None
        and getattr(solver, "modules", None) is not None
        and "features" in prior.caps
    ):
        modules = _untrained_modules(prior)
    return Rig(prior, operator, modules, perceptual)


def _untrained_modules(prior: Prior) -> dict[str, nn.Module]:
    from posterior_bench.solvers.latentpaint.propagation import (
        propagation_channels,
        propagation_modules,
    )

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return dict(
            propagation_modules(propagation_channels(prior)).eval().requires_grad_(False).items()
        )


def _absolute_distance(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs().flatten(1).mean(1)


# -- comparisons -----------------------------------------------------------------------------------


def _same(a: Tensor, b: Tensor) -> bool:
    """Bitwise equal, NaN included."""
    return a.shape == b.shape and _bits(a) == _bits(b)


def _bits(x: Tensor) -> bytes:
    return x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def _equal(a: Tensor, b: Tensor, what: str) -> None:
    if not _same(a, b):
        difference = (
            (a - b).abs().nan_to_num(torch.inf).max().item() if a.shape == b.shape else torch.inf
        )
        raise Broken(f"{what}: bits differ, by up to {difference:.2g}")


def _all_finite(x: Tensor, what: str) -> None:
    wrong = (~x.isfinite()).sum().item()
    if wrong:
        raise Broken(f"{what}: {wrong} of {x.numel()} values are not finite")


def _contents(measured: Measurement, obs: Observation) -> dict[str, object]:
    cond = {} if obs.cond is None else obs.cond.values
    tensors = {
        "y": measured.y,
        "mask": measured.operator.mask,
        **{f"condition {k}": v for k, v in cond.items()},
    }
    return {name: _bits(value) for name, value in tensors.items() if value is not None}


def _changed(before: Mapping[str, object], after: Mapping[str, object]) -> str:
    return ", ".join(name for name in before if before[name] != after[name])


# -- for the terminal ------------------------------------------------------------------------------

_MARKS = {
    PASS: "[green]pass[/]",
    FAIL: "[red]FAIL[/]",
    WARNING: "[yellow]warn[/]",
    SKIPPED: "[dim]skip[/]",
    "": "",
}


def table(report: Report) -> Table:
    """One line per promise, one column per place where it was checked, and what was not as
    promised.
    """
    columns = list(report.columns)
    view = Table("promise", *columns, "", title=f"solver={report.solver}", title_justify="left")
    found = {(column, r.name): r for column in columns for r in report.columns[column]}
    for promise in (*STATIC, *RUNNING):
        cells = [found.get((column, promise.name)) for column in columns]
        if not any(cells):
            continue
        where: dict[str, list[str]] = {}
        for column, result in zip(columns, cells, strict=True):
            if result and result.reason:
                where.setdefault(result.reason, []).append(column)
        notes = [f"{', '.join(found_in)}: {escape(reason)}" for reason, found_in in where.items()]
        note = "; ".join(notes) or f"[dim]{escape(promise.text)}[/]"
        view.add_row(
            promise.name, *(_MARKS[result.status if result else ""] for result in cells), note
        )
    return view


def summary(reports: Sequence[Report]) -> str:
    """One line per broken promise, or one that says there is none; then one per warning."""
    broken = [
        f"solver={r.solver} breaks {result.name} ({where})"
        for r in reports
        for where, result in r.failures
    ]
    odd = [
        f"warning: solver={r.solver} {result.name} ({where}): {result.reason}"
        for r in reports
        for where, result in r.warnings
    ]
    return "\n".join([*(broken or ["every promise that could be checked here is kept"]), *odd])
