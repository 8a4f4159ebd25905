"""What a process keeps of the cells of a sweep, and how often it reads the weights of a prior."""

from __future__ import annotations

import gc
import shutil
import weakref
from collections import Counter
from pathlib import Path

import pytest
import torch
from tests.bench.harness import TINY, planned, run

from posterior_bench.bench.config.compose import compose
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.engine import cache, serial
from posterior_bench.bench.engine.job import job_of
from posterior_bench.priors import load as loading
from posterior_bench.priors.load import load


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the weights of each file were read, by a process that has loaded nothing yet."""
    monkeypatch.setattr(cache, "_KEPT", {})
    serial._worker.cache_clear()
    counted: Counter[str] = Counter()
    original = loading.load_file

    def load_file(path: Path) -> dict[str, torch.Tensor]:
        counted[Path(path).name] += 1
        return original(path)

    monkeypatch.setattr(loading, "load_file", load_file)
    return counted


def test_a_plan_reads_no_weights_and_a_run_reads_each_file_once(reads, latent_command) -> None:
    command = [line for line in latent_command("dps", "data.images=2", "quiet=false")]
    planned(command)
    assert not reads
    run(command)
    assert reads == {"net.safetensors": 1, "latent.safetensors": 1}


def test_a_budget_counts_passes_without_weights(reads, latent_command) -> None:
    lines = [line for line in latent_command("dps") if not line.startswith("solver.steps")]
    plan = planned([*lines, "budget=nfe:6"])
    assert plan.cell.config.solver["steps"] == 6 and not reads


def test_a_sweep_over_priors_keeps_the_prior_of_the_present_cell_alone(
    reads, latent_command, latent_prior: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(cache, "SPARE_BYTES", 0)
    gone = []
    for name in ("a", "b", "c"):
        folder = tmp_path / name
        shutil.copytree(latent_prior, folder)
        text = (folder / "prior.json").read_text().replace('"tiny"', f'"{name}"')
        (folder / "prior.json").write_text(text)
        run([*latent_command("dps", "data.images=1"), f"prior.path={folder}"])
        kept = [found for (kind, *_), found in cache._KEPT.items() if kind == "prior"]
        assert len(kept) == 1, "the priors of earlier cells stay in memory"
        gc.collect()
        assert [reference() for reference in gone] == [None] * len(gone)
        gone.append(weakref.ref(kept[0].net))
        del kept
    assert reads["net.safetensors"] == 3


def test_a_sweep_over_solvers_loads_its_prior_once(reads, latent_command) -> None:
    for steps in (2, 3):
        run([*latent_command("dps", "data.images=1"), f"solver.steps={steps}"])
    assert reads == {"net.safetensors": 1, "latent.safetensors": 1}


def test_what_the_next_cell_needs_and_the_last_used_stay(monkeypatch) -> None:
    monkeypatch.setattr(cache, "_KEPT", {})
    monkeypatch.setattr(cache, "SPARE_OBJECTS", 1)
    nodes = [
        {"_target_": "metrics.psnr.PSNR", "region": region} for region in ("whole", "hole", "known")
    ]
    first, _, last = (cache.shared("metric", node, "cpu") for node in nodes)
    cache.forget_others([("metric", nodes[0])], "cuda")
    assert len(cache._KEPT) == 3, "of another device"
    cache.forget_others([("metric", nodes[0])], "cpu")
    assert list(cache._KEPT.values()) == [first, last]
    assert cache.shared("metric", nodes[0], "cpu") is first


def test_a_gpu_keeps_nothing_of_other_cells(monkeypatch) -> None:
    """Its free memory decides the batch of a row whose memory runs out."""
    monkeypatch.setattr(cache, "_KEPT", {})
    nodes = [{"_target_": "metrics.psnr.PSNR", "region": region} for region in ("whole", "hole")]
    # the name alone counts: a metric without weights is nowhere
    first, _ = (cache.shared("metric", node, "cuda:0") for node in nodes)
    cache.forget_others([("metric", nodes[0])], "cuda:0")
    assert list(cache._KEPT.values()) == [first]


@pytest.mark.skipif(not Path("/proc/self/maps").is_file(), reason="not Linux")
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_weights_are_the_pages_of_their_file_until_they_are_on_the_device(
    latent_prior: Path, tmp_path: Path, monkeypatch, dtype: torch.dtype
) -> None:
    """The workers of a node share these pages."""
    folder = loading.save(tmp_path / "p", load(latent_prior), TINY, dtype)
    original, filled = loading.fill, []

    def fill(where, state, net, reason, device) -> None:
        lines = Path("/proc/self/maps").read_text().splitlines()
        ends = [line.split()[0].split("-") for line in lines if where in line]
        spans = [range(int(start, 16), int(end, 16)) for start, end in ends]
        filled.append(all(any(w.data_ptr() in span for span in spans) for w in state.values()))
        assert {w.dtype for w in state.values()} == {dtype} and device == "cpu"
        original(where, state, net, reason, device)

    monkeypatch.setattr(loading, "fill", fill)
    node = {"_target_": "priors.load.load", "path": str(folder)}
    monkeypatch.setattr(cache, "_KEPT", {})
    prior = cache.shared("prior", node, "cpu")
    assert filled == [True, True]
    assert {weight.dtype for weight in prior.net.parameters()} == {torch.float32}


def test_the_size_of_a_prior_is_that_of_its_weights(latent_prior: Path) -> None:
    prior = load(latent_prior)
    tensors = [*prior.net.parameters(), *prior.latent.parameters()]
    assert cache.size_of(prior) == 4 * sum(tensor.numel() for tensor in tensors) > 0
    assert cache.size_of(loading.describe(latent_prior)) == 0


def test_a_damaged_prior_is_refused_by_the_plan(
    reads, latent_command, latent_prior: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(latent_prior, tmp_path / "damaged")
    weights = folder / "net.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    config = job_of(compose([*latent_command("dps"), f"prior.path={folder}"])[0])
    with pytest.raises(UserError, match=r"priors\.load\.load: .* \(its sha256 differs\)"):
        cache.described(config.prior)
