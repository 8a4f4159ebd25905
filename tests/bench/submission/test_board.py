"""The leaderboard of several bundles, and the verbs on the command line."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import pandas as pd
import pytest
from tests.bench.harness import bench, verb
from tests.bench.submission.forging import Pieces
from tests.bench.submission.test_forgeries import changed_score

from posterior_bench.bench.config import task_versions
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.submission.board import write_board
from posterior_bench.bench.submission.row_text import read_rows, rows_text
from posterior_bench.bench.submission.verify import verify


def _one_cell(bundle: Path, solver: str, by: str, date: str, place: Path) -> Pieces:
    """Return the bundle with one of its cells, by somebody else on another day."""
    pieces = Pieces(bundle)
    pieces.cells = {solver: pieces.cells[solver]}
    pieces.about |= {"by": by, "date": date}
    pieces.put()
    pieces.tabulate(place)
    pieces.sign()
    return pieces


@pytest.fixture(scope="module")
def results(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundles of three people, a forged one, and verdicts of which one is of another file."""
    folder, places = tmp_path_factory.mktemp("results"), tmp_path_factory.mktemp("studies")
    (folder / "bob").mkdir()
    one = _one_cell(bundle, "ddrm", "Ada", "2026-01-01", places / "a").save(folder / "a.zip")
    _one_cell(bundle, "blended", "Bob <b>", "2026-02-01", places / "b").save(folder / "bob/b.zip")
    _one_cell(bundle, "ddrm", "Eve", "2026-03-01", places / "c").save(folder / "c.zip")
    forged = Pieces(bundle)
    changed_score(forged)
    forged.put()
    forged.sign()
    forged.save(folder / "forged.zip")
    digest = sha256(one.read_bytes()).hexdigest()
    for name, level in (("a.zip", "bitwise"), ("bob/b.zip", "bitwise")):
        verdict = {"bundle_sha256": digest, "level": level}
        (folder / f"{name}.verdict.json").write_text(json.dumps(verdict))
    return folder


@pytest.fixture(scope="module")
def page(results: Path) -> str:
    assert bench("board", results) == 1  # a bundle is refused
    return (results / "index.html").read_text()


def _lines(page: str) -> list[str]:
    return re.findall(r"<tr data-prior.*?</tr>", page, re.DOTALL)


def test_bundles_of_several_people_stand_in_one_table(page: str, small_study: Path) -> None:
    lines = _lines(page)
    assert len(lines) == 2 and page.count('<table class="board">') == 1
    with (small_study / "leaderboard.csv").open() as file:
        rows = {row["solver"]: row for row in csv.DictReader(file)}
    for line in lines:
        row = rows["ddrm" if "ddrm" in line else "blended"]
        letters = {text for name, text in row.items() if name.endswith("_rank") and text}
        assert letters and all(f">{text}</span>" in line for text in letters)


def test_a_verdict_counts_for_its_own_bundle_alone(page: str) -> None:
    levels = {re.search(r"data-level=\"(\w+)\"", x)[1] for x in _lines(page) if "Bob" in x}  # type: ignore[index]
    assert levels == {"tables"}
    assert sum('data-level="bitwise"' in line for line in _lines(page)) == 1


def test_a_cell_that_is_submitted_again_stands_once_with_both_names(page: str) -> None:
    (line,) = (line for line in _lines(page) if "Ada" in line)
    assert "by Eve, 2026-03-01: the same values" in line


def test_a_refused_bundle_is_named_with_its_reason(page: str) -> None:
    assert "<b>forged.zip</b>: table: the table says" in page


def test_texts_of_a_submitter_are_escaped_and_nothing_is_loaded(page: str) -> None:
    assert "Bob &lt;b&gt;" in page and "Bob <b>" not in page
    assert "default-src 'none'" in page and not re.search(r"(src|href)=\"https?:", page)


def test_the_history_holds_better_values_by_date(page: str) -> None:
    history = re.findall(r"<li><time>([\d-]+)</time> (\w+)", page)
    assert history[0] == ("2026-01-01", "ddrm")
    assert all(date != "2026-03-01" for date, _ in history)


def test_a_folder_without_bundles_is_an_error_of_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no bundle"):
        write_board(tmp_path)


