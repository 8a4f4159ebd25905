"""Versions of tasks: a change of meaning needs one, and old and new numbers do not mix."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from tests.bench.config.task_meanings import alike, meaning, names, stored
from tests.bench.harness import planned, rows, run

from posterior_bench.bench.analysis import leaderboard
from posterior_bench.bench.config import task_versions
from posterior_bench.bench.config.build import build
from posterior_bench.bench.config.catalog import options, show
from posterior_bench.bench.config.option_files import CONF
from posterior_bench.bench.config.task_versions import (
    FIRST,
    GROUPS,
    UNTOLD,
    history_of,
    outdated,
    outdated_lines,
    version_of,
)
from posterior_bench.bench.core.environment import ROOT
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.engine import prepare
from posterior_bench.bench.engine.score import score
from posterior_bench.bench.estimate.one_cell import describe

KNOWN = stored()
FEW = ("mask=box", "data.images=2", "draws=1", "batch=1")


@pytest.mark.parametrize(("group", "name"), names())
def test_a_change_of_meaning_has_a_version(group: str, name: str, tmp_path: Path) -> None:
    known = KNOWN.get(f"{group}/{name}")
    store = "run 'python -m tests.bench.config.task_meanings' and commit the file it writes"
    assert known is not None, f"{group}={name} is new: {store}"
    assert known["version"] == version_of(group, name), f"{group}={name} has a new version: {store}"
    assert alike(known["meaning"], meaning(group, name, tmp_path)), (
        f"{group}={name} means another task than before: add a line to conf/versions.yaml, then "
        f"{store}"
    )


def test_the_history_names_what_exists() -> None:
    written = yaml.safe_load((CONF / "versions.yaml").read_text(encoding="utf-8"))
    assert [*written] == [*GROUPS]
    page = (ROOT / "docs" / "versions.md").read_text(encoding="utf-8")
    for group, histories in written.items():
        for name, lines in histories.items():
            assert name in options(group), f"{group}={name} in conf/versions.yaml does not exist"
            assert lines != UNTOLD, "every option has that history; leave it out"
            assert all(isinstance(line, str) for line in lines)
            assert len(lines) == version_of(group, name)
            numbered = [f"| `{name}` | {n} | {line} |" for n, line in enumerate(lines, 1)]
            assert all(line in page for line in numbered)


def _versions_on_cards() -> Iterator[Any]:
    for option in options("metrics").values():
        for column, node in option.parameters.items():
            if isinstance(node, dict) and "???" not in node.values():
                yield pytest.param(option.name, column, node, id=f"{option.name}-{column}")


@pytest.mark.parametrize(("name", "column", "node"), _versions_on_cards())
def test_cards_of_metrics_agree_with_the_history(name: str, column: str, node: Any) -> None:
    try:
        version = build(node).card.version
    except (UserError, ImportError):
        pytest.skip("needs a file or package that is not here")
    if column == "kid_inception_vipaint":  # it kept its pairs; its history says so
        assert version == 1
    else:
        assert version == version_of("metrics", name)


@pytest.fixture
def raise_versions(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give options a second version: ``raise_versions(("mask", "box"))``."""

    def act(*tasks: tuple[str, str]) -> None:
        raised = {task: ["First version.", "Boxes are discs."] for task in tasks}
        monkeypatch.setattr(task_versions, "_histories", lambda: {**raised})
        prepare._say_outdated.cache_clear()
        prepare._say.cache_clear()

    return act


def test_versions_in_rows_tables_and_pages(command, tmp_path: Path) -> None:
    outcome = run(command("blended", *FEW))
    assert "\ntask     data=1 mask=1 operator=1 " in describe(command("blended", *FEW))[0]
    cell = rows(outcome.plan)
    assert {*cell.task_version} == {"data=1 mask=1 operator=1"} == {FIRST}
    assert {*cell.study_version} == {"default=1"}
    leaderboard.write(outcome.study)
    wide, long = (
        pd.read_csv(outcome.study / f"{name}.csv") for name in ("leaderboard", "leaderboard_long")
    )
    for table in (wide, long):
        assert {*table.task_version} == {FIRST} and {*table.study_version} == {"default=1"}
    assert dict(zip(long.metric, long.metric_version, strict=True))["psnr"] == 1
    assert "Versions of tasks: data=1 mask=1 operator=1." in (
        outcome.study / "leaderboard.md"
    ).read_text(encoding="utf-8")


def test_a_new_version_is_another_cell_in_a_table_of_its_own(
    command, raise_versions, capsys: pytest.CaptureFixture[str]
) -> None:
    old = run(command("blended", *FEW))
    raise_versions(("mask", "box"))
    words = [word for word in command("blended", *FEW) if word != "quiet=true"]
    new = run(words)
    said = " ".join(capsys.readouterr().err.split())
    assert (
        "1 cell has version 1 of mask=box, which is at version 2 now (docs/versions.md): these "
        "cells stand in tables of their own and are not continued; out=DIR starts a new folder"
    ) in said
    assert new.plan.cell.name != old.plan.cell.name
    assert {*rows(new.plan).task_version} == {"data=1 mask=2 operator=1"}
    assert {*rows(old.plan).task_version} == {FIRST}
    other = planned(command("dps", *FEW))
    assert other.cell.identity["task_version"] == "data=1 mask=2 operator=1"
    board = leaderboard.write(new.study)
    text = (new.study / "leaderboard.md").read_text(encoding="utf-8")
    assert "· versions data=1 mask=1 operator=1" in text
    assert "· versions data=1 mask=2 operator=1" in text
    assert any("WARNING: 1 cell has version 1 of mask=box" in n for n in board.attrs["notes"])
    assert "Version 2: Boxes are discs." in show("mask=box")
    with pytest.raises(UserError, match="was measured with version 1 of mask=box, and version 2"):
        score(new.study, options("metrics")["ssim"].parameters)


def test_version_one_leaves_names_alone(command, raise_versions) -> None:
    first = planned(command("blended", *FEW)).cell.name
    raise_versions(("mask", "comod"), ("study", "default"))
    assert planned(command("blended", *FEW)).cell.name == first  # a study names no cell
    raise_versions(("operator", "inpainting"))
    assert planned(command("blended", *FEW)).cell.name != first


def test_cells_without_versions_count_as_the_first() -> None:
    old = {"data": "folder [abc123]", "mask": "box side=0.3", "operator": "inpainting"}
    assert outdated(old) == {} and outdated_lines([old, old]) == []
    newer = {**old, "task_version": "data=1 mask=3 operator=1", "study_version": "showcase=3"}
    assert outdated(newer) == {("mask", "box"): (3, 1), ("study", "showcase"): (3, 2)}
    assert outdated_lines([newer, newer])[0].startswith("2 cells have version 3 of mask=box")
    assert outdated({**newer, "mask": "of-a-plugin-that-is-gone"}) == {
        ("study", "showcase"): (3, 2)
    }


def test_a_study_of_an_older_version_is_named(command, raise_versions) -> None:
    outcome = run(command("blended", *FEW))
    raise_versions(("study", "default"))
    notes = " ".join(leaderboard.build(outcome.study).attrs["notes"])
    assert "1 cell has version 1 of study=default, which is at version 2 now" in notes


def test_histories() -> None:
    assert history_of("mask", "rotated") == ["First version."]
    assert version_of("metrics", "ssim") == 2
