"""A refused command names all its problems at once, each with what mends it, and the command that
looks at them."""

from __future__ import annotations

from pathlib import Path

import pytest

from posterior_bench.bench.__main__ import main
from posterior_bench.bench.config.compose import compose
from posterior_bench.bench.config.overrides import check
from posterior_bench.bench.core.errors import Inapplicable, UserError
from posterior_bench.bench.engine.prepare import prepare
from posterior_bench.bench.estimate import problems

SMALL = ["prior=smooth", "prior.shape=[1,8,8]", "metrics=[psnr]", "draws=1", "quiet=true"]


def planned(overrides: list[str]) -> None:
    """Plan a cell as a job of the command line does: whatever is missing is said at once."""
    cfg, choices = compose(overrides)
    with problems.collected(cfg, choices):
        prepare(cfg, choices)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    """The lines of a refusal of ``plan``, without the name of the program."""
    with pytest.raises(SystemExit) as stop:
        main(["plan", *arguments])
    assert stop.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("bench: ")
    return [lines[0].removeprefix("bench: "), *lines[1:]]


def test_four_faults_are_four_lines_and_the_command_that_looks_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").write_text("a file where a folder is wanted")
    arguments = [
        *SMALL,
        "solver=psld",
        "data=folder",
        f"data.root={tmp_path / 'photos'}",
        "data.size=8",
    ]
    arguments += [
        "mask=files",
        f"mask.path={tmp_path / 'my masks'}",
        "mask.white=hole",
        f"out={tmp_path / 'full' / 'a'}",
    ]
    head, *lines, last = refused(capsys, *arguments)
    assert head == "4 problems" and len(lines) == 4 and all(line.startswith("  ") for line in lines)
    data, mask, solver, folder = lines
    assert str(tmp_path / "photos") in data and "-> data.root=FOLDER" in data
    assert f"{tmp_path / 'my masks'} does not exist -> mask.path=PATH" in mask
    assert (
        "PSLD needs latent" in solver and " dps," in solver.partition("-> a solver that fits:")[2]
    )
    assert "cannot be written -> choose another with out=DIR" in folder
    assert last.startswith(
        "  everything that is needed: python -m bench doctor prior=smooth 'prior.shape=[1,8,8]' "
    )
    assert f"'mask.path={tmp_path / 'my masks'}'" in last

    with pytest.raises(SystemExit) as stop:
        main(["doctor", *arguments])
    printed = capsys.readouterr().out
    assert stop.value.code == 2 and printed.count("missing ") == 4
    assert all(line.strip().partition(" -> ")[0] in printed for line in lines)


def test_a_model_that_is_not_there_does_not_hide_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    head, prior, data, mask, _ = refused(
        capsys,
        "metrics=[psnr]",
        f"prior={tmp_path / 'none'}",
        "data=folder",
        "mask=files",
        "mask.white=hole",
    )
    assert head == "3 problems" and f"no prior.json in {tmp_path / 'none'} -> prior=PATH" in prior
    assert (data, mask) == (
        "  data.root is not set -> data.root=VALUE (the folder)",
        "  mask.path is not set -> mask.path=VALUE (folder of <image id>.png or .npy | masks.npy "
        "or .npz | one .png for all)",
    )


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("mask=face_part", "give mask.part=VALUE (hair | eyes | mouth | glasses | face)"),
        ("solver=torchscript", "give solver.path=VALUE (the TorchScript file)"),
    ],
)
def test_a_setting_without_a_value_is_named_with_its_valid_values(
    words: str, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (only,) = refused(capsys, "metrics=[psnr]", words)
    assert line in only


def test_a_model_that_cannot_be_converted_does_not_hide_the_rest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model_index.json").write_text("{}")
    head, *lines, _ = refused(
        capsys, "metrics=[psnr]", f"prior={tmp_path / 'model'}", "data=folder"
    )
    assert head == "2 problems" and any(
        "has no config.json in unet or transformer" in line for line in lines
    )
    assert any("data.root is not set" in line for line in lines)


def test_a_wrong_size_does_not_hide_a_wrong_solver(photos: Path) -> None:
    """And the class of the error still says that nothing is wrong with the parts themselves."""
    lines = [
        *SMALL,
        "solver=psld",
        "data=folder",
        f"data.root={photos}",
        "data.size=4",
        "data.images=1",
        "data.mode=grey",
    ]
    with pytest.raises(Inapplicable) as error:
        planned(check(lines))
    assert isinstance(error.value, problems.Problems) and len(error.value.lines) == 2
    assert (
        "images of (1, 4, 4)" in error.value.lines[0]
        and "PSLD needs latent" in error.value.lines[1]
    )


def test_one_problem_is_one_line_that_ends_with_the_command(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = [
        *SMALL,
        "solver=dps",
        "data=folder",
        f"data.root={photos}",
        "data.size=8",
        "data.mode=grey",
    ]
    (line,) = refused(capsys, *common, "data.images=9")
    assert (
        "data.images=9, but there are only 7 images; set data.images=7 or less (everything that is "
        "needed: " in line
    )
    assert line.endswith("data.images=9)") and "python -m bench doctor prior=smooth" in line


def test_a_study_folder_that_cannot_be_made_is_one_problem(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "full").write_text("a file where a folder is wanted")
    common = [
        *SMALL,
        "solver=dps",
        "solver.steps=2",
        "data=folder",
        f"data.root={photos}",
        "data.size=8",
    ]
    with pytest.raises(problems.Problems) as error:
        planned(
            check([*common, "data.mode=grey", "data.images=1", f"out={tmp_path / 'full' / 'a'}"])
        )
    assert error.value.lines == [
        f"{tmp_path / 'full'} cannot be written -> choose another with out=DIR"
    ]
    assert str(error.value).count("\n") == 0


def test_a_wrong_setting_stays_a_line_of_its_own(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = [
        *SMALL,
        "solver=dps",
        "data=folder",
        f"data.root={photos}",
        "data.size=8",
        "data.mode=grey",
        "data.images=1",
    ]
    (line,) = refused(capsys, *common, "timeout=-1")
    assert line == "timeout=-1.0: give seconds above 0, or null for no limit"


def test_a_study_that_skips_what_does_not_apply_waits_for_no_checks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(problems, "_missing", lambda *_: pytest.fail("the checks were made"))
    cfg, choices = compose(["study.skip_inapplicable=true"])
    with pytest.raises(Inapplicable, match=r"^does not fit$"), problems.collected(cfg, choices):
        raise Inapplicable("does not fit")


def test_lines_hold_no_control_characters() -> None:
    shown = str(problems.Problems(["a\nb\x1b[2J", "c"]))
    assert "\x1b" not in shown and shown.splitlines()[1:3] == ["  a b\\x1b[2J", "  c"]
    assert issubclass(problems.Problems, UserError)


@pytest.mark.parametrize("setting", ["solver=psld", "solver.guidance=2"])
def test_a_study_that_skips_leaves_out_whatever_does_not_go_together(
    setting: str, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where no other solver would mend it, as a run does."""
    common = [
        *SMALL,
        "data=folder",
        f"data.root={photos}",
        "data.size=8",
        "data.mode=grey",
        "data.images=1",
    ]
    with pytest.raises(SystemExit) as stop:
        main(
            [
                "doctor",
                *common,
                *([] if setting == "solver=psld" else ["solver=dps"]),
                setting,
                "study.skip_inapplicable=true",
            ]
        )
    assert stop.value.code == 0 and "this study leaves it out" in capsys.readouterr().out
