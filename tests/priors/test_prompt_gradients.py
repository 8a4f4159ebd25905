"""Prompts that are written out: the same answers, with a gradient that is counted."""

from __future__ import annotations

from copy import copy
from dataclasses import replace

import pytest
import torch

from posterior_bench.bench.conformance.small_priors import small_prior
from posterior_bench.priors.base import Condition, Meter, Prior
from posterior_bench.priors.execution import Execution

Z = torch.randn(3, 2, 8, 12, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def prior() -> Prior:
    prior = copy(small_prior("text"))
    prior.meter = Meter()
    return prior


def labels(prior: Prior) -> Condition:
    return prior.condition(torch.tensor([2, 0, 1]))


def test_a_written_condition_says_the_same(prior):
    t, told = prior.level(1.0), labels(prior)
    written = prior.embedded(told, 3)
    assert set(written.values) == set(written.null) == {"contexts"}
    assert torch.equal(written.values["contexts"], prior.net.contexts[[2, 0, 1]])
    assert not written.values["contexts"].requires_grad
    assert torch.equal(prior.denoise(Z, t, written), prior.denoise(Z, t, told))
    assert torch.equal(prior.denoise(Z, t, written, 2.0), prior.denoise(Z, t, told, 2.0))
    empty = prior.embedded(None, 3)
    assert torch.equal(prior.denoise(Z, t, empty), prior.denoise(Z, t))
    again = prior.embedded(written, 3)
    assert torch.equal(again.values["contexts"], written.values["contexts"])


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_the_gradient_in_a_prompt_is_a_difference_quotient_and_counts(prior, guidance):
    """One forward and one backward pass per row; two of each with guidance."""
    t, cond = prior.level(1.0), prior.embedded(labels(prior), 3)
    start = cond.values["contexts"]
    way = torch.randn(start.shape, generator=torch.Generator().manual_seed(1))

    def total(tokens: torch.Tensor) -> torch.Tensor:
        told = replace(cond, values={"contexts": tokens})
        return prior.denoise(Z, t, told, guidance).square().sum()

    tokens = start.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(total(tokens), tokens)
    times = 1 if guidance == 1 else 2
    assert (prior.meter.nfe, prior.meter.nge) == (3 * times, 3 * times)
    h = 1e-2
    with torch.no_grad():
        quotient = (total(start + h * way) - total(start - h * way)) / (2 * h)
    assert (gradient * way).sum().item() == pytest.approx(quotient.item(), rel=2e-2)
    assert prior.meter.nge == 3 * times and gradient.abs().sum() > 0


def test_checkpointing_keeps_the_gradient(prior):
    t, cond = prior.level(1.0), prior.embedded(labels(prior), 3)

    def gradient() -> torch.Tensor:
        tokens = cond.values["contexts"].clone().requires_grad_()
        told = replace(cond, values={"contexts": tokens})
        return torch.autograd.grad(prior.denoise(Z, t, told).square().sum(), tokens)[0]

    plain = gradient()
    prior.run_as(Execution(checkpointing="call"))
    try:
        torch.testing.assert_close(gradient(), plain)
    finally:
        prior.run_as(Execution())


def test_priors_without_prompts(prior):
    assert "prompt_grad" in prior.caps and "prompt_grad" in prior.view("ve").caps
    for name in ("network", "latent"):
        assert "prompt_grad" not in small_prior(name).caps
        with pytest.raises(ValueError, match="this prior reads no prompts"):
            small_prior(name).embedded(None, 1)
