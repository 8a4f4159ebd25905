"""The pretended GPU itself: what it refuses and what it counts, from the documentation of CUDA."""

from __future__ import annotations

import pytest
import torch
from tests.pretended_gpu import DEVICE, PretendedGPU


def test_devices_do_not_mix_but_for_single_numbers():
    there = torch.ones(3).to(DEVICE)
    assert (there * torch.tensor(2.0)).cpu().tolist() == [2.0, 2.0, 2.0]
    with pytest.raises(RuntimeError, match="same device"):
        there + torch.ones(3)
    with pytest.raises(RuntimeError, match="output with device cpu"):
        torch.ones(3).add_(there.sum())


def test_a_generator_of_the_host_is_refused():
    with pytest.raises(RuntimeError, match="generator"):
        torch.randn(3, device=DEVICE, generator=torch.Generator())


def test_waits_are_counted(gpu: PretendedGPU):
    here, there = torch.ones(3), torch.ones(3).to(DEVICE)
    with gpu.counted() as counts:
        here.to(DEVICE)
        torch.as_tensor(1.0, device=DEVICE)
        torch.where(there > 0, there, torch.tensor(0.0))
    assert (counts.to_device, counts.to_host, counts.operations) == (3, 0, 2)
    with gpu.counted() as counts:
        there.sum().item()
        there.cpu()
        there[there > 0]
    assert (counts.to_device, counts.to_host) == (0, 3)
    with gpu.counted() as counts:
        here.pin_memory().to(DEVICE, non_blocking=True)
        torch.full((3,), 1.0, device=DEVICE)
        there.view(3, 1)
    assert (counts.waits, counts.streamed, counts.operations) == (0, 1, 1)
