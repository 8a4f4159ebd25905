"""Tune the ``fast`` presets of the embedded prior on held-out *training* images.

    python -m scripts.tune [SOLVER ...]

Every solver's grid below is a sweep on the ``tune`` split of Fashion-MNIST (rows 59000 to 59999 of
the training images, which the prior was not trained on) with a seed of its own. Test images are not
used. The tables at the end rank the settings by ST-LPIPS of the pasted images, averaged over the
masks. The best settings are copied to ``conf/solver/<name>.yaml`` by hand.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pandas as pd

STUDY = Path("runs/tune")
MASKS = "rotated,comod"
COMMON = [
    *("data.split=tune", "data.images=16", "draws=2", "seed=1", "threads=1", "sheet=false"),
    *(f"out={STUDY}", f"mask={MASKS}"),
]

LATENT = "data=fashion32"
GRIDS = {
    "blended": [["solver.steps=100", "solver.eta=0,1"]],
    "repaint": [["solver.steps=30,50", "solver.jump_length=5", "solver.resamples=3,5"]],
    "dps": [
        ["solver.steps=100", "solver.zeta=0.5,1,2,4,8"],
        ["solver.steps=60", "solver.zeta=4,6"],
        [LATENT, "solver.steps=60", "solver.zeta=1,1.6"],
    ],
    "vipaint1": [["solver.iterations=28,40"], [LATENT, "solver.iterations=28,40"]],
    "vipaint2": [
        ["solver.keypoints=[5.0,2.0],[2.0,0.7]", "solver.refine_scale=2"],
        ["solver.keypoints=[5.0,1.0]", "solver.refine_scale=1,2"],
        ["solver.iterations=28,40"],
        [LATENT, "solver.iterations=28,40"],
    ],
    "vipaint4": [["solver.iterations=14,20"], [LATENT, "solver.iterations=20,30"]],
    "copaint": [
        ["solver.steps=60", "solver.lr_decay=1.05"],
        ["solver.steps=40", "solver.lr_decay=1.077"],
        [LATENT, "solver.steps=40", "solver.lr_decay=1.077"],
    ],
    "daps": [
        ["solver.steps=25,40"],
        [LATENT, "solver.steps=15,25"],
        [LATENT, "solver.inner_steps=8"],
    ],
    "mgdm": [["solver.levels=16,24"], ["solver.fit_steps=3,5"]],
    "psld": [[LATENT, "solver.steps=60,100"]],
    "reddiff": [["solver.steps=60,100"], [LATENT, "solver.steps=60,100"]],
    "resample": [[LATENT, "solver.steps=60,100"]],
    "tds": [["solver.steps=20,30"]],
}
SHOWN = [
    *("stlpips_pasted", "psnr_hole", "consistency", "passes", "nfe", "nge"),
    *("seconds_fit", "seconds_sample", "failed"),
]


def main(solvers: list[str]) -> None:
    """Run the sweeps, then print one ranking per solver."""
    for solver in solvers:
        for grid in GRIDS[solver]:
            command = [sys.executable, "-m", "bench", "-m", f"solver={solver}", *grid, *COMMON]
            subprocess.run(command, check=True)
    board = pd.read_parquet(STUDY / "leaderboard.parquet")
    board["solver"] = board["solver"].str.split().str[0]
    for solver in solvers:
        variants = board[board["solver"] == solver].groupby(["data", "variant"])
        ranking = variants[SHOWN].mean().sort_values(["data", "stlpips_pasted"])
        print(f"\n{solver}\n{ranking.round(4).to_string()}")


def read_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "solvers", nargs="*", metavar="SOLVER", help=f"default all: {', '.join(GRIDS)}"
    )
    options = parser.parse_args()
    if unknown := sorted(set(options.solvers) - GRIDS.keys()):
        parser.error(f"no grid for {', '.join(unknown)}; valid: {', '.join(GRIDS)}")
    return options


if __name__ == "__main__":
    main(read_arguments().solvers or list(GRIDS))
