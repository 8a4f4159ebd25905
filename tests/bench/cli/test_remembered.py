"""A command that was finished is answered from what it left, and only while that is still true."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.bench.harness import run, verb

from posterior_bench.bench.cli import remembered
from posterior_bench.bench.cli.finish import finish
from posterior_bench.bench.cli.remembered import Command
from posterior_bench.bench.cli.run_settings import ready
from posterior_bench.bench.config.overrides import check
from posterior_bench.bench.config.studies import expand
from posterior_bench.bench.core.environment import ROOT
from posterior_bench.bench.core.stamps import stamp

HEAVY = ("torch", "scipy", "matplotlib", "diffusers", "torchmetrics")
TELL = """
import sys
from posterior_bench.bench.__main__ import main
try:
    main({words})
except SystemExit as end:
    print("exit code", end.code or 0)
print([name for name in {heavy} if name in sys.modules])
"""


def told(words: list[str], cache: Path) -> str:
    """What a command prints in a process of its own, and the heavy modules that it loads."""
    done = subprocess.run(
        [sys.executable, "-c", TELL.format(words=words, heavy=HEAVY)],
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache folder, for this process and for others."""
    monkeypatch.setattr(remembered, "users_cache", lambda: tmp_path / "cache" / "posterior-bench")
    monkeypatch.setattr(remembered, "_SETTLED_NS", 0)
    return tmp_path / "cache"


def test_a_finished_run_is_told_again_without_torch(command, cache: Path, tmp_path, capsys) -> None:
    words = [*command("blended", "data.images=1", "solver.steps=2"), "sheet=true", "quiet=false"]
    asked = Command.of("run", check(*expand(ready(words)), study_sweep=True))
    assert finish([run(words)], 1, asked)
    table = capsys.readouterr().out.partition("\n\u250f")[2]
    assert "contact_sheet.png" in table
    title = "blended  steps=2  folder size=8 mode=grey  rotated: all 2 rows are there"
    assert told(words, cache) == f"{title}\n\u250f{table}exit code 0\n[]\n"
    (tmp_path / "study" / "contact_sheet.png").unlink()
    assert asked.recall() is None


def test_a_plan_is_told_again_without_torch(command, cache: Path, capsys) -> None:
    words = command("blended", "data.images=1", "solver.steps=2", "quiet=false")
    assert verb("plan", *words) == 0
    planned = capsys.readouterr().out
    text, last, end = told(words=["plan", *words], cache=cache).rpartition("         Planned at ")
    assert text == planned and last
    assert end.endswith("measure=calls measures again.\nexit code 0\n[]\n")


def test_the_first_line_comes_before_torch(command) -> None:
    words = [*command("blended"), "quiet=false"]
    code = (
        "import sys\nsys.modules['torch'] = sys.modules['pandas'] = None\n"
        f"from posterior_bench.bench.__main__ import main\nmain({words})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode and done.stdout.startswith("blended  folder  rotated, 14 rows")


# -- what makes a record void ----------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a file of data, a study, and an empty cache of the user."""
    (tmp_path / "study" / "cells").mkdir(parents=True)
    (tmp_path / "study" / "cells" / "rows.parquet").write_bytes(b"rows")
    (tmp_path / "pictures" / "deep").mkdir(parents=True)
    (tmp_path / "pictures" / "deep" / "a.png").write_bytes(b"picture")
    (tmp_path / "site" / "one-1.0.dist-info").mkdir(parents=True)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    monkeypatch.setattr(remembered, "users_cache", lambda: tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def later(word: str) -> Command:
    """A command that begins when the files have long been there."""
    return Command("run", [word], time.time_ns() + 10**10)


def kept(place: Path) -> Command:
    """A command whose configuration names the folder of data, and weights that are not there."""
    config = {group: {} for group in remembered._GROUPS}
    config |= {"data": {"root": "pictures"}, "prior": {"nets": [{"path": "~/none", "n": 1}]}}
    command = later("draws=1")
    command.remember({"text": "found"}, place / "study", [config])
    return command


def test_nothing_changed(place: Path) -> None:
    assert kept(place).recall() == {"text": "found"}
    assert Command.of("run", ["draws=1"]).recall() == {"text": "found"}


def replaced(path: Path) -> None:
    """Other bytes of the same length and with the same time of change, as a copy may have them."""
    state = path.stat()
    path.with_suffix(".new").write_bytes(bytes(reversed(path.read_bytes())))
    os.replace(path.with_suffix(".new"), path)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


CHANGES: dict[str, Callable[[Path], object]] = {
    "a file of data": lambda place: replaced(place / "pictures" / "deep" / "a.png"),
    "a new file of data": lambda place: (place / "pictures" / "b.png").touch(),
    "a row": lambda place: replaced(place / "study" / "cells" / "rows.parquet"),
    "a table": lambda place: (place / "study" / "leaderboard.csv").touch(),
    "no study": lambda place: (place / "study").rename(place / "elsewhere"),
    "a package": lambda place: (place / "site" / "two-1.0.dist-info").mkdir(),
    "another version": lambda place: (place / "site" / "one-1.0.dist-info").rename(
        place / "site" / "one-1.1.dist-info"
    ),
    "our code": lambda place: None,
    "a damaged record": lambda place: [
        path.write_text("{") for path in (place / "cache" / "commands").iterdir()
    ],
    "another folder": lambda place: os.chdir(place / "pictures"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_makes_the_command_run(change: str, place: Path, monkeypatch) -> None:
    ours = place / "ours"
    (ours / "solvers").mkdir(parents=True)
    (ours / "solvers" / "dps.py").write_text("steps = 1")
    monkeypatch.setattr(remembered, "ROOT", ours)
    command = kept(place)
    assert command.recall() is not None
    CHANGES[change](place)
    if change == "our code":
        replaced(ours / "solvers" / "dps.py")
    assert command.recall() is None


def test_other_words_are_another_command(place: Path) -> None:
    kept(place)
    assert Command.of("run", ["draws=2"]).recall() is None
    assert Command.of("plan", ["draws=1"]).recall() is None


def test_what_was_changed_during_the_command_is_not_remembered(place: Path) -> None:
    """Rows of a long run may come from the file as it was, or as it is."""
    command = Command.of("run", ["draws=1"])  # the fixture made the files less than 2 s before
    config = {group: {} for group in remembered._GROUPS} | {"data": {"root": "pictures"}}
    command.remember({}, place / "study", [config])
    assert command.recall() is None and not (place / "cache").exists()


def test_the_oldest_records_are_forgotten(place: Path, monkeypatch) -> None:
    monkeypatch.setattr(remembered, "_KEPT", 2)
    commands = [later(str(i)) for i in range(3)]
    for age, command in zip((300, 200, 100), commands, strict=True):
        command.remember({}, place / "study", [])
        written = command.place.stat().st_mtime
        os.utime(command.place, (written - age, written - age))
    later("last").remember({}, place / "study", [])
    assert [command.recall() is None for command in commands] == [True, True, False]


def test_compiled_files_do_not_count_and_too_many_files_have_no_stamp(
    tmp_path: Path, monkeypatch
) -> None:
    (tmp_path / "a.py").write_text("")
    before = stamp([tmp_path])
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.pyc").write_text("")
    assert before is not None and stamp([tmp_path]) == before
    monkeypatch.setattr("posterior_bench.bench.core.stamps.MOST", 0)
    assert stamp([tmp_path]) is None
