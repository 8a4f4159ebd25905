"""Images made elsewhere: exported measurements come back and are scored as a person would score
them by hand."""

from __future__ import annotations

import io
import json
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tests.bench.harness import planned, rows, run

from posterior_bench.bench.__main__ import main
from posterior_bench.bench.analysis import leaderboard
from posterior_bench.bench.cli.measurement_files import export_masks
from posterior_bench.bench.config.compose import compose
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.engine.job import job_of
from posterior_bench.bench.external.image_files import answer_names
from posterior_bench.metrics.lpips_metric import UnclampedLPIPS

IDS = [f"{i}.png" for i in range(7)]
Make = Callable[..., list[str]]


@pytest.fixture
def scored(command) -> Make:
    """Overrides that score the images of a path: ``scored(path, "draws=1")``."""

    def make(path: Path, *more: str, out: str = "study") -> list[str]:
        kept = [o for o in command(out=out) if not o.startswith("solver")]
        return [*kept, "solver=folder", f"solver.path={path}", *more]

    return make


@pytest.fixture
def exported(command, tmp_path: Path) -> Path:
    """The measurements of the seven photos under noise-free masks."""
    overrides = [o for o in command() if not o.startswith("out=")]
    return export_masks(job_of(compose([*overrides, f"out={tmp_path / 'exported'}"])[0]))


def encoded(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def images(seed: int = 0, draws: int = 2) -> dict[tuple[str, int], np.ndarray]:
    rng = np.random.default_rng(seed)
    return {(i, d): rng.integers(0, 256, (8, 8), dtype=np.uint8) for i in IDS for d in range(draws)}


def written(root: Path, pattern: str, draws: int = 2) -> Path:
    """Random images below ``root``; ``pattern`` with ``{id}``, ``{stem}`` and ``{draw}``."""
    for (image, draw), pixels in images(draws=draws).items():
        path = root / pattern.format(id=image, stem=image.removesuffix(".png"), draw=draw)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(pixels))
    return root


def parquet(path: Path, **changed: object) -> Path:
    made = images()
    columns = {
        "image_id": [i for i, _ in made],
        "draw": [d for _, d in made],
        "png": [encoded(pixels) for pixels in made.values()],
    }
    pq.write_table(
        pa.table({k: v for k, v in {**columns, **changed}.items() if v is not None}),
        path,
        row_group_size=3,
    )
    return path


def test_exported_measurements_come_back_and_are_scored_by_hand(
    scored, exported, photos, tmp_path
) -> None:
    index = json.loads((exported / "index.json").read_text())
    answers = tmp_path / "answers"
    answers.mkdir()
    for line in index["images"]:
        mask = np.asarray(Image.open(exported / line["mask"])) == 255
        pixels = np.where(mask, np.asarray(Image.open(exported / line["observed"])), 100).astype(
            np.uint8
        )
        (answers / line["answer"]).write_bytes(encoded(pixels))
    outcome = run(scored(answers, "draws=1", "solver.label=grey", "metrics=[psnr,consistency]"))
    table = rows(outcome.plan).set_index("image_id")
    assert outcome.good and len(table) == 7
    for line in index["images"]:
        truth = np.asarray(Image.open(photos / line["image_id"])).astype(float)
        answer = np.asarray(Image.open(answers / line["answer"])).astype(float)
        hole = np.asarray(Image.open(exported / line["mask"])) == 0
        by_hand = 10 * math.log10(255**2 / np.mean((truth - answer) ** 2))
        in_hole = 10 * math.log10(255**2 / np.mean((truth - answer)[hole] ** 2))
        row = table.loc[line["image_id"]]
        assert row["psnr"] == pytest.approx(by_hand, abs=1e-5)
        assert row["psnr_hole"] == pytest.approx(in_hole, abs=1e-5)
        assert row["consistency"] == pytest.approx(0, abs=1e-6)
        assert row["nfe"] == row["nge"] == 0
    line = leaderboard.build(outcome.study).iloc[0]
    assert line["solver"] == "grey" and line["variant"] == ""
    assert math.isnan(line["seconds_sample"]), (
        "the time it takes to read a file is not the method's"
    )


def test_names_and_containers_make_no_difference(scored, tmp_path) -> None:
    patterns = ["{stem}_{draw}.png", "{id}_{draw}.png", "{stem}/{draw}.png", "{id}/{draw}.png"]
    paths = [written(tmp_path / str(i), pattern) for i, pattern in enumerate(patterns)]
    cells = {
        planned(scored(path)).cell.name for path in [*paths, parquet(tmp_path / "images.parquet")]
    }
    assert len(cells) == 1


