"""``batch=auto``: how many rows are chosen, and that a plan keeps them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from posterior_bench.bench.config.compose import compose
from posterior_bench.bench.config.overrides import check
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.engine.batches import AutoBatch, BatchSize
from posterior_bench.bench.engine.job import job_of
from posterior_bench.bench.engine.prepare import prepare
from posterior_bench.bench.estimate import auto_batch
from posterior_bench.bench.estimate.memory import Estimate, Linear
from posterior_bench.bench.store.study_files import read_cell

SMALL = ["solver=dps", "solver.steps=2", "metrics=[psnr]", "quiet=true", "threads=1"]


def job(*more: str) -> Any:
    return job_of(compose(check([*SMALL, "batch=auto", *more]))[0])


def on_a_gpu(monkeypatch: pytest.MonkeyPatch, room: int, peak: Any) -> SimpleNamespace:
    monkeypatch.setattr(auto_batch, "peak_on", lambda device, config, size: peak(size))
    for name, value in (
        ("mem_get_info", lambda device: (room, 2 * room)),
        ("memory_reserved", lambda device: 0),
        ("get_device_name", lambda device: "a GPU"),
        ("empty_cache", lambda: None),
    ):
        monkeypatch.setattr(torch.cuda, name, value)
    return SimpleNamespace(device_here=lambda: "cuda")


def line(size: BatchSize) -> int:
    """1000 bytes of weights, 100 a row and 20 an image."""
    return 1000 + 100 * size.rows + 20 * size.images


@pytest.mark.parametrize(
    ("room", "draws", "images", "batch"),
    [
        # 1.1 (1000 + 100 rows + 20 images): 5 images with 4 draws are 3100, 3410 with slack
        (3411, 4, 99, 20),
        (3409, 4, 99, 16),  # 19 rows hold 4 images
        (3411, 4, 3, 12),  # all there are
        (1499, 4, 99, 3),  # 1.1 (1000 + 300 + 20) = 1452, and 1562 for four
    ],
)
def test_the_largest_batch_that_fits_with_slack_in_whole_images(
    room, draws, images, batch, monkeypatch
) -> None:
    executor = on_a_gpu(monkeypatch, room, line)
    config = job(f"draws={draws}", f"data.images={images}")
    chosen = auto_batch.measured_batch(config, None, executor)  # type: ignore[arg-type]
    assert chosen.batch == batch and chosen.words.startswith("measured, a GPU: a row takes")


def test_not_even_one_row(monkeypatch) -> None:
    executor = on_a_gpu(monkeypatch, 1000, line)
    with pytest.raises(UserError, match="not even one row fits"):
        auto_batch.measured_batch(job(), None, executor)  # type: ignore[arg-type]


def test_workers_share_the_images(monkeypatch) -> None:
    executor = on_a_gpu(monkeypatch, 10**6, line)
    executor.planned_workers = lambda: 4
    config = job("draws=2", "data.images=10")
    assert auto_batch.measured_batch(config, None, executor).batch == 6  # type: ignore[arg-type]


def test_the_first_plan_keeps_its_batch(tmp_path) -> None:
    """A second run, here or elsewhere, measures nothing and makes the same chunks."""
    words = [*SMALL, f"out={tmp_path}", "draws=2", "data.images=8"]
    auto = compose(check([*words, "batch=auto"]))

    def choose(batch: int) -> Any:
        return lambda config, session, executor: AutoBatch(batch, "measured here")

    def refuse(*_: object) -> AutoBatch:
        raise AssertionError("measured again")

    _, first = prepare(*auto, choose_batch=choose(6))
    assert (first.padded, first.batch, len(first.chunks)) == (3, 6, 3)
    assert first.cell.config.batch == 6 and not first.cell.config.auto_batch
    recorded = read_cell(first.folder / "config.yaml")
    assert recorded["batch_chosen"] == "measured here" and recorded["config"]["batch"] == 6
    _, again = prepare(*auto, choose_batch=refuse)
    _, typed = prepare(*compose(check([*words, "batch=4"])))
    for other in (again, typed):
        assert other.chunks == first.chunks and other.padded == 3 and other.batch == 6
    assert again.cell.name == typed.cell.name


def test_of_two_that_plan_at_once_the_first_one_holds(tmp_path) -> None:
    words = [*SMALL, f"out={tmp_path}", "draws=2", "data.images=8", "batch=auto"]
    plans = []

    def late(config: Any, session: Any, executor: Any) -> AutoBatch:
        early = lambda *_: AutoBatch(4, "early")  # noqa: E731
        plans.append(prepare(*compose(check(words)), choose_batch=early)[1])
        return AutoBatch(8, "late")

    plans.append(prepare(*compose(check(words)), choose_batch=late)[1])
    assert [plan.batch for plan in plans] == [4, 4] and plans[0].chunks == plans[1].chunks


def test_on_the_cpu_it_is_the_estimate_and_workers_share_the_memory(monkeypatch) -> None:
    """1000 bytes of weights and 100 a row, with a tenth on top, for two workers in 3300 bytes."""
    config, nothing = job("draws=1", "data.images=500"), Linear(0, 0, 0)
    known = Estimate(1000, 1, 16, 0, nothing, Linear(0, 100, 0), nothing, nothing)
    monkeypatch.setattr(auto_batch, "estimate", lambda config, memory: known)
    monkeypatch.setattr(auto_batch, "NetworkMemory", lambda prior: None)
    monkeypatch.setattr(auto_batch, "free_here", lambda config: ("cpu", 2 * 1651))
    session = SimpleNamespace(prior=SimpleNamespace(net=1))
    executor = SimpleNamespace(planned_workers=lambda: 2)
    chosen = auto_batch.measured_batch(config, session, executor)  # type: ignore[arg-type]
    assert chosen.batch == 5 and chosen.words.startswith("estimated, cpu")
    with pytest.raises(UserError, match="closed form has no network to measure"):
        auto_batch.measured_batch(
            config,
            SimpleNamespace(prior=SimpleNamespace(net=None)),  # type: ignore[arg-type]
            executor,
        )


def test_who_cannot_choose_says_so(tmp_path) -> None:
    cfg = compose(check([*SMALL, "batch=auto", f"out={tmp_path}"]))
    with pytest.raises(UserError, match="batch=auto is chosen by a run; here give batch=N"):
        prepare(*cfg, write=False)
    with pytest.raises(UserError, match="batch takes a whole number, or auto"):
        check([*SMALL, "batch=many"])
