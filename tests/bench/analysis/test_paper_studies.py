"""Studies of the papers' tables: the cells they expand to, what narrows them, and a rehearsal on
embedded priors."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from tests.bench.analysis.test_leaderboard import make_cell
from tests.bench.harness import bench

from posterior_bench.bench.analysis import paper_table, papers
from posterior_bench.bench.config.catalog import option, options
from posterior_bench.bench.config.compose import compose
from posterior_bench.bench.config.overrides import check
from posterior_bench.bench.config.studies import cells, expand, refuse_unset
from posterior_bench.bench.core.errors import UserError

OWN = {"arena2", "faces_posterior"}
"""Studies of several parts that are no table of a paper."""

STUDIES = [name for name in options("study") if option("study", name).parts and name not in OWN]
QUOTED = {"daps_table1", "lanpaint_table", "pnpflow_table", "flows_768"}
"""Tables of other papers, which test_quoted_tables.py has."""


def chosen(lines: list[str]) -> dict[str, str]:
    return dict(line.split("=", 1) for line in lines)


def test_every_table_and_figure_has_a_study() -> None:
    vipaint = {
        f"vipaint_{name}"
        for name in (
            "table2",
            "table3",
            "table5",
            "table6",
            "table7",
            "fig6",
            "fig10",
            "perceptual",
            "beta",
            "classes",
            "sd35",
            "pictures64",
            "pictures256",
            "pictures_church",
        )
    }
    latentpaint = {f"latentpaint_table{n}" for n in (1, 2, 3, 4)}
    assert set(STUDIES) == vipaint | latentpaint | QUOTED


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_names_only_what_exists(name: str) -> None:
    """Groups, settings, presets and their kinds of values pass the check of overrides, and Hydra
    composes a cell."""
    for scale in ("full", "smoke"):
        for sweep in expand([f"study={name}", f"scale={scale}"]):
            check(sweep, study_sweep=True)
    cfg, choices = compose(check(cells([f"study={name}"])[0], study_sweep=True))
    assert choices["study"] == name and cfg.study.skip_inapplicable
    table = cfg.study.get("paper")
    printed = name.partition("_")[2].startswith("table") or name in ("vipaint_fig10", "flows_768")
    assert (table in papers.table_names()) == printed


@pytest.mark.parametrize(
    "name", [name for name in STUDIES if option("study", name).content.get("paper")]
)
def test_every_printed_number_with_a_counterpart_has_its_cell(name: str) -> None:
    """The transcription of a table and the study were written apart; they meet here."""
    ours, table = papers.ours(), option("study", name).content["paper"]
    there = set()
    for lines in cells([f"study={name}"]):
        cell = chosen(lines)
        if cell["data"] == "lsun_bedroom":
            continue  # the paper does not name its prior
        prior = cell.get("prior") or option("data", cell["data"]).brings["prior"]
        problem = cell.get("operator", cell.get("mask"))
        there.add((cell["solver"], cell["data"], problem, prior))
    wanted = [
        (solver, data, problem, prior)
        for p in papers.printed_numbers(table)
        for solver in ours.get(("method", p.method), ())
        for data in ours.get(("dataset", p.dataset), ())
        for problem in ours.get(("task", p.task), ())
        for prior in ours.get(("prior", p.prior), set())
        & {"imagenet64_edm", "imagenet256", "lsun_church", "celebahq_ddpm"}
        if p.value
    ]
    # a printed number that no cell of ours can stand beside
    assert set(wanted) - there == set()


def test_table_6_has_the_papers_cells_and_settings() -> None:
    every = [chosen(lines) for lines in cells(["study=vipaint_table6"])]
    # printed: 9 methods x 2 masks, 5 x 3 and 4 x 3 numbers
    assert Counter(cell["data"] for cell in every) == {
        "imagenet64": 18,
        "imagenet256": 15,
        "lsun_church": 12,
    }
    assert len([p for p in papers.printed_numbers("vipaint-table6") if p.value]) == len(every) == 45
    presets = [option("solver", c["solver"]).content["presets"][c["solver.preset"]] for c in every]
    guided = {
        (c["data"], c["solver"])
        for c, p in zip(every, presets, strict=True)
        if p.get("guidance") == 3.0
    }
    assert guided == {("imagenet256", solver) for solver in ("resample", "psld", "dps")}
    small = [cell for cell in every if cell["mask"] == "palette" and cell["data"] == "imagenet256"]
    assert {(cell["data.images"], cell["draws"]) for cell in small} == {("1000", "1")}
    assert {(c["data.images"], c["draws"]) for c in every if c["mask"] != "palette"} == {
        ("100", "10")
    }


def test_the_command_line_narrows_groups_and_replaces_settings() -> None:
    lines = cells(
        [
            "study=vipaint_table6",
            "data=imagenet256",
            "solver=dps,vipaint2",
            "draws=2",
            "metrics=[psnr]",
        ]
    )
    assert [(c["solver"], c["mask"]) for c in map(chosen, lines)] == [
        (solver, mask) for mask in ("rotated", "comod", "palette") for solver in ("vipaint2", "dps")
    ]
    assert {(c["draws"], c["metrics"], c["data"]) for c in map(chosen, lines)} == {
        ("2", "[psnr]", "imagenet256")
    }
    with pytest.raises(UserError, match=r"no solver=ddrm to narrow it to\. Valid: vipaint4, "):
        expand(["study=vipaint_table6", "solver=ddrm"])
    with pytest.raises(
        UserError,
        match="no part of study=vipaint_table6 has solver=blended data=lsun_church together",
    ):
        expand(["study=vipaint_table6", "data=lsun_church", "solver=blended"])
    assert expand(["solver=dps", "draws=2"]) == [["solver=dps", "draws=2"]]


def test_what_is_missing_or_many_is_said_before_any_work() -> None:
    with pytest.raises(
        UserError, match=r"data\.root is not set for data=imagenet64: give it, or narrow"
    ):
        refuse_unset(expand(["study=vipaint_table6"]))
    refuse_unset(expand(["study=vipaint_table6", "data.root=/images"]))
    refuse_unset(expand(["study=vipaint_table6", "scale=smoke"]))
    with pytest.raises(UserError, match="several cells, but this command runs exactly one"):
        check(["study=vipaint_table6"])
    with pytest.raises(UserError, match="runs alone"):
        check(["study=vipaint_table6,arena"], study_sweep=True)
    with pytest.raises(UserError, match="unknown scale 'tiny'"):
        expand(["scale=tiny"])


def test_a_rehearsal_keeps_the_cells_apart_and_small() -> None:
    every = [chosen(lines) for lines in cells(["study=vipaint_table6", "scale=smoke"])]
    assert {(c["data"], c["data.images"], c["draws"]) for c in every} == {
        ("fashion", "2", "2"),
        ("fashion32", "2", "2"),
    }
    assert {c["study.name"] for c in every} == {"vipaint_table6_smoke"}
    assert not any(key.startswith("solver.") or key == "data.protocol" for c in every for key in c)
    # churches and ImageNet-256 have the same stand-in, and their cells are run once
    assert len(every) == 18 + 15
    assert chosen(cells(["study=showcase", "scale=smoke"])[0])["data.images"] == "2"


SMALL = [
    "scale=smoke",
    "data.images=2",
    "draws=1",
    "batch=2",
    "threads=1",
    "quiet=true",
    "sheet=false",
    "report=false",
]


def test_a_study_of_several_sweeps_runs_and_writes_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two data sets, two operators, two solvers, one of which runs on one of the data sets."""
    study = [
        "study=vipaint_table7",
        "solver=psld,dps",
        "solver.steps=2",
        "metrics=[psnr_vipaint]",
        f"out={tmp_path}",
        *SMALL,
    ]
    assert bench("plan", *study, "seconds_pass=0.01") == 0
    plan = capsys.readouterr().out
    assert "does not apply" not in plan
    # two steps a row, each with its gradient
    assert (
        "Estimate: 5 cells, 10 rows, 20 network evaluations, 40 passes (forward + backward), "
        in " ".join(plan.split())
    )
    assert not any(tmp_path.iterdir())
    assert bench(*study) == 0
    board = pd.read_csv(tmp_path / "leaderboard.csv")
    assert sorted(zip(board["data"], board["operator"].str.partition(" ")[0], strict=True)) == [
        ("fashion", "gaussian_blur"),
        *[("fashion32", "gaussian_blur")] * 2,
        *[("fashion32", "super_resolution")] * 2,
    ]
    table = (tmp_path / "paper_table.md").read_text()
    head = "| super_resolution_x4, lpips | super_resolution_x4, psnr_db |"
    assert head in table and table.count("| DPS |") == 2
    (line,) = [line for line in table.splitlines() if line.startswith("| DPS | 0.579 / —")]
    assert "| 12.99 † / " in line and "| 12.99 † / —" not in line
    assert (
        "a rehearsal with stand-ins (fashion for imagenet64" in table
        and "† suspect: 0.022 dB" in table
    )
    bench("plan", *study)
    assert "rows of this study" in capsys.readouterr().out


