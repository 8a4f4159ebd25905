"""The bad day: whatever goes wrong in whatever verb, one line on standard error, and the exit code
of the page."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.bench.harness import plant, run

from posterior_bench.bench.__main__ import main
from posterior_bench.bench.cli import entry, error_line
from posterior_bench.bench.cli.measurement_files import export_masks
from posterior_bench.bench.cli.verbs import VERBS
from posterior_bench.bench.config.hydra_settings import demand_launcher
from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.config.overrides import parse
from posterior_bench.bench.core.errors import BAD_INPUT, BUG, UserError

ROOT = Path(__file__).resolve().parents[3]
Command = Callable[..., list[str]]


class Unreadable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


FAULTS: list[tuple[BaseException, int, str]] = [
    (
        OSError(errno.ENOSPC, "No space left on device", "rows/a.parquet"),
        BAD_INPUT,
        "rows/a.parquet",
    ),
    (
        OSError("[Errno 28] Error writing bytes to file. Detail: [errno 28] No space left"),
        BAD_INPUT,
        "disk is full",
    ),
    (OSError(errno.EDQUOT, "Disk quota exceeded"), BAD_INPUT, "quota"),
    (
        PermissionError(errno.EACCES, "Permission denied", "runs"),
        BAD_INPUT,
        "change the permissions",
    ),
    (OSError(errno.EROFS, "Read-only file system"), BAD_INPUT, "can be written to"),
    (OSError(errno.EMFILE, "Too many open files"), BAD_INPUT, "ulimit -n"),
    (OSError(errno.EIO, "Input/output error"), BAD_INPUT, "look at it"),
    (FileNotFoundError(errno.ENOENT, "No such file or directory", "x"), BAD_INPUT, "x"),
    (
        ImportError("libx.so: cannot open shared object file: Too many open files"),
        BAD_INPUT,
        "ulimit -n",
    ),
    (MemoryError(), BAD_INPUT, "MemoryError"),
    (RecursionError("maximum recursion depth exceeded"), BAD_INPUT, "nested too deeply"),
    (
        UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"),
        BAD_INPUT,
        "surrogates",
    ),
    (
        RuntimeError("two\nlines \ud800 and\ta tab"),
        BUG,
        "RuntimeError: two lines \\ud800 and a tab",
    ),
    (KeyError("x"), BUG, "KeyError: 'x'"),
    (ZeroDivisionError(), BUG, "ZeroDivisionError: no message"),
    (Unreadable(), BUG, "Unreadable: (its message cannot be read: RuntimeError)"),
    (ValueError("y" * 5000), BUG, "yyy..."),
]


def ended(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str]]:
    """The exit code, and the lines of standard error."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return int(end.value.code or 0), capfd.readouterr().err.splitlines()


