"""Everything that can be taken away from a run, at random: ``python -m tests.benchmarks.torture
--kills 200``.

Cells with a cheap solver are run while their processes are killed (kill -9), the disk is full, the
folder is read-only or renamed, two runs share a cell, and the clock of the files jumps. After each
trouble the same command is given until it ends by itself. Then no row may be lost, stored twice or
damaged, and rows and tables must be those of an undisturbed run. Prints its counts, and exits with
1 if one of the last three is not zero.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pandas as pd

from posterior_bench.bench.config.compose import compose
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.engine.plan import CellPlan
from posterior_bench.bench.engine.prepare import prepare
from posterior_bench.bench.engine.run import run_job
from posterior_bench.bench.engine.worker import Worker
from posterior_bench.bench.store import compaction
from posterior_bench.bench.store.read_study import read_study
from posterior_bench.bench.store.row_store import RowStore
from posterior_bench.bench.store.schema import TIMINGS
from posterior_bench.bench.store.shards import CorruptShard

CELL = [
    "data=arena/g2",
    "solver=ddnm",
    "solver.steps=4",
    "metrics=[psnr]",
    "draws=2",
    "batch=4",
    "threads=1",
]
QUIET = ["quiet=true", "sheet=false"]
_PRELOAD = [
    *(
        f"posterior_bench.bench.{name}"
        for name in ("engine.run", "engine.worker", "analysis.leaderboard")
    ),
    *("scipy.stats", "posterior_bench.metrics.psnr", "posterior_bench.solvers.ddnm"),
]


@dataclass
class Counts:
    """What was done to the studies, and what they came to."""

    kills: int = 0
    troubles: list[str] = field(default_factory=list)
    lost: int = 0
    duplicated: int = 0
    corrupt: int = 0
    different: int = 0
    where: list[str] = field(default_factory=list)
    """In which columns of rows, or in which tables, a study differs."""

    @property
    def clean(self) -> bool:
        return not (self.lost or self.duplicated or self.corrupt or self.different)

    def __str__(self) -> str:
        return (
            f"{self.kills} kills; {', '.join(self.troubles) or 'no other trouble'}: {self.lost} "
            f"rows lost, "
            f"{self.duplicated} duplicated, {self.corrupt} shards corrupt, {self.different} cells "
            f"or tables different ({', '.join(self.where) or 'none'})"
        )


class Torture:
    """One cell in ``folder``, done once in peace and then again and again under trouble."""

    def __init__(self, folder: Path, images: int, seed: int = 0):
        self.folder, self.images, self.random, self.counts = (
            folder,
            images,
            random.Random(seed),
            Counts(),
        )
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(_PRELOAD)
        self.peaceful = self.overrides("peaceful")
        run_job(*compose(self.peaceful))

    def overrides(self, name: str | Path) -> list[str]:
        return [*CELL, *QUIET, f"data.images={self.images}", f"out={self.folder / name}"]

    def start(self, target: Callable[..., None], *arguments: Any) -> BaseProcess:
        process = self.context.Process(target=target, args=arguments)
        process.start()
        return process

    # -- troubles ----------------------------------------------------------------------------------

    def kill_drivers(self, kills: int) -> None:
        """A driver with its worker in the same process, killed at any moment of its life."""
        overrides, goal = self.overrides("drivers"), self.counts.kills + kills
        while self.counts.kills < goal:
            driver = self.start(_drive, overrides)
            self._kill(driver, self.random.uniform(0.05, 1.0), overrides)
        self._finish(overrides, f"{kills} killed drivers")

    def kill_workers(self, kills: int, workers: int) -> None:
        """So many processes on one cell, each with all missing chunks in an order of its own; one
        after the other dies.

        They share nothing but the folder, so chunks are also computed twice, as after a cut
        network.
        """
        overrides, goal = self.overrides(f"workers{workers}"), self.counts.kills + kills
        prepare(*compose(overrides))
        crew = [self.start(_work, overrides, i) for i in range(workers)]
        while self.counts.kills < goal:
            i = self.random.randrange(workers)
            self._kill(crew[i], self.random.uniform(0.05, 0.4), overrides)
            crew[i] = self.start(_work, overrides, self.random.randrange(10**6))
        for worker in crew:
            worker.join()
        self._finish(overrides, f"{kills} kills of {workers} workers")

    def two_drivers(self) -> None:
        overrides = self.overrides("two")
        drivers = [self.start(_drive, overrides) for _ in range(2)]
        for driver in drivers:
            driver.join()
        self._finish(overrides, "two drivers on one cell")

    def killed_compaction(self, kills: int) -> None:
        """Shards are merged while a process that merges them is killed."""
        overrides, goal = self.overrides("compacted"), self.counts.kills + kills
        run_job(*compose(overrides))
        while self.counts.kills < goal:
            merging = self.start(_compact, self.folder / "compacted")
            self._kill(merging, self.random.uniform(0.0, 0.15), overrides)
        compaction.compact(self.folder / "compacted")
        self._finish(overrides, f"{kills} kills of a merging process")

    def clock_jumps(self) -> None:
        """Files from next year and from 1980, while a run goes on."""
        overrides = self.overrides("clock")
        driver = self.start(_drive, overrides)
        while driver.is_alive():
            for path in (self.folder / "clock").rglob("*"):
                when = self.random.choice([time.time() + 3e7, 3.2e8])
                try:
                    os.utime(path, (when, when))
                except FileNotFoundError:
                    continue
            time.sleep(0.05)
        self._finish(overrides, "clock jumps")

    def renamed_folder(self) -> None:
        """The run goes on, or ends with an error; the folder that comes back is whole."""
        overrides, study = self.overrides("renamed"), self.folder / "renamed"
        driver = self.start(_drive, overrides)
        _wait(lambda: any(study.rglob("*.parquet")) or not driver.is_alive())
        away = study.with_name("away")
        study.rename(away)
        driver.join()
        if study.exists():  # what was written since belongs to the same cell
            for path in study.rglob("*.parquet"):
                shutil.move(path, away / path.relative_to(study))
            shutil.rmtree(study)
        away.rename(study)
        self._finish(overrides, "a folder renamed under the run")

    def read_only_folder(self) -> None:
        """For root permissions mean nothing, so it is a tmpfs that is mounted read-only and
        writable again."""
        self._on_tmpfs(
            "readonly",
            "size=64m",
            "a folder turned read-only",
            lambda where: _mount("remount,ro", where),
        )

    def full_disk(self) -> None:
        """A tmpfs with too little room is filled up, then gets more."""

        def fill(where: Path) -> None:
            with suppress(OSError), open(where / "ballast", "wb") as file:
                while True:
                    file.write(b"\0" * 4096)
                    file.flush()

        self._on_tmpfs("full", "size=1m", "a full disk", fill)

    def _on_tmpfs(
        self, name: str, options: str, what: str, spoil: Callable[[Path], object]
    ) -> None:
        if os.geteuid():
            self.counts.troubles.append(f"{what} (left out: only root can mount)")
            return
        where = self.folder / f"{name}_disk"
        where.mkdir()
        if _mount(options, where, "tmpfs").returncode:
            self.counts.troubles.append(f"{what} (left out: nothing can be mounted here)")
            return
        try:
            overrides = self.overrides(where / "study")
            driver = self.start(_drive, overrides)
            _wait(lambda: any(where.rglob("*.parquet")) or not driver.is_alive())
            spoil(where)
            driver.join()
            _mount("remount,rw,size=64m", where)
            (where / "ballast").unlink(missing_ok=True)
            self._finish(overrides, what)
        finally:
            subprocess.run(["umount", "--lazy", str(where)], check=False)

    # -- what has become of the rows ---------------------------------------------------------------

    def _kill(self, process: BaseProcess, after: float, overrides: Sequence[str]) -> None:
        """Kill -9 after so many seconds; where it was done by then, a shard is taken away so that
        there is work."""
        time.sleep(after)
        if process.is_alive():
            process.kill()
            self.counts.kills += 1
        elif (found := self._shards(overrides)) and self.random.random() < 0.8:
            self.random.choice(found).unlink(missing_ok=True)
        process.join()

    def _shards(self, overrides: Sequence[str]) -> list[Path]:
        study = Path(overrides[-1].removeprefix("out="))
        return sorted(study.rglob("rows/[0-9]*.parquet"))

    def _finish(self, overrides: Sequence[str], what: str) -> None:
        """The same command, undisturbed, and the comparison."""
        run_job(*compose(list(overrides)))
        self.counts.troubles.append(what)
        ours, peaceful = (prepare(*compose(list(o)))[1] for o in (overrides, self.peaceful))
        rows = read_study(ours.folder.parents[1])
        planned = sum(len(chunk.images) for chunk in ours.chunks) * ours.cell.draws
        self.counts.lost += planned - len(rows.drop_duplicates(["cell", "image_id", "draw"]))
        self.counts.duplicated += int(rows.duplicated(["cell", "image_id", "draw"]).sum())
        self.counts.corrupt += len(list(ours.folder.rglob("*.corrupt"))) + _unreadable(ours)
        different = _differences(ours, peaceful)
        self.counts.different += bool(different)
        self.counts.where += different
        print(f"{what}: {self.counts.kills} kills, clean: {self.counts.clean}", flush=True)


def _drive(overrides: list[str]) -> None:
    try:
        run_job(*compose(overrides))
    except (OSError, UserError):
        sys.exit(2)


def _work(overrides: list[str], seed: int) -> None:
    plan, worker = prepare(*compose(overrides))[1], Worker("cpu", 1)
    chunks = plan.missing()
    random.Random(seed).shuffle(chunks)
    for chunk in chunks:
        worker.run(plan, chunk)


def _compact(study: Path) -> None:
    compaction.compact(study, pack_bytes=2**14)
    compaction.compact(study)


def _unreadable(plan: CellPlan) -> int:
    store, bad = RowStore(plan.folder), 0
    for chunk in plan.chunks:
        try:
            store.stored(chunk.name)
        except CorruptShard:
            bad += 1
    return bad


def _differences(ours: CellPlan, peaceful: CellPlan) -> list[str]:
    """The columns of rows that differ, and ``leaderboard.csv`` if the tables do."""
    a, b = _rows(ours), _rows(peaceful)
    if list(a.columns) != list(b.columns) or len(a) != len(b):
        return ["columns or number of rows"]
    columns = [name for name in a.columns if not a[name].equals(b[name])]
    return columns + ["leaderboard.csv"] * (_table(ours) != _table(peaceful))


def _rows(plan: CellPlan) -> pd.DataFrame:
    """All rows, without timings and the commit.

    Each process asks git once. Where somebody commits or edits the tree meanwhile, as in a long
    suite beside other work, a worker records another state of it than the process that started it.
    """
    besides = {*TIMINGS, "commit"}
    columns = [name for name in plan.store.read().columns if name not in besides]
    return plan.store.read([*columns, "png"])


def _table(plan: CellPlan) -> str:
    """``leaderboard.csv`` without timings."""
    board = pd.read_csv(plan.folder.parents[1] / "leaderboard.csv", dtype=str)
    return str(board.drop(columns=[*TIMINGS]).to_csv())


def _mount(
    options: str, where: Path, kind: str | None = None
) -> subprocess.CompletedProcess[bytes]:
    source = ["-t", kind, kind] if kind else []
    return subprocess.run(
        ["mount", *source, "-o", options, str(where)], capture_output=True, check=False
    )


def _wait(until: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not until() and time.monotonic() < end:
        time.sleep(0.02)


def torture(folder: Path, kills: int, images: int, workers: Sequence[int] = (1, 2, 3, 4)) -> Counts:
    """All troubles; the kills are shared out among drivers, crews of workers and a merging
    process."""
    victim = Torture(folder, images)
    share = kills // (len(workers) + 2)
    victim.kill_drivers(kills - share * (len(workers) + 1))
    for crew in workers:
        victim.kill_workers(share, crew)
    victim.killed_compaction(share)
    for trouble in (
        "two_drivers",
        "clock_jumps",
        "renamed_folder",
        "read_only_folder",
        "full_disk",
    ):
        getattr(victim, trouble)()
    return victim.counts


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--kills", type=int, default=200)
    options.add_argument("--images", type=int, default=60)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counts = torture(Path(folder), given.kills, given.images)
    print(counts)
    sys.exit(0 if counts.clean else 1)


if __name__ == "__main__":
    main()
