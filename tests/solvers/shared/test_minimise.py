"""Adam on rows: where each row ends, against ``torch.optim.Adam`` on that row alone."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from posterior_bench.solvers.shared.minimise import minimise


def _double(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).view(-1, 1, 1, 1)


def _square(u: Tensor) -> Tensor:
    return (u - 1).square()


@pytest.mark.parametrize(("late", "early"), [(False, True), (True, True), (False, False)])
def test_every_row_ends_where_adam_alone_leaves_it(late, early):
    """Rows that reach the tolerance stand still, at once or after one more step, whatever the
    others still need."""
    starts, lr, tolerance = (0.995, 0.7, -2.0, math.nan), 0.1, 1e-3
    found = minimise(_square, _double(*starts), lr, 15, tolerance, late=late, early=early)
    for row, start in enumerate(starts[:3]):
        u = torch.tensor(start, dtype=torch.float64, requires_grad=True)
        adam = torch.optim.Adam([u], lr=lr)
        for _ in range(15):
            met = (loss := (u - 1) ** 2) < tolerance
            if met and not late:
                break
            adam.zero_grad()
            loss.backward()
            adam.step()
            if met:
                break
        assert found[row].item() == pytest.approx(u.item(), abs=1e-12)
    assert (found[0].item() == 0.995) is not late and found[3].isnan()


@pytest.mark.parametrize("early", [True, False])
def test_the_loop_ends_with_the_last_row_only_if_it_may(early):
    calls = []

    def counted(u: Tensor) -> Tensor:
        calls.append(u)
        return _square(u)

    start = _double(1.0, 1.0)
    assert torch.equal(minimise(counted, start, 0.1, 9, 1e-3, early=early), start)
    assert len(calls) == (1 if early else 9)


def test_every_row_may_have_a_tolerance_of_its_own():
    """Both rows have the loss 0.25, given as one number per row."""
    end = minimise(
        lambda u: _square(u).flatten(), _double(0.5, 0.5), 0.1, 1, torch.tensor([0.2, 0.3])
    )
    assert end.flatten().tolist() == pytest.approx([0.6, 0.5], abs=1e-6)


def test_no_gradient_is_no_step():
    start = _double(0.3, -2.0)
    assert torch.equal(minimise(lambda u: 0 * u, start, 0.1, 5, -math.inf), start)


def test_patience_ends_a_row_that_gets_worse():
    calls = []

    def away(u: Tensor) -> Tensor:
        calls.append(u.detach().clone())
        # the second row only seems to get worse
        return -u + torch.tensor([0.0, 10.0 * len(calls)]).view(2, 1, 1, 1)

    end = minimise(away, torch.zeros(2, 1, 1, 1), 0.1, 10, -math.inf, patience=3)
    assert end.flatten().tolist() == pytest.approx([1.0, 0.3], abs=1e-5)


def test_weight_decay_is_adamws():
    start = _double(2.0)

    def flat(u):
        return 0 * u + 1

    assert minimise(flat, start, 0.1, 3, 0.0, decay=0.01).item() == pytest.approx(
        2 * (1 - 0.1 * 0.01) ** 3
    )
    assert minimise(flat, start, 0.1, 3, 0.0).item() == 2
