"""``bench compare``, rank letters and printed numbers, from rows to what a person reads."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import yaml
from PIL import Image
from tests.bench.harness import verb

from posterior_bench.bench.__main__ import main
from posterior_bench.bench.analysis import (
    compare,
    leaderboard,
    letters,
    paper_table,
    papers,
    sign_flips,
)
from posterior_bench.bench.analysis.comparison_report import ComparisonReport
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.store.row_store import RowStore

CARDS = {
    "psnr": {"title": "PSNR", "direction": "up", "unit": "dB"},
    "lpips_vgg": {"title": "LPIPS", "direction": "down", "unit": ""},
    "sbc": {"title": "SBC", "direction": "down", "unit": "", "level": "set"},
}
IMAGES = 20
HEADING = "imagenet64 · comod · inpainting · prior imagenet64_edm · seed 0"


def cell(
    study: Path, name: str, shift: float, images: int = IMAGES, failed: int = 0, **identity: object
) -> np.ndarray:
    """A cell with two draws an image; returns LPIPS per image. Images differ more than solvers
    do."""
    shared, own = np.random.default_rng(0), np.random.default_rng(sum(name.encode()))
    lpips = 0.3 + 0.1 * shared.normal(size=images) + 0.01 * own.normal(size=images) + shift
    line = {
        **{
            "solver": name,
            "data": "imagenet64",
            "mask": "comod",
            "operator": "inpainting",
            "prior": "imagenet64_edm",
        },
        **{"seed": 0, "images": images, "draws": 2, "variant": "", **identity},
    }
    ids = [f"{i:03d}" for i in range(images)]
    folder = study / "cells" / name
    folder.mkdir(parents=True)
    config = {"cell": name, "identity": line, "chunks": {"one": ids}, "metrics": CARDS}
    config |= {
        "provenance": {"commit": "c0ffee", "dirty": False},
        "config": {"metrics": {"sbc": {}}},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    rows = [
        {
            **{
                "cell": name,
                "image_id": image,
                "draw": draw,
                "status": "ok",
                "nfe": 100.0,
                "peak_mib": 1.0,
            },
            **{"lpips_vgg": lpips[i] + 0.02 * (draw - 0.5), "psnr": 40 - 50 * lpips[i]},
        }
        for i, image in enumerate(ids)
        for draw in (0, 1)
    ]
    for row in rows[: 2 * failed]:
        row.update(status="oom", message="out of memory")
    RowStore(folder).write("one", rows)
    return lpips


def compared(study: Path, *settings: str) -> tuple[ComparisonReport, Path]:
    """The report and its plot."""
    where = dict(setting.split("=", 1) for setting in settings)
    names = [where.pop(key) for key in ("a", "b", "metric")]
    return compare.compare(study, *names, where)


def said(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What the command prints; it must end well."""
    with pytest.raises(SystemExit) as stop:
        main(["compare", *map(str, arguments)])
    text = capsys.readouterr()
    assert stop.value.code == 0, text.err
    return text.out