@pytest.mark.parametrize("pattern", ["{id}", "{id}.png", "{stem}_{draw}.png", "{stem}/{draw}.png"])
def test_stored_images_are_those_of_the_files(scored, tmp_path, pattern: str) -> None:
    made = images(draws=1)
    stored = rows(run(scored(written(tmp_path / "made", pattern, draws=1), "draws=1")).plan)
    for row in stored.itertuples():
        np.testing.assert_array_equal(
            np.asarray(Image.open(io.BytesIO(row.png))), made[row.image_id, row.draw]
        )


def test_a_parquet_file_gives_every_draw_its_image(scored, tmp_path) -> None:
    made = images()
    for row in rows(run(scored(parquet(tmp_path / "made.parquet"))).plan).itertuples():
        np.testing.assert_array_equal(
            np.asarray(Image.open(io.BytesIO(row.png))), made[row.image_id, row.draw]
        )


def test_changed_images_are_another_cell_and_a_moved_folder_is_not(scored, tmp_path) -> None:
    made = written(tmp_path / "made", "{stem}_{draw}.png")
    before = planned(scored(made)).cell
    made = made.rename(tmp_path / "moved")
    assert planned(scored(made)).cell.name == before.name
    (made / "3_1.png").write_bytes(encoded(np.zeros((8, 8), np.uint8)))
    after = planned(scored(made)).cell
    assert after.name != before.name
    assert after.config.solver["sha256"] != before.config.solver["sha256"]
    # images of ids that this run does not score do not matter
    fewer = planned(scored(made, "data.images=3")).cell.config.solver["sha256"]
    (made / "6_0.png").unlink()
    assert planned(scored(made, "data.images=3")).cell.config.solver["sha256"] == fewer


def test_every_label_has_a_row(scored, tmp_path) -> None:
    made = written(tmp_path / "made", "{stem}_{draw}.png")
    for label in ("LaMa", "AOT"):
        study = run(scored(made, f"solver.label={label}")).study
    assert sorted(leaderboard.build(study)["solver"]) == ["AOT", "LaMa"]


def grey(mode: str, size: tuple[int, int] = (8, 8)) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, "PNG")
    return buffer.getvalue()


RED = encoded(np.full((8, 8, 3), [255, 0, 0], np.uint8))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (grey("L", (8, 9)), "2_1.png has 8 x 9 pixels (width x height), the data 8 x 8"),
        (RED, "2_1.png is in colour, but the data are grey"),
        (grey("RGBA"), "2_1.png has the mode RGBA"),
        (grey("I;16"), "2_1.png has the mode I;16"),
        (encoded(np.zeros((8, 8), np.uint8))[:-30], "2_1.png cannot be read as a PNG file"),
        (b"", "2_1.png cannot be read as a PNG file"),
        (None, "2_1.png is missing"),
    ],
    ids=["size", "coloured", "transparent", "16 bits", "truncated", "empty", "missing"],
)
def test_an_unusable_image_is_named_in_one_line_before_any_work(
    scored, tmp_path, capsys, content: bytes | None, message: str
) -> None:
    made = written(tmp_path / "made", "{stem}_{draw}.png")
    for name in ("2_1.png", "4_0.png", "6_0.png"):
        (made / name).unlink() if content is None else (made / name).write_bytes(content)
    with pytest.raises(SystemExit) as stopped:
        main(["plan", *scored(made)])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line and "(and 2 more)" in line
    with pytest.raises(UserError):
        run(scored(made))
    assert not (tmp_path / "study").exists()


def test_grey_may_be_stored_as_rgb_or_with_a_palette(scored, tmp_path) -> None:
    made = written(tmp_path / "made", "{stem}_{draw}.png")
    reference = rows(run(scored(made)).plan)
    for path in list(made.iterdir())[:5]:
        Image.open(path).convert("RGB").save(path)
    for path in list(made.iterdir())[5:9]:
        Image.open(path).quantize(256).save(path)
    again = rows(run(scored(made)).plan)
    assert again["psnr"].tolist() == reference["psnr"].tolist()


def test_one_image_per_id_is_one_draw(scored, tmp_path) -> None:
    with pytest.raises(UserError, match="give draws=1"):
        planned(scored(written(tmp_path / "made", "{stem}.png", draws=1)))


def test_two_files_for_one_draw_are_refused(scored, tmp_path) -> None:
    made = written(tmp_path / "made", "{stem}_{draw}.png")
    written(made, "{stem}/{draw}.png")
    with pytest.raises(UserError, match=r"0_0\.png and 0/0\.png are one draw"):
        planned(scored(made))


