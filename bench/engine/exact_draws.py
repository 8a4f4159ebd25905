"""Reference draws of the posterior, for the metrics that compare with them.

They are made once per measurement and shared by all solvers. The first solver of
:func:`reference_solvers` that applies makes them. Closed forms are made anew in every process;
long runs are stored in the folder of the study.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from posterior_bench.bench.config.build import data_caps, task_caps
from posterior_bench.bench.config.cell import digest
from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.core.errors import Inapplicable
from posterior_bench.bench.core.streams import Key, Noise
from posterior_bench.bench.engine.arena import build_images
from posterior_bench.bench.engine.enumerated import are_enumerated, enumerated
from posterior_bench.bench.store.references import ReferenceStore
from posterior_bench.bench.store.truth import truth_hash
from posterior_bench.priors.base import Prior
from posterior_bench.priors.mixture import MixturePrior
from posterior_bench.priors.process import CLEAN
from posterior_bench.solvers.base import Observation, Posterior, Solver
from posterior_bench.solvers.exact import Exact
from posterior_bench.solvers.gibbs import Gibbs
from posterior_bench.solvers.long_run import LongRun
from posterior_bench.solvers.shared.likelihood import gradient

if TYPE_CHECKING:
    from posterior_bench.bench.engine.measurement import Measurement

DRAWS = 512
SIGMA_FLOOR = 0.001
"""The noise a measurement is taken to have at least: what ``solver=exact`` takes too."""

STORED = ("mean", "mode_weights", "rhat", "ess", "error")
"""What a posterior of a long run may have beside its draws, one row per image."""

REFERENCE = "reference"
"""The capability of a prior and an operator whose posterior has a reference solver."""

_CACHE_BYTES = 512 * 2**20
_CACHE: dict[str, Reference] = {}
_STORES: list[ReferenceStore] = []
"""The store of the study that is being computed, if there is one."""


@dataclass(frozen=True)
class Reference:
    """Reference draws of a measurement.

    Parameters
    ----------
    x : Tensor
        Draws ``(N, R, C, H, W)``, float32 on the CPU.
    mean : Tensor
        Posterior means ``(N, C, H, W)``, as exact as the solver knows them.
    mode_weights : Tensor or None
        Posterior weights ``(N, K)`` of the components, for a mixture.
    assign : Callable or None
        Function that returns the components ``(M, K)`` of images ``(M, C, H, W)``.
    log_density : Callable or None
        Function that returns the log density of the posterior ``(N, M)``, up to a number per row,
        of draws ``(N, M, C, H, W)``.
    score : Callable or None
        Function that returns its gradient, shaped like the draws.
    rhat, ess, error : Tensor or None
        Largest split R-hat, smallest effective sample size, and standard error of the mean relative
        to the spread of the posterior, ``(N,)``; None for independent draws.
    """

    x: Tensor
    mean: Tensor
    mode_weights: Tensor | None = None
    assign: Callable[[Tensor], Tensor] | None = None
    log_density: Callable[[Tensor], Tensor] | None = None
    score: Callable[[Tensor], Tensor] | None = None
    rhat: Tensor | None = None
    ess: Tensor | None = None
    error: Tensor | None = None


def reference_solvers() -> tuple[Solver, ...]:
    """Return the solvers that may make references, the best one first."""
    return (Exact(sigma_floor=SIGMA_FLOOR), Gibbs(sigma_floor=SIGMA_FLOOR), LongRun())


def reference_solver(has: frozenset[str], sigma: float) -> Solver | None:
    """Return the first reference solver that needs no capability beyond ``has``."""
    return next((s for s in reference_solvers() if not s.lacks(has, sigma)), None)


def reference_caps(config: JobConfig, prior: Prior) -> frozenset[str]:
    """Return the capabilities of prior and operator, with :data:`REFERENCE` where it applies."""
    has = prior.caps | task_caps(config)
    solver = reference_solver(has, float(config.operator.get("sigma") or 0))
    return has if solver is None else has | {REFERENCE}


@contextmanager
def stored_in(study: Path) -> Iterator[None]:
    """Store the references of long runs in the folder of a study, and read them there."""
    _STORES.append(ReferenceStore(study))
    try:
        yield
    finally:
        _STORES.pop()


def exact_reference(config: JobConfig, prior: Prior, measured: Measurement) -> Reference:
    """Return reference draws for a measurement.

    They use the stream ``metric``, which no solver has seen. They are kept for the next cells that
    measure the same, as in a sweep over solvers.

    Raises
    ------
    Inapplicable
        If no reference solver applies to this prior and operator.
    """
    problem = [config.data, config.mask, config.operator, config.prior, config.seed]
    key = digest(
        [problem, [key.image for key in measured.keys], measured.truths, str(prior.device)]
    )
    if key not in _CACHE:
        _CACHE[key] = _reference(config, prior, measured)
        while len(_CACHE) > 1 and sum(kept.x.nbytes for kept in _CACHE.values()) > _CACHE_BYTES:
            _CACHE.pop(next(iter(_CACHE)))
    return _CACHE[key]


def _reference(config: JobConfig, prior: Prior, measured: Measurement) -> Reference:
    has = prior.caps | measured.operator.caps | data_caps(config.data)
    solver = reference_solver(has, float(measured.operator.sigma))
    if solver is None:
        raise Inapplicable(
            f"no reference solver applies to a {type(prior).__name__} and a "
            f"{type(measured.operator).__name__}; leave metrics out that compare with one"
        )
    if are_enumerated(solver, config.data):
        images = build_images(config.data, prior, config.seed)
        made = _drawn(
            enumerated(images, prior, measured, Noise(measured.keys, "metric", prior.device))
        )
    elif isinstance(solver, Exact):
        made = _made(solver, prior, measured.keys, Observation(measured.y, measured.operator))
    else:
        made = _long_runs(solver, config, prior, measured)
    return _with_density(_assembled(made, prior), prior, measured)


def _made(solver: Solver, prior: Prior, keys: Sequence[Key], obs: Observation) -> dict[str, Tensor]:
    """Make references; every tensor has one row per image."""
    return _drawn(solver.fit(obs, prior, Noise(keys, "metric", prior.device)))


def _drawn(posterior: Posterior) -> dict[str, Tensor]:
    """Draw references; every tensor has one row per image."""
    x = posterior.sample(range(DRAWS)).x
    told = {name: getattr(posterior, name, None) for name in STORED}
    made = {"mean": x.double().mean(1), **{k: v for k, v in told.items() if v is not None}}
    return {"x": x.float().cpu(), **{name: values.cpu() for name, values in made.items()}}


def _long_runs(
    solver: Solver, config: JobConfig, prior: Prior, measured: Measurement
) -> dict[str, Tensor]:
    """Read the references of a measurement, and make those that are not stored."""
    names = [_name(solver, config, prior, measured, i) for i in range(len(measured.keys))]
    store = _STORES[-1] if _STORES else None
    if store is None:
        return _stacked(names, _missing(solver, prior, measured, names, {}))
    with store.locked(names):
        found = {name: tensors for name in names if (tensors := store.read(name)) is not None}
        made = _missing(solver, prior, measured, names, found)
        for name, tensors in made.items():
            image = measured.keys[names.index(name)].image
            store.write(name, tensors, _about(solver, config, image, tensors))
        if made:
            store.write_table()
    return _stacked(names, {**found, **made})


def _missing(
    solver: Solver,
    prior: Prior,
    measured: Measurement,
    names: Sequence[str],
    found: dict[str, dict[str, Tensor]],
) -> dict[str, dict[str, Tensor]]:
    """Make the references that were not found, once for images that fill up a batch."""
    rows = [names.index(name) for name in dict.fromkeys(names) if name not in found]
    if not rows:
        return {}
    keys = [measured.keys[row] for row in rows]
    obs = Observation(measured.y[rows], measured.operator.select(rows))
    made = _made(solver, prior, keys, obs)
    return {names[row]: {k: v[i] for k, v in made.items()} for i, row in enumerate(rows)}


def _stacked(names: Sequence[str], found: dict[str, dict[str, Tensor]]) -> dict[str, Tensor]:
    return {key: torch.stack([found[name][key] for name in names]) for key in found[names[0]]}


def _name(solver: Solver, config: JobConfig, prior: Prior, measured: Measurement, row: int) -> str:
    """Return a hash of everything that the reference of an image depends on."""
    key = measured.keys[row]
    method = [type(solver).__name__, solver.version, vars(solver), DRAWS, prior.device.type]
    problem = [config.mask, config.operator, config.prior, key.study, key.data, key.image]
    seen = [truth_hash(values) for values in (measured.truth[row], measured.y[row])]
    return digest([method, problem, seen])


def _about(
    solver: Solver, config: JobConfig, image: str, tensors: dict[str, Tensor]
) -> dict[str, str]:
    numbers: dict[str, str] = {
        k: f"{tensors[k].item():.4g}" for k in ("rhat", "ess", "error") if k in tensors
    }
    operator = str(config.operator["_target_"]).rsplit(".", 1)[-1]
    about = {
        "image_id": image,
        "data": str(config.data["name"]),
        "operator": operator,
        "solver": type(solver).__name__,
    }
    return about | numbers


def _assembled(made: Mapping[str, Any], prior: Prior) -> Reference:
    assign = prior.responsibilities if isinstance(prior, MixturePrior) else None
    return Reference(assign=assign, **made)


def _with_density(reference: Reference, prior: Prior, measured: Measurement) -> Reference:
    """Add the density of the posterior, where the prior has one."""
    log_prob: Any = getattr(prior, "log_prob", None)
    if log_prob is None:
        return reference

    def log_density(x: Tensor) -> Tensor:
        rows, draws = x.shape[:2]
        x = x.double().to(prior.device).flatten(0, 1)
        y = measured.y.double().repeat_interleave(draws, 0)
        likelihood = measured.operator.repeat(draws).log_likelihood(x, y, SIGMA_FLOOR)
        total: Tensor = log_prob(x, CLEAN) + likelihood
        return total.view(rows, draws)

    def score(x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().double().requires_grad_()
            return gradient(log_density(x), x)

    smooth = "exact" in prior.caps
    return replace(reference, log_density=log_density, score=score if smooth else None)
