"""What the tests of clusters share: a sweep in a process of its own, and when two studies are the same."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import pandas as pd

from bench.store import TIMINGS, read_study

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 120  # the most that a sweep here may take
SOLVER = '''\
"""Draws from the prior, slowly."""

import time
from dataclasses import dataclass

from solvers.base import Card, Sampler


@dataclass(frozen=True)
class Slow(Sampler):
    """A draw that takes its time."""

    card = Card(title="Slow", paper="none", equations="x = n")
    needs = frozenset()

    def draw(self, obs, prior, noise):
        time.sleep(0.4)
        return noise.normal(prior.image_shape)
'''


def sweep(study: Path, *overrides: str) -> list[str]:
    """The command of a sweep of four cells with three chunks each."""
    small = ("data=arena/g2", "data.images=6", "draws=2", "batch=4", "metrics=[psnr]", "threads=1", "sheet=false")
    return [sys.executable, "-m", "bench", "-m", "seed=0,1", *small, "quiet=true", f"out={study}", *overrides]


def finished(command: list[str], environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stderr


def rows(study: Path) -> pd.DataFrame:
    """Every stored value but timings, images included. Raises if a row is stored twice and differs."""
    names = [name for name in read_study(study).columns if name not in TIMINGS]
    return read_study(study, [*names, "png"])


def board(study: Path) -> list[str]:
    """The leaderboard's text, cell by cell, timings left out."""
    with (study / "leaderboard.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    return [",".join(value for name, value in line.items() if name not in TIMINGS) for line in lines]


def assert_same_study(study: Path, serial: Path) -> None:
    pd.testing.assert_frame_equal(rows(study), rows(serial), check_exact=True)
    # as many shards as the serial run has, with the same names: nothing is lost, nothing is stored twice
    assert shards(study) == shards(serial)
    assert board(study) == board(serial)


def shards(study: Path) -> list[str]:
    return sorted(str(path.relative_to(study)) for path in study.glob("cells/*/rows/*.parquet"))
