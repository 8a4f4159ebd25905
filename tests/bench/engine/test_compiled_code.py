"""Where compiled code is kept."""

from __future__ import annotations

import os

import pytest

from posterior_bench.bench.engine import compiled_code
from posterior_bench.bench.engine.compiled_code import VARIABLE, share_compiled_code


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setenv(VARIABLE, "")  # so that it is put back after the test
    monkeypatch.delenv(VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def test_torch_keeps_compiled_code_in_the_users_cache(tmp_path) -> None:
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    share_compiled_code()
    assert cache_dir().startswith(str(tmp_path / "posterior-bench" / "compiled"))
    assert os.path.isdir(cache_dir())


def test_processors_have_folders_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    folders = set()
    for flags in ("flags: avx2", "flags: avx512f", "flags: avx2"):
        monkeypatch.delenv(VARIABLE, raising=False)
        monkeypatch.setattr(compiled_code, "_processor", lambda flags=flags: flags)
        share_compiled_code()
        folders.add(os.environ[VARIABLE])
    assert len(folders) == 2


@pytest.mark.parametrize(
    ("cache", "before", "after"),
    [("/proc/nowhere", None, None), ("/proc/nowhere", "/mine", "/mine"), (None, "/mine", "/mine")],
)
def test_torchs_own_place_stays(cache, before, after, monkeypatch: pytest.MonkeyPatch) -> None:
    if cache:
        monkeypatch.setenv("XDG_CACHE_HOME", cache)
    if before:
        monkeypatch.setenv(VARIABLE, before)
    share_compiled_code()
    assert os.environ.get(VARIABLE) == after
