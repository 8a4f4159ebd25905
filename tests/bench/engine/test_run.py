"""From a command to rows: what is promised about them, on real solvers and an exact prior."""

from __future__ import annotations

import multiprocessing
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from tests.bench.harness import FAST, assert_same_rows, bench, planned, rows, run

from posterior_bench.bench.config.compose import compose
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.engine.job import job_of
from posterior_bench.bench.engine.plan import slices
from posterior_bench.bench.engine.run import run_job
from posterior_bench.bench.engine.session import Session
from posterior_bench.bench.engine.worker import Worker
from posterior_bench.bench.estimate.one_cell import describe
from posterior_bench.solvers import blended

ROOT = Path(__file__).resolve().parents[3]


def session(overrides: Sequence[str]) -> Session:
    return Session(job_of(compose(list(overrides))[0]), "cpu")


@pytest.mark.parametrize("solver", list(FAST))
@pytest.mark.parametrize("mask", ["rotated", "comod"])
def test_the_measurement_is_the_same_for_every_solver_order_and_batch(
    command, solver: str, mask: str
) -> None:
    noisy = (f"mask={mask}", "operator.sigma=0.1")
    ids = [f"{i}.png" for i in range(7)]
    reference = session(command("blended", *noisy)).measure(ids)
    other = session(command(solver, *noisy, "batch=2", "draws=1"))
    for subset in (ids[3:4], [ids[6], ids[0], ids[3]], ids[::-1]):
        measured = other.measure(subset)
        at = [ids.index(i) for i in subset]
        assert torch.equal(measured.y, reference.y[at])
        assert torch.equal(measured.operator.mask, reference.operator.mask[at])


def test_another_seed_is_another_measurement(command) -> None:
    ids = ["0.png", "1.png"]
    a, b = (
        session(command("blended", "operator.sigma=0.1", f"seed={s}")).measure(ids) for s in (0, 1)
    )
    assert not torch.equal(a.operator.mask, b.operator.mask)
    assert not torch.equal(a.y, b.y)


def test_damaged_images_are_named_before_anything_runs(
    command, photos: Path, tmp_path: Path
) -> None:
    copies = tmp_path / "copies"
    copies.mkdir()
    for photo in photos.iterdir():
        (copies / photo.name).write_bytes(
            photo.read_bytes()[:40] if photo.stem in "25" else photo.read_bytes()
        )
    overrides = command("blended", f"data.root={copies}")
    with pytest.raises(UserError, match=r"'.*2\.png'.* \(and 1 more images\)"):
        run(overrides)
    assert not (tmp_path / "study").exists()
    run([*overrides, "data.images=2"])


@pytest.mark.parametrize("solver", list(FAST))
def test_rows_do_not_depend_on_the_order_of_chunks_or_on_neighbours(command, solver: str) -> None:
    forward = run(command(solver, out="forward")).plan
    backward = planned(command(solver, out="backward"))
    worker = Worker("cpu", 1)
    for chunk in reversed(backward.chunks):
        worker.run(backward, chunk)
    assert_same_rows(forward, backward)
    # one image fewer: other neighbours in the last, padded chunk
    fewer = run(command(solver, "data.images=5", out="fewer")).plan
    kept = rows(forward)[lambda f: f["image_id"].isin(rows(fewer)["image_id"])].reset_index(
        drop=True
    )
    assert kept.drop(columns="cell").equals(rows(fewer).drop(columns="cell"))


def test_every_row_is_there_and_ok(command) -> None:
    outcome = run(command("dps"))
    table = rows(outcome.plan)
    assert len(table) == 7 * 2 and outcome.good
    assert (table["status"] == "ok").all()
    assert table.set_index(["image_id", "draw"]).index.is_unique
    # DPS: one network call and one backward pass a step, whatever the padding
    assert (table["nfe"] == 8).all() and (table["nge"] == 8).all()
    assert (table["padded_batch"] == 4).all() and (table["threads"] == 1).all()


def test_a_second_run_does_nothing(command) -> None:
    plan = run(command()).plan
    before = {p: p.stat().st_mtime_ns for p in plan.folder.glob("rows/*")}
    assert run(command()).good
    assert {p: p.stat().st_mtime_ns for p in plan.folder.glob("rows/*")} == before


def test_a_started_cell_keeps_its_chunks(command) -> None:
    first = run(command())
    again = run(command("blended", "batch=2"))
    assert [c.name for c in again.plan.chunks] == [c.name for c in first.plan.chunks]
    assert len(rows(again.plan)) == 14


