"""Promises that are checked by running a solver on a small problem."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch

from posterior_bench.bench.config.build import operator_caps, target
from posterior_bench.bench.conformance.checked_solver import CheckedSolver
from posterior_bench.bench.conformance.comparison import (
    demand_finite,
    demand_same_bits,
    same_bits,
)
from posterior_bench.bench.conformance.promise import Broken, Promise, Skipped
from posterior_bench.bench.conformance.recording import RecordingNoise
from posterior_bench.bench.conformance.sample_warnings import warn_of_samples, warn_of_unused_y
from posterior_bench.bench.conformance.side_effects import (
    forbid_global_randomness,
    global_generator_states,
    restore_torch_settings,
)
from posterior_bench.bench.conformance.small_problem import DRAWS, IMAGES, restrict_operator
from posterior_bench.bench.engine.failures import one_line
from posterior_bench.priors.base import BudgetExceeded

# -- the samples -----------------------------------------------------------------------------------


def _runs(checked: CheckedSolver) -> None:
    _ = checked.standard_run


def _output(checked: CheckedSolver) -> None:
    x, shape = checked.samples, (len(IMAGES), len(DRAWS), *checked.problem.prior.image_shape)
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


def _finite(checked: CheckedSolver) -> None:
    demand_finite(checked.samples, "samples")


# -- side effects ----------------------------------------------------------------------------------


def _randomness(checked: CheckedSolver) -> None:
    measurement = checked.problem.measure()
    before = global_generator_states()
    with forbid_global_randomness():
        checked.solve(measurement, checked.problem.noise(measurement))
    names = ("torch", "NumPy", "Python")
    for name, old, new in zip(names, before, global_generator_states(), strict=True):
        if old != new:
            raise Broken(f"the global generator of {name} has moved; use the noise argument alone")


def _measurement(checked: CheckedSolver) -> None:
    changed = _changed(*checked.standard_run.observation)
    if changed:
        raise Broken(f"{changed} of the observation changed in place")


def _prior(checked: CheckedSolver) -> None:
    changed = _changed(*checked.standard_run.surroundings)
    if changed:
        raise Broken(f"the run left changed: {changed}")


def _changed(before: Mapping[str, object], after: Mapping[str, object]) -> str:
    return ", ".join(name for name in before if before[name] != after[name])


# -- reproducible and independent rows -------------------------------------------------------------


def _repeat(checked: CheckedSolver) -> None:
    demand_same_bits(checked.run(), checked.samples, "a second run of the same seed")


def _batch(checked: CheckedSolver) -> None:
    first = checked.samples[:1]
    copies = checked.run([IMAGES[0]] * len(IMAGES))
    demand_same_bits(copies[:1], first, "an image in a batch of its copies")
    others = checked.run([9, 8, 7, IMAGES[0]])
    demand_same_bits(others[-1:], first, "an image last in a batch of others")


def _draws(checked: CheckedSolver) -> None:
    problem, measurement = checked.problem, checked.problem.measure()
    with restore_torch_settings():
        posterior = checked.solver.fit(
            problem.observe(measurement), problem.prior, problem.noise(measurement)
        )
        # a block of draws is filled up by repetition, as the worker does
        together, alone = posterior.sample([0, 1, 2]).x, posterior.sample([2, 2, 2]).x
    demand_same_bits(alone[:, 0], together[:, 2], "draw 2 alone and draw 2 of draws 0 to 2")


def _noise(checked: CheckedSolver) -> None:
    problem = checked.problem
    noise = RecordingNoise(problem.noise(problem.measure()))
    # one measurement, with the noise of four images
    x = checked.solve(problem.measure([IMAGES[0]] * len(IMAGES)), noise)
    if not noise.calls:
        raise Skipped("deterministic: it draws no noise")
    if same_bits(x[0, 0], x[0, 1]):
        raise Broken("two draws of an image are equal, though noise was drawn")
    if same_bits(x[0, 0], x[1, 0]):
        raise Broken("two images with noise of their own have equal samples")


def _nan(checked: CheckedSolver) -> None:
    measurement = checked.problem.measure()
    # the measurement of row 1 is NaN; so is the noise of row 3, and with it state and prediction
    measurement.y[1] = torch.where(measurement.y[1] != 0, torch.nan, measurement.y[1])
    x = checked.solve(measurement, RecordingNoise(checked.problem.noise(measurement), range(3, 4)))
    demand_same_bits(x[[0, 2]], checked.samples[[0, 2]], "images beside others that are NaN")


# -- budget, truth, masks and needs ----------------------------------------------------------------


def _budget(checked: CheckedSolver) -> None:
    prior, standard = checked.problem.prior, checked.standard_run
    nfe = standard.counts["nfe"]
    if nfe != standard.evaluations:
        raise Broken(
            f"the meter counts {nfe} network evaluations, but {standard.evaluations} were made"
        )
    if nfe == 0:
        raise Skipped("it makes no network call")
    try:
        with prior.metered(limit=nfe - 1) as again:
            checked.run()
    except BudgetExceeded:
        if again.nfe == nfe:
            return
        raise Broken(
            f"two equal runs cost {nfe} and at least {again.nfe} network evaluations"
        ) from None
    if again.nfe < nfe:
        raise Broken(f"two equal runs cost {nfe} and {again.nfe} network evaluations")
    raise Broken("it went on after its budget was spent: BudgetExceeded must not be caught")


def _truth(checked: CheckedSolver) -> None:
    if "pinv" not in operator_caps(checked.problem.operator):
        raise Skipped(
            "the operator has no pseudo-inverse, so no other image with this measurement is known"
        )
    x = checked.run(other_truth=True)
    demand_same_bits(x, checked.samples, "the same measurement of other images")


def _masks(checked: CheckedSolver) -> None:
    if not target(checked.problem.operator).takes_mask:
        raise Skipped("the operator takes no mask")
    masks = ("all", "nothing", "all", "nothing")
    x = checked.run(masks=masks)
    for kind in ("all", "nothing"):
        rows = [i for i, mask in enumerate(masks) if mask == kind]
        demand_finite(x[rows], f"samples with {kind} observed")


def _needs(checked: CheckedSolver) -> None:
    problem, measurement = checked.problem, checked.problem.measure()
    needs = checked.solver.lacks(frozenset(), problem.sigma)
    bare = dataclasses.replace(measurement, operator=restrict_operator(measurement.operator, needs))
    try:
        x = checked.solve(bare, problem.noise(bare))
    except Exception as error:
        raise Broken(
            f"it asks the operator for what is not among its needs: {one_line(error)}"
        ) from error
    demand_finite(x, "samples with an operator that can do no more than the needs say")


# -- precision and device --------------------------------------------------------------------------


def _bfloat16(checked: CheckedSolver) -> None:
    with torch.autocast(torch.device(checked.problem.device).type, torch.bfloat16):
        x = checked.run()
    if tuple(x.shape) != tuple(checked.samples.shape):
        raise Broken(f"under bfloat16 autocast samples have the shape {tuple(x.shape)}")
    demand_finite(x, "samples under bfloat16 autocast")


def _gpu(checked: CheckedSolver) -> None:
    if checked.problem.device != "cpu":
        raise Skipped(f"every promise is checked on {checked.problem.device}")
    if not torch.cuda.is_available():
        raise Skipped("there is no GPU here")
    with checked.problem.moved("cuda") as there:
        again = dataclasses.replace(checked, problem=there)
        x = again.run()
        if x.device.type != "cuda":
            raise Broken(
                f"samples are on {x.device.type}, though prior and measurement are on the GPU"
            )
        demand_finite(x, "samples on the GPU")
        demand_same_bits(again.run(), x, "a second run on the GPU")


_CLEAN = ("output", "randomness", "measurement", "prior")
RUN_PROMISES = (
    Promise("runs", "a run ends without an error", _runs),
    Promise("output", "samples are float32 (N, D, C, H, W) without a gradient", _output, ("runs",)),
    Promise("finite", "samples are finite", _finite, ("output",)),
    Promise(
        "randomness",
        "no global generator is used: they raise, and their states stay",
        _randomness,
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
    Promise("noise", "images and draws have noise of their own", _noise, ("repeat",)),
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
        "heeds",
        "another measurement gives other samples (else a warning)",
        warn_of_unused_y,
        ("repeat",),
    ),
    Promise(
        "agrees",
        "samples agree with the measurement, in the range of images (else a warning)",
        warn_of_samples,
        ("finite",),
    ),
    Promise("bfloat16", "a run under bfloat16 autocast is finite", _bfloat16, ("finite",)),
    Promise(
        "gpu",
        "a run on the GPU stays there, is finite and repeats its bits",
        _gpu,
        ("finite",),
    ),
)
"""The promises of a run, in the order of the table."""