def refused(study: Path, *arguments: str) -> str:
    with pytest.raises(UserError) as caught:
        verb("compare", study, *arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_paragraph_says_who_is_better(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = cell(tmp_path, "vipaint2", 0.0), cell(tmp_path, "dps", 0.02)
    text = said(capsys, tmp_path, "a=vipaint2", "b=dps", "metric=lpips_vgg")
    assert "imagenet64 · comod · inpainting · prior imagenet64_edm · seed 0" in text
    assert "vipaint2 is better than dps." in text
    assert f"is {a.mean():.4g} for vipaint2 and {b.mean():.4g} for dps" in text
    assert f"{np.mean(a - b):+.3g}" in text and "n = 20 images" in text
    alone, rest = text.split("Tests of this pair alone, two-sided, not adjusted: ")
    assert "the one pair there is" in alone and "adjusted p = " in alone
    assert f"t-test p = {scipy.stats.ttest_rel(a, b).pvalue:.2g}" in rest
    assert f"sign-flip p = {sign_flips.sign_flip(a - b, HEADING):.2g}" in rest
    assert f"signed-rank test p = {scipy.stats.wilcoxon(a, b).pvalue:.2g}" in text
    assert f"vipaint2 wins in {np.sum(a < b)} of 20 images, dps in {np.sum(a > b)}." in text
    # up is better for PSNR, which falls with LPIPS here: the same images are won
    text = said(capsys, tmp_path, "a=vipaint2", "b=dps", "metric=psnr")
    assert "vipaint2 is better than dps." in text
    assert (
        f"vipaint2 wins in {np.sum(a < b)} of 20 images" in text and " dB for vipaint2 and " in text
    )


def test_a_plot_has_a_point_for_every_image(tmp_path: Path) -> None:
    a, b = cell(tmp_path, "vipaint2", 0.0), cell(tmp_path, "dps", 0.02)
    report, path = compared(tmp_path, "a=vipaint2", "b=dps", "metric=lpips_vgg")
    assert path == tmp_path / "compare_vipaint2_dps_lpips_vgg.png"
    assert Image.open(path).width > 400 and path.with_suffix(".svg").read_text().startswith("<?xml")
    (panel,) = report.figure().axes
    drawn = {line.get_label(): np.asarray(line.get_xydata()) for line in panel.lines}
    assert len(drawn["vipaint2 better"]) == np.sum(a < b) and len(drawn["dps better"]) == np.sum(
        a > b
    )
    points = np.concatenate([drawn["vipaint2 better"], drawn["dps better"]])
    assert np.sort(points, axis=0) == pytest.approx(np.sort(np.stack([a, b], 1), axis=0))
    assert (drawn["vipaint2 better"][:, 1] > drawn["vipaint2 better"][:, 0]).all()
    assert panel.get_xlim() == panel.get_ylim()


def test_a_paragraph_and_a_panel_for_every_lineup(tmp_path: Path) -> None:
    for mask in ("comod", "rotated"):
        for solver, shift in (("a1", 0.0), ("b1", 0.02)):
            cell(tmp_path, f"{solver}{mask}", shift, solver=solver, mask=mask)
    cell(tmp_path, "alone", 0.0, solver="a1", mask="palette")
    report, _ = compared(tmp_path, "a=a1", "b=b1", "metric=lpips_vgg")
    assert [match.lineup.split(" · ")[1] for match in report.matches] == ["comod", "rotated"]
    assert report.text().count("the one pair there is") == 2 and len(report.figure().axes) == 2
    report, _ = compared(tmp_path, "a=a1", "b=b1", "metric=lpips_vgg", "mask=rotated")
    assert len(report.matches) == 1 and "comod" not in report.text()


def test_few_images_and_equal_solvers_get_no_verdict(tmp_path: Path) -> None:
    for name, images in (("few", 5), ("enough", 6)):
        (
            cell(tmp_path / name, "vipaint2", 0.0, images=images),
            cell(tmp_path / name, "dps", 0.5, images=images),
        )
    arguments = ["a=vipaint2", "b=dps", "metric=lpips_vgg"]
    few, enough = (compared(tmp_path / name, *arguments)[0].text() for name in ("few", "enough"))
    assert "Fewer than 6 images cannot say" in few and "vipaint2 is better than dps" in enough
    assert "interval" not in few and "p = " not in few and "simultaneous 95 % interval [-" in enough
    cell(tmp_path / "same", "vipaint2", 0.0), cell(tmp_path / "same", "dps", 0.0)
    assert "cannot be told apart" in compared(tmp_path / "same", *arguments)[0].text()


def test_what_does_not_exist_is_one_line_with_what_does(tmp_path: Path) -> None:
    cell(tmp_path, "vipaint2", 0.0), cell(tmp_path, "dps", 0.02)
    both = ("a=vipaint2", "b=dps")
    assert "unknown solver 'vipaint'. Did you mean 'vipaint2'?" in refused(
        tmp_path, "a=vipaint", "b=dps", "metric=psnr"
    )
    message = refused(tmp_path, *both, "metric=lpips")
    assert "unknown metric 'lpips'" in message and "Valid: lpips_vgg, psnr" in message
    assert "one value from all images" in refused(tmp_path, *both, "metric=sbc")
    assert "unknown mask 'palette'" in refused(tmp_path, *both, "metric=psnr", "mask=palette")
    assert "unknown setting of compare 'metrics'" in refused(tmp_path, *both, "metrics=psnr")
    assert "needs metric=" in refused(tmp_path, *both)
    assert "are the same" in refused(tmp_path, "a=dps", "b=dps", "metric=psnr")
    assert "not a study folder" in refused(tmp_path / "none", *both, "metric=psnr")
    with pytest.raises(UserError, match="required: STUDY"):
        verb("compare", "a=vipaint2", "b=dps", "metric=psnr")


def test_no_common_lineup_says_what_each_has(tmp_path: Path) -> None:
    cell(tmp_path, "vipaint2", 0.0), cell(tmp_path, "dps", 0.02, mask="rotated")
    message = refused(tmp_path, "a=vipaint2", "b=dps", "metric=psnr")
    assert (
        "vipaint2 has imagenet64 · comod" in message and "dps has imagenet64 · rotated" in message
    )


def break_rows(study: Path, name: str, images: list[str], how: str) -> None:
    """The second draw of these images failed or is missing; each image still has a value, of its
    other draw."""
    store = RowStore(study / "cells" / name)
    rows = store.read().dropna(axis=1).to_dict("records")
    broken = [row for row in rows if row["image_id"] in images and row["draw"] == 1]
    for row in broken:
        row.update(status="oom", message="out of memory")
    store.write("one", rows if how == "failed" else [row for row in rows if row not in broken])


@pytest.mark.parametrize(
    ("how", "words"), [("failed", "dps has 1 failed row,"), ("missing", "dps has 1 missing row,")]
)
def test_failed_and_missing_rows_are_treated_as_by_the_leaderboard(
    tmp_path: Path, how: str, words: str
) -> None:
    """No verdict and no letters, although every image has a value of both."""
    for name, shift in (("vipaint2", 0.0), ("dps", 0.5), ("repaint", 0.2)):
        cell(tmp_path, name, shift)
    arguments = [tmp_path, "metric=psnr"]
    assert "is better" in compared(*arguments, "a=vipaint2", "b=dps")[0].text()
    break_rows(tmp_path, "dps", ["004"], how)
    text = compared(*arguments, "a=vipaint2", "b=dps")[0].text()
    assert f"No verdict: {words}" in text and "retry=true" in text
    assert "is better than" not in text and "interval" not in text and "p = " not in text
    assert "20 images" in text, "the numbers of the images that both have are there"
    letters = leaderboard.build(tmp_path).set_index("solver")["psnr_rank"]
    assert letters.to_dict() == {"vipaint2": "a", "repaint": "b", "dps": ""}
    assert "is better" in compared(*arguments, "a=vipaint2", "b=repaint")[0].text()


def test_images_that_failed_whole_leave_the_common_ones(tmp_path: Path) -> None:
    a, b = cell(tmp_path, "vipaint2", 0.0), cell(tmp_path, "dps", 0.02, failed=3)
    report, _ = compared(tmp_path, "a=vipaint2", "b=dps", "metric=lpips_vgg")
    text = report.text()
    assert "No verdict: dps has 6 failed rows" in text and "On the 17 images that both have" in text
    assert f"is {a[3:].mean():.4g} for vipaint2 and {b[3:].mean():.4g} for dps" in text
    assert report.matches[0].verdict is None


def test_images_without_a_value_are_refused(tmp_path: Path) -> None:
    """A metric may be undefined for an image of one solver though its row is ok."""
    for name in ("vipaint2", "dps"):
        cell(tmp_path, name, 0.0)
    store = RowStore(tmp_path / "cells" / "dps")
    rows = store.read().dropna(axis=1).to_dict("records")
    for row in rows[:6]:
        row["psnr"] = math.nan
    store.write("one", rows)
    message = refused(tmp_path, "a=vipaint2", "b=dps", "metric=psnr")
    assert (
        "image ids differ: 3 only in the first, 0 only in the second, for example '000'" in message
    )


def test_different_draws_get_no_verdict(tmp_path: Path) -> None:
    cell(tmp_path, "vipaint2", 0.0), cell(tmp_path, "dps", 0.5, draws=1)
    store = RowStore(tmp_path / "cells" / "dps")
    store.write(
        "one", [row for row in store.read().dropna(axis=1).to_dict("records") if row["draw"] == 0]
    )
    text = compared(tmp_path, "a=vipaint2", "b=dps", "metric=psnr")[0].text()
    assert (
        "No verdict: vipaint2 has draws=2 and dps has draws=1" in text
        and "is better than" not in text
    )
    assert not [name for name in leaderboard.build(tmp_path) if name.endswith("_rank")]


def test_the_verdict_is_that_of_the_letters_and_counts_all_pairs(tmp_path: Path) -> None:
    """Twelve equal solvers: a pair whose own p is below 5 % is not told apart, as 66 pairs were
    looked at."""
    values = {f"s{i:02d}": cell(tmp_path, f"s{i:02d}", 0.0) for i in range(12)}
    alone = {
        (i, j): float(sign_flips.sign_flip(values[i] - values[j], HEADING))
        for i in values
        for j in values
        if i < j
    }
    (a, b), p = min(alone.items(), key=lambda item: item[1])
    assert 0.05 / 66 < p < 0.05
    report, _ = compared(tmp_path, f"a={a}", f"b={b}", "metric=lpips_vgg")
    verdict = report.matches[0].verdict
    assert verdict is not None and verdict.p > 0.05 and verdict.lo < 0 < verdict.hi
    assert (
        f"{a} and {b} cannot be told apart" in report.text()
        and "all 66 pairs of the 12 solvers" in report.text()
    )
    assert f"sign-flip p = {p:.2g}" in report.text()
    board = leaderboard.build(tmp_path).set_index("solver")["lpips_vgg_rank"]
    assert letters.share(board[a], board[b])
    # without the others the family is one pair, and the same images say that the two differ
    for name in values:
        if name not in (a, b):
            (tmp_path / "cells" / name / "config.yaml").unlink()
    assert "is better than" in compared(tmp_path, f"a={a}", f"b={b}", "metric=lpips_vgg")[0].text()


def test_every_pair_of_a_table_agrees_with_its_letters(tmp_path: Path) -> None:
    ranked(tmp_path)
    board = leaderboard.build(tmp_path).set_index("solver")["lpips_vgg_rank"]
    for a in board.index:
        for b in board.index:
            if a < b:
                report, _ = compared(tmp_path, f"a={a}", f"b={b}", "metric=lpips_vgg")
                verdict = report.matches[0].verdict
                assert verdict is not None and verdict.differ != letters.share(board[a], board[b])
                assert (
                    verdict.differ
                    == (verdict.lo > 0 or verdict.hi < 0)
                    == ("is better than" in report.text())
                )
                assert f"[{verdict.lo:+.3g}, {verdict.hi:+.3g}]" in report.text()


def test_variants_are_named_by_their_label(tmp_path: Path) -> None:
    cell(tmp_path, "vipaint2", 0.0)
    cell(tmp_path, "one", 0.02, solver="dps", variant="zeta=0.5")
    cell(tmp_path, "two", 0.03, solver="dps", variant="zeta=0.7")
    message = refused(tmp_path, "a=vipaint2", "b=dps", "metric=psnr")
    assert "2 cells match 'dps'" in message and "'dps zeta=0.5' (20 images x 2 draws)" in message
    report, path = compared(tmp_path, "a=dps zeta=0.7", "b=dps zeta=0.5", "metric=psnr")
    assert len(report.matches) == 1 and path.exists()


# --- ranks in tables ---


def ranked(study: Path) -> None:
    """Two equal leaders, one clearly behind them, and two equal ones at the end."""
    for name, shift in (
        ("best", 0.0),
        ("tied", 0.001),
        ("behind", 0.05),
        ("last", 0.1),
        ("lost", 0.101),
    ):
        cell(study, name, shift)


def test_rank_letters_in_all_tables(tmp_path: Path) -> None:
    ranked(tmp_path)
    frame = leaderboard.write(tmp_path).set_index("solver")
    wanted = {"best": "a", "tied": "a", "behind": "b", "last": "c", "lost": "c"}
    assert frame["lpips_vgg_rank"].to_dict() == frame["psnr_rank"].to_dict() == wanted
    assert "sbc_rank" not in frame
    with (tmp_path / "leaderboard.csv").open() as file:
        lines = {line["solver"]: line for line in csv.DictReader(file)}
    assert {name: line["lpips_vgg_rank"] for name, line in lines.items()} == wanted
    with (tmp_path / "leaderboard_long.csv").open() as file:
        long = [line for line in csv.DictReader(file) if line["metric"] == "lpips_vgg"]
    assert {line["solver"]: line["rank"] for line in long} == wanted
    assert {line["paper"] + line["paper_flag"] for line in long} == {""}
    assert {(line["n"], line["n_failed"], line["direction"]) for line in long} == {
        ("20", "0", "down")
    }
    text = (tmp_path / "leaderboard.md").read_text()
    head, body = table(text)
    place = head.index("LPIPS ↓")
    assert head[place + 1] == "rank" and head.count("rank") == 2
    assert {line[0]: line[place + 1] for line in body} == wanted
    styles = {line[0]: line[place][:2] for line in body}
    assert {name for name, style in styles.items() if style == "**"} == {"best", "tied"}
    assert {name for name, style in styles.items() if style == "<u"} == {"behind"}
    assert "share a letter cannot be told apart at 5 %" in text
    latex = (tmp_path / "leaderboard.tex").read_text()
    lines = {
        line.split(" & ")[0]: line.split(" & ")
        for line in latex.splitlines()
        if line.count(" & ") > 3
    }
    place = lines["solver"].index(r"LPIPS $\downarrow$")
    assert {name: line[place + 1] for name, line in lines.items() if name in wanted} == wanted
    bold = {name for name, line in lines.items() if r"\textbf" in line[place]}
    assert bold == {"best", "tied"} and r"\underline" in lines["behind"][place]
    assert rf"{{l{'r' * (len(lines['solver']) - 1)}}}" in latex


def table(markdown: str) -> tuple[list[str], list[list[str]]]:
    grid = [
        [c.strip() for c in line.strip("|").split("|")]
        for line in markdown.splitlines()
        if line.startswith("|")
    ]
    return grid[0], grid[2:]


def test_a_shared_second_place_is_underlined_together(tmp_path: Path) -> None:
    for name, shift in (("best", 0.0), ("second", 0.05), ("third", 0.0501)):
        cell(tmp_path, name, shift)
    leaderboard.write(tmp_path)
    head, body = table((tmp_path / "leaderboard.md").read_text())
    styles = {line[0]: line[head.index("LPIPS ↓")][:2] for line in body}
    assert styles == {"best": "**", "second": "<u", "third": "<u"}


def test_only_what_saw_the_same_with_the_same_prior_is_ranked(tmp_path: Path) -> None:
    ranked(tmp_path)
    cell(tmp_path, "other", -0.2, prior="imagenet64_adm")
    cell(tmp_path, "broken", -0.2, failed=1)
    cell(tmp_path, "often", -0.2, draws=3)
    frame = leaderboard.write(tmp_path).set_index("solver")
    assert frame["psnr_rank"][["best", "other", "broken", "often"]].tolist() == ["a", "", "", ""]


def test_a_cell_with_other_values_is_left_out_of_the_letters(tmp_path: Path) -> None:
    ranked(tmp_path)
    for name in ("undefined", "infinite", "unscored"):
        cell(tmp_path, name, -0.2)
        store = RowStore(tmp_path / "cells" / name)
        rows = store.read().dropna(axis=1).to_dict("records")
        wrong = {"undefined": math.nan, "infinite": math.inf, "unscored": None}[name]
        for row in rows if name == "unscored" else rows[:2]:
            row["psnr"] = wrong
        store.write("one", rows)
    frame = leaderboard.build(tmp_path).set_index("solver")
    assert frame["psnr_rank"].to_dict() == {
        **{"best": "a", "tied": "a", "behind": "b", "last": "c", "lost": "c"},
        **{"undefined": "", "infinite": "", "unscored": ""},
    }
    assert frame["lpips_vgg_rank"]["undefined"] == "a"


def test_few_images_get_no_letters_and_the_footer_says_why(tmp_path: Path) -> None:
    for name, shift in (("best", 0.0), ("last", 0.5)):
        cell(tmp_path, name, shift, images=5)
    frame = leaderboard.write(tmp_path)
    assert not [name for name in frame if name.endswith("_rank")]
    assert "No rank letters: with fewer than 6 images" in (tmp_path / "leaderboard.md").read_text()
    assert "rank" not in (tmp_path / "leaderboard.csv").read_text()


# --- printed numbers ---


def declare(study: Path, table: str) -> None:
    (study / "config.yaml").write_text(yaml.safe_dump({"study": {"name": "s", "paper": table}}))


def test_printed_numbers_stand_beside_measured_ones_where_declared(tmp_path: Path) -> None:
    for name in ("vipaint2", "copaint_tt", "ddrm"):
        cell(tmp_path, name, 0.0)
    leaderboard.write(tmp_path)
    assert set(pd.read_csv(tmp_path / "leaderboard_long.csv")["paper"].isna()) == {True}
    declare(tmp_path, "vipaint-table6")
    leaderboard.write(tmp_path)
    long = pd.read_csv(tmp_path / "leaderboard_long.csv").set_index(["solver", "metric"])
    # VIPaint, Table 6: ImageNet-64, random masks
    assert long["paper"].dropna().to_dict() == {
        ("vipaint2", "lpips_vgg"): 0.227,
        ("copaint_tt", "lpips_vgg"): 0.245,
    }
    line = long.loc["vipaint2", "lpips_vgg"]
    assert line["value"] > 0.227, "so the lower end counts"
    assert line["deviation"] == pytest.approx(
        (line["value"] - 0.227) / (line["value"] - line["lo"])
    )
    assert math.isnan(long.loc["ddrm", "lpips_vgg"]["deviation"])
    head, body = table((tmp_path / "leaderboard.md").read_text())
    place = head.index("paper")
    assert {line[0]: line[place] for line in body} == {
        "vipaint2": "0.227",
        "copaint_tt": "0.245",
        "ddrm": "",
    }
    assert (
        "Paper: 2 numbers of vipaint-table6 as printed"
        in (tmp_path / "leaderboard.tex").read_text()
    )


@pytest.mark.parametrize(
    ("value", "printed", "deviation", "shown"),
    [
        # the interval [.037, .266] of .110 reaches .073 down and .156 up
        (0.110, "0.200", -0.09 / 0.156, "0.200 / 0.110 (-0.6)"),
        (0.110, "0.037", 1.0, "0.037 / 0.110 (+1.0)"),
        (0.110, "0.266", -1.0, "0.266 / 0.110 (-1.0)"),
        (0.110, "0.110", 0.0, "0.110 / 0.110 (+0.0)"),
        (0.110, "", math.nan, "— / 0.110"),
    ],
)
def test_a_deviation_counts_the_side_towards_the_printed_value(
    value: float, printed: str, deviation: float, shown: str
) -> None:
    assert papers.deviation(value, 0.037, 0.266, printed) == pytest.approx(deviation, nan_ok=True)
    assert math.isnan(papers.deviation(value, math.nan, math.nan, "0.3"))
    number = papers.Printed("", "", "", "", "lpips", printed, "", "")
    assert paper_table._cell(number, paper_table.Measured(value, 0.037, 0.266)) == shown


def test_a_doubtful_number_keeps_its_flag(tmp_path: Path) -> None:
    where = {"data": "imagenet256", "mask": "palette low=0.2", "prior": "imagenet256"}
    cell(tmp_path, "vipaint4", 0.0, **where)
    declare(tmp_path, "vipaint-table6")
    leaderboard.write(tmp_path)
    line = pd.read_csv(tmp_path / "leaderboard_long.csv").set_index("metric").loc["lpips_vgg"]
    assert (line["paper"], line["paper_flag"]) == (0.292, "suspect")
    text = (tmp_path / "leaderboard.md").read_text()
    assert "0.292 (suspect)" in text and "K=4 worse than K=2 only in this cell" in text


@pytest.mark.parametrize(
    ("table", "metric", "line", "value"),
    [
        ("vipaint-table6", "lpips_vgg", "psld lsun_church rotated inpainting lsun_church", "0.541"),
        (
            "vipaint-table7",
            "lpips_vgg",
            "dps imagenet256 none super_resolution imagenet256",
            "0.579",
        ),
        (
            "vipaint-table7",
            "psnr_vipaint",
            "vipaint2 imagenet64 none gaussian_blur imagenet64_edm",
            "13.60",
        ),
        (
            "latentpaint-table1",
            "fid",
            "repaint celebahq lama_thick inpainting celeba256_adm",
            "7.74",
        ),
        (
            "latentpaint-table3",
            "lpips_alex_pasted",
            "latentpaint_free celebahq lama_thick inpainting celebahq_ddpm",
            "0.341",
        ),
    ],
)
def test_values_as_printed(table: str, metric: str, line: str, value: str) -> None:
    keys = ("solver", "data", "mask", "operator", "prior")
    printed = papers.lookup(table, dict(zip(keys, line.split(), strict=True)), metric)
    assert printed is not None and printed.value == value


def test_other_priors_metrics_and_empty_cells_have_no_printed_number() -> None:
    line = {
        "solver": "dps",
        "data": "imagenet64",
        "mask": "comod",
        "operator": "inpainting",
        "prior": "imagenet64_edm",
    }
    assert papers.lookup("vipaint-table6", line, "lpips_vgg")
    assert papers.lookup("vipaint-table6", line, "lpips_alex") is None
    assert papers.lookup("vipaint-table6", {**line, "prior": "imagenet64_adm"}, "lpips_vgg") is None
    assert (
        papers.lookup("vipaint-table6", {**line, "operator": "gaussian_blur"}, "lpips_vgg") is None
    )
    assert (
        papers.lookup(
            "vipaint-table7", {**line, "solver": "psld", "operator": "gaussian_blur"}, "lpips_vgg"
        )
        is None
    )


def test_a_task_may_name_its_settings_but_not_the_noise() -> None:
    line = {
        "solver": "flowdps",
        "data": "ffhq size=768",
        "mask": "rotated",
        "operator": "super_resolution factor=12 reduction=average sigma=0.03",
        "prior": "sd3",
    }
    names = ["super_resolution", "super_resolution:factor=12:reduction=average"]
    assert papers.problem_names(line) == names
    found = papers.lookup("flows-768", line, "fid_inception")
    assert found is not None and (found.task, found.value) == (
        "super_resolution_x12_average",
        "33.78",
    )
    other = {**line, "operator": "super_resolution factor=12 sigma=0.03"}
    found = papers.lookup("flows-768", other, "fid_inception")
    assert found is not None and found.value == "33.75"
    assert papers.lookup("flows-768", {**line, "operator": "super_resolution"}, "fid") is None
    box = {**line, "operator": "inpainting sigma=0.05", "mask": "box_centre side=0.3"}
    assert papers.problem_names(box) == ["box_centre", "box_centre:side=0.3"]


def test_names_point_at_options_that_exist() -> None:
    from posterior_bench.bench.config.catalog import options

    groups = {
        "dataset": ("data",),
        "prior": ("prior",),
        "task": ("mask", "operator"),
        "method": ("solver",),
    }
    for (column, printed), ours in papers.ours().items():
        valid = {name for group in groups.get(column, ()) for name in options(group)}
        assert column == "metric" or ours <= valid, f"{column} '{printed}' is called {ours}"


def test_every_table_is_whole_and_no_name_is_printed_twice() -> None:
    assert len(papers.table_names()) == 14
    for table in papers.table_names():
        lines = papers.printed_numbers(table)
        keys = [(p.dataset, p.prior, p.task, p.method, p.metric) for p in lines]
        assert len({*keys}) == len(keys) and all(p.value or p.flag == "not-reported" for p in lines)
        assert all(p.note for p in lines if p.flag), "a flag needs its reason"
    with pytest.raises(
        UserError, match=r"unknown study.paper 'vipaint-table1'. Did you mean 'vipaint-table"
    ):
        papers.printed_numbers("vipaint-table1")
