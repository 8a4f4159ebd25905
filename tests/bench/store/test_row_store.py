from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from posterior_bench.bench.store import atomic, schema, shards
from posterior_bench.bench.store.atomic import write_atomic
from posterior_bench.bench.store.copies import DifferentCopies
from posterior_bench.bench.store.read_study import read_study
from posterior_bench.bench.store.row_store import RowStore
from posterior_bench.bench.store.shards import CorruptShard

ROOT = Path(__file__).parents[3]
COLUMNS = (
    "cell image_id draw status message seconds_fit seconds_sample nfe nge decode decode_grad "
    "encode encode_grad nfe_fit "
    "peak_mib png device build threads precision padded_batch commit truth code version "
    "task_version study_version cudnn driver"
)


@pytest.fixture
def tmp_path(tmp_path: Path) -> Path:
    """The folder of the cell ``c``: a store takes rows of the cell that its folder is named
    after."""
    (tmp_path / "c").mkdir()
    return tmp_path / "c"


def row(image: str, draw: int = 0, **changes: object) -> dict[str, object]:
    fixed = {
        "cell": "c",
        "image_id": image,
        "draw": draw,
        "status": "ok",
        "message": "",
        "nfe": 12.5,
        "png": b"\x89PNG",
    }
    return {**fixed, "threads": 2, "device": "cpu", "psnr": 20.0, **changes}


def test_rows_come_back_as_written(tmp_path: Path) -> None:
    written = RowStore(tmp_path)
    rows = [
        row("a", psnr=math.nan, aaa=1.0),
        row("b", psnr=math.inf, message="naïve | 'text'\n"),
        row("c", psnr=None),
    ]
    written.write("k", rows)
    frame = RowStore(tmp_path).read()
    assert " ".join(frame.columns) == COLUMNS.replace(" png", "") + " aaa psnr"
    assert frame["image_id"].tolist() == ["a", "b", "c"]
    assert frame["message"][1] == "naïve | 'text'\n"
    assert frame["psnr"][1] == math.inf
    assert frame["psnr"].isna().tolist() == [True, False, True]
    assert frame["aaa"].isna().tolist() == [False, True, True]
    assert frame["nfe"].tolist() == [12.5] * 3
    assert frame["threads"].tolist() == [2] * 3
    assert written.read(["png", "image_id"])["png"].tolist() == [b"\x89PNG"] * 3


def test_any_parquet_reader_sees_the_schema(tmp_path: Path) -> None:
    RowStore(tmp_path).write("k", [row("a", psnr=math.nan), row("b", psnr=None)])
    table = pq.read_table(tmp_path / "rows" / "k.parquet")
    assert " ".join(table.column_names) == COLUMNS + " psnr"
    types = {
        name: str(table.schema.field(name).type)
        for name in ("cell", "draw", "nfe", "png", "threads", "psnr")
    }
    assert types == dict(
        cell="string", draw="int64", nfe="double", png="binary", threads="int64", psnr="double"
    )
    # not computed is null, undefined is NaN
    assert table["psnr"].null_count == 1
    assert math.isnan(table["psnr"][0].as_py())


def test_order_does_not_depend_on_the_cut(tmp_path: Path) -> None:
    rows = [row(image, draw, psnr=float(i)) for i, image in enumerate("dbca") for draw in (1, 0)]
    one, many = RowStore(tmp_path / "one" / "c"), RowStore(tmp_path / "many" / "c")
    one.write("all", rows)
    for i, part in enumerate(rows):
        many.write(f"{9 - i}", [part])
    pd.testing.assert_frame_equal(one.read(), many.read())
    assert one.read()["image_id"].tolist() == list("aabbccdd")
    assert one.read()["draw"].tolist() == [0, 1] * 4


@pytest.mark.parametrize("seed", range(5))
def test_rows_are_sorted_as_by_pandas_and_come_once(tmp_path: Path, seed: int) -> None:
    dice, rows = random.Random(seed), RowStore(tmp_path)
    keys = [
        ("c", image, draw)
        for image in ("10", "9", "Z", "z", "ä", "\U0001f600", "é", "a/b", "")
        for draw in (2, -1, 11)
    ]
    stored = []
    for name in range(6):
        part = dice.sample(keys, 9)  # no two shards alike, and most rows in several
        stored += [
            row(image, draw, cell=cell, psnr=float(keys.index((cell, image, draw))))
            for cell, image, draw in part
        ]
        rows.write(str(name), stored[-9:])
    expected = (
        pd.DataFrame(stored).drop_duplicates(schema.KEY).sort_values(schema.KEY, ignore_index=True)
    )
    for column in (*schema.KEY, "psnr"):
        assert rows.read()[column].tolist() == expected[column].tolist()


def test_done_names_finished_chunks_and_a_rewrite_replaces(tmp_path: Path) -> None:
    rows = RowStore(tmp_path)
    assert rows.done() == set()
    assert not rows.has("x")
    rows.write("x", [row("a", status="oom")])
    rows.write("y.1", [row("b")])
    rows.write("x", [row("a")])
    assert rows.done() == {"x", "y.1"}
    assert rows.has("x")
    assert rows.read()["status"].tolist() == ["ok", "ok"]


