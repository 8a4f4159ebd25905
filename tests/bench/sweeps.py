"""What the tests of clusters share: a sweep in a process of its own, and when two studies are the
same."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from posterior_bench.bench.store.read_study import read_study
from posterior_bench.bench.store.schema import TIMINGS

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 300  # the most that a sweep here may take: ten times what it does where nothing else runs
SLEEPING = {"BENCH_TEST_SLEEP": "0.5"}
"""An environment in which the solver takes its time over a chunk, so that there is something to
interrupt."""

SOLVER = '''\
"""Draws from the prior, slowly if the environment says so."""

import os
import time
from dataclasses import dataclass

from posterior_bench.solvers.base import Card, Sampler


@dataclass(frozen=True)
class Slow(Sampler):
    """A draw that takes its time."""

    card = Card(title="Slow", paper="none", equations="x = n")
    needs = frozenset()

    def draw(self, obs, prior, noise):
        time.sleep(float(os.environ.get("BENCH_TEST_SLEEP", "0")))
        return noise.normal(prior.image_shape)
'''


def sweep(study: Path, *overrides: str) -> list[str]:
    """The command of a sweep of four cells with three chunks each."""
    small = (
        "data=arena/g2",
        "data.images=6",
        "draws=2",
        "batch=4",
        "metrics=[psnr]",
        "threads=1",
        "sheet=false",
    )
    return [
        sys.executable,
        "-m",
        "bench",
        "-m",
        "seed=0,1",
        *small,
        "quiet=true",
        f"out={study}",
        *overrides,
    ]


def slow_study(folder: Path, *overrides: str) -> tuple[Path, tuple[str, ...]]:
    """A serial study of cells of twelve chunks each, made in haste, and what asks for it."""
    (folder / "slow.py").write_text(SOLVER)
    asked = (f"solver={folder / 'slow.py'}:Slow", "++data.images=12", "++batch=2", *overrides)
    finished(sweep(folder / "serial", *asked))
    return folder / "serial", asked


def finished(command: list[str], environment: Mapping[str, str] | None = None) -> None:
    with launched(command, environment) as launch:
        launch.succeed()


class Launch:
    """A sweep in the background."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path):
        self.process, self._log = process, log

    def until(self, what: str, happened: Callable[[], object]) -> None:
        """Look until it has happened, while the sweep runs."""
        end = time.monotonic() + SECONDS
        while not happened():
            assert self.process.poll() is None, f"the sweep ended before {what}: {self.said}"
            assert time.monotonic() < end, f"waited {SECONDS} s for {what}: {self.said}"
            time.sleep(0.1)

    def succeed(self) -> None:
        """Wait for the end, which is to be a good one."""
        assert self.process.wait(SECONDS) == 0, self.said

    @property
    def said(self) -> str:
        return self._log.read_text(errors="replace")


@contextmanager
def launched(command: list[str], environment: Mapping[str, str] | None = None) -> Iterator[Launch]:
    """A sweep that does not outlive the block."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as file:
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=file)
        try:
            yield Launch(process, log)
        finally:
            process.kill()
            process.wait()


def rows(study: Path) -> pd.DataFrame:
    """Every stored value but timings, images included. Raises if a row is stored twice and
    differs."""
    names = [name for name in read_study(study).columns if name not in TIMINGS]
    return read_study(study, [*names, "png"])


def board(study: Path) -> list[str]:
    """The leaderboard's text, cell by cell, timings left out."""
    with (study / "leaderboard.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    return [
        ",".join(value for name, value in line.items() if name not in TIMINGS) for line in lines
    ]


def assert_same_study(study: Path, serial: Path) -> None:
    pd.testing.assert_frame_equal(rows(study), rows(serial), check_exact=True)
    # as many shards as the serial run has, with the same names: nothing is lost, nothing is stored
    # twice
    assert shards(study) == shards(serial)
    assert board(study) == board(serial)


def shards(study: Path) -> list[str]:
    return sorted(str(path.relative_to(study)) for path in study.glob("cells/*/rows/*.parquet"))


def begun(study: Path) -> int:
    """How many cells have a shard."""
    return len({Path(shard).parent for shard in shards(study)})


def written(study: Path) -> dict[str, int]:
    """When each shard was written: one that changes was computed twice."""
    return {shard: os.stat(study / shard).st_mtime_ns for shard in shards(study)}
