"""Draws of an image spread over chunks: how many there are, by hand; and that nobody sees it in the
rows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.bench.harness import assert_same_rows, planned, rows, run

from posterior_bench.bench.cli.study_status import read
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.engine import chunking, executor, ray_actors, ray_pool, serial
from posterior_bench.bench.engine.chunking import idle_words, pieces
from posterior_bench.bench.engine.plan import cut, slices
from posterior_bench.bench.engine.score import score

ONE = ["data.images=1", "draws=5", "batch=2", "metrics=[psnr,consistency]"]
"""One image: network batches of 2 + 2 + 1 draws."""


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> None:
    """A serial executor that will have three workers, as far as the plan knows."""
    monkeypatch.setattr(serial.Serial, "planned_workers", lambda self: 3, raising=False)


@pytest.mark.parametrize(
    ("images", "draws", "batch", "workers", "fits", "expected"),
    [
        (1, 100, 16, 8, False, 8),  # 7 batches: 13 draws each for 8 workers, a batch each
        (1, 100, 16, 8, True, 8),
        (1, 100, 16, 3, False, 3),  # 7 batches: 3 + 2 + 2 instead of 7
        (1, 100, 16, 1, False, 1),
        (1, 100, 128, 8, False, 1),  # one batch: a smaller one would change last digits
        (1, 17, 16, 8, False, 2),  # two batches; eight pieces of two draws would be nearly empty
        (10, 100, 16, 8, False, 7),  # 70 pieces in 9 waves of one batch, instead of 2 waves of 7
        (10, 100, 16, 8, True, 1),  # a fit per piece would cost more than it brings
        (
            3,
            100,
            16,
            8,
            True,
            2,
        ),  # six pieces at the same time; nine would be two waves with two fits
        (1000, 100, 16, 8, False, 1),  # 125 images each already: nothing to be had
    ],
)
def test_pieces_by_hand(
    images: int, draws: int, batch: int, workers: int, fits: bool, expected: int
) -> None:
    assert pieces(images, draws, batch, workers, fits) == expected


@pytest.mark.parametrize("workers", [2, 3, 5, 8, 13])
@pytest.mark.parametrize("images", [1, 2, 3, 8, 11])
@pytest.mark.parametrize(("draws", "batch"), [(7, 3), (40, 16), (100, 16), (9, 1)])
def test_the_busiest_worker_never_has_more_to_do(
    images: int, workers: int, draws: int, batch: int
) -> None:
    """Against a list of what every worker gets, in turns; a fit costs as much as any number of
    batches."""
    for fit in (0, 1, 50):
        before, after = (
            _busiest(images, cut(draws, batch, count), batch, workers, fit)
            for count in (1, pieces(images, draws, batch, workers, fit > 0))
        )
        assert after <= before


def _busiest(images: int, parts: list[range], batch: int, workers: int, fit: int) -> int:
    loads = [0] * workers
    for _ in range(images):
        for part in parts:
            loads[loads.index(min(loads))] += fit + len(range(part.start, part.stop, batch))
    return max(loads)


def test_cuts_keep_whole_batches_together_where_they_can() -> None:
    assert cut(10, 4, 1) == [range(10)]
    assert cut(10, 4, 2) == [range(8), range(8, 10)]
    assert [len(part) for part in cut(100, 16, 8)] == [13, 12, 13, 12, 13, 12, 13, 12]
    for count in range(1, 10):
        assert [draw for part in cut(10, 4, count) for draw in part] == list(range(10))


def test_chunks_without_a_cut_have_the_names_they_always_had() -> None:
    """Folders of earlier versions go on; a part of an image says which draws it holds."""
    (whole,), _ = slices(["a"], 5, 2)
    parts, padded = slices(["a"], 5, 2, 3)
    assert "-d" not in whole.name and padded == 1
    assert [part.name for part in parts] == [
        f"{whole.name}-d{end}" for end in ("0-1", "2-3", "4-4")
    ]
    assert [list(part.draws(5)) for part in parts] == [[0, 1], [2, 3], [4]] and list(
        whole.draws(5)
    ) == [*range(5)]


@pytest.mark.parametrize("solver", ["repaint", "vipaint2"])
def test_rows_of_spread_draws_are_bitwise_those_of_one_chunk(
    command, three, monkeypatch, solver: str
) -> None:
    spread = run(command(solver, *ONE, "trace=true", out="spread")).plan
    monkeypatch.setattr(serial.Serial, "planned_workers", lambda self: 1, raising=False)
    whole = run(command(solver, *ONE, "trace=true", out="whole")).plan
    assert (len(spread.chunks), len(whole.chunks)) == (3, 1)
    assert spread.rows() == len(rows(spread)) == 5
    assert_same_rows(spread, whole)  # counted passes, traces and all


@pytest.mark.parametrize("solver", ["repaint", "vipaint2"])
def test_one_row_at_a_time_gives_the_draws_of_all_at_once(command, solver: str) -> None:
    """Other shapes of products round in other places; every draw has its own noise."""
    singly, at_once = (
        run(command(solver, *ONE, f"batch={batch}", out=str(batch))).plan for batch in (1, 5)
    )
    a, b = (rows(plan) for plan in (singly, at_once))
    assert (a["padded_batch"].iloc[0], b["padded_batch"].iloc[0]) == (1, 5)
    np.testing.assert_allclose(a["psnr"], b["psnr"], atol=0.05)
    assert a["psnr"].nunique() == 5


def test_a_run_goes_on_with_its_chunks_whatever_the_workers(
    command, three, monkeypatch, tmp_path
) -> None:
    lines = command("repaint", *ONE)
    first = run(lines).plan
    before = rows(first)
    sorted(first.folder.glob("rows/*.parquet"))[1].unlink()
    (cell,) = read(tmp_path / "study")
    assert (cell.rows, cell.planned) == (3, 5)
    monkeypatch.setattr(serial.Serial, "planned_workers", lambda self: 1, raising=False)
    again = planned(lines)
    assert [chunk.name for chunk in again.chunks] == [chunk.name for chunk in first.chunks]
    assert [list(chunk.draws(5)) for chunk in again.missing()] == [[2, 3]]
    outcome = run(lines)
    assert outcome.good
    assert rows(outcome.plan).equals(before)


def test_only_the_chunk_of_a_failed_draw_is_run_again(command, three) -> None:
    plan = run(command("blended", *ONE)).plan
    chunk = plan.chunks[1]
    rows = plan.store.table(chunk.name).to_pylist()
    plan.store.write(chunk.name, [{**row, "status": "nan"} for row in rows])
    assert plan.missing(retry=True) == [chunk]


def test_a_budget_allows_every_part_its_share(command, three) -> None:
    """12 steps and draws that may take 12: no chunk fails, though it holds two of five draws."""
    assert run(command("blended", *ONE, "budget=nfe:12", out="enough")).good
    short = run(command("blended", *ONE, "budget=nfe:11", out="short"))
    assert short.counts == {"error": 5}


def test_metrics_of_all_draws_keep_them_in_one_chunk(command, three, capsys) -> None:
    chunking.say_once.cache_clear()
    lines = [
        line
        for line in command("blended", *ONE, "quiet=false")
        if line not in ("quiet=true", ONE[-1])
    ]
    plan = planned([*lines, "metrics=[psnr,diversity]"])
    assert len(plan.chunks) == 1
    words = (
        "the 5 draws of an image stay in one chunk: these metrics look at all of them "
        "together: diversity, "
    )
    assert words in capsys.readouterr().err


def test_spreading_is_said_and_such_metrics_are_refused_later(
    command, three, capsys, tmp_path
) -> None:
    chunking.say_once.cache_clear()
    lines = [line for line in command("blended", *ONE) if line != "quiet=true"]
    run([*lines, "quiet=false"])
    assert (
        "the 5 draws of an image are spread over 3 chunks of at most 2 draws"
        in capsys.readouterr().err
    )
    nodes = planned(command("blended", "metrics=[diversity]", out="other")).cell.config.metrics
    with pytest.raises(UserError, match="needs all draws of an image in one chunk"):
        score(tmp_path / "study", nodes)


def test_no_more_workers_are_made_than_there_are_chunks() -> None:
    made: list[int] = []
    pool = ray_pool.Pool(lambda: made.append(len(made)) or len(made), 8, 1)
    assert len(pool) == 8 and made == []
    assert pool[:2] == [1, 2] and made == [0, 1]
    assert pool[:3] == [1, 2, 3] and pool[:100] == [*range(1, 9)] and len(made) == 8


def test_idle_workers_are_named(command) -> None:
    plan = planned(command())  # 7 images of 2 draws, two images a chunk
    assert len(plan.chunks) == 4
    assert idle_words(plan, 4, 4) == ""
    words = "4 chunks for 8 workers: 4 of them start; batch=2 would make 7 chunks of a new study"
    assert idle_words(plan, 4, 8) == words
    assert idle_words(replace(plan, batch=1), 1, 8) == "1 chunk for 8 workers: 1 of them starts"


def test_ray_knows_its_workers_before_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(executor, "cores", lambda: 9)
    assert ray_actors.RayActors().planned_workers() == 4
    assert ray_actors.RayActors(workers=3).planned_workers() == 3
    assert ray_actors.RayActors(address="auto").planned_workers() == 1
