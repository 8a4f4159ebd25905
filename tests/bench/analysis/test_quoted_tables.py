"""The tables the field quotes: every printed number has its cell or its reason, and oracles stand
beside best-of-N numbers alone."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from tests.bench.analysis.test_leaderboard import make_cell
from tests.bench.analysis.test_paper_studies import bench, chosen

from posterior_bench.bench.analysis import leaderboard, papers
from posterior_bench.bench.analysis.papers import Printed
from posterior_bench.bench.config.catalog import option, options
from posterior_bench.bench.config.presets import effective_settings
from posterior_bench.bench.config.studies import cells, expand, refuse_unset
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.engine.scoring import check_chooser
from posterior_bench.bench.store.row_store import RowStore
from posterior_bench.metrics.fid import FID
from posterior_bench.metrics.oracle_fid import OracleFID

QUOTED = {
    "daps_table1": "daps-table1",
    "lanpaint_table": "lanpaint-table",
    "pnpflow_table": "pnpflow-table",
    "flows_768": "flows-768",
}
RUN = ["threads=1", "quiet=true", "sheet=false", "report=false", "batch=4"]


def test_the_transcriptions_have_the_printed_numbers() -> None:
    daps, lanpaint, pnpflow, flows = (papers.printed_numbers(table) for table in QUOTED.values())
    assert len(daps) == 466 and len(lanpaint) == 46
    # 118 rows of the picture; DiffPIR is printed without SSIM
    assert Counter(p.metric for p in daps) == {
        "psnr_db": 118,
        "lpips_vgg": 118,
        "fid": 118,
        "ssim": 112,
    }
    assert Counter(p.best_of for p in daps) == {None: 418, 4: 48}
    assert {p.task for p in daps if p.best_of} == {"phase_retrieval"}
    assert Counter(p.method for p in daps if p.flag and not p.best_of) == {"DAPS": 2, "DDRM": 1}
    # nothing is printed of the FID that LanPaintBench computes
    assert {p.metric for p in lanpaint} == {"lpips_alex"}
    # 14 rows of three metrics and five tasks; PnP-Flow1 on cats has PSNR alone; PnP-GS and DiffPIR
    # one number each, FLOWER with independent coupling four
    assert len(pnpflow) == 14 * 15 + 5 + 2 + 4 and len(flows) == 56
    assert {p.flag for p in (*pnpflow, *flows)} == {"second-hand"}


@pytest.mark.parametrize("study", QUOTED)
def test_names_of_a_table_point_at_what_exists(study: str) -> None:
    groups = {"dataset": ["data"], "prior": ["prior"], "task": ["mask", "operator"]}
    for printed, column in itertools.product(papers.printed_numbers(QUOTED[study]), groups):
        names = papers.ours(QUOTED[study]).get((column, getattr(printed, column)), frozenset())
        names = {name.partition(":")[0] for name in names}
        assert names <= {name for group in groups[column] for name in options(group)}
    assert all(r.kind in ("absent", "protocol") and r.text for r in papers.remarks(QUOTED[study]))
    for remark in papers.remarks(QUOTED[study]):
        assert any(remark.fits(p) for p in papers.printed_numbers(QUOTED[study])), remark


def _lines(study: str) -> list[dict[str, str]]:
    """The cells of a study as lines of a leaderboard, where each has all metrics."""
    lines = []
    for cell in map(chosen, cells([f"study={study}"])):
        settings = [f"{k.partition('.')[2]}={v}" for k, v in cell.items() if k[:7] == "solver."]
        line = {"mask": "none", "operator": "inpainting", **cell, "variant": " ".join(settings)}
        told = [
            k.removeprefix("operator.") + f"={v}" for k, v in cell.items() if k[:9] == "operator."
        ]
        lines.append({**line, "operator": " ".join([line["operator"], *told])})
    return lines


@pytest.mark.parametrize("study", QUOTED)
def test_every_printed_number_has_one_cell_or_one_reason(study: str) -> None:
    table, lines = QUOTED[study], _lines(study)
    found: Counter[Printed] = Counter()
    for line in lines:
        for metric in (
            line["metrics"].strip("[]").replace("_unclamped", "_unclamped_pasted").split(",")
        ):
            metric = metric.removeprefix("oracle4_") + "_oracle4" * metric.startswith("oracle4_")
            if printed := papers.lookup(table, line, metric):
                found[printed] += 1
    reasons = {p: papers.why_absent(table, p) for p in papers.printed_numbers(table)}
    assert set(found.values()) == {1}
    assert {p for p, reason in reasons.items() if not reason} == set(found)


@pytest.mark.parametrize("scale", ["full", "smoke"])
def test_a_table_has_as_many_cells_as_methods_on_tasks(scale: str) -> None:
    every = [chosen(lines) for lines in cells(["study=daps_table1", f"scale={scale}"])]
    if scale == "smoke":
        # both data sets have one stand-in, and nonlinear blur has another nonlinear operator
        assert {c["data"] for c in every} == {"fashion", "fashion32"} and len(every) == 55
        assert {c["draws"] for c in every} == {"2"}
        return
    # DAPS and DPS have 16 each, DDRM 6, DDNM 8, DiffPIR 6, RED-diff 6, FPS-SMC 8, DCDP 5, HIO 1; on
    # latents LatentDAPS and ReSample have 16 each, PSLD 10
    assert len(every) == 114
    by_prior = Counter(c["prior"] for c in every)
    assert by_prior == {
        "none": 1,
        "ffhq_adm": 38,
        "imagenet256_adm": 33,
        "ffhq_compvis": 21,
        "imagenet256": 21,
    }
    assert {c["draws"] for c in every if c["operator"] == "phase_retrieval"} == {"4"}
    assert {c["draws"] for c in every if c["operator"] != "phase_retrieval"} == {"1"}
    assert {c["data.labelled"] for c in every if c["data"] == "imagenet256"} == {"false"}
    noise = {
        c["operator"]: float(
            c.get("operator.sigma", option("operator", c["operator"]).content["sigma"])
        )
        for c in every
    }
    # amplitudes keep the scale of images in [-1, 1]: 0.05 on images in [0, 1] is 0.1 here
    assert noise.pop("phase_retrieval") == 0.1 and {*noise.values()} == {0.05}


def test_settings_of_daps_are_those_of_its_configurations() -> None:
    """Learning rate, steps, final ratio and momentum of every task, read in the authors' files."""
    pixel = {
        "super_resolution": (1e-4, 100),
        "box_daps_table1": (5e-5, 100),
        "drop_daps_table1": (1e-4, 100),
        "gaussian_blur": (1e-4, 100),
        "motion_blur": (5e-5, 100),
        "phase_retrieval": (5e-5, 100),
        "nonlinear_blur": (1e-5, 200),
        "hdr": (2e-5, 100),
    }
    latent = {
        "super_resolution": (1.35e-4, 24, 0.023, 0.86),
        "box_daps_table1": (9.02e-6, 15, 0.13, 0.74),
        "drop_daps_table1": (8.4e-6, 38, 0.013, 0.92),
        "gaussian_blur": (2.7e-6, 35, 0.95, 0.95),
        "motion_blur": (2.4e-5, 49, 0.041, 0.45),
        "phase_retrieval": (2.1e-5, 65, 0.12, 0.41),
        "nonlinear_blur": (3.71e-6, 80, 0.024, 0.91),
        "hdr": (4.52e-6, 38, 0.015, 0.58),
    }
    node = option("solver", "daps").content
    found: dict[str, dict[str, tuple[float, ...]]] = {"pixel": {}, "latent": {}}
    for cell in map(chosen, cells(["study=daps_table1", "solver=daps"])):
        values = effective_settings(node, cell["solver.preset"])
        problem = cell.get("mask", cell["operator"])
        named = [float(values[k]) for k in ("lr", "inner_steps", "lr_end", "momentum")]
        steps = (values["steps"], values["ode_steps"], values["ratio_max"], values["ratio_min"])
        assert (values["tau"], values["compat"]) == (0.01, "released")
        if cell["prior"].endswith("adm"):
            assert steps == (200, 5, 100, 0.1) and named[2:] == [0.01, 0]
            found["pixel"][problem] = tuple(named[:2])
        else:
            assert steps == (50, 2, 10, 0.1)
            found["latent"][problem] = tuple(named)
    assert found == {"pixel": pixel, "latent": latent}