def test_other_files_are_reported_and_not_fatal(scored, tmp_path, capsys) -> None:
    made = written(tmp_path / "made", "{stem}_{draw}.png")
    (made / "readme.txt").touch()
    (made / "9_0.png").touch()
    (made / ".hidden").touch()
    planned(scored(made, "quiet=false"))
    (line,) = capsys.readouterr().err.splitlines()
    assert "9_0.png (and 1 more) not used" in line


@pytest.mark.parametrize(
    ("ids", "names"),
    [
        (["a.png", "b"], {"a.png": ["a", "a.png"], "b": ["b"]}),
        (["a.png", "a.jpg"], {"a.png": ["a.png"], "a.jpg": ["a.jpg"]}),
        (["a.png", "a"], {"a.png": ["a.png"], "a": ["a"]}),
        (["x/a.jpg", "a.jpg"], {"x/a.jpg": ["x/a", "x/a.jpg"], "a.jpg": ["a", "a.jpg"]}),
        (["a.b", "v1.0.png"], {"a.b": ["a.b"], "v1.0.png": ["v1.0", "v1.0.png"]}),
    ],
)
def test_an_ending_may_be_left_out_where_names_stay_apart(
    ids: Sequence[str], names: dict[str, list[str]]
) -> None:
    assert answer_names(ids) == names


