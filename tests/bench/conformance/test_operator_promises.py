"""Every operator keeps its promises, and one that breaks a promise fails that one and no other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from torch import Tensor
from typing_extensions import override

from posterior_bench.bench.config.catalog import options
from posterior_bench.bench.conformance.check import reports
from posterior_bench.bench.conformance.operator_promises import (
    OPERATOR_PROMISES,
    checked_operator,
)
from posterior_bench.bench.conformance.promise import examine
from posterior_bench.bench.conformance.report_table import table
from posterior_bench.bench.conformance.results import FAIL, PASS, SKIPPED
from posterior_bench.bench.conformance.small_priors import small_prior
from posterior_bench.operators.base import Operator
from posterior_bench.operators.spectrum import Spectrum
from posterior_bench.operators.super_resolution import SuperResolution

NAMES = [name for name in options("operator") if name != "nonlinear_blur"]  # a network of the user


@pytest.mark.parametrize("name", NAMES)
def test_operators_keep_their_promises(name: str) -> None:
    node = options("operator")[name].content
    results = examine(OPERATOR_PROMISES, checked_operator(node, small_prior("exact")))
    assert [r for r in results if r.status not in (PASS, SKIPPED)] == []
    kept = {r.name for r in results if r.status == PASS}
    # 'projection' and 'mask' say what pinv, prox and svd check already
    checked = checked_operator(node, small_prior("exact")).operator.caps
    assert kept == {"measures"} | (checked & {"linear", "svd", "pinv", "prox", "amplitudes"})


@dataclass(frozen=True)
class _Spoilt(SuperResolution):
    """A correct operator, but for one method."""


def _failed(**methods: Callable[..., Any]) -> list[str]:
    node = options("operator")["super_resolution"].content
    checked = checked_operator(node, small_prior("exact"))
    spoilt = type("Spoilt", (_Spoilt,), methods)(**vars(checked.operator))
    results = examine(OPERATOR_PROMISES, replace(checked, operator=spoilt))
    return [r.name for r in results if r.status == FAIL]


class _Skewed(Spectrum):
    """A spectrum whose coordinates are not orthogonal."""

    def __init__(self, honest: Spectrum) -> None:
        super().__init__(honest.exact)
        self.honest = honest

    @override
    def coordinates(self, x: Tensor) -> Tensor:
        return 2 * self.honest.coordinates(x)

    @override
    def image(self, coordinates: Tensor) -> Tensor:
        return self.honest.image(coordinates) / 2

    @override
    def measured(self, y: Tensor) -> Tensor:
        return 2 * self.honest.measured(y)


HONEST = SuperResolution


def test_nothing_fails_of_the_correct_one() -> None:
    assert _failed() == []


def test_rows_that_mix() -> None:
    assert "measures" in _failed(A=lambda self, x: HONEST.A(self, x + 1e-9 * x.mean(0)))


def test_a_wrong_adjoint() -> None:
    assert "linear" in _failed(At=lambda self, y: 1.001 * HONEST.At(self, y))


def test_a_wrong_spectrum() -> None:
    def spectrum(self: Operator, like: Tensor) -> Spectrum:
        return _Skewed(HONEST.spectrum(self, like))  # type: ignore[arg-type]

    assert _failed(spectrum=spectrum, pinv=_pinv, prox=_prox) == ["svd"]


def _pinv(self: Operator, y: Tensor) -> Tensor:
    honest = HONEST.spectrum(self, y)  # type: ignore[arg-type]
    return honest.image(honest.solution(y))


def _prox(self: Operator, x: Tensor, y: Tensor, rho: float) -> Tensor:
    honest = HONEST.spectrum(self, x)  # type: ignore[arg-type]
    return x + honest.image(honest.shrunk(y - self.A(x), rho))


def test_an_adjoint_in_the_place_of_a_pseudo_inverse() -> None:
    failed = _failed(pinv=lambda self, y: HONEST.At(self, y))
    assert "pinv" in failed and "prox" not in failed


def test_a_proximal_step_with_another_weight() -> None:
    def prox(self: Operator, x: Tensor, y: Tensor, rho: float) -> Tensor:
        return _prox(self, x, y, rho / 2)

    assert _failed(prox=prox) == ["prox"]


def test_a_chosen_operator_is_checked_with_the_solver() -> None:
    (alone,) = reports("prior")
    (report,) = reports("prior", ["operator=gaussian_blur", "operator.border=zero"])
    assert report.columns.keys() - alone.columns.keys() == {"operator"}
    kept = dict.fromkeys(("measures", "linear", "svd", "pinv", "prox"), PASS)
    found = {r.name: r.status for r in report.columns["operator"]}
    assert found == {**kept, "amplitudes": SKIPPED}
    assert table(report).row_count == table(alone).row_count + 6
