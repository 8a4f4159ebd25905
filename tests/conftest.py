"""What every test runs under: no network, no telemetry, no window, Hydra's short errors."""

from __future__ import annotations

import os

os.environ.pop("HYDRA_FULL_ERROR", None)
os.environ.update(
    # the tests' tensors are small: a second thread costs more than it saves, and far more on a busy
    # machine
    OMP_NUM_THREADS="1",
    HF_HUB_OFFLINE="1",
    MPLBACKEND="Agg",
    RAY_AUTH_MODE="disabled",  # else Ray writes a token into the home folder
    RAY_USAGE_STATS_ENABLED="0",
    WANDB_MODE="offline",
)

from tests.skips import (  # noqa: F401  # hooks of pytest, which takes them from here
    pytest_addoption,
    pytest_configure,
    pytest_sessionfinish,
    pytest_terminal_summary,
)