# -- verbs -----------------------------------------------------------------------------------------


def test_submit_and_verify_end_with_the_documented_codes(
    small_study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, told = tmp_path / "b.zip", tmp_path / "b.zip.verdict.json"
    reported = tmp_path / "paper.csv"
    reported.write_text(
        "solver,data,mask,metric,value,source\nddrm,arena/g2,pixels,psnr,21.5,Table 3\n"
    )
    words = ["by=Ada", "seen=no", "solvers=[ddrm]", f"reported={reported}", f"out={out}"]
    assert bench("submit", small_study, *words) == 0
    assert [*Pieces(out).cells] == ["ddrm"]
    assert "Table 3" in Pieces(out).files["README.md"].decode()
    assert bench("verify", out, "rerun=0", f"out={told}") == 0
    assert json.loads(told.read_text())["bundle_sha256"] == sha256(out.read_bytes()).hexdigest()
    pieces = Pieces(out)
    pieces.change("README.md", "Ada", "Eve")
    assert bench("verify", pieces.save(tmp_path / "forged.zip"), "rerun=0") == 1
    assert bench("verify", tmp_path / "none.zip") == 2
    said = capsys.readouterr()
    assert "README.md is not what SHA256SUMS says" in said.out
    assert "none.zip cannot be read" in said.err and "Traceback" not in said.err


BAD = {
    ("seen=maybe",): "takes no, yes, unknown",
    ("seen=no", "reported=none.csv"): "none.csv cannot be read",
    ("seen=no", "by= "): "give a name",
    ("seen=no", "solvers=[dps]"): "unknown solver of this study 'dps'",
}


@pytest.mark.parametrize("words", BAD)
def test_what_a_submitter_says_is_checked(words: Sequence[str], small_study: Path) -> None:
    given = ["by=Ada", *words] if not any(word.startswith("by=") for word in words) else words
    with pytest.raises(UserError, match=BAD[tuple(words)]):
        verb("submit", small_study, *given)


def test_an_unfinished_study_is_not_submitted(small_study: Path, tmp_path: Path) -> None:
    study = shutil.copytree(small_study, tmp_path / "study")
    next(iter(study.glob("cells/*/rows/*.parquet"))).unlink()
    with pytest.raises(UserError, match="is not finished"):
        verb("submit", study, "by=Ada", "seen=no", f"out={tmp_path / 'b.zip'}")
    assert not (tmp_path / "b.zip").exists()


def test_a_bundle_holds_no_path_and_no_picture(bundle: Path, small_study: Path) -> None:
    whole = b"".join(Pieces(bundle).files.values())
    assert str(small_study.parent).encode() not in whole and b"\x89PNG" not in whole


def test_rows_are_the_same_bits_after_writing_and_reading() -> None:
    values = [0.1, 1e-300, -0.0, float("inf"), float("nan"), 1 / 3]
    rows = pd.DataFrame(
        {
            "cell": "0" * 16,
            "image_id": [f'a,"{i}' for i in range(6)],
            "draw": range(6),
            "status": "ok",
            "message": "",
            "psnr": values,
            "kid": [[0.1, 2e-8]] * 6,
        }
    )
    back = pd.DataFrame(read_rows(rows_text(rows), "rows.csv"))
    assert back["image_id"].tolist() == rows["image_id"].tolist()
    assert [repr(v) for v in back["psnr"].drop(4)] == [repr(v) for v in pd.Series(values).drop(4)]
    assert back["psnr"].isna()[4]
    single = pd.Series([0.1, 2e-8]).astype("float32").astype(float)
    assert back["kid"][0] == single.tolist()


def test_an_older_version_of_a_task_is_shown_and_not_verified_here(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    histories = {("mask", "pixels"): ["First version.", "Other pixels."]}
    monkeypatch.setattr(task_versions, "_histories", lambda: histories)
    shutil.copy(bundle, tmp_path / "old.zip")
    (reason, *_) = verify(bundle, 0).reasons
    assert "version 1 of mask=pixels, which is at version 2 here" in reason
    page, found = write_board(tmp_path)
    assert not found.refused and b"Version data=1 mask=1 operator=1" in page
