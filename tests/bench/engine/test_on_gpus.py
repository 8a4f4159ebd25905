"""What a run on a GPU asks for, and what it says once: about other GPUs and tensor cores."""

from __future__ import annotations

import os

import pytest
import torch

from posterior_bench.bench.core.isolation import isolated
from posterior_bench.bench.engine.chunking import gpu_words
from posterior_bench.bench.engine.device import repeatable
from posterior_bench.bench.engine.executor import device_called

OTHERS = "this run uses one of 8 GPUs; executor=ray uses all of them"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node with eight H100."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100")


@pytest.mark.parametrize("wanted", ["auto", "cuda"])
def test_other_gpus_are_named(machine, wanted: str) -> None:
    assert gpu_words("cuda", wanted, "bf16") == (OTHERS,)


def test_a_gpu_that_was_chosen_is_meant(machine) -> None:
    assert gpu_words("cuda:3", "cuda:3", "tf32") == ()


def test_idle_tensor_cores_are_named(machine, monkeypatch) -> None:
    (line,) = gpu_words("cuda:0", "cuda:0", "fp32")
    assert "NVIDIA H100" in line and "precision=tf32 or bf16" in line
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 0))
    assert gpu_words("cuda:0", "cuda:0", "fp32") == (), "a V100 has none for float32"


def test_a_cpu_has_neither(machine) -> None:
    assert gpu_words("cpu", "auto", "fp32") == ()


@pytest.mark.parametrize("name", ["auto", "cuda", "cuda:1"])
def test_the_workspace_of_cublas_is_fixed_before_a_gpu_is_used(monkeypatch, name: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    assert device_called(name) == name.replace("auto", "cuda")
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"


def test_the_kernels_of_a_worker() -> None:
    with isolated():
        repeatable("cuda:0")
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.utils.deterministic.fill_uninitialized_memory
        assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.benchmark
        repeatable("cpu")  # of the next worker of this process
        assert not torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cudnn.deterministic
