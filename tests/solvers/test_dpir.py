"""DPIR, step by step and against deepinv's own network; skipped where deepinv is not installed."""

from __future__ import annotations

import math
import pickle
import sys
from collections import OrderedDict
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest
import torch
from tests.bench.harness import planned

from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.external.folder import NoPrior
from posterior_bench.operators.inpainting import Inpainting
from posterior_bench.solvers import dpir
from posterior_bench.solvers.base import Observation
from posterior_bench.solvers.dpir import DPIR


@pytest.fixture
def deepinv():
    return pytest.importorskip("deepinv", reason="the optional package deepinv is not installed")


@pytest.fixture
def stub(monkeypatch):
    """What is tested without the network needs no library."""
    monkeypatch.setitem(sys.modules, "deepinv", ModuleType("deepinv"))


@pytest.fixture
def file(deepinv, tmp_path: Path) -> str:
    """A file like the published ones, of a tiny DRUNet for grey images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = deepinv.models.DRUNet(1, 1, nc=(4, 6, 8, 10), nb=2, pretrained=None)
    path = tmp_path / "drunet_gray.pth"
    torch.save(OrderedDict(network.state_dict()), path)
    return str(path)


def _observe(rows: int = 2, sigma: float = 0.1) -> Observation:
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(rows, 1, 16, 24, generator=generator) * 2 - 1
    mask = torch.rand(rows, 1, 16, 24, generator=generator) > 0.3
    operator = Inpainting(mask, sigma)
    return Observation(operator.A(x), operator)


def _run(solver: DPIR, obs: Observation) -> torch.Tensor:
    x = solver.fit(obs, NoPrior((1, 16, 24)), None).sample([0, 1]).x
    assert torch.equal(x[:, 0].nan_to_num(), x[:, 1].nan_to_num())
    return x[:, 0]


def test_the_network_is_deepinvs_with_these_weights(deepinv, file):
    network = dpir._network(file, None, 1, torch.device("cpu"))
    theirs = deepinv.models.DRUNet(1, 1, nc=(4, 6, 8, 10), nb=2, pretrained=file)
    x = _observe().y
    with torch.no_grad():
        assert torch.equal(network(x, 0.1), theirs(x, 0.1))
    assert not any(p.requires_grad for p in network.parameters())


def test_loading_draws_no_random_number(file):
    dpir._network.cache_clear()
    before = torch.get_rng_state()
    _run(DPIR(file, steps=1), _observe())
    assert torch.equal(before, torch.get_rng_state())


def test_steps_are_those_of_the_paper(stub, monkeypatch):
    """Eq. 6 on single pixels, with a denoiser in closed form for grey values of variance 0.09."""
    seen = []

    def wiener(x: torch.Tensor, sigma: float) -> torch.Tensor:
        seen.append(2 * sigma)
        return 0.5 + (x - 0.5) * 0.09 / (0.09 + sigma**2)

    monkeypatch.setattr(dpir, "_network", lambda *given: wiener)
    obs, solver = _observe(), DPIR("none", steps=5, lam=0.3)
    x = _run(solver, obs)
    observed, hidden = obs.y.clone(), torch.zeros_like(obs.y)
    for k in range(5):
        level = 0.384 * (0.1 / 0.384) ** (k / 4)
        assert seen[k] == pytest.approx(level)
        alpha = 0.3 * 0.1**2 / level**2
        gain = 0.09 / (0.09 + level**2 / 4)
        observed, hidden = gain * (obs.y + alpha * observed) / (1 + alpha), gain * hidden
    expected = torch.where(obs.operator.mask, observed, hidden)
    torch.testing.assert_close(x, expected, atol=1e-5, rtol=0)
    assert len(seen) == 5


def test_levels_fall_evenly_to_the_noise_of_the_measurement(stub):
    levels = DPIR("none").levels(0.02)
    assert len(levels) == 8 and levels[0] == pytest.approx(98 / 255, abs=1e-3)
    ratios = {round(b / a, 9) for a, b in pairwise(levels)}
    assert len(ratios) == 1 and levels[-1] == pytest.approx(0.02)
    assert DPIR("none", steps=1).levels(0.02) == pytest.approx([0.384])
    assert DPIR("none").levels(2.0) == pytest.approx([2.0] * 8)


def test_rows_do_not_mix(file):
    obs = _observe(3)
    whole = _run(DPIR(file), obs)
    broken = obs.y.clone()
    broken[1][obs.operator.mask[1]] = torch.nan
    x = _run(DPIR(file), replace(obs, y=broken))
    assert torch.equal(x[[0, 2]], whole[[0, 2]]) and x[1].isnan().any() and whole.isfinite().all()


def test_the_plan_records_the_content_and_refuses_another_file(file, tmp_path):
    lines = ["solver=dpir", "data=fashion", "data.images=1", "draws=1", "metrics=[psnr]"]
    plan = planned([*lines, f"solver.path={file}", f"out={tmp_path / 'a'}"])
    content = plan.cell.config.solver["sha256"]
    copy = tmp_path / "renamed.pth"
    copy.write_bytes(Path(file).read_bytes())
    again = planned([*lines, f"solver.path={copy}", f"out={tmp_path / 'b'}"])
    assert plan.cell.name == again.cell.name and len(content) == 64
    with pytest.raises(UserError, match="has sha256"):
        planned([*lines, f"solver.path={file}", f"solver.sha256={'0' * 64}"])
    with pytest.raises(UserError, match="cannot be read: No such file") as error:
        planned([*lines, f"solver.path={tmp_path / 'absent.pth'}"])
    assert "\n" not in str(error.value)


class Program:
    """An object whose unpickling would run a command."""

    def __reduce__(self):
        return (sys.exit, (3,))


@pytest.mark.parametrize("content", ["program", "other weights", "noise", "a list"])
def test_a_file_that_is_no_drunet_is_refused_and_not_run(deepinv, content, tmp_path):
    path = tmp_path / "weights.pth"
    if content == "program":
        path.write_bytes(pickle.dumps(Program()))
    elif content == "noise":
        path.write_bytes(b"not a file of torch")
    else:
        torch.save({"m_head": torch.zeros(1)} if content == "other weights" else [1], path)
    with pytest.raises(ValueError, match="is no file of a DRUNet's weights; take drunet") as error:
        DPIR(str(path)).checked((1, 28, 28))
    assert "\n" not in str(error.value)


def test_weights_for_other_channels_are_refused(file):
    with pytest.raises(ValueError, match="denoises images of 1 channels, and these have 3"):
        DPIR(file).checked((3, 28, 28))


def test_bad_settings_and_a_missing_package_are_refused(stub, monkeypatch):
    with pytest.raises(ValueError, match=r"lam must be positive, got -1\.0"):
        DPIR("none", lam=-1.0)
    with pytest.raises(ValueError, match="sigma_floor must be positive, got nan"):
        DPIR("none", sigma_floor=math.nan)
    monkeypatch.setitem(sys.modules, "deepinv", None)
    with pytest.raises(ImportError, match=r'pip install "posterior-bench\[deepinv\]"'):
        DPIR("none")
