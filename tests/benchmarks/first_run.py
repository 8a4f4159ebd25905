"""How long the default run and the sweep of docs/results.md take on this machine.

    python tests/benchmarks/first_run.py

The default run (8 faces x 4 draws, VIPaint-2) should stay under 60 s and the
twelve-cell sweep (8 images x 2 draws) under 10 minutes on two idle cores. Prints seconds; asserts
nothing.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RUNS = {
    "default run, 60 s allowed": [],
    "twelve cells, 600 s allowed": [
        *(
            "-m",
            "solver=blended,repaint,dps,vipaint2",
            "mask=rotated,comod,palette",
            "data.images=8",
            "draws=2",
        ),
    ],
}

if __name__ == "__main__":
    for name, arguments in RUNS.items():
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            command = [
                sys.executable,
                "-m",
                "bench",
                *arguments,
                f"out={folder}/study",
                "quiet=true",
            ]
            subprocess.run(command, cwd=ROOT, check=True)
            print(f"{name}: {time.perf_counter() - start:.0f} s")
