"""Merged shards: nothing is lost or counted twice, wherever the merging stops; resume, retry and
scoring go on."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from omegaconf import OmegaConf
from tests.bench.harness import planned, rows, run
from tests.bench.store.test_row_store import row

from posterior_bench.bench.__main__ import main
from posterior_bench.bench.cli import study_status as status
from posterior_bench.bench.config.compose import compose
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.engine.score import score
from posterior_bench.bench.store import atomic, row_store, shards
from posterior_bench.bench.store import compaction as compacting
from posterior_bench.bench.store.compaction import compact
from posterior_bench.bench.store.copies import DifferentCopies
from posterior_bench.bench.store.row_store import RowStore


@pytest.fixture
def cell(tmp_path: Path) -> Path:
    """A cell of six chunks with two rows each, one of them failed."""
    folder = tmp_path / "cells" / "c"
    chunks = {f"0000{i}": [f"{i}a", f"{i}b"] for i in range(6)}
    for chunk, images in chunks.items():
        RowStore(folder).write(chunk, [row(image, psnr=float(chunk)) for image in images])
    RowStore(folder).write("00003", [row("3a"), row("3b", status="nan", message="boom")])
    identity = {**dict.fromkeys(("solver", "variant", "data", "mask", "operator"), "x"), "draws": 1}
    record = {"cell": "c", "identity": identity, "chunks": chunks, "metrics": {}}
    (folder / "config.yaml").write_text(yaml.safe_dump(record))
    return folder


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "rows").glob("*.parquet"))


def test_shards_become_one_file_and_rows_stay_bit_for_bit(cell: Path) -> None:
    before = RowStore(cell).read([*RowStore(cell).read().columns, "png"])
    (done,) = compact(cell.parents[1])
    assert (done.before, done.after, done.left) == (6, 2, "")
    # the chunk with a failed row stays by itself
    assert files(cell)[0] == "00003.parquet" and files(cell)[1].startswith("packed-")
    pd.testing.assert_frame_equal(RowStore(cell).read([*before.columns]), before, check_exact=True)
    assert RowStore(cell).done() == {f"0000{i}" for i in range(6)}
    assert all(RowStore(cell).has(f"0000{i}") for i in range(6)) and not RowStore(cell).has("00006")
    assert RowStore(cell).stored("00004")[1]["image_id"].tolist() == ["4a", "4b"]
    unchanged = {p: p.stat().st_mtime_ns for p in (cell / "rows").iterdir()}
    compact(cell.parents[1])
    assert {p: p.stat().st_mtime_ns for p in (cell / "rows").iterdir()} == unchanged


def test_packs_are_bounded(cell: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compact(cell.parents[1], pack_bytes=1)
    assert len(files(cell)) == 6
    monkeypatch.setattr(compacting, "PACK_CHUNKS", 2)
    compact(cell.parents[1])
    assert len(files(cell)) == 1 + 3


def test_small_chunks_share_row_groups_and_are_found_there(
    cell: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "_GROUP_ROWS", 3)
    chunks = [f"0000{i}" for i in (0, 1, 2, 4, 5)]
    before = {chunk: RowStore(cell).table(chunk) for chunk in chunks}
    compact(cell.parents[1])
    pack = pq.ParquetFile(cell / "rows" / files(cell)[1]).metadata
    assert [pack.row_group(i).num_rows for i in range(pack.num_row_groups)] == [4, 4, 2]
    assert all(RowStore(cell).table(chunk).equals(before[chunk]) for chunk in chunks)


def test_packs_with_a_row_group_for_each_chunk_are_read(cell: Path) -> None:
    """As they were written once: the chunks' names alone in the footer."""
    rows, chunks = RowStore(cell), ["00000", "00001", "00002"]
    expected, tables = rows.read(), [rows.table(chunk) for chunk in chunks]
    sink, names, schema = io.BytesIO(), json.dumps(chunks), tables[0].schema
    with pq.ParquetWriter(sink, schema, store_schema=False, write_page_checksum=True) as writer:
        for table in tables:
            writer.write_table(table, row_group_size=table.num_rows)
        seal = shards.seal_of("packed-0", 6, schema, names)
        writer.add_key_value_metadata({b"bench": seal, b"bench.chunks": names})
    (cell / "rows" / "packed-0.parquet").write_bytes(sink.getvalue())
    for chunk in chunks:
        (cell / "rows" / f"{chunk}.parquet").unlink()
    pd.testing.assert_frame_equal(rows.read(), expected, check_exact=True)
    assert [
        rows.table(chunk).equals(table) for chunk, table in zip(chunks, tables, strict=True)
    ] == [True] * 3
    compact(cell.parents[1])
    assert len(files(cell)) == 2
    pd.testing.assert_frame_equal(rows.read(), expected, check_exact=True)


class Killed(BaseException):
    """A process that ends here."""


