"""Names in a checkpoint that could be imported here are not, and similar names are refused."""

from __future__ import annotations

import pickle
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from posterior_bench.priors.convert.readers import FOREIGN, read_checkpoint, read_nvlabs


@pytest.fixture
def training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package ``training`` that can be imported; yields the file it then leaves behind."""
    package, flag = tmp_path / "site" / "training", tmp_path / "imported"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    code = f"open({str(flag)!r}, 'w').close()\nclass EDMLoss:\n    sigma = 1\n"
    (package / "loss.py").write_text(code)
    monkeypatch.syspath_prepend(str(package.parent))
    yield flag
    for name in ("training.loss", "training"):
        sys.modules.pop(name, None)


def test_a_training_package_that_is_there_is_not_imported(training: Path, write_edm) -> None:
    """In a checkout of NVlabs/edm ``training`` is there, and holds what the pickle names."""
    loss = __import__("training.loss", fromlist=["EDMLoss"]).EDMLoss()
    path = write_edm({}, {"model.w": torch.ones(3)}, loss_fn=loss)
    for name in ("training.loss", "training"):
        del sys.modules[name]
    training.unlink()
    read = read_nvlabs(path)
    assert torch.equal(read.tensors["model.w"], torch.ones(3))
    assert not training.exists()
    assert not {"training", "training.loss"} & sys.modules.keys()


@pytest.mark.parametrize("module", ["training", "trainings.loss", "training_hooks", "trainingx.y"])
def test_only_modules_below_training_are_held(module: str, tmp_path: Path) -> None:
    path = tmp_path / "network.pkl"
    # a dict with one object of that class under 'ema', written by hand
    path.write_bytes(b"(dS'ema'\nc" + module.encode() + b"\nThing\n)\x81s.")
    with pytest.raises(
        ValueError, match=rf"it wants to import {module}\.Thing, which no checkpoint"
    ):
        read_nvlabs(path)


@pytest.mark.parametrize("module", [f"{package}x" for package in FOREIGN if "." not in package])
def test_only_packages_of_the_list_are_inert(module: str, tmp_path: Path, monkeypatch) -> None:
    made = types.ModuleType(module)
    made.Thing = type("Thing", (), {"__module__": module})
    monkeypatch.setitem(sys.modules, module, made)
    torch.save({"w": torch.ones(1), "x": made.Thing()}, tmp_path / "model.ckpt")
    with pytest.raises(
        ValueError, match=rf"it wants to import {module}\.Thing, which no checkpoint"
    ):
        read_checkpoint(tmp_path / "model.ckpt")


def test_the_refused_pickles_are_sound_otherwise() -> None:
    """Python itself reads the hand-written one, where the class is there."""
    module = types.ModuleType("training_hooks")
    module.Thing = type("Thing", (), {})
    sys.modules["training_hooks"] = module
    try:
        found = pickle.loads(b"(dS'ema'\nctraining_hooks\nThing\n)\x81s.")
    finally:
        del sys.modules["training_hooks"]
    assert isinstance(found["ema"], module.Thing)