@pytest.mark.parametrize(
    ("chunk", "rows", "message"),
    [
        ("../x", [row("a")], "cannot be a file name"),
        (".x", [row("a")], "cannot be a file name"),
        ("x", [], "no rows"),
        ("x", [row("a"), row("a")], "two rows of the same image and draw"),
        ("x", [{"cell": "c", "draw": 0, "status": "ok"}], "without image_id"),
    ],
)
def test_bad_chunks_are_refused(
    tmp_path: Path, chunk: str, rows: list[dict[str, object]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        RowStore(tmp_path).write(chunk, rows)
    assert list(tmp_path.rglob("*.parquet")) == []


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_shard_is_set_aside_and_redone(tmp_path: Path, part: float, caplog) -> None:
    rows = RowStore(tmp_path)
    rows.write("x", [row("a")])
    rows.write("y", [row("b")])
    path = tmp_path / "rows" / "x.parquet"
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    assert rows.done() == {"y"}
    assert "x.parquet is corrupt" in caplog.text
    assert rows.read()["image_id"].tolist() == ["b"]
    assert (tmp_path / "rows" / ".x.parquet.corrupt").exists(), "nothing is deleted"
    rows.write("x", [row("a")])
    assert rows.done() == {"x", "y"}


def test_a_renamed_shard_is_not_another_chunk(tmp_path: Path) -> None:
    rows = RowStore(tmp_path)
    rows.write("x", [row("a")])
    (tmp_path / "rows" / "x.parquet").rename(tmp_path / "rows" / "y.parquet")
    assert rows.done() == set()


def test_a_foreign_parquet_file_is_not_a_shard(tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    pq.write_table(pa.table({"image_id": ["a"]}), tmp_path / "rows" / "x.parquet")
    assert RowStore(tmp_path).done() == set()


def test_no_flipped_bit_goes_unnoticed(tmp_path: Path) -> None:
    rows = RowStore(tmp_path)
    rows.write("x", [row("a", psnr=21.5), row("b", psnr=22.5)])
    path = tmp_path / "rows" / "x.parquet"
    data, everything = path.read_bytes(), lambda column: True
    truth = shards.decode_shard(path, everything, "c").to_pylist()
    noticed = 0
    for position in range(0, len(data), 5):
        path.write_bytes(
            data[:position] + bytes([data[position] ^ 1 << position % 8]) + data[position + 1 :]
        )
        try:
            assert shards.decode_shard(path, everything, "c").to_pylist() == truth
        except CorruptShard:
            noticed += 1
    assert noticed > 0.5 * len(data) / 5, "the rest are bytes that nothing depends on"


def test_dot_files_are_ignored_and_stale_ones_swept(tmp_path: Path) -> None:
    rows = RowStore(tmp_path)
    rows.write("x", [row("a")])
    folder, host = tmp_path / "rows", atomic.host_name()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    names = {
        "dead": f".y.parquet.{host}.{dead.pid}.1.tmp",
        "alive": f".y.parquet.{host}.{os.getpid()}.1.tmp",
        "elsewhere": f".y.parquet.another-host.{dead.pid}.1.tmp",
        "old": f".y.parquet.another-host.{os.getpid()}.2.tmp",
    }
    for name in names.values():
        (folder / name).write_bytes(b"half a shard")
    os.utime(folder / names["old"], (time.time() - 7200,) * 2)
    assert rows.done() == {"x"}
    assert len(rows.read()) == 1
    assert {path.name for path in rows.sweep()} == {names["dead"], names["old"]}
    assert {path.name for path in folder.iterdir()} == {
        "x.parquet",
        names["alive"],
        names["elsewhere"],
    }


def test_equal_copies_come_once_and_may_differ_in_timings(tmp_path: Path) -> None:
    rows = RowStore(tmp_path)
    rows.write("x", [row("a", seconds_fit=1.0, peak_mib=10.0, psnr=math.nan), row("b")])
    rows.write("y", [row("a", seconds_fit=2.0, peak_mib=20.0, psnr=math.nan), row("c")])
    assert rows.read(["image_id", "psnr"])["image_id"].tolist() == ["a", "b", "c"]


@pytest.mark.parametrize(
    "change", [{"psnr": 20.000001}, {"status": "error"}, {"png": b"other"}, {"nfe": 13.0}]
)
def test_copies_that_differ_are_an_error(tmp_path: Path, change: dict[str, object]) -> None:
    rows = RowStore(tmp_path / "cells" / "c")
    rows.write("x", [row("a"), row("b")])
    rows.write("y", [row("a", **change), row("c")])
    # found whichever columns are asked for
    with pytest.raises(DifferentCopies, match="image 'a' draw 0 is stored twice"):
        rows.read(["status"])
    with pytest.raises(DifferentCopies):
        read_study(tmp_path)


def test_a_study_is_read_over_its_cells(tmp_path: Path) -> None:
    for cell, metrics in (("c2", {"psnr": 2.0}), ("c1", {"psnr": 1.0, "ssim": 0.5})):
        rows = [
            {"cell": cell, "image_id": image, "draw": 0, "status": "ok", **metrics}
            for image in "ba"
        ]
        RowStore(tmp_path / "cells" / cell).write("k", rows)
    frame = read_study(tmp_path)
    assert list(zip(frame["cell"], frame["image_id"], frame["psnr"], strict=True)) == [
        ("c1", "a", 1.0), ("c1", "b", 1.0), ("c2", "a", 2.0), ("c2", "b", 2.0)
    ]  # fmt: skip
    assert frame["ssim"].isna().tolist() == [False, False, True, True]
    assert "png" not in frame
    assert (
        " ".join(read_study(tmp_path, ["ssim", "status"]).columns)
        == "cell image_id draw status ssim"
    )
    with pytest.raises(ValueError, match="has the column lpisp"):
        read_study(tmp_path, ["lpisp"])


def test_pictures_of_some_images_are_read_without_those_of_others(tmp_path: Path) -> None:
    rows = RowStore(tmp_path)
    for chunk, images in (("x", "ab"), ("y", "cd"), ("z", "ef")):
        rows.write(chunk, [row(i, d, png=f"{i}{d}".encode() * 9) for i in images for d in (0, 1)])
    every = rows.read(["png", "psnr"])
    assert len(every) == 12
    wanted = every[every["image_id"].isin(["b", "e"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(rows.read(["png", "psnr"], images=["e", "b", "?"]), wanted)
    assert rows.read(["png"], images=[]).empty

    rows.pack(["x", "y"])
    for chunk in "xy":
        (tmp_path / "rows" / f"{chunk}.parquet").unlink()
    pd.testing.assert_frame_equal(rows.read(["png", "psnr"], images=["e", "b"]), wanted)

    # a damaged picture of another image is not noticed, because it is not read
    path = tmp_path / "rows" / "z.parquet"
    path.write_bytes(path.read_bytes().replace(b"e0" * 9, b"e0" * 8 + b"??"))
    assert rows.read(["png"], images=["a"])["png"].tolist() == [b"a0" * 9, b"a1" * 9]
    assert path.exists()
    assert rows.read(["png"], images=["f"]).empty
    assert not path.exists()


def test_nothing_stored_is_an_empty_table(tmp_path: Path) -> None:
    assert RowStore(tmp_path / "cells" / "c").read(["image_id", "psnr"]).empty
    assert " ".join(read_study(tmp_path, ["psnr"]).columns) == "cell image_id draw psnr"


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch) -> None:
    write_atomic(tmp_path / "f", b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(tmp_path / "f", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("f", b"old")]


WRITER = """
import sys
from posterior_bench.bench.store.row_store import RowStore
assert "torch" not in sys.modules
rows, number = RowStore(sys.argv[1]), int(sys.argv[2])
while True:
    images = [f"{number}-{i}" for i in range(4)]
    rows.write(f"{number:06d}", [
        {
            "cell": "c", "image_id": i, "draw": 0, "status": "ok",
            "png": i.encode() * 3000, "psnr": float(number),
        }
        for i in images
    ])
    print(number, flush=True)
    number += 1
"""


def test_killed_writers_lose_nothing_they_acknowledged(tmp_path: Path) -> None:
    """kill -9 at random moments: every acknowledged chunk is whole, nothing half-written is ever
    seen."""
    rows, moments, acknowledged = RowStore(tmp_path), random.Random(0), []
    for attempt in range(6):
        command = [sys.executable, "-c", WRITER, str(tmp_path), str(attempt * 1000)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as writer:
            acknowledged.append(int(writer.stdout.readline()))
            time.sleep(moments.uniform(0.0, 0.1))
            writer.send_signal(signal.SIGKILL)
            acknowledged += [int(line) for line in writer.stdout.read().split()]
    # one chunk per writer may be stored and not yet acknowledged
    done = {int(name) for name in rows.done()}
    assert set(acknowledged) <= done
    assert len(done - set(acknowledged)) <= 6
    frame = rows.read(["image_id", "png", "psnr"])
    assert len(frame) == 4 * len(done) == frame["image_id"].nunique()
    assert all(
        png == image.encode() * 3000
        for image, png in zip(frame["image_id"], frame["png"], strict=True)
    )
    assert not list((tmp_path / "rows").glob("*.corrupt"))
    rows.sweep()
    assert all(path.suffix == ".parquet" for path in (tmp_path / "rows").iterdir())


def test_concurrent_writers_of_one_chunk_leave_one_whole_shard(tmp_path: Path) -> None:
    code = WRITER.replace("number += 1", "pass").replace("while True", "for _ in range(20)")
    command = [sys.executable, "-c", code, str(tmp_path), "7"]
    writers = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [writer.wait() for writer in writers] == [0, 0]
    assert RowStore(tmp_path).done() == {"000007"}
    assert len(RowStore(tmp_path).read()) == 4


def test_numbers_keep_every_bit(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=50) * 10.0 ** np.arange(-25, 25)
    RowStore(tmp_path).write(
        "k", [row(f"{i:02d}", psnr=float(value)) for i, value in enumerate(values)]
    )
    assert RowStore(tmp_path).read()["psnr"].tolist() == values.tolist()
