"""Checkpoints are read, never executed."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import tarfile
import types
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch

from posterior_bench.priors.convert.readers import read_checkpoint, read_nvlabs, tensors

WEIGHTS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2])}


class Call:
    """Pickles as a call of ``function``, which unpickling would make."""

    def __init__(self, function, *arguments: object):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def attacks(flag: Path) -> dict[str, Call]:
    """Calls that leave the file ``flag`` behind, or would go on to a pickle that does."""
    inner = flag.with_name("inner.pt")
    torch.save({"x": Call(os.system, f"touch {flag}")}, inner)
    return {
        "os.system": Call(os.system, f"touch {flag}"),
        "eval": Call(eval, f"open({str(flag)!r}, 'w')"),
        "exec": Call(exec, f"open({str(flag)!r}, 'w')"),
        "subprocess": Call(subprocess.check_output, ["touch", str(flag)]),
        "open": Call(open, str(flag), "w"),
        "getattr": Call(getattr, "x", "upper"),
        "torch.load": Call(torch.load, str(inner)),
        "from_bytes": Call(torch.storage._load_from_bytes, inner.read_bytes()),
    }


NAMES = ["os.system", "eval", "exec", "subprocess", "open", "getattr", "torch.load", "from_bytes"]


def refused(read, path: Path, flag: Path) -> str:
    with pytest.raises(ValueError) as refusal:
        read(path)
    assert not flag.exists()
    text = str(refusal.value)
    assert str(path) in text and "\n" not in text and "nothing of it was executed" in text
    return text


# -- torch.save ------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
class TestCheckpoint:
    def save(self, content: object, path: Path, is_zip: bool) -> Path:
        torch.save(content, path, _use_new_zipfile_serialization=is_zip)
        return path

    @pytest.mark.parametrize("name", NAMES)
    def test_attacks_are_refused(self, tmp_path, is_zip, name):
        flag = tmp_path / "executed"
        path = self.save({**WEIGHTS, "x": attacks(flag)[name]}, tmp_path / "model.ckpt", is_zip)
        assert "it wants to import" in refused(read_checkpoint, path, flag)

    def test_plain_weights_come_back(self, tmp_path, is_zip):
        path = self.save(OrderedDict(WEIGHTS), tmp_path / "model.pt", is_zip)
        state = tensors(read_checkpoint(path), path)
        assert state.keys() == WEIGHTS.keys() and all(
            torch.equal(state[k], v) for k, v in WEIGHTS.items()
        )

    def test_foreign_objects_become_inert(self, tmp_path, is_zip, monkeypatch):
        module = types.ModuleType("pytorch_lightning.callbacks")
        callback = type("ModelCheckpoint", (), {"__module__": module.__name__})
        module.ModelCheckpoint = callback
        monkeypatch.setitem(sys.modules, "pytorch_lightning", types.ModuleType("pytorch_lightning"))
        monkeypatch.setitem(sys.modules, module.__name__, module)
        made = callback()
        made.best = np.float64(0.5)
        content = {
            "state_dict": {
                **WEIGHTS,
                "view": torch.arange(10.0)[2:8:2],
                "half": torch.ones(2).half(),
            },
            "callbacks": {
                callback: {"score": np.float32(1.5), "paths": {"x", "y"}, "object": made}
            },
            "array": np.arange(3),
        }
        path = self.save(content, tmp_path / "model.ckpt", is_zip)
        for name in ("pytorch_lightning.callbacks", "pytorch_lightning"):
            monkeypatch.delitem(sys.modules, name)
        state = tensors(read_checkpoint(path)["state_dict"], path)
        assert "pytorch_lightning" not in sys.modules
        assert torch.equal(state["a.weight"], WEIGHTS["a.weight"]) and torch.equal(
            state["b"], WEIGHTS["b"]
        )
        assert state["view"].tolist() == [2.0, 4.0, 6.0] and state["half"].dtype == torch.float16

    def test_truncated_files_are_refused(self, tmp_path, is_zip):
        path = self.save({"w": torch.ones(1000)}, tmp_path / "model.ckpt", is_zip)
        for share in (0.9, 0.5, 0.01):
            path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
            refused(read_checkpoint, path, tmp_path / "executed")

    def test_other_content_is_refused(self, tmp_path, is_zip):
        path = self.save([1, 2], tmp_path / "model.ckpt", is_zip)
        with pytest.raises(ValueError, match="holds a list, not a dict of tensors"):
            read_checkpoint(path)
        path = self.save({"a": torch.ones(1), "step": 3}, tmp_path / "model.ckpt", is_zip)
        with pytest.raises(ValueError, match="'step' is no tensor"):
            tensors(read_checkpoint(path), path)


def test_archives_for_other_loaders_are_refused(tmp_path):
    script = tmp_path / "script.pt"
    torch.jit.script(torch.nn.Linear(1, 1)).save(str(script))
    assert "TorchScript" in refused(read_checkpoint, script, tmp_path / "executed")
    archive = tmp_path / "old.tar"
    with tarfile.open(archive, "w") as tar:
        tar.add(script, "storages")
    assert "tar archive" in refused(read_checkpoint, archive, tmp_path / "executed")


@pytest.mark.parametrize("read", [read_checkpoint, read_nvlabs])
def test_what_is_no_checkpoint_is_refused(tmp_path, read):
    path = tmp_path / "model.ckpt"
    for content in (
        b"",
        b"PK\x03\x04nothing",
        b"<!DOCTYPE html><html>",
        b"\x80\x02.",
        b"\x80\x04K\x01.",
    ):
        path.write_bytes(content)
        refused(read, path, tmp_path / "executed")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read(tmp_path / "nothing.ckpt")


# -- NVlabs pickles --------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 4])
def test_nvlabs_networks_come_back_and_their_source_is_not_executed(tmp_path, write_edm, protocol):
    weights = {
        "model.enc.8x8_conv.weight": torch.randn(2, 3, generator=torch.Generator().manual_seed(0)),
        "model.dec.8x8_up.resample_filter": torch.ones(1, 1, 2, 2),
        "model.out.bias": torch.zeros(4).half(),
    }
    kwargs = {"label_dim": 5, "scale": np.float64(0.25), "steps": np.int64(3)}
    read = read_nvlabs(write_edm(kwargs, weights, protocol))
    assert (read.cls, dict(read.kwargs)) == ("EDMPrecond", kwargs)
    assert read.tensors.keys() == weights.keys()
    for name, value in weights.items():
        assert torch.equal(read.tensors[name], value) and read.tensors[name].dtype == value.dtype
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", [name for name in NAMES if name != "from_bytes"])
def test_attacks_in_nvlabs_pickles_are_refused(tmp_path, write_edm, name, protocol):
    flag = tmp_path / "executed"
    path = write_edm({}, {"model.w": torch.ones(1)}, protocol, loss_fn=attacks(flag)[name])
    assert "it wants to import" in refused(read_nvlabs, path, flag)


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", ["os.system", "eval", "torch.load"])
def test_attacks_in_the_bytes_of_a_tensor_are_refused(tmp_path, write_edm, name, is_zip):
    flag, blob = tmp_path / "executed", io.BytesIO()
    torch.save(attacks(flag)[name], blob, _use_new_zipfile_serialization=is_zip)
    hostile = Call(torch.storage._load_from_bytes, blob.getvalue())
    refused(read_nvlabs, write_edm({}, {"model.w": torch.ones(1)}, extra=hostile), flag)


def test_a_bare_pickle_in_the_bytes_of_a_tensor_is_refused(tmp_path, write_edm):
    flag = tmp_path / "executed"
    for content in (pickle.dumps(attacks(flag)["eval"]), b"none"):
        hostile = Call(torch.storage._load_from_bytes, content)
        refused(read_nvlabs, write_edm({}, {"model.w": torch.ones(1)}, extra=hostile), flag)


def test_truncated_nvlabs_pickles_are_refused(tmp_path, write_edm):
    path = write_edm({}, {"model.w": torch.ones(100)})
    path.write_bytes(path.read_bytes()[:-200])
    refused(read_nvlabs, path, tmp_path / "executed")
