"""The put-back loop of executor=ray, against a Ray of a few lines whose workers die when told
to."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from tests.bench.harness import planned

from posterior_bench.bench.core.errors import DeviceLost, UserError
from posterior_bench.bench.engine import ray_actors, ray_pool
from posterior_bench.bench.engine.plan import CellPlan, Chunk
from posterior_bench.bench.engine.ray_actors import RayActors


class ActorDied(Exception):
    """In place of ``ray.exceptions.RayActorError``."""


class Call:
    """A call whose result is there as soon as somebody asks; equal to itself alone, as in Ray."""

    def __init__(self, work: Callable[[], Any]):
        self.work = work


class Actor:
    """Answers ``prepare`` and ``run``; dies on a chunk as often as ``deaths`` says."""

    def __init__(self, deaths: Counter[str], ran: list[str]):
        self.deaths, self.ran = deaths, ran
        self.prepare = SimpleNamespace(remote=lambda config: Call(lambda: ""))
        self.run = SimpleNamespace(remote=lambda plan, chunk: Call(lambda: self._run(chunk)))

    def _run(self, chunk: Chunk) -> dict[str, int]:
        self.ran.append(chunk.name)
        if self.deaths[chunk.name]:
            self.deaths[chunk.name] -= 1
            raise ActorDied("the actor died")
        return {"ok": len(chunk.images)}


@pytest.fixture
def actors(monkeypatch: pytest.MonkeyPatch) -> tuple[Counter[str], list[str]]:
    """How often each chunk is to kill its worker, and the chunks that were begun."""
    ray, errors = ModuleType("ray"), ModuleType("ray.exceptions")
    errors.RayActorError = ActorDied
    ray.exceptions, ray.get = errors, lambda call: call.work()
    ray.kill = lambda actor, no_restart: None
    ray.wait = lambda calls, num_returns, timeout: (list(calls)[:1], list(calls)[1:])
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.exceptions", errors)
    monkeypatch.setattr(ray_actors.time, "sleep", lambda seconds: None)
    deaths, ran = Counter(), []
    pool = ray_pool.Pool(lambda: Actor(deaths, ran), 2, 1)
    monkeypatch.setattr(ray_pool, "actors", lambda address, workers, threads: pool)
    return deaths, ran


def finished(plan: CellPlan, tries: int = 3) -> dict[str, dict[str, int]]:
    found = list(RayActors(tries=tries).run(plan, plan.chunks, 1))
    assert len(found) == len({chunk.name for chunk, _ in found}), "a chunk is finished once"
    return {chunk.name: counts for chunk, counts in found}


@pytest.mark.parametrize("tries", [1, 3])
def test_a_chunk_that_kills_its_worker_is_begun_so_many_times_and_no_more(
    command, actors, tries: int
) -> None:
    deaths, ran = actors
    plan = planned(command())
    poison = plan.chunks[1].name
    deaths[poison] = 99
    done = finished(plan, tries)
    assert Counter(ran) == {
        chunk.name: tries if chunk.name == poison else 1 for chunk in plan.chunks
    }
    assert done[poison] == {"error": 4}
    rows = plan.store.read(["status", "message"])
    assert rows["message"].tolist() == [f"the worker died {tries} times on this chunk"] * 4
    assert rows["image_id"].tolist() == [image for image in plan.chunks[1].images for _ in range(2)]


def test_a_chunk_whose_last_try_succeeds_is_good(command, actors) -> None:
    deaths, ran = actors
    plan = planned(command())
    deaths[plan.chunks[0].name] = 2
    assert all("error" not in counts for counts in finished(plan).values())
    assert ran.count(plan.chunks[0].name) == 3


class Ended(BaseException):
    """The process ends here."""


def test_a_worker_whose_device_is_lost_ends_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would take chunk after chunk, and fail on each; Ray starts a fresh process."""
    codes = []

    def end(code: int) -> None:
        codes.append(code)
        raise Ended

    def lose(plan: object, chunk: object) -> dict[str, int]:
        raise DeviceLost("the device answers no more")

    monkeypatch.setattr(os, "_exit", end)
    worker = object.__new__(ray_pool.RayWorker)
    worker.worker = SimpleNamespace(run=lose)
    with pytest.raises(Ended):
        worker.run(None, None)
    assert codes == [1]


def test_a_cell_that_cannot_be_loaded_ends_the_run_with_its_reason(
    command, actors, monkeypatch
) -> None:
    plan = planned(command())
    broken = Actor(*actors)
    broken.prepare = SimpleNamespace(
        remote=lambda config: Call(lambda: "no such prior; give another")
    )
    monkeypatch.setattr(
        ray_pool, "actors", lambda address, workers, threads: ray_pool.Pool(lambda: broken, 1, 1)
    )
    with pytest.raises(UserError, match="no such prior; give another"):
        finished(plan)


def test_a_signal_ends_the_workers_at_once(command, actors, monkeypatch) -> None:
    """They know of no signal, and would store the chunk that they are at."""
    from posterior_bench.bench.core import signals

    plan, ended = planned(command()), []
    ray, comes = sys.modules["ray"], []
    wait, ray.kill = ray.wait, ended.append
    ray.wait = lambda *refs, **more: [*map(signal.raise_signal, comes)] or wait(*refs, **more)
    monkeypatch.setattr(ray_pool, "_POOL", {"pool": SimpleNamespace(made=["one", "two"])})
    signals.heed_signals()
    try:
        running = RayActors().run(plan, plan.chunks, 1)
        next(running)
        comes.append(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            list(running)
        assert signals.exit_code() == 143 and ended == ["one", "two"] and not ray_pool._POOL
    finally:
        signals.forget()


def test_a_full_disk_of_a_worker_is_no_traceback_of_ray(command, actors, monkeypatch) -> None:
    plan = planned(command())
    full = OSError(28, "No space left on device", "shard")
    worker = object.__new__(ray_pool.RayWorker)
    worker.worker = SimpleNamespace(run=lambda plan, chunk: (_ for _ in ()).throw(full))
    actor = Actor(*actors)
    actor.run = SimpleNamespace(remote=lambda plan, chunk: Call(lambda: worker.run(plan, chunk)))
    monkeypatch.setattr(
        ray_pool, "actors", lambda address, workers, threads: ray_pool.Pool(lambda: actor, 1, 1)
    )
    with pytest.raises(OSError, match="No space left on device"):
        finished(plan)
