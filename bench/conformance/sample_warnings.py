"""Warnings about samples that break no promise but look wrong."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from posterior_bench.bench.conformance.checked_solver import CheckedSolver
from posterior_bench.bench.conformance.comparison import same_bits
from posterior_bench.bench.conformance.promise import Doubtful, Skipped
from posterior_bench.bench.conformance.small_problem import IMAGES, SmallProblem
from posterior_bench.bench.core.streams import Key, Noise
from posterior_bench.bench.engine.measurement import Measurement
from posterior_bench.priors.mixture import MixturePrior

_RANGE_FACTOR, _RESIDUAL_SHARE = 3.0, 0.25
"""Samples look wrong beyond this multiple of the prior's range, or above this share of the residual
of images that the prior draws without the measurement.

A grey image has half of that residual. Of the solvers of this product, DPS has the largest share, a
ninth.
"""


def warn_of_unused_y(checked: CheckedSolver) -> None:
    """Raise Doubtful if another measurement gives the same samples."""
    measurement = checked.problem.measure()
    other = dataclasses.replace(measurement, y=-measurement.y)
    if same_bits(checked.solve(other, checked.problem.noise(other)), checked.samples):
        raise Doubtful("another measurement gives the same samples: the measurement is not used")


def warn_of_samples(checked: CheckedSolver) -> None:
    """Raise Doubtful if samples leave the range of images or disagree with the measurement.

    The solver runs in full length on images of a prior in closed form, because residual and range
    of good samples are known there.
    """
    prior, problem = checked.problem.prior, checked.problem
    if not isinstance(prior, MixturePrior):
        raise Skipped("what the samples should look like is known on priors in closed form alone")
    images, other_images = (_images_of(prior, problem, draw) for draw in (0, 1))
    measurement = problem.measure(truth=images)
    full = dataclasses.replace(checked, solver=checked.full_length or checked.solver)
    x = full.solve(measurement, problem.noise(measurement)).flatten(0, 1)
    largest, expected = x.abs().max().item(), images.abs().max().item()
    if largest > _RANGE_FACTOR * max(expected, 1.0):
        raise Doubtful(
            f"samples reach {largest:.3g}, images of this prior {expected:.2g}: return them in "
            "[-1, 1]"
        )
    residual, blind = (_residual(measurement, samples) for samples in (x, other_images))
    if residual > _RESIDUAL_SHARE * blind:
        raise Doubtful(
            f"the residual on what was observed is {residual:.2g}, that of images drawn without "
            f"looking {blind:.2g}: is the mask inverted (True = observed), an image transposed, "
            "its range not [-1, 1]?"
        )


def _images_of(prior: MixturePrior, problem: SmallProblem, draw: int) -> Tensor:
    """Draw images ``(N, C, H, W)`` of the prior; another ``draw`` gives other images."""
    keys = [Key(0, "check", str(i)) for i in IMAGES]
    noise = Noise(keys, "metric", problem.device, draw + 2)
    return prior.sample(noise.uniform(()), noise.normal(prior.image_shape))


def _residual(measurement: Measurement, images: Tensor) -> float:
    """Return the mean square of ``A(images) - y``, images ``(N * draws, C, H, W)``."""
    times = len(images) // len(measurement.y)
    operator, y = measurement.operator.repeat(times), measurement.y.repeat_interleave(times, 0)
    return float((operator.A(images) - y).square().mean())
