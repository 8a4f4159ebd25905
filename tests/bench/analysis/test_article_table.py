"""Tables for papers: counted by hand, compiled by LaTeX where it is installed."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from tests.bench.analysis.paper_study import CARDS, write_study
from tests.latex import typeset

from posterior_bench.bench.analysis import leaderboard
from posterior_bench.bench.analysis.article_table import Fitted, TableWish, fitted, latex
from posterior_bench.bench.analysis.display_names import display_name
from posterior_bench.bench.analysis.paper_styles import STYLES
from posterior_bench.bench.cli.verbs import run_verb
from posterior_bench.bench.core.errors import UserError

MASKS = ("rotated", "comod", "palette_0_30")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_study(tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def frame(study: Path) -> pd.DataFrame:
    return leaderboard.build(study)


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return leaderboard.build(write_study(tmp_path_factory.mktemp("three"), masks=MASKS))


def text_of(frame: pd.DataFrame, wish: TableWish) -> tuple[Fitted, str]:
    found = fitted(frame, wish)
    return found, latex(frame, found, wish, "name")


def body(text: str) -> dict[str, str]:
    """The lines of the tabular by the name at their left, commands of size and boxes removed."""
    lines = text[text.index(r"\toprule") :].splitlines()
    plain = [re.sub(r"\\fontsize\S* |\\makebox\[[\d.]+pt\]\[.\]|[{}]| \\\\$", "", x) for x in lines]
    return {line.partition(" & ")[0]: line.partition(" & ")[2] for line in plain if " & " in line}


def test_marks_and_letters_are_those_of_the_paired_tests(frame: pd.DataFrame) -> None:
    """The first two cannot be told apart, so both are best, and the third is the second best."""
    lines = body(text_of(frame, TableWish(["psnr", "passes"], interval=False))[1])
    assert lines == {
        "": "PSNR & ",  # a title that is wider than its values has two lines
        "Method": r"(dB) $\uparrow$ & Passes",
        "DDNM": r"\textbf30.00\textsuperscripta & 120",
        "VIPaint-2": r"\textbf29.90\textsuperscripta & 120",
        "DPS": r"\underline25.00\textsuperscriptb & 120",
        "RePaint": r"20.00\textsuperscriptc & 120",
    }


def test_letters_are_named_anew_for_the_rows_that_are_shown(frame: pd.DataFrame) -> None:
    lines = body(text_of(frame, TableWish(["psnr"], ["repaint", "dps"], interval=False))[1])
    assert lines["RePaint"] == r"\underline20.0\textsuperscriptb"
    assert lines["DPS"] == r"\textbf25.0\textsuperscripta"
    assert [*lines] == ["", "Method", "RePaint", "DPS"], "in the order that was asked for"


def test_nothing_is_marked_without_a_test(tmp_path: Path) -> None:
    frame = leaderboard.build(write_study(tmp_path / "s"))
    frame = frame.drop(columns="psnr_rank")
    text = text_of(frame, TableWish(["psnr"]))[1]
    assert r"\textbf" not in text and r"\underline" not in text
    assert "Nothing is marked" in text


def test_an_infinite_mean_is_flagged_and_not_marked(frame: pd.DataFrame) -> None:
    text = text_of(frame, TableWish(["psnr_known"]))[1]
    assert body(text)["DDNM"] == r"$\infty$\textsuperscript\ddag"
    assert r"\ddag{} Images with an infinite value are left out of the mean." in text


def test_a_cell_with_failed_rows_has_no_mark(frame: pd.DataFrame) -> None:
    failed = frame.assign(failed=[3, 0, 0, 0])  # the best
    failed.loc[0, "psnr_rank"] = ""
    failed.attrs = frame.attrs
    text = text_of(failed, TableWish(["psnr"], interval=False))[1]
    assert body(text)["DDNM"] == r"30.00\textsuperscript\dag"
    assert r"\textbf29.90\textsuperscripta" in body(text)["VIPaint-2"]
    assert r"\dag{} Rows failed or are missing" in text


def test_the_caption_says_what_was_measured(study: Path, frame: pd.DataFrame) -> None:
    found, text = text_of(frame, TableWish())
    for fact in ("12 images with 1 draw each", "seed 0", "mask rotated", "posterior-bench 9.8.7"):
        assert fact in found.caption and fact in text
    assert "commit c0ffee1" in found.caption and r"\label{tab:name}" in text
    notes = [line for line in text.splitlines() if line.startswith("% ")]
    assert len(notes) == 1 + len(frame.attrs["notes"])


def test_masks_stand_side_by_side_or_below_each_other(masks: pd.DataFrame) -> None:
    wish = TableWish(["psnr"], interval=False)
    wide, text = text_of(masks, wish)
    assert wide.table.abreast and r"\multicolumn{1}{c}{palette\_0\_30}" in text
    assert body(text)["DPS"].count(r"\underline25.00") == 3
    below, text = text_of(masks, TableWish(["psnr", "stlpips"], style="icml", width="column"))
    assert not below.table.abreast and text.count(r"\emph{") == 3 and text.count("DPS &") == 3
    one = fitted(masks, TableWish(["psnr"], where={"mask": "comod"}))
    assert len(one.table.blocks) == 1


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        (TableWish(["psnrr"]), "unknown metric 'psnrr'. Did you mean 'psnr'?"),
        (TableWish(rows=["dsp"]), "unknown solver 'dsp'. Did you mean 'dps'?"),
        (TableWish(style="nips"), "unknown style 'nips'."),
        (TableWish(where={"mask": "x"}), "unknown mask 'x'."),
        (TableWish([*CARDS], style="icml", width="column", interval=True), "does not fit"),
    ],
)
def test_a_mistake_is_one_line(frame: pd.DataFrame, wish: TableWish, said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)):
        fitted(_wide(frame), wish)


def _wide(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with a prior whose name is wide, in two kinds, so that it has a column."""
    wide = frame.assign(prior=["a prior with a long name", *["another one with a long name"] * 3])
    wide.attrs = frame.attrs
    return wide