@pytest.mark.parametrize(
    "damage", [lambda data: data[: len(data) // 2], lambda data: b"", lambda data: data[:-1]]
)
def test_a_damaged_shard_is_done_again(command, damage) -> None:
    plan = run(command()).plan
    whole = rows(plan)
    shard = sorted(plan.folder.glob("rows/*.parquet"))[1]
    shard.write_bytes(damage(shard.read_bytes()))
    assert run(command()).good
    assert rows(plan).equals(whole)


def test_nan_in_one_image_is_one_row_and_touches_nothing_else(
    command, monkeypatch: pytest.MonkeyPatch
) -> None:
    healthy = run(command(out="healthy")).plan
    draw = blended.Blended.draw

    def sick(self, obs, prior, noise):
        x = draw(self, obs, prior, noise)
        x[1, 0, 3, 3] = float("nan")
        return x

    monkeypatch.setattr(blended.Blended, "draw", sick)
    outcome = run(command(out="sick"))
    table, expected = rows(outcome.plan), rows(healthy)
    # row 1 of each of the 4 chunks is the second draw of the chunk's first image
    bad = table["status"] == "nan"
    assert bad.sum() == 4 and not outcome.good
    assert (
        table[bad][["psnr", "psnr_hole", "consistency"]].isna().all().all()
        and table[bad]["png"].isna().all()
    )
    assert table[~bad].equals(expected[~bad])
    board = __import__("pandas").read_csv(outcome.study / "leaderboard.csv")
    # never scored as zero: the mean is over what is there
    per_image = table[~bad].groupby("image_id")["psnr"].mean()
    assert board["psnr"][0] == pytest.approx(per_image.mean()) and board["failed"][0] == 4
    assert run(command("blended", "accept=[nan]", out="sick")).good


def test_an_exception_becomes_error_rows(command, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = blended.Blended.draw
    calls = iter(range(99))

    def broken(self, obs, prior, noise):
        if next(calls) == 1:
            raise ArithmeticError("the second chunk is cursed")
        return draw(self, obs, prior, noise)

    monkeypatch.setattr(blended.Blended, "draw", broken)
    outcome = run(command())
    table = rows(outcome.plan)
    assert (table["status"] == "error").sum() == 4 and not outcome.good
    assert table["message"].str.contains("the second chunk is cursed").sum() == 4
    monkeypatch.setattr(blended.Blended, "draw", draw)
    # the same command keeps the rows; retry=true replaces them
    assert not run(command()).good
    assert run(command("blended", "retry=true")).good


def test_a_budget_stops_a_solver(command) -> None:
    assert run(command("blended", "budget=nfe:12", out="enough")).good
    table = rows(run(command("blended", "budget=nfe:11", out="short")).plan)
    assert (table["status"] == "error").all() and table["message"].str.contains("budget").all()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.images=8"], "there are only 7 images"),
        (["data.size=9"], "set data.size=8, or choose another prior"),
        (["data.root=/nowhere"], "/nowhere"),
        (
            ["budget=100"],
            r"budget=passes:N \(forward \+ backward\) or budget=nfe:N \(forward alone\)",
        ),
        (["budget=passes:0"], "budget=passes:0: write budget=passes:N"),
        (["budget=nge:10"], "budget=nge:10: write budget=passes:N"),
        (["accept=[bad]"], "valid statuses"),
        (["metrics=[lpips_vgg]"], "vgg16"),
        (["mask=comod", "mask.low=2"], "0 <= low < high <= 1"),
        (["operator.sigma=-1"], "not a noise level"),
        (["solver.eta=3"], "outside"),
        (["executor=ray", "executor.workers=0"], "at least 1"),
        (["solver.steps=0"], "step"),
    ],
    ids=lambda v: "".join(v) if isinstance(v, list) else None,
)
def test_what_cannot_run_is_refused_before_any_row(
    command, tmp_path, monkeypatch, overrides, message
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    if overrides == ["solver.steps=0"]:
        table = rows(run(command("blended", *overrides)).plan)
        assert (table["status"] == "error").all() and table["message"].str.contains(message).all()
        return
    with pytest.raises(UserError, match=message):
        run(command("blended", *overrides))
    assert not list((tmp_path / "study").rglob("*.parquet"))


@pytest.mark.parametrize(
    ("images", "draws", "batch"), [(7, 2, 4), (8, 4, 32), (3, 10, 4), (1, 1, 1), (100, 3, 32)]
)
def test_slices_cover_every_image_once(images: int, draws: int, batch: int) -> None:
    ids = [str(i) for i in range(images)]
    chunks, padded = slices(ids, draws, batch)
    assert [i for c in chunks for i in c.images] == ids
    assert len({c.name for c in chunks}) == len(chunks)
    assert all(len(c.images) <= padded for c in chunks) and padded * draws <= max(batch, draws)


def test_more_draws_than_a_batch_holds(command) -> None:
    wide = rows(run(command("blended", "draws=5", "batch=2", out="wide")).plan)
    assert len(wide) == 35 and (wide["status"] == "ok").all() and (wide["padded_batch"] == 2).all()
    # 12 calls a draw, also where the last block of draws is filled up
    assert (wide["nfe"] == 12).all()


def test_other_problems_have_other_names(command) -> None:
    def identity(*more):
        return planned(command("blended", *more)).cell

    plain_cell, noisy = identity(), identity("operator.sigma=0.1")
    assert noisy.identity["operator"] == "inpainting sigma=0.1" and noisy.name != plain_cell.name
    assert identity("operator.sigma=0").name == plain_cell.name


def test_metrics_a_finished_cell_lacks_are_refused(command) -> None:
    run(command())
    with pytest.raises(UserError, match="were stored without"):
        run(command("blended", "metrics=[psnr,ssim]"))
    assert run(command("blended", "metrics=[psnr]")).good


def _study(overrides: list[str]) -> None:
    run_job(*compose(overrides))


@pytest.mark.parametrize("wanted", [6, pytest.param(20, marks=pytest.mark.slow)])
def test_kills_and_the_same_rows(command, wanted: int) -> None:
    """kill -9 at random moments, then the same command again: the rows of an undisturbed run."""
    quiet = run(command("dps", "batch=2", "solver.steps=30", out="quiet")).plan
    overrides = command("dps", "batch=2", "solver.steps=30", out="killed")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            f"posterior_bench.bench.{name}"
            for name in ("engine.run", "engine.worker", "analysis.leaderboard")
        ]
    )
    rng, kills = random.Random(0), 0
    while kills < wanted:
        child = context.Process(target=_study, args=(overrides,))
        child.start()
        time.sleep(rng.uniform(0.05, 0.9))
        if not child.is_alive():
            # finished before the blow: take something away, so that there is work again
            child.join()
            next(iter(sorted((quiet.folder.parents[2] / "killed").rglob("*.parquet")))).unlink()
            continue
        child.kill()
        child.join()
        kills += 1
    assert run(overrides).good
    plan = planned(overrides)
    assert_same_rows(quiet, plan)
    assert not list(plan.folder.rglob(".*.tmp"))


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_ray_gives_the_same_rows_as_serial(command, workers: int) -> None:
    pytest.importorskip("ray", reason="Ray is an extra; install it to test executor=ray")
    serial = run(command("dps", out="serial")).plan
    ray = run(command("dps", "executor=ray", f"executor.workers={workers}", out="ray")).plan
    assert_same_rows(serial, ray)


