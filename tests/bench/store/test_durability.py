"""What a power loss leaves: data reach the disk before their name does."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml
from tests.bench.store.test_row_store import row

from posterior_bench.bench.store.atomic import write_atomic
from posterior_bench.bench.store.compaction import compact
from posterior_bench.bench.store.row_store import RowStore

Events = list[tuple[str, int, int]]


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> Events:
    """The calls that put data on the disk, in order: what was done, the inode, and its bytes."""
    seen: Events = []
    fsync, replace = os.fsync, os.replace

    def recording_fsync(descriptor: int) -> None:
        found = os.fstat(descriptor)
        seen.append(("fsync", found.st_ino, found.st_size))
        fsync(descriptor)

    def recording_replace(source: Path, target: Path) -> None:
        found = os.stat(source)
        seen.append(("replace", found.st_ino, found.st_size))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", recording_fsync)
    monkeypatch.setattr(os, "replace", recording_replace)
    return seen


def _extend(store: RowStore) -> Path:
    store.extend("a", [{"ssim": 0.5}])
    return store.folder / "a.parquet"


def _write(store: RowStore) -> Path:
    store.write("b", [row("b")])
    return store.folder / "b.parquet"


def _plain(store: RowStore) -> Path:
    write_atomic(path := store.folder / "config.yaml", b"x" * 100_000)
    return path


@pytest.mark.parametrize("act", [_plain, _write, _extend, lambda store: store.pack(["a"])])
def test_a_file_is_whole_on_the_disk_before_it_has_its_name_and_then_its_folder_is_synced(
    act: Callable[[RowStore], Path], events: Events, tmp_path: Path
) -> None:
    store = RowStore(tmp_path / "c")  # the cell of these rows
    store.write("a", [row("a")])
    events.clear()
    path = act(store)
    file, folder = path.stat(), path.parent.stat()
    # a file keeps its inode under its new name
    assert [event[:2] for event in events] == [
        ("fsync", file.st_ino),
        ("replace", file.st_ino),
        ("fsync", folder.st_ino),
    ]
    # no byte was still in a buffer of the process when the file was synced, or when it was renamed
    assert [size for _, _, size in events[:2]] == [file.st_size] * 2


def test_a_pack_is_kept_until_other_files_hold_all_of_it(tmp_path: Path) -> None:
    """Packed into one file, and then with a lower bound into many: the first holds a part alone."""
    folder = tmp_path / "cells" / "c"
    chunks = {f"0000{i}": [f"{i}a", f"{i}b"] for i in range(6)}
    for chunk, images in chunks.items():
        RowStore(folder).write(chunk, [row(image, psnr=float(chunk)) for image in images])
    record = {"cell": "c", "identity": {"draws": 1}, "chunks": chunks, "metrics": {}}
    (folder / "config.yaml").write_text(yaml.safe_dump(record))
    expected = RowStore(folder).read()
    for bound, files in ((10**9, 1), (1, 6), (10**9, 1)):
        (done,) = compact(tmp_path, pack_bytes=bound)
        assert (done.left, done.after) == ("", files)
        assert RowStore(folder).done() == {*chunks}
        pd.testing.assert_frame_equal(RowStore(folder).read(), expected, check_exact=True)
