"""``bench check``: check the promises of solvers on small priors, or on a prior of the user."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from posterior_bench.bench.config.build import build, operator_caps, target
from posterior_bench.bench.config.catalog import options
from posterior_bench.bench.config.compose import compose
from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.config.overrides import check as check_overrides
from posterior_bench.bench.config.plugins import admit
from posterior_bench.bench.config.presets import LATENT, default_preset, replacement
from posterior_bench.bench.config.trained_modules import load_modules
from posterior_bench.bench.conformance.checked_solver import CheckedSolver
from posterior_bench.bench.conformance.class_promises import CLASS_PROMISES, CheckedClass
from posterior_bench.bench.conformance.operator_promises import (
    OPERATOR_PROMISES,
    checked_operator,
)
from posterior_bench.bench.conformance.promise import examine
from posterior_bench.bench.conformance.results import FAIL, SKIPPED, Report, Result
from posterior_bench.bench.conformance.run_promises import RUN_PROMISES
from posterior_bench.bench.conformance.small_priors import PRIORS, small_prior
from posterior_bench.bench.conformance.small_problem import (
    SmallProblem,
    absolute_distance,
    with_few_steps,
)
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.engine.cache import shared
from posterior_bench.bench.engine.executor import device_called
from posterior_bench.bench.engine.job import unchecked
from posterior_bench.bench.external.models import converted_path
from posterior_bench.priors.base import Prior
from posterior_bench.solvers.base import Solver
from posterior_bench.solvers.latentpaint.propagation import (
    propagation_channels,
    propagation_modules,
)


def reports(solvers: str, overrides: Sequence[str] = ()) -> Iterator[Report]:
    """Check solvers one after the other.

    Parameters
    ----------
    solvers : str
        One solver, several between commas, or ``all``.
    overrides : sequence of str, default ()
        Settings of a run. ``prior=`` checks on that prior instead of the small ones;
        ``operator=`` checks the promises of that operator too.

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
    return (_report(name, settings, keys) for name, settings in jobs)


def _report(name: str, overrides: list[str], keys: set[str]) -> Report:
    """Check a solver, and the operator if the user chose one; ``keys`` are what the user set."""
    config = unchecked(compose(overrides)[0])
    admit(config.plugins)
    device = device_called(config.executor["device"]) if "executor.device" in keys else "cpu"
    own = frozenset(key.removeprefix("solver.") for key in keys if key.startswith("solver."))
    if "prior" in keys:
        config = config.with_settings("prior", converted_path(config.prior))
        prior: Prior = shared("prior", config.prior, "cpu")
        modules = load_modules(config, "cpu")
        report = check_solver(name, config, prior, modules, keep=own, device=device)
    else:
        report = check_solver(name, config, keep=own, device=device)
    if not any(key.partition(".")[0] == "operator" for key in keys):
        return report
    operator = checked_operator(config.operator, small_prior("exact"))
    return Report(name, {**report.columns, "operator": examine(OPERATOR_PROMISES, operator)})


_FOR_SOLVERS_WITH = {"text": "prompt_grad", "increments": "increments"}
"""Small priors on which only the solvers are checked that need this."""


def check_solver(
    name: str,
    config: JobConfig,
    prior: Prior | None = None,
    modules: Mapping[str, nn.Module] | None = None,
    keep: frozenset[str] = frozenset(),
    priors: Sequence[str] = tuple(PRIORS),
    device: str = "cpu",
) -> Report:
    """Check the promises of the solver of a configuration.

    Parameters
    ----------
    name : str
        Name of the solver for the report.
    config : JobConfig
        The configuration; only solver and operator matter.
    prior : Prior or None, default None
        Check on this prior instead of the small ones.
    modules : Mapping of str to torch.nn.Module or None, default None
        Modules of the solver that were trained for ``prior``; untrained modules if None.
    keep : frozenset of str, default frozenset()
        Settings of the solver that are not reduced to few steps.
    priors : Sequence of str, default all
        Names of the small priors.
    device : str, default 'cpu'
        Where the solver runs, ``cpu``, ``cuda`` or ``cuda:N``.

    Returns
    -------
    Report
        Results of the class, and of a run on every prior with the capabilities that the solver
        needs.

    Raises
    ------
    UserError
        If a setting is wrong.
    """
    try:
        checked = CheckedClass(target(config.solver), config.solver)
    except UserError as error:
        return Report(name, {"code": [Result("card", FAIL, str(error))]})
    code = examine(CLASS_PROMISES, checked)
    reason = _reason_against_a_run(code, config.solver)
    if reason:
        return Report(name, {"code": code, "run": _all_skipped(reason)})
    candidates = (
        {"prior": prior} if prior is not None else {label: small_prior(label) for label in priors}
    )
    return Report(name, {"code": code, **_run_columns(config, candidates, modules, keep, device)})


