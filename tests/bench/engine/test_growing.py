"""``data.images=auto``: what is left is the ordinary cell, whenever and however it came about."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.bench.harness import assert_same_rows, planned, run

from posterior_bench.bench.analysis import leaderboard
from posterior_bench.bench.config.compose import compose
from posterior_bench.bench.config.overrides import check
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.engine import growing
from posterior_bench.bench.engine.job import job_of
from posterior_bench.bench.engine.prepare import prepare
from posterior_bench.bench.engine.run import Outcome
from posterior_bench.bench.store.study_files import read_cell

Make = Callable[..., list[str]]


@pytest.fixture
def cell(tmp_path: Path) -> Make:
    """Overrides of a cell of the arena that is drawn in no time."""

    def make(images: object, *more: str, out: str = "study") -> list[str]:
        return [
            *("solver=ddnm", "solver.steps=2", "data=arena/g2", f"data.images={images}"),
            *("metrics=[energy_score]", "draws=2", "batch=8", "threads=1"),
            *("quiet=true", "sheet=false", "report=false", f"out={tmp_path / out}", *more),
        ]

    return make


def grow(overrides: list[str]) -> Outcome:
    """What ``bench run`` does with ``data.images=auto``, in this process."""
    cfg, choices = compose(check(overrides))
    rule = growing.rule_of(cfg)
    assert rule is not None
    largest = prepare(growing.with_images(cfg, rule.limit), choices, write=False)
    return growing.grow(cfg, choices, rule, *largest)


def recorded(outcome: Outcome) -> dict[str, Any]:
    return dict(read_cell(outcome.plan.folder / "config.yaml")["auto"])


def cells(study: Path) -> list[str]:
    return sorted(path.name for path in (study / "cells").iterdir())


def test_what_is_left_is_the_ordinary_cell(cell: Make, tmp_path: Path) -> None:
    outcome = grow(cell("auto:energy_score:0.001:24"))
    ordinary = run(cell(24, out="ordinary")).plan
    assert cells(tmp_path / "study") == [ordinary.cell.name] and outcome.good
    assert_same_rows(outcome.plan, ordinary)
    found = recorded(outcome)
    assert (found["reached"], found["limit"], found["looks"]) == (False, 24, 2)
    # the same command finds everything there, and so does that of the ordinary cell
    assert not planned(cell(24)).missing()
    assert recorded(grow(cell("auto:energy_score:0.001:24"))) == found


def test_it_ends_where_the_mean_is_known_well_enough(cell: Make, tmp_path: Path) -> None:
    loose = grow(cell("auto:energy_score:100:64"))
    assert loose.plan.cell.images == 16 and recorded(loose)["reached"]
    limited = recorded(grow(cell("auto:energy_score:0.0001:24", out="limited")))
    assert limited["found"] < recorded(loose)["found"] and not limited["reached"]
    wanted = 1.01 * limited["found"]
    reached = grow(cell(f"auto:energy_score:{wanted}:24"))
    assert recorded(reached)["found"] <= wanted and recorded(reached)["reached"]
    assert cells(tmp_path / "study") == [reached.plan.cell.name]
    notes = leaderboard.build(tmp_path / "study").attrs["notes"]
    assert any("2 looks planned (Bonferroni). 1 of 1 cells reached it" in note for note in notes)


def test_an_interrupted_run_goes_on_with_its_rows(
    cell: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, execute = [], growing.execute

    def stop_at_the_second(*arguments: Any) -> Outcome:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return execute(*arguments)

    monkeypatch.setattr(growing, "execute", stop_at_the_second)
    words = cell("auto:energy_score:0.001:32")
    with pytest.raises(KeyboardInterrupt):
        grow(words)
    (folder,) = (tmp_path / "study" / "cells").iterdir()
    assert read_cell(folder / "config.yaml")["identity"]["images"] == 24
    store = growing.RowStore(folder)
    # seconds differ from run to run: rows with the same seconds were not computed again
    before = store.read(["seconds_sample"]).set_index(["image_id", "draw"])["seconds_sample"]
    assert len(before) == 32
    monkeypatch.undo()
    after = grow(words).plan.store.read(["seconds_sample"]).set_index(["image_id", "draw"])
    assert len(after) == 64 and (after.loc[before.index, "seconds_sample"] == before).all()
    assert len(cells(tmp_path / "study")) == 1


def test_a_cell_that_was_asked_for_by_its_number_stays(cell: Make, tmp_path: Path) -> None:
    small = run(cell(16)).plan.cell.name
    large = grow(cell("auto:energy_score:0.001:24")).plan.cell.name
    assert cells(tmp_path / "study") == sorted([small, large])


def test_other_settings_of_the_solver_grow_beside_it(cell: Make, tmp_path: Path) -> None:
    names = [
        grow(cell("auto:energy_score:0.001:24", f"solver.steps={n}")).plan.cell.name for n in (2, 3)
    ]
    assert cells(tmp_path / "study") == sorted(names)


def test_rows_that_all_fail_end_it(cell: Make) -> None:
    outcome = grow(cell("auto:energy_score:0.1:32", "timeout=0.0000001"))
    assert outcome.stopped and not outcome.good and outcome.plan.cell.images == 16
    assert not recorded(outcome)["reached"]


def test_what_cannot_grow_is_one_line_and_leaves_nothing(cell: Make, tmp_path: Path) -> None:
    for value, text in (
        ("auto:psnr:0.1:64", "unknown metric of data.images=auto 'psnr'. Valid: energy_score"),
        ("auto:energy_score:0.1:99999", "only 10000 images"),
        ("auto", "give data.images=auto:METRIC:HALF_WIDTH:LIMIT"),
    ):
        with pytest.raises(UserError, match=text) as refusal:
            grow(cell(value))
        assert "\n" not in str(refusal.value)
    assert not (tmp_path / "study").exists()
    with pytest.raises(UserError, match="only a run adds images"):
        job_of(compose(check(cell("auto:energy_score:0.1:64")))[0])


def test_the_number_of_images_has_a_short_name() -> None:
    assert check(["images=8"]) == check(["data.images=8"]) == ["++data.images=8"]
