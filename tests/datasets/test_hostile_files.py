"""Files that claim or unpack to more than there is: one line, before any memory is taken."""

from __future__ import annotations

import gzip
import io
import json
import os
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from posterior_bench.datasets import fashion, limits
from posterior_bench.datasets.fashion import Fashion
from posterior_bench.datasets.ffhq import FFHQ
from posterior_bench.datasets.folder import Folder
from posterior_bench.datasets.imagenet import ImageNet
from posterior_bench.masks import sources
from posterior_bench.masks.files import Files

Encode = Callable[..., bytes]
GIB = 2**30


@contextmanager
def little_memory(most: int = 100 * 2**20) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


def header(shape: tuple[int, ...], dtype: Any = np.uint8) -> bytes:
    """The start of an .npy file, written by NumPy, of an array that need not be there."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file,
        {
            "shape": shape,
            "fortran_order": False,
            "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
        },
    )
    return file.getvalue()


def claim(path: Path, size: int) -> None:
    """Write ``size`` as the unpacked size of every member in the central directory of a ZIP
    file."""
    content = bytearray(path.read_bytes())
    start = content.find(b"PK\1\2")
    while start >= 0:
        content[start + 24 : start + 28] = struct.pack("<I", size)
        start = content.find(b"PK\1\2", start + 4)
    path.write_bytes(content)


# -- NPZ -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2**40, 64, 64, 3), (2**62, 2**62, 64, 3), (5, 8, 8, 3)])
def test_an_npz_file_that_claims_more_images_than_it_holds(
    shape: tuple[int, ...], tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("arr_0.npy", header(shape) + bytes(4 * 8 * 8 * 3))
    with (
        little_memory(),
        pytest.raises(
            ValueError, match=r"cannot read .*a\.npz as NPZ: the array 'arr_0' claims .* GiB"
        ),
    ):
        ImageNet(str(tmp_path / "a.npz"), size=8)
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as file:
        file.writestr("arr_0.npy", header((4, 8, 8, 3)) + bytes(4 * 8 * 8 * 3))
    assert len(ImageNet(str(tmp_path / "b.npz"), size=8)) == 4


def test_an_npz_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zeros are packed to a thousandth, pictures are not; small arrays may be anything."""
    zeros = np.zeros((80, 64, 64, 3), np.uint8)
    np.savez_compressed(tmp_path / "a.npz", arr_0=zeros)
    assert len(ImageNet(str(tmp_path / "a.npz"))) == 80
    monkeypatch.setattr(limits, "_SMALL", 2**19)
    with pytest.raises(
        ValueError, match=r"'arr_0' unpacks from \d+ bytes to 0\.0 GiB, as no pictures do"
    ):
        ImageNet(str(tmp_path / "a.npz"))
    np.savez_compressed(
        tmp_path / "b.npz", arr_0=np.random.default_rng(0).integers(0, 256, zeros.shape, np.uint8)
    )
    assert len(ImageNet(str(tmp_path / "b.npz"))) == 80


def test_an_npz_file_beyond_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "a.npz", arr_0=np.zeros((4, 64, 64, 3), np.uint8))
    assert len(ImageNet(str(tmp_path / "a.npz"))) == 4
    monkeypatch.setattr(limits, "available_memory", lambda: 10_000)
    with pytest.raises(
        ValueError,
        match=r"the array 'arr_0' takes 0.0 GiB of memory, and 0.0 GiB are free; split it",
    ):
        ImageNet(str(tmp_path / "a.npz"))


def _npz(tmp_path: Path, labels: Any) -> ImageNet:
    np.savez(tmp_path / "a.npz", arr_0=np.zeros((2, 8, 8, 3), np.uint8), arr_1=labels)
    return ImageNet(str(tmp_path / "a.npz"), size=8)