def test_the_file_of_one_operator_is_given_for_the_whole_study() -> None:
    root = ["study=daps_table1", "data=ffhq", "data.root=/images"]
    with pytest.raises(UserError, match=r"operator\.path is not set for operator=nonlinear_blur"):
        refuse_unset(expand(root))
    given = expand([*root, "operator.path=/blur.pt"])
    refuse_unset(given)
    have = ["operator.path=/blur.pt" in sweep for sweep in given]
    assert have == ["operator=nonlinear_blur" in sweep for sweep in given] and sum(have) == 5
    # what no operator has is left for the check of overrides to name
    assert all("operator.pth=/blur.pt" in s for s in expand([*root, "operator.pth=/blur.pt"]))


# -- oracles ---------------------------------------------------------------------------------------

CARDS = {
    "psnr": {"title": "PSNR", "direction": "up", "unit": "dB"},
    "psnr_oracle4": {"title": "oracle", "direction": "up", "unit": "dB", "level": "draws"},
}


def test_a_best_of_four_stands_beside_the_oracle_and_the_mean_beside_it(tmp_path: Path) -> None:
    here = {
        "data": "ffhq crop=bilinear",
        "prior": "ffhq_adm",
        "mask": "none",
        "operator": "phase_retrieval domain=unit",
        "metrics": CARDS,
    }
    values = {("a", 0): 20.0, ("a", 1): 30.0, ("b", 0): 24.0, ("b", 1): 26.0}
    best = {"a": 32.0, "b": 30.0}
    scores = {k: {"psnr": v, "psnr_oracle4": best[k[0]]} for k, v in values.items()}
    make_cell(tmp_path, "c1", scores, solver="daps", **here)
    other = {**here, "operator": "hdr"}
    make_cell(tmp_path, "c2", scores, solver="daps", **other)
    study = {"study": {"paper": "daps-table1"}, "scale": {"name": "full"}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(study))
    board = leaderboard.write(tmp_path)
    table = (tmp_path / "paper_table.md").read_text()
    # printed, mean of the best (32 and 30), mean of all draws (25 and 25)
    assert (
        "| phase_retrieval, psnr_db | 30.63 † / oracle 31.00, mean 25.00 | 17.64 † / — |" in table
    )
    assert "| hdr, psnr_db | 27.12 / 25.00 | 22.73 / — |" in table
    assert "ORACLE: a number with the flag best-of-4 is the best of 4 draws" in table
    assert "2 of 466 numbers have a measured one" in table
    assert "- — 448 numbers: this study has no cell here yet." in table
    assert "- (a) 8 numbers: FPS-SMC" in table and " 27.39 / (a) |" in table
    # in the leaderboard the mean has no printed number beside it
    line = board[board["operator"] == "phase_retrieval domain=unit"].iloc[0]
    assert (line["psnr_paper"], line["psnr_oracle4_paper"]) == ("", "30.63")
    line = board[board["operator"] == "hdr"].iloc[0]
    assert (line["psnr_paper"], line["psnr_oracle4_paper"]) == ("27.12", "")


