"""Text of the user's in tables: a name with | and _ breaks no heading, line or note."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.bench.analysis.test_leaderboard import all_ok, make_cell

from posterior_bench.bench.analysis import leaderboard
from posterior_bench.bench.analysis.tables import leaderboard_latex, leaderboard_markdown

NAME = "a|b_c"
PLACES = ("data", "mask", "operator", "solver")


@pytest.fixture
def written(tmp_path: Path, request: pytest.FixtureRequest) -> dict[str, list[str]]:
    """The lines of both tables of a study in which one name has both characters."""
    for cell, psnr in (("c1", 20.0), ("c2", 21.0)):
        changes = {"solver": f"s{cell}", request.param: NAME + cell[-1]}
        make_cell(tmp_path, cell, all_ok(psnr, 0.2), dirty=True, **changes)
    leaderboard.write(tmp_path)
    return {
        end: (tmp_path / f"leaderboard.{end}").read_text().splitlines() for end in ("md", "tex")
    }


@pytest.mark.parametrize("written", PLACES, indirect=True)
def test_names_are_escaped_wherever_they_stand(written: dict[str, list[str]]) -> None:
    named = [line for line in written["md"] if "b_c" in line]
    assert named and all(line.count(r"a\|b_c") == line.count("b_c") for line in named)
    named = [line for line in written["tex"] if "textbar" in line]
    assert named and not [line for line in written["tex"] if "|" in line or "b_c" in line]
    assert all(r"a\textbar{}b\_c" in line for line in named)


@pytest.mark.parametrize("written", ["data"], indirect=True)
def test_a_group_has_its_heading_escaped(written: dict[str, list[str]]) -> None:
    assert sum(line.startswith(r"## a\|b_c") for line in written["md"]) == 2
    assert sum(r"\emph{a\textbar{}b\_c" in line for line in written["tex"]) == 2


def test_notes_are_escaped(tmp_path: Path) -> None:
    make_cell(tmp_path, "c1", all_ok(20.0, 0.2))
    frame = leaderboard.build(tmp_path)
    frame.attrs["notes"] = [f"{NAME} & <more> at 50 %"]
    assert r"- a\|b_c & &lt;more> at 50 %" in leaderboard_markdown(frame).splitlines()
    assert (
        r"a\textbar{}b\_c \& \textless{}more\textgreater{} at 50 \%\par"
        in leaderboard_latex(frame).splitlines()
    )