def test_npz_labels_are_whole_numbers(tmp_path: Path) -> None:
    for wrong in ([1.7, 2.2], [1.0, np.nan], [3.0, np.inf]):
        data = _npz(tmp_path, np.array(wrong))
        with pytest.raises(
            ValueError, match=r"a\.npz, row [01]' has the label (1\.7|nan|inf), not a whole number"
        ):
            data.labels(data.ids)
        assert len(data.check(list(data.ids))) == (2 if wrong[0] == 1.7 else 1)
    for unusable in (["1", "2"], [1j, 2j], [True, False]):
        with pytest.raises(
            ValueError, match=r"the array 'arr_1' in .* holds .*; give whole numbers"
        ):
            _npz(tmp_path, np.array(unusable))
    for right in ([3.0, 4.0], np.array([3, 4], np.uint16)):
        data = _npz(tmp_path, np.array(right))
        labels = data.labels(data.ids)
        assert labels is not None and labels.tolist() == [3, 4]


def test_npz_pixels_are_real_numbers(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", arr_0=np.full((2, 8, 8, 3), 7 + 1j))
    with pytest.raises(ValueError, match=r"the array 'arr_0' in .* holds complex128; give numbers"):
        ImageNet(str(tmp_path / "a.npz"), size=8)


# -- ZIP, TAR, Parquet, loose files ----------------------------------------------------------------


def test_a_zip_bomb_among_the_images(encode: Encode, tmp_path: Path) -> None:
    """Its size is read in the table of the ZIP file; the member is not unpacked."""
    path = tmp_path / "faces.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("00000/img00000000.png", encode(0, form="PNG"))
    claim(path, 4 * GIB - 1)
    data = FFHQ(str(path), size=8)
    with (
        little_memory(),
        pytest.raises(
            ValueError, match=r"img00000000\.png': it takes 4\.0 GiB, and one such file may"
        ),
    ):
        data.images(data.ids)
    assert "takes 4.0 GiB" in data.check(["00000"])[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 100_000, "cannot read .* as a ZIP file"),
        (b'{"labels": [["a.png", true]]}', "must be whole numbers"),
    ],
)
def test_a_table_of_labels_that_is_none(
    content: bytes, message: str, encode: Encode, tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "faces.zip", "w") as file:
        file.writestr("00000/img00000000.png", encode(0, form="PNG"))
        file.writestr("dataset.json", content)
    with pytest.raises(ValueError, match=message):
        FFHQ(str(tmp_path / "faces.zip"))


def test_a_table_of_labels_that_is_a_bomb(encode: Encode, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "faces.zip", "w") as file:
        file.writestr("00000/img00000000.png", encode(0, form="PNG"))
        file.writestr("dataset.json", json.dumps({"labels": None}))
    claim(tmp_path / "faces.zip", GIB)
    with (
        little_memory(),
        pytest.raises(ValueError, match=r"dataset\.json takes 1\.0 GiB"),
    ):
        FFHQ(str(tmp_path / "faces.zip"))


def test_a_zip_file_with_a_password(encode: Encode, tmp_path: Path) -> None:
    path = tmp_path / "faces.zip"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("00000/img00000000.png", encode(0, form="PNG"))
    content = bytearray(path.read_bytes())
    for mark, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.find(mark) + place] |= 1  # says that the member is encrypted
    path.write_bytes(content)
    data = FFHQ(str(path))
    with pytest.raises(ValueError, match=r"cannot read image .*password required"):
        data.images(data.ids)


def _tar(path: Path, **files: bytes) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name.replace("_", "."))
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("label", ["1.7", "true", "null", '"a"', "[1]", "1e400"])
def test_labels_of_shards_are_whole_numbers(label: str, encode: Encode, tmp_path: Path) -> None:
    data = ImageNet(
        str(_tar(tmp_path / "a.tar", a_jpg=encode(0), a_json=f'{{"label": {label}}}'.encode())),
        size=8,
    )
    with pytest.raises(ValueError, match=r"a\.jpg' has the label .*, not a whole number"):
        data.labels(data.ids)
    data = ImageNet(
        str(_tar(tmp_path / "b.tar", a_jpg=encode(0), a_json=b'{"label": "12"}')), size=8
    )
    labels = data.labels(data.ids)
    assert labels is not None and labels.tolist() == [12]


