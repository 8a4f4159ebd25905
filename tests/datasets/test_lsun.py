"""LSUN as a database, as exported files and as shards, written by the tests."""

from __future__ import annotations

import hashlib
import io
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from posterior_bench.datasets.lsun import LSUN

KEYS = sorted(hashlib.sha1(str(i).encode()).hexdigest() for i in range(5))


@pytest.fixture
def files(encode: Callable[..., bytes]) -> dict[str, bytes]:
    return {key: encode(i, form="WEBP", size=(12, 9), lossless=True) for i, key in enumerate(KEYS)}


def _expected(files: dict[str, bytes]) -> torch.Tensor:
    """9 x 12 pixels to 9 x 9: the centred square starts at column (12 - 9) // 2."""
    pixels = [
        np.asarray(Image.open(io.BytesIO(files[key])).convert("RGB"))[:, 1:10] for key in KEYS
    ]
    return torch.from_numpy(np.stack(pixels).transpose(0, 3, 1, 2) / 127.5 - 1).float()


def _database(folder: Path, files: dict[str, bytes]) -> None:
    lmdb = pytest.importorskip("lmdb")
    folder.mkdir(parents=True)
    with (
        lmdb.open(str(folder), map_size=1 << 22) as environment,
        environment.begin(write=True) as transaction,
    ):
        for key in reversed(KEYS):
            transaction.put(key.encode(), files[key])


def _exported(root: Path, files: dict[str, bytes]) -> None:
    for key, content in files.items():
        path = root / key[0] / key[1] / f"{key}.webp"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def test_database(files: dict[str, bytes], tmp_path: Path) -> None:
    _database(tmp_path / "church_outdoor_val_lmdb", files)
    before = sorted(tmp_path.rglob("*"))
    for root in (tmp_path, tmp_path / "church_outdoor_val_lmdb"):  # opened twice in one process
        data = LSUN(str(root), size=9)
        assert list(data.ids) == KEYS and data.labels(KEYS) is None and data.num_classes == 0
        torch.testing.assert_close(data.images(KEYS), _expected(files), atol=1e-6, rtol=0)
        assert data.check(KEYS) == []
    assert sorted(tmp_path.rglob("*")) == before  # no lock and no cache of keys
    with pytest.raises(
        ValueError, match=r"holds no LSUN images; looked for lmdb: bedroom_val_lmdb/data\.mdb"
    ):
        LSUN(str(tmp_path), category="bedroom")


def test_exported(files: dict[str, bytes], tmp_path: Path) -> None:
    _exported(tmp_path, files)
    _exported(tmp_path / "two" / "church_outdoor_val", files)
    (tmp_path / "two" / "church_outdoor_val" / "preview.png").write_bytes(
        b"no key, no image of LSUN"
    )
    for root in (tmp_path / "two", tmp_path / "two" / "church_outdoor_val"):
        data = LSUN(str(root), size=9)
        assert list(data.ids) == KEYS
        torch.testing.assert_close(data.images(KEYS), _expected(files), atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="would both be the image"):
        LSUN(str(tmp_path), size=9)


def test_layouts_share_name_and_ids(files: dict[str, bytes], tmp_path: Path) -> None:
    _exported(tmp_path / "files", files)
    with tarfile.open(tmp_path / "0.tar", "w") as tar:
        for key, content in files.items():
            info = tarfile.TarInfo(f"{key}.webp")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    exported, shards = LSUN(str(tmp_path / "files")), LSUN(str(tmp_path / "0.tar"))
    assert (
        exported.name == shards.name and exported.ids == shards.ids and shards.labels(KEYS) is None
    )


def test_the_list_of_latent_diffusion(files: dict[str, bytes], tmp_path: Path) -> None:
    """Its lines are file names, in an order that is kept."""
    _exported(tmp_path / "files", files)
    (tmp_path / "church_outdoor_val.txt").write_text(f"{KEYS[3]}.webp\n{KEYS[0]}.webp\n")
    data = LSUN(str(tmp_path / "files"), id_list=str(tmp_path / "church_outdoor_val.txt"))
    assert list(data.ids) == [KEYS[3], KEYS[0]]


def test_without_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data.mdb").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(
        ImportError, match=r'lmdb cannot be imported .* pip install "posterior-bench\[lsun\]"'
    ):
        LSUN(str(tmp_path))


def test_damaged(files: dict[str, bytes], tmp_path: Path) -> None:
    _database(tmp_path / "good", {**files, KEYS[2]: files[KEYS[2]][:40]})
    (line,) = LSUN(str(tmp_path / "good")).check(KEYS)
    assert f"good, key {KEYS[2]}': " in line and line.startswith("cannot read image '")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "data.mdb").write_bytes(b"no database" * 1000)
    with pytest.raises(ValueError, match=r"cannot read the database .*bad: .*fetch it again"):
        LSUN(str(tmp_path / "bad"))
