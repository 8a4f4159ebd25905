"""Adam on the rows of a batch: every row has its own loss and its own end."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from posterior_bench.solvers.shared.rows import column


def minimise(
    loss: Callable[[Tensor], Tensor],
    start: Tensor,
    lr: float,
    iterations: int,
    tolerance: float | Tensor,
    patience: int = 0,
    decay: float = 0.0,
    late: bool = False,
    early: bool = True,
) -> Tensor:
    """Minimise a loss by AdamW, every row on its own.

    All rows are evaluated until the last one has stopped.

    Parameters
    ----------
    loss : Callable[[Tensor], Tensor]
        Maps ``(N, C, H, W)`` to ``(N, ...)``; the loss of a row is the mean.
    start : Tensor
        Where the rows start, ``(N, C, H, W)``.
    lr : float
        Learning rate.
    iterations : int
        Largest number of steps.
    tolerance : float or Tensor
        A row stops for good once its loss is below this number; a tensor ``(N,)`` holds one number
        per row. Minus infinity means never.
    patience : int, default 0
        A row also stops once its loss is above its loss ``patience`` steps before; 0 means never.
    decay : float, default 0.0
        Weight decay of AdamW.
    late : bool, default False
        Whether a row still takes the step of the iteration at whose loss it stops.
    early : bool, default True
        Whether the loop ends once all rows have stopped. The host then waits for the GPU in every
        iteration. Otherwise the number of iterations is fixed, and nobody waits.

    Returns
    -------
    Tensor
        Where the rows have stopped, ``(N, C, H, W)``, without a graph.
    """
    u = start.detach().clone().requires_grad_()
    optimiser = torch.optim.AdamW([u], lr=lr, weight_decay=decay, fused=True)
    done = torch.zeros(len(u), dtype=torch.bool, device=u.device)
    history: list[Tensor] = []
    for step in range(iterations):
        with torch.enable_grad():
            losses = loss(u)
            # The gradient of the means, without a tensor of equal weights.
            weight = losses.new_full((), len(u) / losses.numel()).expand_as(losses)
            (u.grad,) = torch.autograd.grad(losses, u, weight)
        history.append(losses.detach().reshape(len(u), -1).mean(1))
        standing = done
        # Written so that a row that is NaN is done too.
        done = done | ~(history[step] >= tolerance)
        if patience and step >= patience:
            done = done | (history[step] > history[step - patience])
        standing = standing if late else done
        all_done, some_stand = _decided(done, standing) if early else (False, True)
        if all_done and not late:
            break
        # Copying all images in every iteration would cost more than the step itself.
        kept = u.detach().clone() if some_stand else None
        optimiser.step()
        if kept is not None:
            # where, not an index: a GPU would wait until the host has counted the rows
            u.detach().copy_(torch.where(column(standing, u), kept, u.detach()))
        if all_done:
            break
    return u.detach()


def _decided(done: Tensor, standing: Tensor) -> tuple[bool, bool]:
    """Return whether all rows are done, and whether some stand; the host waits for both at once."""
    all_done, some_stand = torch.stack([done.all(), standing.any()]).tolist()
    return all_done, some_stand