def test_deep_json_in_a_shard(encode: Encode, tmp_path: Path) -> None:
    data = ImageNet(str(_tar(tmp_path / "a.tar", a_jpg=encode(0), a_json=b"[" * 100_000)), size=8)
    with pytest.raises(ValueError, match="has no label"):
        data.labels(data.ids)


def test_a_shard_member_that_claims_gigabytes(encode: Encode, tmp_path: Path) -> None:
    """A sparse shard, whose header says 6 GiB."""
    with (tmp_path / "a.tar").open("wb") as file:
        info = tarfile.TarInfo("a.jpg")
        info.size = 6 * GIB
        file.write(info.tobuf(tarfile.GNU_FORMAT))
        file.truncate(6 * GIB + 10_240)
    data = ImageNet(str(tmp_path / "a.tar"), size=8)
    with (
        little_memory(),
        pytest.raises(ValueError, match=r"a\.jpg': it takes 6\.0 GiB"),
    ):
        data.images(data.ids)


def test_a_loose_file_of_gigabytes(tmp_path: Path) -> None:
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(6 * GIB)
    data = Folder(str(tmp_path))
    with (
        little_memory(),
        pytest.raises(ValueError, match=r"a\.png': it takes 6\.0 GiB"),
    ):
        data.images(data.ids)


def test_parquet_beyond_the_memory_or_the_file(
    encode: Encode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = encode(0, form="PNG", size=(64, 64))
    rows = [{"image": {"bytes": content, "path": f"{i}.png"}, "label": True} for i in range(2)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    data = ImageNet(str(tmp_path / "a.parquet"))
    with pytest.raises(ValueError, match="has the label True, not a whole number"):
        data.labels(data.ids)
    monkeypatch.setattr("posterior_bench.datasets.parquet.available_memory", lambda: 1000)
    with pytest.raises(
        ValueError, match=r"its group of rows takes 0\.0 GiB of memory, 0\.0 are free"
    ):
        data.images(data.ids)
    none = pa.array([None] * 20_000, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    pq.write_table(pa.table({"image": none}), tmp_path / "b.parquet")
    with pytest.raises(ValueError, match=r"b\.parquet claims 20000 rows in \d+ bytes"):
        ImageNet(str(tmp_path / "b.parquet"))


def test_a_gzip_bomb_for_fashion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more is unpacked than the file of that name holds."""
    monkeypatch.setattr(fashion, "_LARGEST", 2**16)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(2**23)))
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(b"")
    data = Fashion(split="tune", root=str(tmp_path))
    with little_memory(2**21), pytest.raises(ValueError, match="its sha256 differs"):
        data.images(data.ids[:1])


# -- masks -----------------------------------------------------------------------------------------


def _mask(path: Path) -> None:
    Files(str(path)).for_image("a", 0).generate(np.random.Generator(np.random.PCG64(0)), 8, 8)


def test_masks_that_claim_more_than_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.npy").write_bytes(header((2**40, 8, 8), bool) + bytes(64))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("masks.npy", header((2**40, 8, 8), bool) + bytes(64))
    for name in ("a.npy", "a.npz"):
        with (
            little_memory(),
            pytest.raises(ValueError, match=rf"cannot read '.*{name}': .*claims {2**46} bytes"),
        ):
            _mask(tmp_path / name)
    np.savez_compressed(tmp_path / "b.npz", masks=np.eye(8, dtype=bool)[None])
    _mask(tmp_path / "b.npz")
    monkeypatch.setattr(sources, "_LARGEST", 100)
    os.utime(tmp_path / "b.npz", (0, 0))  # else it is remembered
    with pytest.raises(
        ValueError, match=r"cannot read '.*b\.npz': 'masks\.npy' unpacks to 0\.0 GiB, and up to"
    ):
        _mask(tmp_path / "b.npz")


def test_packed_masks_with_a_shape_of_fractions(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", m=np.zeros(24, np.uint8), shape=np.array([1.7, 192.2]))
    with pytest.raises(
        ValueError, match="its array 'shape' holds float64 values; give a list of whole numbers"
    ):
        _mask(tmp_path / "a.npz")
