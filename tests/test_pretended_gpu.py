"""Solvers, operators, metrics and rows on the pretended GPU of :mod:`tests.pretended_gpu`.

The cases are in ``tests/on_gpu``. They run in one process of their own, because the device can only
be made before the first gradient of a process, and stays.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CASES = sorted((Path(__file__).parent / "on_gpu").glob("case_*.py"))


def test_all_cases_on_the_pretended_gpu():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    done = subprocess.run(
        [*command, *map(str, CASES)],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
