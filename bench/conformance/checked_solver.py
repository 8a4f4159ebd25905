"""A solver on a small problem, and the standard run with which other runs are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from posterior_bench.bench.config.build import target
from posterior_bench.bench.conformance.comparison import bits
from posterior_bench.bench.conformance.recording import count_network_rows
from posterior_bench.bench.conformance.side_effects import restore_torch_settings, snapshot
from posterior_bench.bench.conformance.small_problem import DRAWS, IMAGES, SmallProblem
from posterior_bench.bench.engine.measurement import Measurement
from posterior_bench.solvers.base import Noise, Observation, Solver


@dataclass(frozen=True)
class StandardRun:
    """The samples of a run, and what it changed and cost.

    Parameters
    ----------
    x : Tensor
        Samples ``(N, D, C, H, W)``.
    observation : tuple of two Mappings of str to object
        Contents of the observation before and after the run.
    surroundings : tuple of two Mappings of str to object
        State of the prior and of the process before and after the run.
    counts : Mapping of str to int
        Calls by the meter of the prior.
    evaluations : int
        Rows that reached the network.
    """

    x: Tensor
    observation: tuple[Mapping[str, object], Mapping[str, object]]
    surroundings: tuple[Mapping[str, object], Mapping[str, object]]
    counts: Mapping[str, int]
    evaluations: int


@dataclass(frozen=True)
class CheckedSolver:
    """A solver and the small problem on which it is checked.

    Parameters
    ----------
    solver : Solver
        The solver, with few steps.
    problem : SmallProblem
        The problem.
    full_length : Solver or None, default None
        The solver with all its steps; None if ``solver`` has them.
    """

    solver: Solver
    problem: SmallProblem
    full_length: Solver | None = None

    def run(
        self,
        images: Sequence[int] = IMAGES,
        masks: tuple[str, ...] = ("box",),
        other_truth: bool = False,
    ) -> Tensor:
        """Return samples ``(N, D, C, H, W)`` of a new measurement.

        The arguments are those of :meth:`SmallProblem.measure`.
        """
        measurement = self.problem.measure(images, masks, other_truth)
        return self.solve(measurement, self.problem.noise(measurement))

    def solve(self, measurement: Measurement, noise: Noise) -> Tensor:
        """Return samples ``(N, D, C, H, W)`` of a measurement.

        As in a run, the truth is in the frames of the callers, where a solver could find it.
        """
        with restore_torch_settings():
            return self._solve(measurement, noise)

    def _solve(self, measurement: Measurement, noise: Noise) -> Tensor:
        obs = self.problem.observe(measurement)
        return self.solver.fit(obs, self.problem.prior, noise).sample(DRAWS).x

    @cached_property
    def standard_run(self) -> StandardRun:
        """The run with which other runs are compared; it is made once."""
        problem, prior = self.problem, self.problem.prior
        measurement = problem.measure()
        with restore_torch_settings():
            before, state = _contents(measurement, problem.observe(measurement)), snapshot(prior)
            with prior.metered() as meter, count_network_rows(prior) as rows:
                x = self._solve(measurement, problem.noise(measurement))
            after = _contents(measurement, problem.observe(measurement))
            return StandardRun(
                x, (before, after), (state, snapshot(prior)), meter.counts(), rows.nfe
            )

    @property
    def lacking(self) -> frozenset[str]:
        """Capabilities that the solver needs and the problem does not have."""
        problem = self.problem
        return self.solver.lacks(problem.prior.caps | target(problem.operator).caps, problem.sigma)

    @property
    def samples(self) -> Tensor:
        """Samples ``(N, D, C, H, W)`` of the standard run."""
        return self.standard_run.x


def _contents(measurement: Measurement, obs: Observation) -> dict[str, object]:
    """Return the bits of every tensor that the solver may see of a measurement."""
    cond = {} if obs.cond is None else obs.cond.values
    tensors = {
        "y": measurement.y,
        "mask": measurement.operator.mask,
        **{f"condition {k}": v for k, v in cond.items()},
    }
    return {name: bits(value) for name, value in tensors.items() if value is not None}
