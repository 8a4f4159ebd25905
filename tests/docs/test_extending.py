"""The examples of docs/extending.md run as they are, and give what is known by hand."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable
from importlib import util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import yaml

from posterior_bench.bench.core.environment import ROOT
from posterior_bench.metrics.base import Batch

PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
FILES: dict[str, str] = dict(
    re.findall(r"`([\w/]+\.(?:py|yaml))`[^\n]*\n\n```(?:python|yaml)\n(.*?)```", PAGE, re.DOTALL)
)
PARTS = {"stripes": "mask", "mae": "metrics", "ring": "prior"}


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Return what makes a module of a file of the page."""

    def module(file: str) -> ModuleType:
        path = tmp_path / Path(file).name
        path.write_text(FILES[file], encoding="utf-8")
        spec = util.spec_from_file_location(path.stem, path)
        assert spec is not None and spec.loader is not None
        loaded = util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, path.stem, loaded)  # dataclasses look there
        spec.loader.exec_module(loaded)
        return loaded

    return module


def test_all_examples_are_found() -> None:
    assert len(FILES) == 6
    assert {f"conf/{group}/{name}.yaml" for name, group in PARTS.items()} < set(FILES)


def test_a_mask_of_stripes(load) -> None:
    mask = load("masks/stripes.py").Stripes(2)
    first = {0: [0, 1, 4, 5], 1: [2, 3]}
    seen = set()
    for seed in range(20):
        observed = mask.generate(np.random.default_rng(seed), 6, 5)
        rows = np.flatnonzero(observed.all(axis=1)).tolist()
        assert rows in first.values() and observed.any(axis=1).sum() == len(rows)
        seen.add(len(rows))
    assert seen == {2, 4}


def test_a_mean_absolute_error(load) -> None:
    module = load("metrics/mae.py")
    truth, mask = torch.zeros(1, 1, 2, 2), torch.tensor([[[[True, True], [True, False]]]])
    raw = torch.tensor([[[[0.0, 0.0], [0.4, -1.0]]]])
    batch = Batch(raw, raw, truth, mask, raw, raw)
    assert module.MAE()(batch).tolist() == pytest.approx([1.4 / 4])
    assert module.MAE(region="hole")(batch).tolist() == pytest.approx([1.0])
    for region in ("whole", "hole"):
        module.MAE(region=region).check()


def test_a_prior_on_a_ring(load) -> None:
    prior = load("priors/ring.py").ring(8, 0.7, 0.05)
    level = prior.level(0.01)
    z = torch.tensor([[[[0.69, 0.02]]]], dtype=torch.float64)
    # one Gaussian alone is near: the mean of N(m, s^2) and N(z, t^2)
    mean = torch.tensor([0.7, 0.0], dtype=torch.float64)
    expected = (z.flatten() * 0.05**2 + mean * 0.01**2) / (0.05**2 + 0.01**2)
    torch.testing.assert_close(prior.denoise(z, level).flatten(), expected, atol=1e-6, rtol=0)
    assert math.dist(prior.means[1].tolist(), [0.7 / 2**0.5] * 2) < 1e-12


@pytest.mark.parametrize("file", [file for file in FILES if file.endswith(".yaml")])
def test_a_yaml_names_its_class_and_its_fields(file: str, load) -> None:
    assert re.match(r"# \S", FILES[file])
    content = yaml.safe_load(FILES[file])
    entries = list(content.values()) if "metrics" in file else [content]
    for entry in entries:
        package, module, name = entry.pop("_target_").split(".")
        entry.pop("shared", None)
        target = getattr(load(f"{package}/{module}.py"), name)
        target(**entry)
