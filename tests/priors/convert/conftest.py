"""Upstream checkpoints in small: networks with known outputs, and files of the formats they are published in."""

from __future__ import annotations

import json
import pickle
import sys
import types
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "priors_golden.npz"


class Golden:
    """Configurations, inputs and outputs of upstream networks, and weights made from parameter names alone."""

    def __init__(self) -> None:
        self.arrays = np.load(GOLDEN)
        self._made: dict[str, dict[str, Tensor]] = {}

    def __getitem__(self, name: str) -> Tensor:
        return torch.from_numpy(self.arrays[name])

    def config(self, network: str) -> dict:
        return self._meta(network)["config"]

    def weights(self, network: str) -> dict[str, Tensor]:
        """Fresh copies, to be damaged at will."""
        if network not in self._made:
            shapes = self._meta(network)["shapes"]
            self._made[network] = {name: self._weight(name, shape) for name, shape in shapes.items()}
        return {name: value.clone() for name, value in self._made[network].items()}

    def _meta(self, network: str) -> dict:
        return json.loads(bytes(self.arrays[f"{network}/meta"]))

    @staticmethod
    def _weight(name: str, shape: list[int]) -> Tensor:
        key = [0, zlib.crc32(name.encode())]
        z = np.random.Generator(np.random.Philox(key=key)).standard_normal(shape).astype(np.float32)
        if len(shape) > 1:
            return torch.from_numpy(1.1 * z / np.sqrt(int(np.prod(shape[1:])), dtype=np.float32))
        return torch.from_numpy(1 + 0.2 * z if name.endswith("weight") else 0.1 * z)


@pytest.fixture(scope="session")
def golden() -> Golden:
    return Golden()


class _Upstream(nn.Module):
    """A module that pickles itself as NVlabs' persistent classes do: its source, its class name and its state."""

    source = ""

    def __init__(self, cls: str, kwargs: Mapping[str, object]):
        super().__init__()
        self.cls, self._init_args, self._init_kwargs = cls, (), dict(kwargs)

    def __reduce__(self):
        meta = {"type": "class", "version": 6, "module_src": self.source, "class_name": self.cls}
        return sys.modules["torch_utils.persistence"]._reconstruct_persistent_obj, ({**meta, "state": self.__dict__},)


@pytest.fixture
def write_edm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Path]:
    """Writes an EDM pickle of given tensors. Executing the source it embeds would leave a file called ``executed``."""
    persistence = types.ModuleType("torch_utils.persistence")
    exec("def _reconstruct_persistent_obj(meta): raise AssertionError", persistence.__dict__)
    monkeypatch.setitem(sys.modules, "torch_utils", types.ModuleType("torch_utils"))
    monkeypatch.setitem(sys.modules, "torch_utils.persistence", persistence)
    monkeypatch.setattr(_Upstream, "source", f"open({str(tmp_path / 'executed')!r}, 'w')")

    def write(kwargs: Mapping[str, object], weights: Mapping[str, Tensor], protocol: int = 2, **more: object) -> Path:
        net = _Upstream("EDMPrecond", kwargs)
        for name, value in weights.items():
            _register(net, name.split("."), value)
        path = tmp_path / "network.pkl"
        path.write_bytes(pickle.dumps({"ema": net, "dataset_kwargs": {"path": "x"}, **more}, protocol))
        return path

    return write


def _register(module: nn.Module, path: list[str], value: Tensor) -> None:
    """Hang a tensor below ``module``, with containers of torch in between where upstream has them."""
    if len(path) == 1:
        if path[0] == "resample_filter":
            module.register_buffer(path[0], value)
        else:
            module.register_parameter(path[0], nn.Parameter(value))
        return
    if path[0] not in module._modules:
        module.add_module(path[0], nn.ModuleDict() if path[0] in ("enc", "dec") else _Upstream("Layer", {}))
    _register(module._modules[path[0]], path[1:], value)
