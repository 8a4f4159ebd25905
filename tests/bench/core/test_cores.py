"""The cores of a process, and threads that wait without spinning, before PyTorch is loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from posterior_bench.bench.core import cores as module

VARIABLES = ("OMP_WAIT_POLICY", "KMP_BLOCKTIME", "GOMP_SPINCOUNT", "KMP_LIBRARY")

ROWS = """\
import sys
import posterior_bench
from hashlib import sha256
from tests.bench.harness import planned
from posterior_bench.bench.engine.worker import Worker
plan = planned(sys.argv[1:])
for row in Worker("cpu", 2).rows(plan, plan.chunks[0]):
    timings = ("seconds_fit", "seconds_sample", "peak_mib")
    kept = sorted((name, repr(value)) for name, value in row.items() if name not in timings)
    assert row["status"] == "ok" and row["threads"] == 2, row
    print(sha256(repr(kept).encode()).hexdigest())
"""


def python(code: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run code in a process whose environment says of waiting only what is given here."""
    kept = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**kept, **variables},
        capture_output=True,
        text=True,
        check=True,
    )


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({}, {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
        ({"GOMP_SPINCOUNT": "1000"}, {"GOMP_SPINCOUNT": "1000"}),
    ],
)
def test_importing_the_package_sets_how_threads_wait_unless_the_user_has(own, expected) -> None:
    code = (
        "import json, os, sys, posterior_bench\n"
        "assert 'torch' not in sys.modules\n"
        f"print(json.dumps({{n: os.environ[n] for n in {VARIABLES} if n in os.environ}}))"
    )
    assert json.loads(python(code, **own).stdout) == expected


def test_openmp_itself_says_that_its_threads_do_not_spin() -> None:
    said = python("import posterior_bench, torch", OMP_DISPLAY_ENV="VERBOSE").stderr
    if "GOMP_SPINCOUNT" not in said:
        pytest.skip("this PyTorch was not built with GNU's OpenMP")
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in said and "GOMP_SPINCOUNT = '0'" in said


@pytest.mark.slow  # two processes that load everything
def test_rows_are_bitwise_the_same_however_threads_wait(command) -> None:
    lines = ["solver=dps", "solver.steps=4", "prior=fashion", "data=fashion", "data.images=2"]
    lines += [line for line in command("dps", "batch=4") if not line.startswith(_OTHER)]
    spinning, sleeping = (
        python(ROWS, *lines, **own).stdout for own in ({"OMP_WAIT_POLICY": "ACTIVE"}, {})
    )
    assert spinning == sleeping and len(spinning.splitlines()) == 4


_OTHER = ("solver", "prior", "data", "threads")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": "250000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({"cpu/cpu.cfs_quota_us": "300000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
    ],
)
def test_the_quota_of_a_container_counts(
    files: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(module, "_GROUPS", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {*range(8)})
    assert module.cores() == expected
