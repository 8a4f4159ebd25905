"""``bench tune`` as a user types it, on two pixels."""

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml
from tests.bench.harness import verb

from posterior_bench.bench.api.study import Study
from posterior_bench.bench.config.catalog import option
from posterior_bench.bench.config.presets import effective_settings
from posterior_bench.bench.core.errors import UserError

WORDS = ["data=arena/g2", "operator=inpainting", "data.images=2", "draws=2", "budget=passes:8"]


def tune(out: Path, *words: str) -> int:
    return verb("tune", "solver=ddrm", *WORDS, "trials=4", f"out={out}", *words)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    out = tmp_path_factory.mktemp("tune")
    assert tune(out) == 0
    return out


def test_every_trial_is_a_cell_with_equal_work_on_tuning_images(tuned):
    cells = [yaml.safe_load(p.read_text()) for p in tuned.glob("ddrm/cells/*/config.yaml")]
    assert len(cells) == 4
    assert {cell["config"]["data"]["name"] for cell in cells} == {"arena-tune"}
    assert {cell["config"]["seed"] for cell in cells} == {101}
    rows = Study(tuned / "ddrm").rows()
    assert len(rows) == 4 * 2 * 2
    assert ((rows["nfe"] + rows["nge"]) == 8).all()


def test_the_table_of_trials_holds_the_means_of_the_rows(tuned):
    trials = pd.read_csv(tuned / "ddrm" / "trials.csv")
    rows = Study(tuned / "ddrm").rows()
    means = rows.groupby("cell")["energy_distance_rel"].mean()
    assert sorted(trials["energy_distance_rel"]) == pytest.approx(sorted(means))
    shipped = effective_settings(option("solver", "ddrm").content, "fast_small")
    assert json.loads(trials["setting"][0]) == {key: shipped[key] for key in ("eta", "eta_b")}


def test_the_preset_is_the_best_trial_and_says_how_it_was_found(tuned):
    trials = pd.read_csv(tuned / "ddrm" / "trials.csv")
    best = trials.loc[trials["energy_distance_rel"].idxmin()]
    preset = yaml.safe_load((tuned / "ddrm" / "preset.yaml").read_text())["presets"]
    ((name, said),) = preset.items()
    assert name.startswith("fast_small")
    setting = {"eta": 0.85, "eta_b": 1.0, **said}
    assert {key: setting[key] for key in ("eta", "eta_b")} == json.loads(best["setting"])
    assert said["steps"] == 8
    assert said["for"] == ["g2"]
    how = said["tuned"]
    assert (how["trials"], how["seed"], how["rows"]) == (4, 101, 4)
    assert (how["data"], how["tasks"], how["problems"]) == (["arena/g2"], ["pixels"], 1)
    assert how["passes"] == 4 * 4 * 8
    assert how["flat"].endswith("of 4 trials within 2 standard errors")
    assert "precision" not in how  # it says so only where it is not that of the default


def test_a_preset_says_in_which_precision_it_was_found(tmp_path):
    words = ["data=fashion", "mask=rotated", "data.images=1", "draws=1", "budget=passes:2"]
    words += ["trials=2", "precision=bf16", "metrics=[psnr]", "objective=psnr"]
    assert verb("tune", "solver=ddrm", *words, f"out={tmp_path}") == 0
    preset = yaml.safe_load((tmp_path / "ddrm" / "preset.yaml").read_text())["presets"]
    assert [said["tuned"]["precision"] for said in preset.values()] == ["bf16"]


def test_a_second_run_makes_no_row_and_finds_the_same(tuned):
    def state():
        return {p: p.stat().st_mtime_ns for p in tuned.glob("ddrm/cells/*/rows/*")}

    before, table = state(), (tuned / "tuned.csv").read_text()
    assert tune(tuned) == 0
    assert state() == before
    assert (tuned / "tuned.csv").read_text() == table


def test_more_trials_continue_a_search(tuned, tmp_path):
    assert tune(tuned, "trials=5") == 0
    assert len(pd.read_csv(tuned / "ddrm" / "trials.csv")) == 5
    assert len([*tuned.glob("ddrm/cells/*")]) == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data=arena/g2"], "'tune' needs solver=NAME; for example: bench tune solver="),
        (["solver=dps", "trials=1"], "trials=1: trials takes a whole number of at least 2"),
        (["solver=dps", "write=yes"], "write=yes: write takes true or false"),
        (["solver=dps", "data=arena/g2,fashion"], "different objectives"),
        (["solver=dps", "data=folder"], "does not say on which images of data=folder to tune"),
        (["solver=dps", "data=folder", "data.id_list=a.txt"], "'tune' needs objective=METRIC"),
        (["solver=dpss"], "unknown solver 'dpss'. Did you mean 'dps'?"),
        (
            ["solver=ddrm", *WORDS, "objective=psnrr"],
            "unknown objective 'psnrr'.* Valid: energy_distance_rel",
        ),
    ],
)
def test_wrong_words_are_one_line(words, message, tmp_path):
    with pytest.raises(UserError, match=message):
        verb("tune", *words, f"out={tmp_path}")


def test_a_solver_that_cannot_run_is_skipped_and_the_others_are_tuned(tmp_path, capsys):
    assert verb("tune", "solver=psld,ddrm", *WORDS, f"out={tmp_path}", "trials=2") == 1
    assert "skipped psld" in capsys.readouterr().err
    assert list(pd.read_csv(tmp_path / "tuned.csv")["solver"]) == ["ddrm"]


def test_a_budget_that_is_too_small_skips_the_solver(tmp_path, capsys):
    words = [*WORDS[:-1], "budget=passes:1", f"out={tmp_path}", "trials=2"]
    assert verb("tune", "solver=vipaint2", *words) == 1
    assert "skipped vipaint2" in capsys.readouterr().err