def frechet(x: np.ndarray, y: np.ndarray) -> float:
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    roots = np.sqrt(np.clip(np.linalg.eigvals(a @ b).real, 0, None)).sum()
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + np.trace(a + b) - 2 * roots)


def test_the_oracle_of_fid_takes_the_draw_with_the_best_psnr(tmp_path: Path) -> None:
    overrides = ["solver=blended", "solver.steps=2", "data.images=7", "draws=3", "mask=half"]
    overrides += ["metrics=[psnr,ssim_piq,stlpips,fid,oracle2]", f"out={tmp_path}", *RUN]
    assert bench(*overrides) == 0
    board = leaderboard.build(tmp_path).iloc[0]
    (folder,) = (tmp_path / "cells").iterdir()
    rows = RowStore(folder).read()
    first = rows[rows["draw"] < 2]
    best = first.loc[first.groupby("image_id")["psnr"].idxmax()].sort_values("image_id")
    assert {*best["draw"]} == {0, 1}, "either draw wins for some images"
    truth = rows.dropna(subset="features_stlpips_truth").sort_values("image_id")
    expected = frechet(
        np.stack(list(best["features_stlpips"])), np.stack(list(truth["features_stlpips_truth"]))
    )
    assert board["fid_stlpips_oracle2"] == pytest.approx(expected, rel=1e-4)
    assert board["fid_stlpips_oracle2"] != pytest.approx(board["fid_stlpips"], rel=1e-3)
    pairs = [
        np.mean([max(a, b) for a, b in itertools.combinations(values, 2)])
        for _, values in rows.groupby("image_id")["psnr"]
    ]
    assert board["psnr_oracle2"] == pytest.approx(np.mean(pairs))
    # with three draws there is no best of four
    assert bench("score", str(tmp_path), "metrics=[oracle4_psnr]") == 0
    assert np.isnan(leaderboard.build(tmp_path).iloc[0]["psnr_oracle4"])


def test_an_oracle_without_the_metric_that_chooses_is_refused() -> None:
    check_chooser(OracleFID(), {"psnr", "fid_stlpips_oracle4"})
    check_chooser(FID(), {"fid_stlpips"})
    with pytest.raises(UserError, match="chooses a draw by 'psnr'; choose that metric too"):
        check_chooser(OracleFID(), {"fid_stlpips_oracle4"})
    with pytest.raises(ValueError, match="best_of=1 is a whole number of draws, 2 or more"):
        OracleFID(best_of=1)


# -- rehearsals ------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("study", QUOTED)
def test_a_rehearsal_has_every_printed_cell_or_its_reason(study: str, tmp_path: Path) -> None:
    overrides = [f"study={study}", "scale=smoke", "solver.steps=2", f"out={tmp_path}", *RUN]
    assert bench(*overrides) == 0
    board = pd.read_csv(tmp_path / "leaderboard.csv")
    assert (board["failed"] == 0).all()
    table = (tmp_path / "paper_table.md").read_text()
    printed = papers.printed_numbers(QUOTED[study])
    absent = [p for p in printed if papers.why_absent(QUOTED[study], p)]
    assert f"{len(printed) - len(absent)} of {len(printed)} numbers have a measured one" in table
    assert "this study has no cell here yet" not in table
    lines = [line for line in table.splitlines() if line.startswith("| ")]
    assert sum(len(re.findall(r"\d† / |\d / |\d † / ", line)) for line in lines) == len(printed)
