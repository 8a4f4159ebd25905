"""L-BFGS of single rows, against closed forms, torch's own, and runs of one row."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from posterior_bench.solvers.shared.lbfgs import lbfgs


def rosenbrock(x: Tensor) -> Tensor:
    a, b = x[:, :-1], x[:, 1:]
    return (100 * (b - a**2) ** 2 + (1 - a) ** 2).sum(1)


def starts(rows: int = 5, size: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, size, generator=generator, dtype=torch.float64)


def test_quadratics_of_different_scales_are_solved_exactly():
    scales = torch.tensor([1e-3, 1.0, 1e3], dtype=torch.float64)[:, None]
    curvature = torch.tensor([1.0, 3.0, 10.0, 30.0], dtype=torch.float64)
    loss = lambda x: (scales * curvature * (x - 2) ** 2).sum(1)  # noqa: E731
    x = lbfgs(loss, starts(3), 60)
    torch.testing.assert_close(x, torch.full_like(x, 2.0), atol=1e-5, rtol=0)


def of_torch(start: Tensor) -> tuple[Tensor, int]:
    """Return what torch's L-BFGS with its Wolfe search finds for one row, and its evaluations."""
    x, count = start.clone().requires_grad_(), 0
    optimiser = torch.optim.LBFGS(
        [x], max_iter=200, tolerance_grad=1e-6, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        nonlocal count
        count += 1
        optimiser.zero_grad()
        loss = rosenbrock(x).sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    return x.detach(), count


def test_it_needs_few_more_evaluations_than_torch_on_a_bent_valley():
    """A function of four numbers has a second valley, where either may end."""
    for row in starts(2).split(1):
        theirs, count = of_torch(row)
        ours = lbfgs(rosenbrock, row, round(1.5 * count))
        assert rosenbrock(ours) <= rosenbrock(theirs).clamp_min(1e-6)


def test_a_row_does_not_depend_on_its_batch():
    batch = lbfgs(rosenbrock, starts(), 40)
    for i in (0, 3):
        alone = lbfgs(rosenbrock, starts()[i : i + 1], 40)
        assert torch.equal(alone[0], batch[i])


def test_the_loss_never_rises_with_more_evaluations():
    values = torch.stack([rosenbrock(lbfgs(rosenbrock, starts(), n)) for n in range(1, 30, 3)])
    assert (values.diff(dim=0) <= 0).all()
    assert torch.equal(values[0], rosenbrock(starts()))


def test_history_counts_evaluations():
    """Without one it is steepest descent with a step that follows the curvature."""
    none, all_of_it = (rosenbrock(lbfgs(rosenbrock, starts(), 60, n)) for n in (0, 100))
    assert (all_of_it < 0.1 * none).all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_trial_without_a_loss_is_shortened(bad):
    """Beyond 1.5 the loss is not a number, or infinite; the minimum is before."""
    loss = lambda x: torch.where(x > 1.5, bad, (x - 1.4) ** 2 * 50).sum(1)  # noqa: E731
    start = torch.tensor([[-3.0, -2.0], [0.0, 1.0]], dtype=torch.float64)
    x = lbfgs(loss, start, 60)
    torch.testing.assert_close(x, torch.full_like(x, 1.4), atol=1e-4, rtol=0)


def test_a_row_that_is_nan_stays_and_breaks_no_other():
    start = starts()
    start[1] = torch.nan
    x, clean = lbfgs(rosenbrock, start, 30), lbfgs(rosenbrock, starts(), 30)
    assert x[1].isnan().all()
    others = [0, 2, 3, 4]
    assert torch.equal(x[others], clean[others])


@pytest.mark.parametrize("evaluations", [1, 7])
def test_evaluations_are_counted(evaluations):
    seen = []
    lbfgs(lambda x: seen.append(len(x)) or rosenbrock(x), starts(), evaluations)
    assert seen == [5] * evaluations
