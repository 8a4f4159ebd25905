"""Trackers: what they are told, read back from their own files; and that no tracker can hurt a
run."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
import pytest
from PIL import Image
from tests.bench.harness import assert_same_rows, run

from posterior_bench.bench.analysis import leaderboard
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.engine import trackers

Command = Callable[..., list[str]]


@pytest.fixture(autouse=True)
def own_threads() -> Iterator[None]:
    """No tracker of another test, and none left behind."""
    trackers.finish(0)
    yield
    trackers.finish(0)


class Recorder:
    """Remembers what it is told."""

    told: ClassVar[list[tuple[str, Any]]] = []

    def __init__(self, folder: Path, name: str, config: Mapping[str, Any]):
        self.told.append(("open", (folder, name, dict(config))))

    def log(self, values: Mapping[str, float], step: int) -> None:
        self.told.append(("log", (step, dict(values))))

    def images(self, name: str, images: Mapping[str, bytes]) -> None:
        self.told.append(("images", dict(images)))

    def table(self, name: str, frame: pd.DataFrame) -> None:
        self.told.append(("table", frame))

    def close(self, summary: Mapping[str, float]) -> None:
        self.told.append(("close", dict(summary)))


class Raises:
    """Fails wherever it is asked to."""

    where = "open"

    def __init__(self, folder: Path, name: str, config: Mapping[str, Any]):
        self._do("open")

    def _do(self, what: str) -> None:
        if what == self.where:
            raise SystemExit("no network") if what == "close" else ConnectionError("no network")

    def log(self, values: Mapping[str, float], step: int) -> None:
        self._do("log")

    def images(self, name: str, images: Mapping[str, bytes]) -> None:
        self._do("images")

    def table(self, name: str, frame: pd.DataFrame) -> None:
        self._do("table")

    def close(self, summary: Mapping[str, float]) -> None:
        self._do("close")


def test_a_cell_is_one_run_with_progress_summary_and_images(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(trackers.SINKS, "wandb", Recorder)
    monkeypatch.setattr(Recorder, "told", [])
    outcome = run(command("blended", "logger=wandb"))
    trackers.finish()
    kinds = [kind for kind, _ in Recorder.told]
    assert kinds == [
        "open",
        "log",
        "log",
        "log",
        "log",
        "table",
        "images",
        "close",
    ]  # seven images in pairs
    folder, name, config = Recorder.told[0][1]
    assert folder == tmp_path / "study" / "trackers" / "wandb" and name.startswith("blended_")
    assert config["solver.steps"] == 12 and config["seed"] == 0
    assert [(step, values["rows"]) for kind, (step, values) in Recorder.told[1:5]] == [
        (1, 4),
        (2, 8),
        (3, 12),
        (4, 14),
    ]
    summary = Recorder.told[-1][1]
    board = pd.read_csv(tmp_path / "study" / "leaderboard.csv")
    assert summary["psnr"] == pytest.approx(board["psnr"].item()) and summary["failed"] == 0
    assert (
        summary["passes"] == board["nfe"].item() + board["nge"].item()
        and summary["seconds_sample"] > 0
    )
    pngs = outcome.plan.store.read(["png"]).set_index(["image_id", "draw"])["png"]
    assert Recorder.told[-2][1] == {
        image: pngs[image, 0] for image in outcome.plan.store.read(["status"])["image_id"].unique()
    }
    # a cell that is finished already opens no run
    run(command("blended", "logger=wandb"))
    trackers.finish()
    assert len(Recorder.told) == len(kinds)


@pytest.mark.parametrize("where", ["open", "log", "table", "close"])
def test_a_tracker_that_fails_leaves_rows_and_outcome_untouched(
    where: str,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    alone = run(command("blended", out="alone"))
    monkeypatch.setitem(trackers.SINKS, "wandb", Raises)
    monkeypatch.setattr(Raises, "where", where)
    for seed in (0, 1):
        outcome = run(command("blended", "logger=wandb", f"seed={seed}", out="tracked"))
        assert outcome.good
        if seed == 0:
            assert_same_rows(alone.plan, outcome.plan)
    trackers.finish()
    (said,) = [line for line in "".join(capsys.readouterr()).splitlines() if "logger=wandb" in line]
    assert "no network" in said and "rows are not affected" in said


def test_a_tracker_that_hangs_is_not_waited_for(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Recorder, "told", [])
    monkeypatch.setattr(Recorder, "log", lambda self, values, step: time.sleep(3600))
    monkeypatch.setitem(trackers.SINKS, "tensorboard", Recorder)
    assert run(command("blended", "logger=tensorboard")).good
    trackers.finish(0.1)
    assert "not finished after 0 s" in "".join(capsys.readouterr())
    assert [kind for kind, _ in Recorder.told] == ["open"]


def test_tensorboard_events_read_back(command: Command, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(command("blended", "logger=tensorboard"))
    trackers.finish()
    (folder,) = (tmp_path / "study" / "trackers" / "tensorboard").iterdir()
    events = EventAccumulator(str(folder))
    events.Reload()
    assert [event.value for event in events.Scalars("rows")] == [4, 8, 12, 14]
    board = pd.read_csv(tmp_path / "study" / "leaderboard.csv")
    assert events.Scalars("summary/psnr")[0].value == pytest.approx(board["psnr"].item(), rel=1e-6)
    assert len([tag for tag in events.Tags()["images"] if tag.startswith("draws/")]) == 7


def read_wandb(path: Path) -> tuple[list[int], dict[str, str]]:
    """The history of ``rows`` and the summary of an offline run: a log of LevelDB's format behind
    seven bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts, rows, summary = path.read_bytes(), 7, b"", [], {}
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # no header crosses the end of a block
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            record = Record.FromString(parts)
            items = [
                (item.key or ".".join(item.nested_key), item.value_json)
                for item in record.history.item
            ]
            rows += [int(float(value)) for key, value in items if key == "rows"]
            summary |= {
                item.key or ".".join(item.nested_key): item.value_json
                for item in record.summary.update
            }
            parts = b""
    return rows, summary