REHEARSED = [name for name in STUDIES if name not in QUOTED]


@pytest.mark.slow
@pytest.mark.parametrize("name", REHEARSED)
def test_every_study_rehearses(name: str, tmp_path: Path) -> None:
    assert bench(f"study={name}", *SMALL, f"out={tmp_path}") == 0
    board = pd.read_csv(tmp_path / "leaderboard.csv")
    assert len(board) and (board["failed"] == 0).all()
    if option("study", name).content.get("paper"):
        assert re.search(
            r"- [1-9]\d* of \d+ numbers have a measured", (tmp_path / "paper_table.md").read_text()
        )


@pytest.mark.parametrize(
    "narrowed",
    [
        # needs a mask, and this operator has none
        ["study=arena", "solver=blended", "operator=projection", "data=arena/g2"],
        # needs the features of a network, and these priors have none
        ["study=arena", "solver=latentpaint", "data=arena/g2,arena/gauss8", "quiet=true"],
    ],
)
def test_a_study_narrowed_to_nothing_says_so(
    narrowed: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(*narrowed, f"out={tmp_path}", "data.images=1", "draws=1") == 2
    printed = capsys.readouterr().err.splitlines()
    assert all(line.startswith("bench: skipped ") for line in printed[:-1]) and len(printed) > 1
    assert printed[-1].startswith("bench: nothing was run: no cell of this command applies")


# -- the table, by hand ----------------------------------------------------------------------------


def _study(folder: Path, table: str) -> Path:
    (folder / "config.yaml").write_text(
        yaml.safe_dump({"study": {"paper": table}, "scale": {"name": "full"}})
    )
    return folder


def test_printed_and_measured_stand_where_the_paper_has_them(tmp_path: Path) -> None:
    from posterior_bench.bench.analysis import leaderboard

    here = {
        "data": "imagenet64",
        "prior": "imagenet64_edm",
        "mask": "comod",
        "images": 2,
        "draws": 2,
    }
    scores = {
        (image, d): {"psnr": 20.0, "lpips_vgg": v}
        for image, v in (("a", 0.2), ("b", 0.3))
        for d in (0, 1)
    }
    make_cell(tmp_path, "c1", scores, solver="vipaint2", **here)
    worse = {key: {**value, "lpips_vgg": value["lpips_vgg"] + 0.1} for key, value in scores.items()}
    make_cell(tmp_path, "c2", worse, solver="copaint_tt", **here)
    leaderboard.write(_study(tmp_path, "vipaint-table6"))
    lines = (tmp_path / "paper_table.md").read_text().splitlines()
    head = next(line for line in lines if "VIPaint-4" in line).split("|")
    row = next(line for line in lines if line.startswith("| random_mask")).split("|")
    cell = {name.strip(): text.strip() for name, text in zip(head, row, strict=True)}
    # two images have no interval, and so no deviation from what is printed
    assert cell["VIPaint-2"] == "0.227 / 0.250"
    assert cell["CoPaint-TT"] == "0.245 / 0.350" and cell["VIPaint-4"] == "0.231 / —"
    assert "2 of 45 numbers have a measured one" in "\n".join(lines)
    # with two cells for one number, the better one must not be picked
    make_cell(tmp_path, "c3", worse, solver="vipaint2", **{**here, "seed": 1})
    leaderboard.write(tmp_path)
    assert "| 0.227 / — |" in (tmp_path / "paper_table.md").read_text()


def test_a_prior_that_is_not_stated_may_be_any(tmp_path: Path) -> None:
    from posterior_bench.bench.analysis import leaderboard

    fid = {"fid": {"title": "FID", "direction": "down", "unit": ""}}
    here = {
        "data": "lsun_bedroom",
        "prior": "my_prior",
        "mask": "semantic labels=[7]",
        "metrics": fid,
    }
    scores = {(image, draw): {"fid": 17.5} for image in "ab" for draw in (0, 1)}
    make_cell(tmp_path, "c1", scores, solver="latentpaint", **here)
    leaderboard.write(_study(tmp_path, "latentpaint-table4"))
    assert (
        "| semantic_bed | 18.92 † / — | 16.18 † / 17.50 |"
        in (tmp_path / "paper_table.md").read_text()
    )


def test_minutes_and_tests_are_those_of_the_study(tmp_path: Path) -> None:
    from scipy.stats import ttest_rel, wilcoxon

    from posterior_bench.bench.analysis import leaderboard

    here = {
        "data": "imagenet64",
        "prior": "imagenet64_edm",
        "mask": "rotated",
        "images": 2,
        "draws": 2,
    }
    first = {("a", 0): 0.2, ("a", 1): 0.3, ("b", 0): 0.35, ("b", 1): 0.25}
    second = {("a", 0): 0.4, ("a", 1): 0.3, ("b", 0): 0.36, ("b", 1): 0.36}
    for cell, solver, values in (("c1", "vipaint2", first), ("c2", "copaint_tt", second)):
        scores = {key: {"psnr": 20.0, "lpips_vgg": value} for key, value in values.items()}
        make_cell(tmp_path, cell, scores, solver=solver, **here)
    board = leaderboard.write(_study(tmp_path, "vipaint-table5"))
    table = (tmp_path / "paper_table.md").read_text()
    # half a second of fit for each of two draws, and ten draws of a second; printed are 3.3
    # minutes, 1.5 and 1.8
    for number in (
        "3.3 min † = 198 s / 11.0 s",
        "1.5 min = 90.0 s / 1.00 s",
        "1.8 min = 108 s / 10.0 s",
    ):
        assert f"| {number} |" in table
    # CoPaint-TT fits nothing, but the rows above say so; VIPaint-4 was not run
    assert "| 5.4 min = 324 s / 11.0 s |" in table and "| 11.8 min = 708 s / — |" in table
    assert (
        "image, time_min (A6000)" in table
        and "10 draws of one image on A6000 GPUs. Measured: seconds of" in table
    )
    fig10 = [p for p in papers.printed_numbers("vipaint-fig10") if p.metric.endswith("_p")]
    moved = board.assign(mask="comod")
    shown = paper_table.Board(moved, tmp_path, {}, {})
    a, b = (
        np.array([(v["a", 0] + v["a", 1]) / 2, (v["b", 0] + v["b", 1]) / 2])
        for v in (first, second)
    )
    expected = [ttest_rel(a, b, alternative="less").pvalue, wilcoxon(a, b).pvalue]
    assert [shown.measured(p).value for p in fig10] == pytest.approx(expected)  # type: ignore[union-attr]


def test_evaluations_of_fit_and_draws_stand_apart(tmp_path: Path) -> None:
    """300 evaluations of a fit are 150 a draw in rows of two draws; a draw itself takes 400."""
    from posterior_bench.bench.analysis import leaderboard

    here = {"data": "lsun_church", "prior": "lsun_church", "mask": "rotated", "images": 2}
    scores = {(image, d): {"nfe": 550.0, "nfe_fit": 150.0} for image in "ab" for d in (0, 1)}
    make_cell(tmp_path, "c1", scores, solver="vipaint2", metrics={}, **here)
    leaderboard.write(_study(tmp_path, "vipaint-table5"))
    table = (tmp_path / "paper_table.md").read_text()
    assert "| 150 / 300 |" in table and "| 400 / 400 |" in table


def test_a_number_stands_beside_the_preset_it_belongs_to(tmp_path: Path) -> None:
    """LatentPaint has three presets in Table 3; each line of it has its own, or none."""
    from posterior_bench.bench.analysis import leaderboard

    metrics = {"lpips_alex_pasted": {"title": "LPIPS", "direction": "down", "unit": ""}}
    here = {"data": "celebahq", "prior": "celebahq_ddpm", "mask": "lama_thick", "metrics": metrics}
    presets = {"authors": 0.11, "authors_once": 0.22, "authors_one": 0.33}
    for name, value in presets.items():
        scores = {(image, d): {"lpips_alex_pasted": value} for image in "ab" for d in (0, 1)}
        make_cell(
            tmp_path, name, scores, solver="latentpaint", preset=name, preset_from="x", **here
        )
    board = leaderboard.write(_study(tmp_path, "latentpaint-table3"))
    table = (tmp_path / "paper_table.md").read_text()
    assert "| 0.127 / 0.330 |" in table and "| 0.068 / 0.220 |" in table and "0.110" not in table
    printed = board.set_index("preset")["lpips_alex_pasted_paper"]
    assert printed.to_dict() == {"authors": "", "authors_once": "0.068", "authors_one": "0.127"}


def test_printed_settings_are_those_of_the_recorded_solver() -> None:
    from posterior_bench.bench.analysis.printed_settings import printed_setting

    def both(name: str, **settings: object) -> tuple[str, str]:
        node = {"_target_": name, **settings}
        return printed_setting("steps", node), printed_setting("conditioning_type", node)

    # RePaint's Table: 250 steps are 4570 transitions; VIPaint counts 4756 for 256
    assert both("solvers.repaint.RePaint") == ("4570", "POST")
    assert both("solvers.repaint.RePaint", steps=256) == ("4756", "POST")
    assert both("solvers.latentpaint.LatentPaint", modules="x") == ("250", "-")
    assert both("solvers.conditional.Conditional", steps=50) == ("50", "PRE")
    # a plugin is not loaded for a table
    assert both("plugin_that_is_not_here.Solver") == ("", "")