def test_a_name_that_is_an_image_is_not_another_images_draw(scored, photos, tmp_path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for name in ("a.png", "a_0.png"):
        (data / name).write_bytes(encoded(np.zeros((8, 8), np.uint8)))
    made = tmp_path / "made"
    made.mkdir()
    for name, value in (("a.png", 10), ("a_0.png", 20)):
        (made / name).write_bytes(encoded(np.full((8, 8), value, np.uint8)))
    overrides = [
        o for o in scored(made, "draws=1", "data.images=2") if not o.startswith("data.root")
    ]
    stored = rows(run([*overrides, f"data.root={data}"]).plan).set_index("image_id")["png"]
    assert {i: np.asarray(Image.open(io.BytesIO(png)))[0, 0] for i, png in stored.items()} == {
        "a.png": 10,
        "a_0.png": 20,
    }


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"draw": None}, "the column 'draw' must hold whole numbers, but is missing"),
        ({"png": ["x"] * 14}, "the column 'png' must hold bytes, but holds string"),
        ({"image_id": list(range(14))}, "the column 'image_id' must hold texts"),
        ({"draw": [0] * 14}, r"image_id 0\.png draw 0 is there twice \(and 13 more\)"),
        (
            {"png": [None, *[b"x"] * 13]},
            r"image_id 0\.png draw 0 cannot be read as a PNG file \(and 13 more\)",
        ),
    ],
)
def test_an_unusable_parquet_file_is_refused(
    scored, tmp_path, changed: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        planned(scored(parquet(tmp_path / "made.parquet", **changed)))


def test_what_is_neither_directory_nor_parquet_is_refused(scored, tmp_path) -> None:
    (tmp_path / "made.csv").write_text("image_id,draw\n")
    with pytest.raises(UserError, match="neither a directory nor a Parquet file"):
        planned(scored(tmp_path / "made.csv"))
    with pytest.raises(UserError, match="there is no such directory"):
        planned(scored(tmp_path / "nowhere"))


def test_images_that_change_after_the_plan_are_not_scored(scored, tmp_path) -> None:
    from posterior_bench.bench.engine.worker import Worker

    made = written(tmp_path / "made", "{stem}_{draw}.png")
    plan = planned(scored(made))
    (made / "0_0.png").write_bytes(encoded(np.zeros((8, 8), np.uint8)))
    stored = Worker("cpu", 1).rows(plan, plan.chunks[0])
    assert {row["status"] for row in stored} == {"error"}
    assert "it has changed since" in stored[0]["message"]


def test_a_content_can_be_asked_for(scored, tmp_path) -> None:
    made = written(tmp_path / "made", "{stem}_{draw}.png")
    cell = planned(scored(made)).cell
    content = cell.config.solver["sha256"]
    assert planned(scored(made, f"solver.sha256={content}")).cell.name == cell.name
    with pytest.raises(UserError, match="it has changed since"):
        planned(scored(made, f"solver.sha256={'0' * 64}"))


def test_metrics_of_values_outside_the_range_are_refused(
    scored, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(UnclampedLPIPS, "check", lambda _: None)
    made = written(tmp_path / "made", "{stem}_{draw}.png")
    with pytest.raises(
        UserError, match=r"'lpips_alex_unclamped' scores values outside .* choose lpips_alex$"
    ):
        planned(scored(made, "metrics=[lpips_alex_unclamped]"))


def test_without_a_prior_only_external_methods_run(scored, command, tmp_path) -> None:
    made = written(tmp_path / "made", "{stem}_{draw}.png")
    assert run(
        [
            *[o for o in scored(made) if not o.startswith("prior")],
            "prior=none",
            "prior.shape=[1,8,8]",
        ]
    ).good
    kept = [o for o in command("dps") if not o.startswith("prior")]
    with pytest.raises(UserError, match="DPS needs grad"):
        planned([*kept, "prior=none", "prior.shape=[1,8,8]"])


def test_a_missing_optional_package_is_one_line(command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepinv", None)
    kept = [o for o in command() if not o.startswith("solver")]
    with pytest.raises(UserError, match=r'pip install "posterior-bench\[deepinv\]"'):
        planned([*kept, "solver=deepinv"])


# -- the export itself -----------------------------------------------------------------------------


def test_masks_and_images_are_those_of_a_run(command, exported) -> None:
    from posterior_bench.bench.engine.session import Session

    index = pd.read_csv(exported / "index.csv")
    config = job_of(compose(command("blended"))[0])
    measured = Session(config, "cpu").measure(IDS)
    assert index["image_id"].tolist() == IDS
    for i, line in index.iterrows():
        mask = np.asarray(Image.open(exported / line["mask"]))
        assert set(np.unique(mask)) <= {0, 255}
        np.testing.assert_array_equal(mask == 255, measured.operator.mask[i, 0])
        pixels = np.asarray(Image.open(exported / line["observed"]))
        expected = np.where(mask == 255, np.rint((measured.y[i, 0].numpy() + 1) * 127.5), 128)
        np.testing.assert_array_equal(pixels, expected)
        assert line["observed_share"] == pytest.approx((mask == 255).mean(), abs=1e-6)
        assert line["mask_seed"] == measured.keys[i].seed("mask")
    recorded = json.loads((exported / "index.json").read_text())
    assert recorded["mask_polarity"].startswith("white (255) = observed")
    assert recorded["seed"] == 0 and recorded["shape"] == [1, 8, 8]


def test_noisy_measurements_are_exact_beside_the_picture(command, tmp_path) -> None:
    from posterior_bench.bench.engine.session import Session

    noisy = [*command("blended", "operator.sigma=0.7", "seed=4", out="exported")]
    folder = export_masks(job_of(compose(noisy)[0]))
    measured = Session(job_of(compose(noisy)[0]), "cpu").measure(IDS)
    for i, line in enumerate(json.loads((folder / "index.json").read_text())["images"]):
        np.testing.assert_array_equal(np.load(folder / line["measurement"]), measured.y[i].numpy())


def test_the_truth_is_there_only_when_asked_for(command, exported, photos, tmp_path) -> None:
    assert not (exported / "truth").exists()
    for path in exported.rglob("*.png"):
        assert not any(path.read_bytes() == photo.read_bytes() for photo in photos.iterdir())
    with pytest.raises(SystemExit) as done:
        main(["export-masks", "truth=true", *command(out="with_truth")])
    assert done.value.code == 0
    for image in IDS:
        stored = Image.open(tmp_path / "with_truth" / "truth" / image)
        np.testing.assert_array_equal(np.asarray(stored), np.asarray(Image.open(photos / image)))


def test_classes_are_exported_because_solvers_get_them(tmp_path) -> None:
    folder = export_masks(
        job_of(compose(["data=fashion", "data.images=3", f"out={tmp_path / 'm'}", "quiet=true"])[0])
    )
    assert pd.read_csv(folder / "index.csv")["label"].tolist() == [
        9,
        2,
        1,
    ]  # boot, pullover, trousers


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["out=null"], "needs a folder"),
        (["truth=maybe"], "truth takes true or false"),
        (["data.images=8"], "there are only 7 images"),
        (["operator=projection"], "this operator has none"),
    ],
)
def test_an_impossible_export_is_one_line(
    command, tmp_path, capsys, more: list[str], message: str
) -> None:
    kept = [o for o in command() if o.split("=")[0] not in {m.split("=")[0] for m in more}]
    with pytest.raises(SystemExit) as stopped:
        main(["export-masks", *kept, *more])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_an_export_replaces_nothing(command, exported) -> None:
    with pytest.raises(UserError, match="is there already"):
        export_masks(
            job_of(
                compose([o for o in command() if not o.startswith("out=")] + [f"out={exported}"])[0]
            )
        )