def _reason_against_a_run(code: Sequence[Result], node: Mapping[str, Any]) -> str:
    """Return why the solver cannot run; empty if it can."""
    for result in code:
        if result.name in ("card", "presets") and result.status == FAIL:
            return f"rests on {result.name}"
    missing = next((key for key, value in node.items() if value == "???"), None)
    return f"solver.{missing} is not set; give solver.{missing}=VALUE" if missing else ""


def _all_skipped(reason: str) -> list[Result]:
    return [Result(promise.name, SKIPPED, reason) for promise in RUN_PROMISES]


def _run_columns(
    config: JobConfig,
    priors: Mapping[str, Prior],
    modules: Mapping[str, nn.Module] | None,
    keep: frozenset[str],
    device: str,
) -> dict[str, list[Result]]:
    """Return the results on every prior that has what the solver needs, or one column ``run``."""
    try:
        solvers = {
            label: _checked_solver(config, prior, modules, keep) for label, prior in priors.items()
        }
    except ImportError as error:  # an optional package is missing
        return {"run": _all_skipped(str(error))}
    able = {
        label: solver
        for label, solver in solvers.items()
        if not solver.lacking and _FOR_SOLVERS_WITH.get(label) in {None, *solver.solver.needs}
    }
    if able:
        return {label: _examined(solver, device) for label, solver in able.items()}
    lacking = min((solver.lacking for solver in solvers.values()), key=len)
    reason = (
        f"it needs {', '.join(sorted(lacking))}, which this operator has not, with the "
        f"priors of this check"
    )
    # Another operator or prior may have the capability. A name that none of ours has is a mistake.
    status = SKIPPED if lacking <= _all_capabilities(priors.values()) else FAIL
    return {"run": [Result("runs", status, reason)]}


def _examined(solver: CheckedSolver, device: str) -> list[Result]:
    """Return the results of a solver's runs on a device."""
    if device == "cpu":
        return examine(RUN_PROMISES, solver)
    with solver.problem.moved(device) as there:
        return examine(RUN_PROMISES, replace(solver, problem=there))


def _all_capabilities(priors: Iterable[Prior]) -> frozenset[str]:
    """Return the capabilities of all operators, the small priors and these priors."""
    # `noise` is what a solver lacks that needs noise on the measurement
    operators = (
        operator_caps(option.content) | {"noise"} for option in options("operator").values()
    )
    small = (small_prior(label).caps for label in PRIORS)
    return frozenset[str]().union(*operators, *small, *(prior.caps for prior in priors))


def _checked_solver(
    config: JobConfig,
    prior: Prior,
    modules: Mapping[str, nn.Module] | None,
    keep: frozenset[str],
) -> CheckedSolver:
    """Build the solver for a prior; on a latent prior with its preset for latent priors."""
    node = config.solver
    latent = replacement(node.get("presets", {}), default_preset(node), LATENT)
    if prior.is_latent and latent is not None:
        node = {**node, "preset": latent}
    solver: Solver = build(node)
    short = with_few_steps(solver, keep)
    return CheckedSolver(short, _problem(short, prior, config.operator, modules), solver)


def _problem(
    solver: Solver,
    prior: Prior,
    operator: Mapping[str, Any],
    modules: Mapping[str, nn.Module] | None,
) -> SmallProblem:
    """Return the problem with the distance and the modules that the solver's settings ask for."""
    perceptual = absolute_distance if getattr(solver, "perceptual", "none") != "none" else None
    wants_modules = getattr(solver, "modules", None) is not None
    if modules is None and wants_modules and "features" in prior.caps:
        modules = _untrained_modules(prior)
    return SmallProblem(prior, operator, modules, perceptual)


def _untrained_modules(prior: Prior) -> dict[str, nn.Module]:
    """Return modules for a prior, the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        modules = propagation_modules(propagation_channels(prior))
    return dict(modules.eval().requires_grad_(False).items())