def test_a_crash_at_any_point_loses_nothing(cell: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ends at the first, second, ... change of the folder, until one run gets through."""
    expected = RowStore(cell).read()
    points = 0
    while True:
        left = [points]

        def may_fail(call, left=left):
            def guarded(*arguments, **more):
                left[0] -= 1
                if left[0] < 0:
                    raise Killed
                return call(*arguments, **more)

            return guarded

        with monkeypatch.context() as patch:
            patch.setattr(atomic.os, "replace", may_fail(atomic.os.replace))
            patch.setattr(Path, "unlink", may_fail(Path.unlink))
            try:
                compact(cell.parents[1])
                break
            except Killed:
                points += 1
        pd.testing.assert_frame_equal(RowStore(cell).read(), expected, check_exact=True)
        assert len(RowStore(cell).done()) == 6
    assert points >= 1 and len(files(cell)) == 2
    pd.testing.assert_frame_equal(RowStore(cell).read(), expected, check_exact=True)


def test_copies_that_differ_are_reported_and_left(
    cell: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compact(cell.parents[1])
    RowStore(cell).write("00001", [row("1a", psnr=1.0), row("1b", psnr=9.0)])
    with pytest.raises(DifferentCopies, match="'1b' draw 0"):
        RowStore(cell).read()
    before = files(cell)
    with pytest.raises(SystemExit) as end:
        main(["compact", str(cell.parents[1])])
    assert end.value.code == 1 and "stored twice with different results" in capsys.readouterr().out
    assert files(cell) == before


def test_an_equal_copy_is_counted_once_and_cleared_up(cell: Path) -> None:
    expected = RowStore(cell).read()
    compact(cell.parents[1])
    RowStore(cell).write("00001", [row("1a", psnr=1.0, seconds_fit=7.0), row("1b", psnr=1.0)])
    frame = RowStore(cell).read()
    assert frame.drop(columns="seconds_fit").equals(expected.drop(columns="seconds_fit"))
    compact(cell.parents[1])
    assert len(files(cell)) == 2 and len(RowStore(cell).read()) == 12


def test_unfinished_cells_are_left_alone(cell: Path) -> None:
    (cell / "rows" / "00002.parquet").unlink()
    (done,) = compact(cell.parents[1])
    assert done.left == "not finished: 1 of 6 chunks missing" and len(files(cell)) == 5


def test_a_damaged_pack_is_set_aside_and_its_chunks_are_missing(cell: Path) -> None:
    compact(cell.parents[1])
    pack = cell / "rows" / files(cell)[1]
    pack.write_bytes(pack.read_bytes()[:-40])
    assert RowStore(cell).done() == {"00003"}
    assert (cell / "rows" / f".{pack.name}.corrupt").exists()


def test_a_pack_under_another_name_is_no_pack(cell: Path) -> None:
    compact(cell.parents[1])
    pack = cell / "rows" / files(cell)[1]
    pack.rename(pack.with_name("packed-0123456789abcdef.parquet"))
    assert RowStore(cell).done() == {"00003"}


def test_chunk_names_cannot_be_those_of_packs(cell: Path) -> None:
    with pytest.raises(ValueError, match="reserved for packs"):
        RowStore(cell).write("packed-x", [row("a")])


def test_a_reader_finds_what_is_merged_while_it_reads(
    cell: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, decode = RowStore(cell).read(), shards.decode_shard
    calls = iter(range(99))

    def late(path, wanted, group=None):
        if next(calls) == 0:
            with monkeypatch.context() as patch:
                patch.setattr(row_store, "decode_shard", decode)
                compact(cell.parents[1])
        return decode(path, wanted, group)

    monkeypatch.setattr(row_store, "decode_shard", late)
    pd.testing.assert_frame_equal(RowStore(cell).read(), expected, check_exact=True)


def test_status_counts_packed_rows(cell: Path) -> None:
    compact(cell.parents[1])
    (found,) = status.read(cell.parents[1])
    assert (found.rows, found.planned, found.failed, found.state) == (12, 12, 1, "done")


def test_a_compacted_study_is_finished_retried_and_scored(
    command, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = run(command()).plan
    whole, study = rows(plan), plan.folder.parents[1]
    compact(study)
    assert len(files(plan.folder)) == 1 and planned(command()).missing() == []
    assert run(command("blended", "retry=true")).good and len(files(plan.folder)) == 1
    nodes = OmegaConf.to_container(compose(["metrics=[ssim]"])[0]["metrics"], resolve=True)
    score(study, nodes)
    scored = rows(plan)
    assert scored[whole.columns].equals(whole) and scored["ssim"].notna().all()
    compact(study)
    assert len(files(plan.folder)) == 1
    assert rows(plan).equals(scored)


def test_a_folder_without_cells_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a study folder"):
        compact(tmp_path)
