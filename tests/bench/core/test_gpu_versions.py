from __future__ import annotations

import pytest
import torch

from posterior_bench.bench.core import gpu_versions
from posterior_bench.bench.core.environment import _torch


@pytest.mark.parametrize(
    ("number", "words"), [(8902, "8.9.2"), (90100, "9.1.0"), (91900, "9.19.0"), (91002, "9.10.2")]
)
def test_cudnn(monkeypatch, number: int, words: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: number)
    assert gpu_versions.cudnn_version() == words


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_machine_without_a_gpu_has_neither() -> None:
    assert gpu_versions.cudnn_version() is None and gpu_versions.driver_version() is None


class Driver:
    """The library of a driver that begins ``nvmlInit_v2`` with a code, 0 for success."""

    def __init__(self, code: int):
        self.code = code

    def nvmlInit_v2(self) -> int:
        return self.code

    def nvmlSystemGetDriverVersion(self, text, length: int) -> int:
        text.value = b"580.95.05"
        return 0

    def nvmlShutdown(self) -> int:
        return 0


@pytest.mark.parametrize(("code", "version"), [(0, "580.95.05"), (9, None)])
def test_the_driver_is_asked(monkeypatch, code: int, version: str | None) -> None:
    monkeypatch.setattr(gpu_versions.ctypes, "CDLL", lambda name: Driver(code))
    gpu_versions.driver_version.cache_clear()
    assert gpu_versions.driver_version() == version
    assert _torch()["driver"] == version
    gpu_versions.driver_version.cache_clear()