def test_a_table_that_is_too_high_says_so(frame: pd.DataFrame) -> None:
    high = pd.concat([frame.assign(solver=frame["solver"] + str(i)) for i in range(20)])
    high = high.reset_index(drop=True)
    high.attrs = frame.attrs
    with pytest.raises(UserError, match=r"pt high with its caption.*name solvers with rows="):
        fitted(high, TableWish(["passes"]))


@pytest.mark.parametrize(
    ("style", "width"), [("neurips", None), ("icml", "column"), ("icml", "page")]
)
def test_latex_sets_it_without_overfull_boxes(
    style: str, width: str | None, masks: pd.DataFrame, tmp_path: Path
) -> None:
    page = STYLES[style]
    found, text = text_of(masks, TableWish(style=style, width=width))
    done = typeset(text, tmp_path, page.page, page.column, page.height)
    assert not done.overfull and done.pages == 1
    assert done.width <= found.table.width <= 1.06 * done.width, "the estimate is close"


def test_names_of_users_are_escaped(tmp_path: Path) -> None:
    solvers = {"a|b_c": 20.0, "50%&more": 30.0}
    frame = leaderboard.build(write_study(tmp_path / "s", solvers, masks=("x_y^z",)))
    found, text = text_of(frame, TableWish())
    assert (
        r"a\textbar{}b\_c" in text and r"50\%\&more" in text and r"x\_y\textasciicircum{}z" in text
    )
    page = STYLES["article"]
    assert not typeset(text, tmp_path, page.page, page.column, page.height).overfull
    assert {key[0] for key in found.table.keys} == {*solvers}


def test_display_names_are_those_of_the_cards() -> None:
    shown = {"vipaint2": "VIPaint-2", "copaint_tt": "CoPaint-TT", "ddnm": "DDNM"}
    shown |= {"blended": "Blended sampling", "reddiff_v": "RED-Diff-V", "mine": "mine"}
    assert {name: display_name(name) for name in shown} == shown
    assert display_name("dps steps=10") == "DPS steps=10"


@pytest.fixture
def bench(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*words: str) -> str:
        assert run_verb("table", words) == 0
        return capsys.readouterr().out

    return run


def test_the_verb_writes_a_file(study: Path, bench: Callable[..., str], tmp_path: Path) -> None:
    said = bench(str(study), "metrics=[psnr,passes]", f"out={tmp_path / 'mine.tex'}", "style=cvpr")
    assert "4 solvers, 2 columns of values" in said and "style=cvpr" in said
    assert r"\label{tab:mine}" in (tmp_path / "mine.tex").read_text()
    with pytest.raises(UserError, match="width takes column or page"):
        bench(str(study), "width=2")
    with pytest.raises(UserError, match="cannot be written"):
        bench(str(study), f"out={study / 'cells'}")
    with pytest.raises(UserError, match="not a study folder"):
        bench(str(tmp_path))
