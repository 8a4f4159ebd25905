"""Guidance mixes a network's image and not its variance, and the index of a level is rounded."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn

from posterior_bench.priors.base import Prior
from posterior_bench.priors.process import VP

LINEAR = VP.scheduled("linear", 1e-4, 0.02)


class ByLabel(nn.Module):
    """For labels 0, 1, ...: noise of 0.1, 0.2, ... and a variance channel of 0, 0.25, ..."""

    def forward(self, x: Tensor, t: Tensor, cond: Mapping[str, Tensor]) -> Tensor:
        label = cond["label"].view(-1, 1, 1, 1).to(x)
        return torch.cat([0.1 * (label + 1) + 0 * x, 0.25 * label + 0 * x], 1)


@pytest.mark.parametrize("guidance", [0.0, 1.0, 2.5])
def test_guidance_mixes_the_noise_and_leaves_the_variance_of_the_condition(guidance: float) -> None:
    prior = Prior(
        LINEAR, ByLabel(), (1, 2, 2), "eps", num_classes=3, null_label=3, learned_var=True
    )
    level = prior.level_at_index(400)
    z = torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    cond = prior.condition(torch.tensor([0, 1, 2]))
    x0, fraction = prior.denoise_with_variance(z, level, cond, guidance)
    # outputs in [-1, 1] become fractions in [0, 1]
    expected = torch.tensor([0.5, 0.625, 0.75]).view(3, 1, 1, 1).expand_as(z)
    torch.testing.assert_close(fraction, expected)
    given, null = 0.1 * torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1, 1), 0.4
    eps = null + guidance * (given - null)
    torch.testing.assert_close(
        x0, ((z - level.sigma * eps) / level.alpha).float(), atol=1e-5, rtol=0
    )


@pytest.mark.parametrize(
    ("steps", "indices"),
    [
        (4, [999, 666, 333, 0]),
        (8, [999, 856, 714, 571, 428, 285, 143, 0]),  # 713.6, 570.9, 285.4, 142.7
        (7, [999, 832, 666, 500, 333, 166, 0]),  # halves go to the even number
    ],
)
def test_an_index_grid_is_rounded(steps: int, indices: list[int]) -> None:
    """The respaced steps of guided-diffusion, counted by hand."""
    levels = Prior(LINEAR, None, (1, 2, 2), "eps").grid(steps, "index")
    assert [round(float(level.t), 6) for level in levels[:-1]] == indices
    assert (levels[-1].alpha, levels[-1].sigma) == (1.0, 0.0)
