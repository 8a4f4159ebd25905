"""CelebA-HQ and FFHQ, whose layouts count and name the same portraits differently."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from posterior_bench.datasets.celebahq import CelebAHQ
from posterior_bench.datasets.ffhq import FFHQ
from posterior_bench.datasets.stored import Stored

Encode = Callable[..., bytes]
NUMBERS = (0, 2, 10, 29_999)
IDS = ["00000", "00002", "00010", "29999"]


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _grey_levels(data: Stored) -> np.ndarray:
    """All images back in 0..255, (N, H, W, C)."""
    return ((data.images(data.ids) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()


def _decoded(files: list[bytes]) -> np.ndarray:
    return np.stack(
        [np.asarray(Image.open(io.BytesIO(content)).convert("RGB")) for content in files]
    )


@pytest.mark.parametrize(
    ("layout", "name"),
    [
        ("celebamask", lambda n: f"CelebA-HQ-img/{n}.jpg"),
        ("numbered", lambda n: f"{n}.jpg"),
        ("numbered", lambda n: f"{n:05d}.jpg"),
        ("data256", lambda n: f"data256x256/{n + 1:05d}.jpg"),
    ],
)
def test_celebahq(layout: str, name: Callable[[int], str], encode: Encode, tmp_path: Path) -> None:
    """LaMa's lists call 00001.jpg of data256x256 the image 0, as CelebAMask-HQ does."""
    files = [encode(n) for n in NUMBERS]
    for n, content in zip(NUMBERS, files, strict=True):
        _write(tmp_path / name(n), content)
    _write(
        tmp_path / "CelebAMask-HQ-mask-anno" / "0" / "00000_hair.png",
        b"a mask, no image of this set",
    )
    for data in (CelebAHQ(str(tmp_path), size=8), CelebAHQ(str(tmp_path), layout=layout, size=8)):
        assert list(data.ids) == IDS and data.labels(data.ids) is None
        assert np.array_equal(_grey_levels(data), _decoded(files))
        assert data.name == CelebAHQ(str(tmp_path), size=16).name


def test_celebahq_asks_where_the_count_is_not_clear(encode: Encode, tmp_path: Path) -> None:
    for n in (17, 23):
        _write(tmp_path / f"{n:05d}.jpg", encode(n))
    with pytest.raises(
        ValueError,
        match=r"may count from 0 or.*from 1; set data\.layout=numbered or data\.layout=data2",
    ):
        CelebAHQ(str(tmp_path))
    assert list(CelebAHQ(str(tmp_path), layout="numbered").ids) == ["00017", "00023"]
    assert list(CelebAHQ(str(tmp_path), layout="data256").ids) == ["00016", "00022"]
    _write(tmp_path / "00000.jpg", encode(0))
    assert list(CelebAHQ(str(tmp_path)).ids) == ["00000", "00017", "00023"]
    with pytest.raises(
        ValueError, match=r"00000\.jpg' is image 0, but the layout data256 counts from 1"
    ):
        CelebAHQ(str(tmp_path), layout="data256")


def test_lama_list_and_copaint_order(encode: Encode, tmp_path: Path) -> None:
    for n in range(120):
        _write(tmp_path / "CelebA-HQ-img" / f"{n}.jpg", encode(0))
    names = [f"{n}.jpg" for n in (7, 110, 11, 2, 19)]
    (tmp_path / "val_shuffled.flist").write_text("\n".join(names))
    data = CelebAHQ(str(tmp_path), id_list=str(tmp_path / "val_shuffled.flist"))
    assert list(data.ids) == ["00007", "00110", "00011", "00002", "00019"]
    copaint = CelebAHQ(str(tmp_path), protocol="copaint100")
    expected = sorted(f"{n}.jpg" for n in range(120))[:100]
    assert [f"{int(i)}.jpg" for i in copaint.ids] == expected


@pytest.mark.parametrize(
    "name",
    [
        lambda n: f"images1024x1024/{n // 1000 * 1000:05d}/{n:05d}.png",
        lambda n: f"thumbnails128x128/{n:05d}.png",
        lambda n: f"{n:05d}.png",
    ],
)
def test_ffhq_folders(name: Callable[[int], str], encode: Encode, tmp_path: Path) -> None:
    files = [encode(n, form="PNG") for n in NUMBERS]
    for n, content in zip(NUMBERS, files, strict=True):
        _write(tmp_path / name(n), content)
    data = FFHQ(str(tmp_path), size=8)
    assert list(data.ids) == IDS and np.array_equal(_grey_levels(data), _decoded(files))
    assert data.labels(data.ids) is None and data.num_classes == 0


@pytest.mark.parametrize("kind", [FFHQ, CelebAHQ])
def test_zip_and_parquet(kind: type[Stored], encode: Encode, tmp_path: Path) -> None:
    files = [encode(n, form="PNG") for n in range(3)]
    with zipfile.ZipFile(tmp_path / "faces-256x256.zip", "w") as file:
        for n, content in enumerate(files):
            file.writestr(f"00000/img{n:08d}.png", content)
        file.writestr("dataset.json", json.dumps({"labels": None}))
    rows = [{"image": {"bytes": content, "path": None}} for content in files]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train-00000-of-00001.parquet")
    for name in ("faces-256x256.zip", "train-00000-of-00001.parquet"):
        data = kind(str(tmp_path / name), size=8)
        assert list(data.ids) == ["00000", "00001", "00002"] and data.labels(data.ids) is None
        assert np.array_equal(_grey_levels(data), _decoded(files)) and data.check(data.ids) == []
