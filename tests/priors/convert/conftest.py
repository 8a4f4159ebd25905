"""Upstream checkpoints in small, from :mod:`tests.checkpoints`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from tests import checkpoints


@pytest.fixture(scope="session")
def golden() -> checkpoints.Golden:
    return checkpoints.Golden()


@pytest.fixture
def write_edm(tmp_path: Path) -> Callable[..., Path]:
    """Writes an EDM pickle of given tensors. Executing the source it embeds would leave a file
    called ``executed``."""
    return partial(checkpoints.write_edm, tmp_path / "network.pkl")
