"""Studies that sweep by themselves: what runs, what is skipped, and what the command line
changes."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from tests.bench.harness import bench

from posterior_bench.bench.config.catalog import listing, option, options, show
from posterior_bench.bench.config.compose import compose
from posterior_bench.bench.config.overrides import check
from posterior_bench.bench.config.studies import cells
from posterior_bench.bench.core.errors import Inapplicable, UserError
from posterior_bench.bench.engine.job import job_of
from posterior_bench.bench.engine.prepare import prepare

STUDIES = [name for name in options("study") if option("study", name).sweep]


def test_the_studies_of_the_project_are_there() -> None:
    assert {"arena", "embedded", "showcase"} <= set(STUDIES)


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_names_only_what_exists(name: str) -> None:
    check([f"study={name}"], study_sweep=True)
    solvers, known = option("study", name).sweep["solver"], set(options("solver"))
    if "glob" in solvers:
        assert (
            "exclude=[folder,torchscript,deepinv,dpir,telea,navier_stokes,conditional]" in solvers
        )
    else:
        assert {"exact", "prior", "vipaint2"} <= set(solvers.split(",")) <= known


@pytest.mark.parametrize("name", [name for name in STUDIES if not option("study", name).parts])
def test_one_cell_of_a_study_needs_one_value_of_each(name: str) -> None:
    with pytest.raises(UserError, match="give one value of each"):
        check([f"study={name}"])
    single = {
        key: str(value).split(",")[0] for key, value in option("study", name).sweep.items()
    } | {"solver": "dps"}
    check([f"study={name}", *(f"{key}={value}" for key, value in single.items())])


def test_settings_are_checked_against_what_the_study_runs() -> None:
    check(
        ["study=arena", "data.images=4", "solver=dps,pigdm", "solver.steps=5", "draws=2"],
        study_sweep=True,
    )
    with pytest.raises(UserError, match="key of data=arena/g2 'root'"):
        check(["study=arena", "data.root=/x"], study_sweep=True)
    with pytest.raises(UserError, match="Did you mean 'arena'"):
        check(["study=areno"], study_sweep=True)
    with pytest.raises(UserError, match="runs alone"):
        check(["study=arena,embedded"], sweep=True, study_sweep=True)
    with pytest.raises(UserError, match="names no solver"):
        check(["solver=glob(zz*)"], sweep=True)


def test_nested_names_are_listed_shown_and_suggested() -> None:
    assert "arena/g2" in listing("data") and "Arena: draws of two correlated pixels" in listing(
        "data"
    )
    assert "arena-g2" in show("data=arena/g2")
    with pytest.raises(UserError, match="Did you mean 'arena/gauss8'"):
        check(["data=arena/gaus8"])


def test_arena_data_brings_what_it_needs() -> None:
    cfg, choices = compose(check(["data=arena/g2", "solver=exact"]))
    assert choices["prior"] == "g2" and choices["mask"] == "pixels"
    assert cfg.operator.sigma == 0.05 and cfg.prior.deviation == 0.3 and cfg.mask.observed == 1
    own = compose(check(["data=arena/g2", "operator.sigma=0.2", "prior=modes2", "mask=box"]))[0]
    assert own.operator.sigma == 0.2 and own.prior.spacing == 0.4


@pytest.mark.parametrize("figure", ["{x: nfe}", "{x: nfe, y: psnr, z: ssim}"])
def test_a_figure_has_two_axes(figure: str) -> None:
    with pytest.raises(UserError, match="name two columns"):
        job_of(compose([f"study.figure={figure.replace(' ', '')}"])[0])


def test_what_does_not_fit_together_is_told_from_mistakes(tmp_path: Path) -> None:
    arena = ["data=arena/gauss8", "metrics=[psnr]", f"out={tmp_path}"]
    for solver, operator in (
        ("psld", "inpainting"),
        ("blended", "projection"),
        ("ddnm", "motion_blur"),
    ):
        with pytest.raises(Inapplicable, match="needs"):
            prepare(*compose([f"solver={solver}", f"operator={operator}", *arena]))
    for solver in ("ddrm", "ddnm", "pigdm", "ding"):
        prepare(*compose([f"solver={solver}", "operator=projection", *arena]))
    with pytest.raises(Inapplicable, match="choose prior= and data= that fit"):
        prepare(*compose(["data=fashion", "prior=g2", "solver=dps", "metrics=[psnr]"]))
    with pytest.raises(UserError) as caught:
        prepare(*compose(["solver=dps", "operator.sigma=-1", *arena]))
    assert not isinstance(caught.value, Inapplicable)


def test_a_study_runs_skips_and_draws(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """One command: the operators that the study sweeps, a cell that is skipped in one line, and a
    figure."""
    small = [
        "data=arena/g2",
        "solver=exact,blended",
        "data.images=4",
        "draws=3",
        "batch=12",
        "threads=1",
    ]
    drawn = ("metrics=[psnr]", "study.figure={x:nfe,y:psnr}", f"out={tmp_path}")
    assert bench("study=arena", *small, *drawn) == 0
    (skipped,) = capfd.readouterr().err.splitlines()
    assert skipped.startswith("bench: skipped blended  arena/g2  pixels  projection: ")
    board = pd.read_csv(tmp_path / "leaderboard.csv")
    assert sorted(board["solver"]) == ["blended", "exact", "exact"] and (board["failed"] == 0).all()
    assert (tmp_path / "figure.svg").exists() and (tmp_path / "figure.png").exists()


def test_a_list_that_all_parts_share_is_replaced_and_not_narrowed() -> None:
    words = ["study=arena2", "solver=dps", "data=arena/bipsda_low,arena/gauss256"]
    found = cells([*words, "operator=projection"])
    chosen = [{line.partition("=")[0]: line.partition("=")[2] for line in one} for one in found]
    assert [(one["data"], one["operator"], one["solver"]) for one in chosen] == [
        ("arena/gauss256", "projection", "dps")
    ]
    assert len(cells(words)) == 3
