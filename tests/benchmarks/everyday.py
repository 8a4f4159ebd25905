"""How long the commands take that are typed all day: ``python tests/benchmarks/everyday.py``.

Every command is a process of its own. The table gives the seconds that passed, and the seconds that
the processor worked for it (user and system), which mean something on a busy machine too; both are
the median of a few runs. ``first line`` is the time until the first line of a run that has work to
do; it is stopped then. ``again`` follows the same command, which left everything done. Caches of
the user are those of an empty folder. Nothing is asserted. ``--runs N`` repeats N times,
``--quick`` runs one image.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[2]
PYTHON = [sys.executable]
Measure = Callable[[list[str], dict[str, str]], tuple[float, float]]
BENCH = [sys.executable, "-m", "bench"]


def timed(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Return the seconds that a command took, and those of the processor."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def until_first_line(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Return the seconds until a command prints its first line, and those of the processor."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        wall = time.perf_counter() - start
        process.kill()
        process.wait()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5, help="how often each command is run")
    parser.add_argument("--quick", action="store_true", help="one image in place of eight")
    given = parser.parse_args()
    few = ["data.images=1", "draws=1", "solver=dps", "solver.steps=4"] if given.quick else []
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "XDG_CACHE_HOME": f"{folder}/cache"}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        study = [*BENCH, *few, f"out={folder}/study"]

        def line(name: str, goal: str, measure: Measure, command: list[str], runs: int) -> None:
            pairs = [measure(command, environment) for _ in range(runs)]
            wall, worked = (median(values) for values in zip(*pairs, strict=True))
            print(f"{name:<44}{goal:>8}{wall:>10.2f}{worked:>12.2f}", flush=True)

        print(f"{'':<44}{'goal, s':>8}{'wall, s':>10}{'worked, s':>12}")
        timed([*BENCH, "--help"], environment)  # compiles our modules
        for name, goal, command in (
            ("python -c 'pass'", "", [*PYTHON, "-c", "pass"]),
            ("python -c 'import torch'", "", [*PYTHON, "-c", "import torch"]),
            ("import posterior_bench", "0.3", [*PYTHON, "-c", "import posterior_bench"]),
            ("bench --help", "0.3", [*BENCH, "--help"]),
            ("bench ls", "0.3", [*BENCH, "ls"]),
            ("bench show solver=dps", "0.3", [*BENCH, "show", "solver=dps"]),
            ("bench rnu", "0.3", [*BENCH, "rnu"]),
            ("bench solvr=dps", "0.3", [*BENCH, "solvr=dps"]),
            ("bench solver=dsp", "0.3", [*BENCH, "solver=dsp"]),
            ("bench solver.stepz=3", "0.3", [*BENCH, "solver.stepz=3"]),
        ):
            line(name, goal, timed, command, given.runs)
        line("bench: first line", "2", until_first_line, study, given.runs)
        plan = [*BENCH, "plan", *study[3:]]
        line("bench plan, the first time", "3", timed, plan, 1)
        line("bench plan, again", "3", timed, plan, given.runs)
        line("bench, all of it", "", timed, study, 1)
        line("bench, again", "2", timed, study, given.runs)


if __name__ == "__main__":
    main()
