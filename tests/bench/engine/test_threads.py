"""How many CPU threads a worker gets, and what is said of it."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from tests.bench.harness import planned, rows, run

from posterior_bench.bench.config.compose import compose
from posterior_bench.bench.engine import ray_pool
from posterior_bench.bench.engine.executor import threads_each
from posterior_bench.bench.engine.job import job_of
from posterior_bench.bench.engine.worker import Worker
from posterior_bench.bench.estimate.checks import threads as check
from posterior_bench.bench.estimate.machine import Machine


@pytest.mark.parametrize(
    ("workers", "nodes", "expected"),
    [
        (1, [{"CPU": 2.0}], 2),
        (2, [{"CPU": 2.0}], 1),
        (3, [{"CPU": 2.0}], 1),  # more workers than cores
        (3, [{"CPU": 16.0}], 5),
        (4, [{"CPU": 8.0}, {"CPU": 8.0}], 4),
        (8, [{"CPU": 64.0, "GPU": 8.0}], 8),
        (2, [{"CPU": 64.0, "GPU": 8.0}], 32),
        # all workers have as many threads as fit on the smallest machine; one without GPUs has none
        (12, [{"CPU": 64.0, "GPU": 8.0}, {"CPU": 16.0, "GPU": 4.0}, {"CPU": 128.0}], 4),
        (1, [{"CPU": 0.0, "GPU": 1.0}], 1),
    ],
)
def test_workers_share_the_cores_of_their_machine(workers, nodes, expected) -> None:
    assert threads_each(workers, nodes) == expected


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A Ray without GPUs on eight cores; the threads that its actors were made with."""
    made: list[int] = []
    maker = SimpleNamespace(remote=made.append)
    fake = SimpleNamespace(
        is_initialized=lambda: True,
        cluster_resources=lambda: {"CPU": 99.0},
        nodes=lambda: [
            {"Alive": True, "Resources": {"CPU": 64.0}},
            {"Alive": False, "Resources": {"CPU": 64.0}},
        ],
        remote=lambda **settings: lambda kind: maker,
        kill=lambda actor: None,
    )
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.setattr(ray_pool, "cores", lambda: 8)
    monkeypatch.setattr(ray_pool, "_POOL", {})
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    return made


def test_ray_gives_every_worker_its_share_unless_the_user_says_a_number(ray, monkeypatch) -> None:
    assert ray_pool.actors(None, 2, None).threads == 4
    assert ray_pool.actors(None, 2, 3)[:2] == [None, None] and ray == [3, 3]
    assert ray_pool.actors("auto", 4, None).threads == 16, "of the nodes that are alive"
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    assert ray_pool.actors(None, 3, None).threads == 7


def test_a_cell_goes_on_with_the_threads_of_its_rows(command, capsys) -> None:
    """Else its rows would be of two kinds, and it would not be ranked."""
    plan = planned(command("blended", "threads=3"))
    Worker("cpu", 3).run(plan, plan.chunks[0])
    lines = [line for line in command() if not line.startswith(("threads", "quiet"))]
    torch.set_num_threads(1)  # as a new process has
    assert run(lines).good
    assert set(rows(plan)["threads"]) == {3}
    assert "threads=3, as in the rows that this cell has" in capsys.readouterr().err


def test_rows_without_a_worker_say_nothing_of_threads(command) -> None:
    plan = planned(command())
    first, second = plan.chunks[:2]
    lost = [{"cell": plan.cell.name, "image_id": "0", "draw": 0, "status": "error", "message": ""}]
    plan.store.write(first.name, lost)
    assert plan.threads(plan.chunks[1:]) is None
    Worker("cpu", 1).run(plan, second)
    assert plan.threads(plan.chunks[2:]) == 1


def said(
    monkeypatch: pytest.MonkeyPatch,
    lines: list[str],
    busy: float = 0.0,
    machine: Machine | None = None,
) -> dict[str, tuple[str, str]]:
    """What the check says on four cores: found and remedy, by its name."""
    monkeypatch.setattr(check, "cores", lambda: 4)
    monkeypatch.setattr(check, "cpu_workers", lambda: 2)
    monkeypatch.setattr(check, "threads_of_the_user", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    config = job_of(compose(lines)[0])
    found = [*check.check_threads(config, machine or Machine(), busy)]
    assert all(finding.state == "warning" for finding in found)
    return {finding.check: (finding.found, finding.remedy) for finding in found}


def test_doctor_warns_of_more_threads_than_cores(command, monkeypatch) -> None:
    lines = [line for line in command() if not line.startswith("threads")]
    ray = [*lines, "executor=ray"]
    assert said(monkeypatch, ray) == {}, "the default shares the cores"
    assert said(monkeypatch, [*ray, "threads=2"]) == {}
    words, remedy = said(monkeypatch, [*ray, "threads=4"])["threads"]
    assert words.startswith("2 workers with 4 threads each on 4 cores") and remedy == "threads=2"
    assert said(monkeypatch, [*lines, "threads=5"])["threads"][1] == "threads=4"
    remedy = said(monkeypatch, [*ray, "executor.workers=6"])["threads"][1]
    assert remedy == "executor.workers=4 threads=1"
    assert said(monkeypatch, [*ray, "threads=4", "executor.address=auto"]) == {}, (
        "of other machines"
    )
    assert said(monkeypatch, [*ray, "threads=4"], 3.0, Machine(gpus=0)) == {}


def test_doctor_warns_of_other_work(command, monkeypatch) -> None:
    lines = [line for line in command() if not line.startswith("threads")]
    assert "load" not in said(monkeypatch, [*lines, "threads=2"], 2.0), "two cores are left"
    assert "load" not in said(monkeypatch, [*lines, "threads=4"], 0.3)
    found = said(monkeypatch, [*lines, "threads=2"], 2.46)["load"][0]
    assert found.startswith("other work keeps about 2.5 of 4 cores busy")