def test_wandb_offline_run_reads_back(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    run(command("blended", "logger=wandb"))
    study = tmp_path / "study"
    sheet = study / "contact_sheet.png"
    Image.new("RGB", (5, 4)).save(sheet)
    board = leaderboard.build(study)
    trackers.log_study(study, board, "wandb", [sheet])
    trackers.finish(60)
    wandb.teardown()  # its own process writes the file, until now
    folders = {
        len([*folder.glob("files/media/images/*.png")]): folder
        for folder in (study / "trackers" / "wandb").glob("offline-run-*")
    }
    assert {*folders} == {7, 1}, "the cell with its images, and the study with one picture"
    rows, summary = read_wandb(next(folders[7].glob("run-*.wandb")))
    assert rows == [4, 8, 12, 14]
    assert float(summary["psnr"]) == pytest.approx(board["psnr"].item())
    (path,) = folders[1].glob("files/media/table/leaderboard*.table.json")
    table = json.loads(path.read_text())
    line = dict(zip(table["columns"], table["data"][0], strict=True))
    assert line["solver"] == "blended" and line["psnr"] == pytest.approx(board["psnr"].item())


def test_the_leaderboard_is_a_run_of_its_own(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """After cells that were tracked; a command that finds all rows there opens no run."""
    monkeypatch.setitem(trackers.SINKS, "wandb", Recorder)
    monkeypatch.setattr(Recorder, "told", [])
    run(command("blended", "logger=wandb"))
    study = tmp_path / "study"
    board = leaderboard.build(study)
    board.loc[0, "psnr_hi"] = math.inf
    (study / "figure.png").write_bytes(b"picture")
    trackers.log_study(study, board, "wandb", [study / "figure.png"])
    trackers.finish()
    told = [kind for kind, _ in Recorder.told[8:]]
    assert told == ["open", "table", "images", "close"]
    (folder, name, config), table, pictures, summary = (what for _, what in Recorder.told[8:])
    assert name == "leaderboard" and config == {"study": "study", "cells": 1}
    assert folder == study / "trackers" / "wandb"
    assert table["psnr"].item() == board["psnr"].item() and "psnr_hi" not in table
    assert pictures == {"figure": b"picture"} and summary == {"cells": 1.0, "failed": 0.0}
    trackers.log_study(study, board, "wandb", [])
    trackers.log_study(study, board, None, [])
    trackers.finish()
    assert len(Recorder.told) == 12, "nothing was tracked since"


def test_an_unknown_logger_is_refused(command: Command) -> None:
    with pytest.raises(UserError, match=r"unknown logger 'mlflow'\. Valid: tensorboard, wandb"):
        run(command("blended", "logger=mlflow"))
