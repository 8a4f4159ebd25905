"""Promises of an operator: what its capabilities say, checked on random images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from posterior_bench.bench.conformance.promise import Broken, Promise, Skipped
from posterior_bench.bench.conformance.small_problem import SmallProblem
from posterior_bench.bench.core.streams import Key, Noise
from posterior_bench.operators.base import Operator
from posterior_bench.priors.base import Prior

ERROR = 1e-6
"""Largest relative error of an identity in float64: iterations may stop at 1e-8."""
RHO = 0.3


@dataclass(frozen=True)
class CheckedOperator:
    """An operator with random images and measurements, float64.

    Parameters
    ----------
    operator : Operator
        The operator.
    x, z : Tensor
        Images ``(N, C, H, W)``.
    y : Tensor
        Random numbers, shaped like a measurement.
    """

    operator: Operator
    x: Tensor
    z: Tensor
    y: Tensor


def checked_operator(node: Mapping[str, Any], prior: Prior) -> CheckedOperator:
    """Build an operator for the images of a prior.

    Parameters
    ----------
    node : Mapping of str to Any
        Configuration of the operator, as in ``conf/operator``.
    prior : Prior
        The prior.

    Returns
    -------
    CheckedOperator
        The operator and random numbers for it.
    """
    measurement = SmallProblem(prior, node).measure()
    keys = [Key(1, "check", str(i)) for i in range(len(measurement.truth))]
    x, z = (Noise(keys, "metric", "cpu", i).normal(prior.image_shape) for i in (0, 1))
    y = Noise(keys, "metric", "cpu", 2).normal(measurement.y.shape[1:])
    return CheckedOperator(measurement.operator, x.double(), z.double(), y.double())


def _demand_equal(found: Tensor, expected: Tensor, identity: str) -> None:
    if found.shape != expected.shape:
        raise Broken(
            f"{identity} does not hold: shapes {tuple(found.shape)} and {tuple(expected.shape)}"
        )
    error = float((found - expected).norm() / expected.norm().clamp(min=1e-12))
    if not error <= ERROR:
        raise Broken(f"{identity} does not hold: relative error {error:.1g}")


def _needing(
    capability: str, check: Callable[[CheckedOperator], None]
) -> Callable[[CheckedOperator], None]:
    """Return the check, skipped for an operator without the capability."""

    def checked(checked: CheckedOperator) -> None:
        if capability not in checked.operator.caps:
            raise Skipped(f"the operator does not say that it has {capability}")
        check(checked)

    return checked


def _measures(checked: CheckedOperator) -> None:
    operator, x = checked.operator, checked.x
    y = operator.A(x.float())
    if len(y) != len(x) or y.dtype != torch.float32:
        raise Broken(f"A turns float32 {tuple(x.shape)} into {y.dtype} {tuple(y.shape)}")
    spoilt = x.clone()
    spoilt[1] = torch.nan
    if not torch.equal(operator.A(spoilt)[[0, 2]], operator.A(x)[[0, 2]]):
        raise Broken("an image changes the measurement of another one")


def _linear(checked: CheckedOperator) -> None:
    operator, x, z, y = checked.operator, checked.x, checked.z, checked.y
    A, At = operator.A, operator.At
    _demand_equal(A(2 * x - 3 * z), 2 * A(x) - 3 * A(z), "A(2 x - 3 z) = 2 A x - 3 A z")
    left, right = (A(x) * y).flatten(1).sum(1), (x * At(y)).flatten(1).sum(1)
    _demand_equal(left, right, "<A x, y> = <x, At y>")


def _spectrum(checked: CheckedOperator) -> None:
    operator, x, z, y = checked.operator, checked.x, checked.z, checked.y
    spectrum = operator.spectrum(x)
    V, Vt = spectrum.image, spectrum.coordinates
    _demand_equal(V(Vt(x)), x, "V V^T x = x")
    _demand_equal(Vt(V(x)), x, "V^T V x = x")
    _demand_equal((Vt(x) * z).sum(), (x * V(z)).sum(), "<V^T x, z> = <x, V z>")
    _demand_equal(operator.At(y), V(spectrum.exact * spectrum.measured(y)), "A^T = V S U^T")
    _demand_equal(operator.At(operator.A(V(x))), V(spectrum.exact**2 * x), "A^T A V = V S^2")
    if (spectrum.values < 0).any() or spectrum.values.dtype != torch.float64:
        raise Broken("singular values must be float64, and 0 or more")
    if "pinv" in operator.caps:
        _demand_equal(V(spectrum.solution(y)), operator.pinv(y), "V solution(y) = A^+ y")


def _pseudo_inverse(checked: CheckedOperator) -> None:
    operator, x, z, y = checked.operator, checked.x, checked.z, checked.y
    A, pinv = operator.A, operator.pinv
    _demand_equal(pinv(A(pinv(y))), pinv(y), "A^+ A A^+ y = A^+ y")
    _demand_equal((pinv(A(x)) * z).sum(), (x * pinv(A(z))).sum(), "<A^+ A x, z> = <x, A^+ A z>")


def _proximal(checked: CheckedOperator) -> None:
    operator, x, z, y = checked.operator, checked.x, checked.z, checked.y
    u = operator.prox(x, y, RHO)
    if "linear" in operator.caps:
        # the gradient of the objective is zero, against the size of its parts
        gradient = operator.At(operator.A(u) - y) + RHO * u
        _demand_equal(gradient, RHO * x, "At(A u - y) + rho (u - x) = 0 for u = prox(x, y, rho)")
    least = _objective(checked, u)
    for other in (x, u + 0.1 * z, u - 0.1 * z):
        if not (least <= _objective(checked, other) * (1 + ERROR)).all():
            raise Broken("prox(x, y, rho) is not the least |A u - y|^2 + rho |u - x|^2")


def _amplitudes(checked: CheckedOperator) -> None:
    operator, x, z = checked.operator, checked.x, checked.z
    wide = operator.embed(x)
    _demand_equal(operator.extract(wide), x, "extract(embed(x)) = x")
    _demand_equal(operator.with_amplitudes(wide, operator.A(x)), wide, "A x are amplitudes of x")
    again = operator.with_amplitudes(operator.embed(z), operator.A(x))
    _demand_equal(
        operator.with_amplitudes(again, operator.A(x)), again, "amplitudes are given once"
    )


def _objective(checked: CheckedOperator, u: Tensor) -> Tensor:
    misfit = (checked.operator.A(u) - checked.y).square().flatten(1).sum(1)
    return misfit + RHO * (u - checked.x).square().flatten(1).sum(1)


OPERATOR_PROMISES = (
    Promise("measures", "A keeps rows and types, and rows do not mix", _measures),
    Promise("linear", "A is linear and At is its adjoint", _needing("linear", _linear)),
    Promise(
        "svd",
        "V is orthogonal, and A = U S V^T",
        _needing("svd", _spectrum),
        ("linear",),
    ),
    Promise("pinv", "A^+ A A^+ = A^+, and A^+ A is symmetric", _needing("pinv", _pseudo_inverse)),
    Promise(
        "amplitudes",
        "an image has the amplitudes that A measures",
        _needing("amplitudes", _amplitudes),
    ),
    Promise("prox", "no image is better than the proximal step", _needing("prox", _proximal)),
)
"""The promises of an operator, in the order of the table."""
