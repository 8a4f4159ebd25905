"""Explicit Propagation: pooling by region, identity at the start, and what its training moves."""

from __future__ import annotations

import copy

import pytest
import torch

from posterior_bench.solvers.latentpaint.propagation import (
    Propagation,
    PropagationConfig,
    PropagationTrainer,
    fill_regions,
    hidden_validation_loss,
    propagation_channels,
    propagation_modules,
    region_max,
)

INSIDE = torch.tensor([[True, True, False], [True, False, False]]).view(1, 1, 2, 3)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_the_largest_value_of_either_region():
    h = torch.tensor([[1.0, 5, 9], [2, 7, 8]]).view(1, 1, 2, 3)
    assert region_max(h, INSIDE).tolist() == [[[5, 9]]]
    assert region_max(h - 100, torch.ones(1, 1, 2, 3, dtype=torch.bool)).tolist() == [[[-91, 0]]]
    assert region_max(h - 100, torch.zeros(1, 1, 2, 3, dtype=torch.bool)).tolist() == [[[0, -91]]]


def test_a_piecewise_constant_feature_survives_pooling_and_filling():
    h = torch.where(INSIDE, random(2, 4, 1, 1), random(2, 4, 1, 1, seed=1))
    assert torch.equal(fill_regions(region_max(h, INSIDE), INSIDE), h)


def test_the_order_inside_a_region_does_not_matter():
    h, inside = random(1, 4, 6, 6), random(1, 1, 6, 6, seed=1) > 0
    shuffled = h.flatten(2).clone()
    for region in (inside.flatten(), ~inside.flatten()):
        cells = region.nonzero().flatten()
        order = cells[torch.randperm(len(cells), generator=torch.Generator().manual_seed(2))]
        shuffled[..., cells] = h.flatten(2)[..., order]
    assert not torch.equal(shuffled.view_as(h), h)
    assert torch.equal(region_max(shuffled.view_as(h), inside), region_max(h, inside))


def test_an_untrained_module_is_the_identity():
    h, share = (
        random(3, 8, 4, 4),
        torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(0)),
    )
    assert torch.equal(Propagation(8)(h, share), h)


def test_a_module_adds_what_its_perceptron_says_of_the_regions():
    """With one channel and a bias alone: 0.25 is added where at least half of a cell is observed,
    -1 elsewhere."""
    module = Propagation(4)
    with torch.no_grad():
        module.phi[-1].bias.copy_(torch.tensor([0.25, -1.0]).repeat(4))
    share = torch.tensor([[0.0, 0.4999], [0.5, 1.0]]).view(1, 1, 2, 2)
    added = module(torch.zeros(1, 4, 2, 2), share)
    assert torch.equal(added, torch.tensor([[-1.0, -1.0], [0.25, 0.25]]).expand(1, 4, 2, 2))


@pytest.mark.parametrize(("channels", "millions"), [(1024, 1.05), (768, 0.59), (960, 0.92)])
def test_parameters_at_the_sizes_of_large_networks(channels, millions):
    count = sum(p.numel() for p in Propagation(channels).parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.006)


def data(count: int = 12):
    images = random(count, 1, 16, 16).clamp(-1, 1)
    masks = torch.ones(5, 1, 16, 16, dtype=torch.bool)
    for i in range(5):
        masks[i, :, : 6 + i, : 12 - i] = False
    return images, torch.arange(count) % 3, masks


def trainer(prior, **settings) -> PropagationTrainer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        modules = propagation_modules(propagation_channels(prior))
    config = PropagationConfig(
        **{"steps": 40, "batch": 4, "warmup": 2, "ema": 0.5, "bf16": False, **settings}
    )
    return PropagationTrainer(prior, modules, *data(), config)


@pytest.mark.parametrize("latent", [False, True])
def test_gradients_reach_the_modules_alone(unet_prior, latent):
    prior = unet_prior(latent)
    frozen = copy.deepcopy(prior.net.state_dict())
    training = trainer(prior)
    assert propagation_channels(prior) == {"down1_layer1": 16, "middle": 16}
    for _ in range(2):  # behind a zero last layer nothing has a gradient yet
        training.step()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in training.net.parameters())
    assert all(
        p.grad is None
        for module in (prior.net, prior.latent)
        if module
        for p in module.parameters()
    )
    assert all(torch.equal(value, frozen[name]) for name, value in prior.net.state_dict().items())


def test_training_lowers_the_loss_of_the_hidden_part(unet_prior):
    training = trainer(unet_prior(), lr=0.1)
    images, labels, masks = data(5)
    images = torch.full_like(images, 0.9)
    training.images = images
    training.rows = len(images)
    losses = [hidden_validation_loss(training.prior, {}, images, labels, masks, training.config)]
    losses += [training.validation_loss(images, labels, masks)]
    for _ in range(25):
        training.step()
    losses += [training.validation_loss(images, labels, masks)]
    assert losses[0] == losses[1] > losses[2] + 0.03


def test_the_loss_looks_at_the_hidden_part_alone(unet_prior):
    """A change of a mask's observed pixels would show; with everything observed there is nothing to
    lose."""
    training = trainer(unet_prior())
    images, labels, masks = data(5)
    assert training.validation_loss(images, labels, torch.ones_like(masks)) == 0
    assert training.validation_loss(images, labels, masks) > 0


def test_a_resumed_training_is_bitwise_the_unbroken_one(unet_prior):
    whole, first, second = (trainer(unet_prior()) for _ in range(3))
    for _ in range(4):
        whole.step()
    for _ in range(2):
        first.step()
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for _ in range(2):
        second.step()
    for key in ("net", "average"):
        a, b = whole.state_dict()[key], second.state_dict()[key]
        assert all(torch.equal(a[name], b[name]) for name in a)
