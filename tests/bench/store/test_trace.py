"""Traces: what a solver tells of its fits is what is stored and shown, and nothing else changes for
it."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from tests.bench.harness import assert_same_rows, planned, rows, run

from posterior_bench.bench.analysis import figures
from posterior_bench.bench.config.compose import compose
from posterior_bench.bench.core.streams import Noise
from posterior_bench.bench.engine.job import job_of
from posterior_bench.bench.engine.plan import CellPlan
from posterior_bench.bench.engine.session import Session
from posterior_bench.bench.engine.worker import Worker
from posterior_bench.bench.pages import report_pictures
from posterior_bench.bench.pages.report import report
from posterior_bench.bench.pages.thumbnails import data_uri, thumbnail
from posterior_bench.bench.store.row_store import RowStore
from posterior_bench.bench.store.schema import TRACE
from posterior_bench.bench.store.trace import pack_traces, unpack_trace
from posterior_bench.solvers.base import Observation
from posterior_bench.solvers.vipaint.refinement import Refinement

TRACED = ("trace=true", "solver.iterations=12")


def traces(plan: CellPlan) -> pd.Series:
    """Stored traces by image; every image has one, in the row of its first draw."""
    stored = plan.store.read([TRACE]).set_index(["image_id", "draw"])[TRACE]
    assert stored.xs(0, level="draw").notna().all() and stored.xs(1, level="draw").isna().all()
    return stored.xs(0, level="draw")


def fitted(overrides: list[str], ids: list[str]) -> Refinement:
    """VIPaint called directly, without a worker."""
    session = Session(job_of(compose(overrides)[0]), "cpu")
    measured = session.measure(ids)
    obs = Observation(measured.y, measured.operator)
    return session.solver.fit(obs, session.prior, Noise(measured.keys, "solver"))  # type: ignore[return-value]


def test_a_trace_changes_nothing_else(command) -> None:
    without, with_trace = (
        run(command("vipaint2", TRACED[1], *more, out=str(len(more)))).plan for more in ((), TRACED)
    )
    assert without.cell.name == with_trace.cell.name
    assert_same_rows(without, with_trace)
    assert TRACE not in without.store.columns() and TRACE in with_trace.store.columns()
    assert len(traces(with_trace)) == 7
    # by hand: two rows an image, each with a prior level, a step between keypoints and a
    # prediction, twelve times, the lot shared by two draws; then a draw's step between keypoints
    # and four levels, the last of which is the sample
    assert (rows(with_trace)["nfe"] == 2 * 3 * 12 / 2 + 1 + 4).all()


def test_it_is_what_the_solver_gives(command) -> None:
    overrides = command("vipaint2", *TRACED)
    stored = traces(run(overrides).plan)
    ids = ["2.png", "3.png"]  # the second chunk of two images
    direct = fitted(overrides, ids)
    images = direct.sample([0, 1]).trace
    assert images["after"].tolist() == [[0, 10, 11]] * 2
    for i, image in enumerate(ids):
        trace = unpack_trace(stored[image])
        assert trace.loss.dtype == np.float32 and np.array_equal(
            trace.loss, [loss[i].item() for loss in direct.losses]
        )
        assert [*trace.progress] == [0, 10, 11]
        for n, pixels in trace.progress.items():
            expected = ((direct.progress[n][i, 0].clamp(-1, 1) + 1) * 127.5).round()
            assert pixels.dtype == np.uint8 and np.array_equal(pixels, expected.numpy())


def test_chunks_and_batches_do_not_matter(command) -> None:
    """Bitwise for the same padded batch; another one changes no more than the last bits that it
    changes in samples."""
    usual = traces(run(command("vipaint2", *TRACED)).plan)
    fewer = traces(run(command("vipaint2", *TRACED, "data.images=5", out="fewer")).plan)
    assert usual[fewer.index].equals(fewer)
    for batch in (2, 8):
        other = traces(
            run(command("vipaint2", *TRACED, f"batch={batch}", out=f"batch{batch}")).plan
        )
        for image, data in other.items():
            np.testing.assert_allclose(
                unpack_trace(data).loss, unpack_trace(usual[image]).loss, rtol=1e-3, atol=1e-2
            )
            assert [*unpack_trace(data).progress] == [0, 10, 11]


def test_workers_and_order_do_not_matter(command) -> None:
    serial = traces(run(command("vipaint2", *TRACED)).plan)
    plan = planned(command("vipaint2", *TRACED, out="three"))
    workers = [Worker("cpu", 1) for _ in range(3)]
    for i, chunk in enumerate(reversed(plan.chunks)):
        workers[i % 3].run(plan, chunk)
    assert traces(plan).equals(serial)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 3])
def test_ray_keeps_the_same_traces(command, workers: int) -> None:
    pytest.importorskip("ray", reason="Ray is an extra; install it to test executor=ray")
    serial = traces(run(command("vipaint2", *TRACED)).plan)
    ray = run(
        command("vipaint2", *TRACED, "executor=ray", f"executor.workers={workers}", out="ray")
    ).plan
    assert traces(ray).equals(serial)


def test_rows_that_are_there_stay_without(command) -> None:
    run(command("vipaint2", "data.images=7"))
    plan = run(command("vipaint2", "trace=true")).plan
    assert plan.store.columns() and TRACE not in plan.store.columns()
    # one chunk is gone and done again, now with a trace; the others have none
    sorted(plan.folder.glob("rows/*.parquet"))[1].unlink()
    again = run(command("vipaint2", "trace=true")).plan.store.read([TRACE])
    assert set(again.dropna()["image_id"]) == {"2.png", "3.png"} and len(again) == 14


def test_a_solver_without_a_fit_has_none(command) -> None:
    assert TRACE not in run(command("blended", "trace=true")).plan.store.columns()


def test_colours_and_what_is_not_finite_survive_the_way() -> None:
    progress = torch.linspace(-1.2, 1.2, 2 * 3 * 3 * 4 * 5).view(2, 3, 3, 4, 5)
    progress[1, 0, 0, 0, 0] = torch.nan
    loss = torch.tensor([[1.0, torch.inf], [torch.nan, -2.0]], dtype=torch.float64)
    after = torch.tensor([[0, 50, 99]]).expand(2, 3)
    first, second = map(
        unpack_trace, pack_traces({"loss": loss, "progress": progress, "after": after})
    )
    assert (
        first.loss.tolist() == [1.0, float("inf")]
        and np.isnan(second.loss[0])
        and second.loss[1] == -2
    )
    assert [*second.progress] == [0, 50, 99] and second.progress[50].shape == (4, 5, 3)
    assert second.progress[50][3, 4].tolist() == [
        round((min(max(v, -1), 1) + 1) * 127.5) for v in progress[1, 1, :, 3, 4].tolist()
    ]
    assert pack_traces({}) == []
    (bare,) = map(unpack_trace, pack_traces({"loss": torch.ones(1, 4)}))
    assert bare.loss.tolist() == [1.0] * 4 and not bare.progress
    with pytest.raises(ValueError, match="this is no trace"):
        unpack_trace(b"PK")


# -- the report ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> tuple[Path, Path]:
    """Two studies whose only difference is a trace."""
    folders = []
    for trace in ("true", "false"):
        out = tmp_path_factory.mktemp("study")
        overrides = [
            "solver=vipaint2",
            "solver.iterations=12",
            "solver.refine_steps=2",
            f"trace={trace}",
        ]
        overrides += [
            "data=folder",
            f"data.root={photos}",
            "data.size=8",
            "data.mode=grey",
            "data.images=3",
        ]
        overrides += [
            "prior=smooth",
            "prior.shape=[1,8,8]",
            "metrics=[psnr]",
            "draws=1",
            "batch=2",
            "threads=1",
        ]
        run([*overrides, "quiet=true", "sheet=false", "report=false", f"out={out}"])
        report(out)
        folders.append(out)
    return folders[0], folders[1]


def test_the_report_shows_losses_and_pictures_where_there_are_any(pages: tuple[Path, Path]) -> None:
    with_trace, without = ((folder / "report.html").read_text() for folder in pages)
    assert (
        'id="fits"' in with_trace
        and 'href="#fits"' in with_trace
        and "Loss by iteration" in with_trace
    )
    assert (
        'id="fits"' not in without and "#fits" not in without and "Loss by iteration" not in without
    )
    (cell,) = pages[0].glob("cells/*")
    stored = RowStore(cell).read([TRACE]).set_index("image_id")[TRACE]
    for image in stored.index:
        for pixels in unpack_trace(stored[image]).progress.values():
            assert data_uri(*thumbnail(pixels)) in with_trace
    assert len(with_trace) - len(without) < 100_000


def test_strips_are_labelled_in_the_browser(pages: tuple[Path, Path]) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium on this machine: apt-get install chromium")
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page, said = browser.new_page(), []
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto((pages[0] / "report.html").as_uri())
        strips = page.locator("#fit-list .strip")
        assert [strips.nth(i).inner_text().split() for i in range(3)] == [
            ["observed", "0", "10", "11"]
        ] * 3
        strips.nth(1).locator(".thumb").nth(2).click()
        assert page.inner_text("#zoom-title") == "1.png, vipaint2, after 10 iterations (8 × 8)"
        page.goto((pages[1] / "report.html").as_uri())
        assert (
            page.locator("#fit-list").count() == 0 and page.locator("#by-image .thumb").count() > 0
        )
        browser.close()
    assert said == []


def test_curves_are_the_losses_and_their_mean() -> None:
    flat = np.array([[9000.0, *[10.0, 12.0] * 20], [8000.0, *[20.0, np.inf] * 20]])
    looks = {"$a$": {"color": "#0072b2", "marker": "o"}, "b": {"color": "#d55e00", "marker": "s"}}
    first, second = figures.losses([("$a$", flat), ("b", flat[:, 1:])], looks).axes
    one, two, mean = (line.get_ydata() for line in first.lines)
    assert one.tolist() == flat[0].tolist() and two[:2].tolist() == [8000, 20] and np.isnan(two[2])
    assert mean.tolist() == [8500, *[15, 12] * 20]  # an infinite loss is no number to average
    assert first.get_ylim()[1] < 100 and second.get_ylim()[1] < 100
    assert first.get_title(loc="left") == "$a$"


def test_a_long_fit_is_thinned_evenly() -> None:
    assert (
        report_pictures._thinned([0, 50, 99]) == [0, 50, 99] and report_pictures._thinned([]) == []
    )
    assert report_pictures._thinned(range(0, 1200, 50)) == [
        0,
        100,
        200,
        300,
        400,
        500,
        650,
        750,
        850,
        950,
        1050,
        1150,
    ]


def test_a_picture_opens_elsewhere(command) -> None:
    """The bytes are an .npz file: NumPy alone reads them."""
    data = traces(run(command("vipaint2", "trace=true")).plan)["0.png"]
    with np.load(io.BytesIO(data)) as file:
        assert file["loss"].shape == (3,) and file["after"].tolist() == [0, 2]
        assert Image.fromarray(file["progress"][0]).size == (8, 8)
