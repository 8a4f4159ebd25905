"""Weights that wait: what they leave behind, and that they come back bit for bit."""

from __future__ import annotations

from weakref import ref

import torch
from tests.priors.test_execution import latent_prior, noise
from torch import nn

from posterior_bench.priors.offload import HostCopy


def test_waiting_weights_free_the_memory_of_their_device_and_come_back() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).requires_grad_(False).eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    places = [ref(tensor.untyped_storage()) for tensor in (*net.parameters(), *net.buffers())]
    copy = HostCopy([net])
    for _ in range(2):
        with copy.parked():
            assert copy.waits and all(place() is None for place in places)
            places = []
        assert not copy.waits
        places = [ref(tensor.untyped_storage()) for tensor in (*net.parameters(), *net.buffers())]
    state = net.state_dict()
    assert all(torch.equal(value, state[key]) for key, value in before.items())


def test_a_weight_of_another_type_is_copied_again() -> None:
    net = nn.Linear(3, 4).requires_grad_(False)
    copy = HostCopy([net])
    with copy.parked():
        pass
    net.weight.data = net.weight.data.to(torch.bfloat16)
    low = net.weight.clone()
    with copy.parked():
        pass
    assert torch.equal(net.weight, low)


def test_an_autoencoder_is_there_in_its_calls_alone_until_a_gradient_needs_it() -> None:
    prior = latent_prior()
    z, x = noise(1, 2, 8, 8), noise(1, 1, 16, 16)
    usual = prior.decode(z), prior.encode(x)
    assert prior.latent is not None
    copy = HostCopy([prior.latent])
    with prior.lending(copy):
        assert copy.waits
        with torch.no_grad():
            assert torch.equal(prior.decode(z), usual[0]) and copy.waits
            assert torch.equal(prior.encode(x), usual[1]) and copy.waits
        (gradient,) = torch.autograd.grad(prior.decode(z.requires_grad_()).sum(), z)
        assert not copy.waits
        with torch.no_grad():
            prior.decode(z)
        assert not copy.waits
    assert not copy.waits
    assert torch.equal(gradient, torch.autograd.grad(prior.decode(z).sum(), z)[0])