@pytest.mark.parametrize(
    ("error", "code", "said"), FAULTS, ids=[type(error).__name__ for error, _, _ in FAULTS]
)
def test_any_error_is_one_line(
    error: BaseException,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    def planted(arguments: list[str]) -> int:
        raise error

    monkeypatch.setattr(error_line, "gettempdir", lambda: str(tmp_path))
    plant(monkeypatch, "status", planted)
    found, lines = ended(capfd, "status", "runs/x")
    assert found == code and len(lines) == 1
    assert lines[0].startswith("bench: ") and said in lines[0] and len(lines[0]) < 1200
    kept = re.search(r"traceback: (\S+)\)", lines[0])
    assert (kept is None) == (
        error_line._machine_error(error) in error_line._ADVICE or "ulimit" in said
    )
    if kept:
        assert "in planted" in Path(kept[1]).read_text()


@pytest.mark.parametrize("verb", list(VERBS))
def test_every_verb_says_it_so(
    verb: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(arguments: list[str]) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", "study/x")

    plant(monkeypatch, verb, full)
    code, lines = ended(capfd, verb)
    assert (
        code == BAD_INPUT
        and len(lines) == 1
        and "study/x" in lines[0]
        and "disk is full" in lines[0]
    )


def test_a_traceback_that_cannot_be_written_is_said(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(error_line, "gettempdir", lambda: "/dev/full/nowhere")
    plant(monkeypatch, "status", lambda _: 1 // 0)
    code, lines = ended(capfd, "status")
    assert code == BUG and len(lines) == 1 and "could not be written either" in lines[0]


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "rows"), BAD_INPUT, "disk is full"),
        (RuntimeError("unforeseen"), BUG, "RuntimeError: unforeseen"),
        (UserError("bad input"), BAD_INPUT, "bench: bad input"),
    ],
)
@pytest.mark.parametrize("sweep", [False, True])
def test_a_job_under_hydra_too(
    error: Exception,
    code: int,
    said: str,
    sweep: bool,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def planted(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("posterior_bench.bench.engine.prepare.prepare", planted)
    monkeypatch.setattr(sys, "argv", ["bench"])
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    found, lines = ended(capfd, "run", *(["-m", "seed=1,2"] if sweep else []), *command())
    assert found == code and len(lines) == 1 and said in lines[0]
    assert "HYDRA_FULL_ERROR" not in os.environ


# -- terminals -------------------------------------------------------------------------------------


def bench(arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The program behind a shell, which closes and redirects as the test says."""
    start = f'"{sys.executable}" -m bench {arguments}'
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        ["bash", "-c", start], capture_output=True, text=True, env=env, timeout=120
    )


def test_a_full_device_as_output() -> None:
    done = bench("ls solver > /dev/full")
    assert done.returncode == BAD_INPUT
    assert len(done.stderr.splitlines()) == 1 and "disk is full" in done.stderr


@pytest.mark.parametrize(
    "closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-", "> /dev/null 2> /dev/full"]
)
def test_closed_streams(closed: str) -> None:
    done = bench(f"ls solver {closed}")
    assert done.returncode == 0 and done.stderr == ""


def test_a_reader_that_goes_away() -> None:
    done = bench("ls | head -n 1; exit ${PIPESTATUS[0]}")
    assert done.returncode == 0 and done.stderr == "" and len(done.stdout.splitlines()) == 1


def test_a_terminal_without_the_letter_gets_its_number() -> None:
    done = bench("show mask=nosuch\u2713; exit 0", PYTHONIOENCODING="ascii")
    assert "nosuch\\u2713" in done.stderr
    code = (
        "from posterior_bench.bench.cli.standard_streams import prepare_streams as p; p(); "
        "print(chr(0x2713), chr(0xD800))"
    )
    env = {**os.environ, "PYTHONIOENCODING": "ascii:strict"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True
    )
    assert done.stdout == "\\u2713 \\ud800\n"


def test_an_argument_that_is_not_text_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    code, lines = ended(capfd, "plan", "out=a\udcff")
    assert code == BAD_INPUT and len(lines) == 1 and "is not valid UTF-8" in lines[0]


def test_a_closed_descriptor_is_not_given_to_the_next_file() -> None:
    code = (
        "import os\n"
        "from posterior_bench.bench.cli.standard_streams import prepare_streams\n"
        "prepare_streams()\n"
        "print('lost')\nos._exit(0 if os.open('/dev/null', os.O_RDONLY) > 2 else 1)\n"
    )
    done = subprocess.run(["bash", "-c", f'"{sys.executable}" -c "{code}" >&- <&-'], cwd=ROOT)
    assert done.returncode == 0


@pytest.mark.parametrize("rich", [False, True])
def test_a_run_whose_reader_goes_away_does_not_end_with_0(
    rich: bool, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def gone(arguments: list[str]) -> int:
        try:
            raise BrokenPipeError
        except BrokenPipeError:
            if rich:  # what its consoles do then
                raise SystemExit(1) from None
            raise

    monkeypatch.setattr(entry, "silence", lambda: None)
    for verb in VERBS:
        plant(monkeypatch, verb, gone)
        code, lines = ended(capfd, verb)
        assert (code, len(lines)) == ((0, 0) if VERBS[verb].prints_only else (BAD_INPUT, 1)), verb


# -- launchers -------------------------------------------------------------------------------------


def test_slurm_without_its_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    for name in ("slurm", "submitit_slurm"):
        with pytest.raises(UserError, match=f"hydra/launcher={name} needs"):
            demand_launcher(parse([f"hydra/launcher={name}"]))
    with pytest.raises(UserError, match=r"unknown launcher 'slrum'\. Did you mean 'slurm'"):
        demand_launcher(parse(["hydra/launcher=slrum"]))
    demand_launcher(parse(["hydra/launcher=basic", "seed=1"]))


# -- studies and metrics ---------------------------------------------------------------------------


@pytest.mark.parametrize("content", [None, "[" * 100_000, "", "- a\n", "\0", "a: b\n"])
def test_a_study_with_a_broken_plan_is_one_line(
    content: str | None, command: Command, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run(command("blended", "data.images=2", "draws=1", "solver.steps=2"))
    study = tmp_path / "study"
    for path in study.glob("cells/*/config.yaml"):
        path.unlink() if content is None else path.write_text(content)
    capfd.readouterr()
    for verb in ("leaderboard", "report", "compact", "score", "compare", "status"):
        more = {"score": ["metrics=[ssim]"], "compare": ["a=blended", "b=dps", "metric=psnr"]}.get(
            verb, []
        )
        code, lines = ended(capfd, verb, str(study), *more)
        assert code in (BAD_INPUT, BUG) and len(lines) == 1 and lines[0].startswith("bench: "), (
            verb,
            lines,
        )


def test_a_metric_that_cannot_score_the_images_is_refused_before_anything_is_declared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The images of this arena have one row of two pixels, and SSIM mirrors five at each border."""
    monkeypatch.setattr(sys, "argv", ["bench"])
    cell = [
        "data=arena/g2",
        "solver=prior",
        "data.images=2",
        "draws=1",
        "sheet=false",
        "report=false",
        "quiet=true",
    ]
    code, lines = ended(capfd, "run", *cell, "metrics=[ssim]", f"out={tmp_path / 'a'}")
    assert (
        code == BAD_INPUT
        and len(lines) == 1
        and "metric 'ssim'" in lines[0]
        and "1 x 2" in lines[0]
    )
    assert not (tmp_path / "a").exists()
    assert ended(capfd, "run", *cell, "metrics=[psnr]", f"out={tmp_path / 'b'}")[0] == 0
    before = {path: path.read_bytes() for path in (tmp_path / "b").rglob("*") if path.is_file()}
    code, lines = ended(capfd, "score", str(tmp_path / "b"), "metrics=[ssim]")
    assert code == BAD_INPUT and len(lines) == 1 and "metric 'ssim'" in lines[0]
    assert before == {
        path: path.read_bytes() for path in (tmp_path / "b").rglob("*") if path.is_file()
    }


# -- exported files --------------------------------------------------------------------------------


def exportable(command: Command, photos: Path, *more: str) -> JobConfig:
    from posterior_bench.bench.config.compose import compose
    from posterior_bench.bench.engine.job import job_of

    return job_of(compose([*command("blended", "data.images=1"), *more])[0])


@pytest.mark.parametrize("length", [1, 244, 251])
def test_long_names_are_exported_whole(
    length: int, command: Command, photos: Path, tmp_path: Path
) -> None:
    """File systems take 255 bytes, and ``.png`` needs four of them."""
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / f"{'x' * length}.png").write_bytes((photos / "0.png").read_bytes())
    folder = export_masks(
        exportable(command, photos, f"data.root={mine}", f"out={tmp_path / 'new'}")
    )
    assert [path.name for path in (folder / "mask").iterdir()] == [f"{'x' * length}.png"]
    assert (folder / "index.json").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "new"]


@pytest.mark.parametrize("there", [False, True])
def test_an_export_that_fails_leaves_nothing(
    there: bool, command: Command, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if there:
        (tmp_path / "new").mkdir()
    monkeypatch.setattr(
        "posterior_bench.bench.cli.measurement_files._write_index", full
    )  # the last step: the pictures are written by then
    config = exportable(command, photos, f"out={tmp_path / 'new'}")
    with pytest.raises(OSError, match="No space"):
        export_masks(config)
    assert [path.name for path in tmp_path.iterdir()] == (["new"] if there else [])
    assert not there or not list((tmp_path / "new").iterdir())
    monkeypatch.undo()
    assert export_masks(config).joinpath("index.json").is_file()


def test_a_name_that_is_too_long_is_refused_before_any_work() -> None:
    from posterior_bench.bench.cli.measurement_files import _demand_short_names

    _demand_short_names(["a/" * 200 + "b" * 251])
    with pytest.raises(UserError, match="is 256 bytes long and file systems take 255"):
        _demand_short_names(["é" * 126])
