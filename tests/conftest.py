"""What every test runs under: no network, no telemetry, no window, Hydra's short errors."""

from __future__ import annotations

import gc
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

import pytest
from tests.skips import (  # noqa: F401  # hooks of pytest, which takes them from here
    pytest_addoption,
    pytest_configure,
    pytest_sessionfinish,
    pytest_terminal_summary,
)


def pytest_collection_finish() -> None:
    """Leave what is there by now, modules and tests, out of every later search for garbage.

    There are millions of objects, and a run that has no memory left searches them again and again.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep commands of this process from being answered from the user's cache folder."""
    for module in ("cli.remembered", "engine.metric_networks"):
        monkeypatch.setattr(f"posterior_bench.bench.{module}.users_cache", lambda: None)