def test_a_sweep_is_one_study_with_one_leaderboard(
    command, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    overrides = [o for o in command() if not o.startswith(("solver", "quiet"))]
    swept = ("-m", "solver=blended,dps", "mask=rotated,comod", "solver.steps=3")
    assert bench(*swept, *overrides) == 0
    lines = (tmp_path / "study" / "leaderboard.csv").read_text().splitlines()
    assert len(lines) == 1 + 4
    assert "leaderboard.csv" in capfd.readouterr().out


@pytest.mark.parametrize(
    "wrong",
    [
        "solver=nope",
        "prior.path=/nowhere",
        *(pytest.param(x, marks=pytest.mark.slow) for x in ("out=/proc/nowhere", "data.images=0")),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    wrong: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert bench(wrong) == 2
    assert len(capfd.readouterr().err.splitlines()) == 1


def test_a_run_that_cannot_be_done_has_exit_code_1(command) -> None:
    """Of a process, as a shell sees it."""
    words = command("blended", "budget=nfe:1")
    assert subprocess.run([sys.executable, "-m", "bench", *words], cwd=ROOT).returncode == 1


def test_plan_says_what_is_missing_and_writes_nothing(command, tmp_path: Path) -> None:
    overrides = command()
    before = describe(overrides)[0]
    assert "14 in 4 chunks; 14 rows in 4 chunks still missing" in before
    assert not (tmp_path / "study").exists()
    plan = run(overrides).plan
    next(iter(sorted(plan.folder.glob("rows/*.parquet")))).unlink()
    assert "14 in 4 chunks; 4 rows in 1 chunks still missing" in describe(overrides)[0]
