"""Choose how much work a solver does, so that every solver has an equal budget.

``budget=nfe:N`` allows a draw N forward passes of the network, ``budget=passes:N`` N forward and
backward passes together; its share of the fit is included. The settings that a solver's class calls
its work (:attr:`solvers.base.Solver.work`) are multiplied by one factor, the largest that stays
within the budget.

Passes are counted in dry runs on the cell's own prior and the measurement of its first image.
Everything that takes time (network, autoencoder, perceptual distance) is replaced there by
functions of single pixels. Solvers that need the ``features`` of a network run on the network
itself. If the number of calls depends on the output of the network, as in the line search of
CoPaint, a dry run only estimates it, and the solver's ``margin`` of the budget is left free. A call
that one row needs is then a call for all rows, so several images and all draws are counted
together. The worker still limits every run, in the unit of the budget.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from posterior_bench.bench.config.cell import shipped_solver
from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.core.cost import Budget
from posterior_bench.bench.core.errors import Inapplicable, UserError
from posterior_bench.bench.core.foreign import foreign
from posterior_bench.bench.core.isolation import isolated
from posterior_bench.bench.core.streams import Key, Noise
from posterior_bench.bench.engine.failures import one_line
from posterior_bench.bench.engine.session import Session
from posterior_bench.priors.base import UNITS, BudgetExceeded, Prior, Shape
from posterior_bench.priors.replaced import replaced
from posterior_bench.solvers.base import Observation, Solver

_RUNS = 40
"""Dry runs at most; the search takes a handful."""

_ROWS, _NUMBERS = 512, 2**22
"""Rows of a dry run of a solver whose number of calls varies, and pixels in them, at most."""


def within_budget(
    config: JobConfig,
    choices: Mapping[str, Any],
    session: Session,
    countable: Callable[[], Session] | None = None,
) -> JobConfig:
    """Return the configuration with the work of its solver chosen for its budget.

    It stays as it is if the user has set some of the work.

    Parameters
    ----------
    config, choices
        The configuration, and the name of the chosen option of every group.
    session : Session
        The solver of the cell, beside a prior that may lack its weights.
    countable : callable, default None
        Returns the session whose network passes are counted; None = ``session``.

    Raises
    ------
    Inapplicable
        If the solver has no such settings, or its least work exceeds the budget.
    """
    return with_work(
        config,
        choices,
        session.solver,
        lambda unit: Trial.of((countable or (lambda: session))(), unit),
    )


def with_work(
    config: JobConfig,
    choices: Mapping[str, Any],
    solver: Solver,
    make: Callable[[str], Trial],
) -> JobConfig:
    """Do the same as :func:`within_budget` on the trial that ``make`` returns for a unit.

    ``make`` is called only if passes must be counted.
    """
    if config.budget is None:
        return config
    allowed, node = Budget.of(config.budget), config.solver
    usual = shipped_solver(node, str(choices["solver"]))
    given = {key for key, value in node.items() if value is not None and value != usual.get(key)}
    if given & solver.workload.keys():
        return config
    name, budget = type(solver).__name__, f"budget={config.budget}"
    if not solver.workload:
        raise Inapplicable(
            f"{name} has no setting for how much work it does, so none can be chosen for {budget}"
        )
    trial = make(allowed.unit)
    chosen = _most(solver, trial, int(allowed.amount / (1 + solver.margin)))
    if chosen is None:
        least = math.ceil(trial.cost(_least(solver)) * (1 + solver.margin))
        raise Inapplicable(
            f"{name} takes at least {least} {UNITS[allowed.unit]} per draw with this preset, more "
            f"than {budget}; give "
            f"budget={allowed.unit}:{least} or more, or another solver.preset"
        )
    tied = [key for key in solver.growth if key not in given and getattr(solver, key) != 1]
    tuned = {key: getattr(chosen, key) for key in (*solver.workload, *tied)}
    return config.with_settings("solver", tuned)


# -- the search ------------------------------------------------------------------------------------


def _most(solver: Solver, trial: Trial, limit: int) -> Solver | None:
    """Return the solver with the most work within the limit; None if there is none."""
    size = max(solver.workload.values())

    def count(k: int) -> float:
        settings = _sized(solver, k)
        if settings is None:  # too little, or too much
            return -math.inf if k < size else math.inf
        return trial.cost(settings, limit)

    return _sized(solver, _largest(count, size, limit))


def _sized(solver: Solver, k: int) -> Solver | None:
    """Return the solver whose largest work setting is ``k``.

    None if ``k`` is 0 or the constructor refuses it.
    """
    try:
        return solver.scaled(k / max(solver.workload.values())) if k else None
    except ValueError:
        return None


def _least(solver: Solver) -> Solver:
    return next(
        found for k in range(1, 1 + max(solver.workload.values())) if (found := _sized(solver, k))
    )


def _largest(count: Callable[[int], float], usual: int, limit: int) -> int:
    """Return the largest ``k`` with ``count(k) <= limit``, 0 if there is none.

    ``usual`` is returned if a larger ``k`` counts no more, and ``usual`` neither: counts with
    jumps, as of time travel, stay the same for a few ``k`` and rise then. The search follows
    secants, and halves the interval after a step that leads too far. It ends early where a count is
    what the two counts before it predicted, and predicts that the next count is too large.
    """
    good, cost, bad, slope, k = 0, 0.0, math.inf, math.nan, max(1, min(usual, limit) // 8)
    for _ in range(_RUNS):
        found = count(k)
        if 0 <= found == cost == count(usual):
            return usual
        if found == limit or (
            found == cost + slope * (k - good) and found <= limit < found + slope
        ):
            return k
        if found > limit:
            bad, k = k, (good + k) // 2
        else:
            slope = (max(found, 0.0) - cost) / (k - good)
            good, cost = k, max(found, 0.0)
            further = (limit - cost) // slope if slope > 0 else good
            k = int(min(good + max(1, further), bad - 1))
        if bad - good <= 1:
            break
    return good


# -- a dry run -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trial:
    """The images and the prior on which a solver's passes are counted.

    ``unit`` says what is counted, ``nfe`` or ``passes`` (:class:`priors.base.Meter`). ``draws`` is
    how many draws share a fit, and ``taken`` how many of them are counted.
    """

    prior: Prior
    obs: Observation
    keys: list[Key]
    draws: int
    unit: str = "nfe"
    taken: int = 1

    @classmethod
    def of(cls, session: Session, unit: str) -> Self:
        """Return a trial on the first image of a session's cell.

        Where the number of calls varies between rows, it is on several images and all draws. They
        are the same whatever the batch of the run, because settings that follow from a budget are
        part of the cell.
        """
        draws, images = session.config.draws, 1
        if several := session.solver.margin > 0:
            rows = min(_ROWS, _NUMBERS // math.prod(session.prior.image_shape))
            images = max(1, rows // draws)
        measured = session.measure(session.images.ids[:images])
        perceptual = None if session.perceptual is None else _apart
        cond = session.condition(measured)
        obs = Observation(measured.y, measured.operator, cond, perceptual, session.modules)
        return cls(session.prior, obs, list(measured.keys), draws, unit, draws if several else 1)

    def cost(self, solver: Solver, limit: float = math.inf) -> float:
        """Return what one draw takes, its share of the fit included.

        Above ``limit`` the dry run ends, and the cost is infinite.

        Raises
        ------
        UserError
            If the solver fails.
        """
        noise = Noise(self.keys, "solver", str(self.obs.y.device))
        whole, images = "features" in solver.needs, self.obs.n
        most = limit * self.draws * images
        with weightless(self.prior, whole), self.prior.metered(most, unit=self.unit) as meter:
            try:
                with isolated(), foreign():
                    posterior = solver.fit(self.obs, self.prior, noise)
                    fit = meter.spent
                    share = fit / images / self.draws
                    meter.limit = fit + (limit - share) * images * self.taken
                    posterior.sample(range(self.taken))
            except BudgetExceeded:
                return math.inf
            except Exception as error:
                raise UserError(
                    f"{type(solver).__name__} failed while its network passes were counted: "
                    f"{one_line(error)}"
                ) from error
        return share + (meter.spent - fit) / images / self.taken


@contextmanager
def weightless(prior: Prior, whole: bool) -> Iterator[None]:
    """Let a prior count and behave as ever in the block, but run no network and no decoder.

    With ``whole`` the network is run. The prediction in its place is that of pixels from two narrow
    Gaussians: smooth, bounded, and right at every noise level. A prior in closed form stays as it
    is.
    """
    with ExitStack() as stack:
        if prior.latent is not None:
            image, latent = prior.image_shape, prior.latent_shape
            stack.enter_context(
                replaced(
                    prior.latent,
                    encode=lambda x, noise=None: _resized(x, latent),
                    decode=lambda z: _resized(z, image),
                )
            )
        if prior.net is not None and not whole:
            times = 2 if prior.learned_var else 1
            stack.enter_context(
                replaced(
                    prior,
                    run_network=lambda x, t, values: torch.cat([_read(x, values)] * times, 1),
                    # the output has no effect, but prompts and states have a gradient through it
                    x0_of_output=lambda out, z, alpha, sigma: _predicted(z, alpha, sigma) + 0 * out,
                )
            )
        yield


def _read(x: Tensor, values: Mapping[str, Tensor]) -> Tensor:
    """Return ``x`` with a gradient, zero, in every embedded prompt that asks for one."""
    for value in values.values():
        if value.requires_grad:
            x = x + 0 * value.sum()
    return x


def _predicted(
    z: Tensor, alpha: Tensor, sigma: Tensor, centre: float = 0.5, spread: float = 0.1
) -> Tensor:
    """``E[x0 | z]`` for pixels from ``N(centre, spread^2)`` or ``N(-centre, spread^2)``."""
    variance = alpha**2 * spread**2 + sigma**2
    pull, share = (centre * alpha / variance).to(z), (alpha * spread**2 / variance).to(z)
    mean = centre * torch.tanh(pull * z)
    return mean + share * (z - alpha.to(z) * mean)


def _resized(x: Tensor, shape: Shape) -> Tensor:
    """Put the mean of all channels into every channel of the other shape."""
    return F.interpolate(x.mean(1, keepdim=True), size=shape[1:]).expand(-1, shape[0], -1, -1)


def _apart(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).square().flatten(1).mean(1)
