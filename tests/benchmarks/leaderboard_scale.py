"""Measure how long the tables of a study take, and how much memory.

    python tests/benchmarks/leaderboard_scale.py [ROWS ...]

A study of 20 solvers on 5 masks with 10 draws an image and random scores is written, merged as by
``bench compact`` (``--loose``: a file per chunk instead), and its tables are built by a process of
their own. Prints what was measured; asserts nothing. Ten million rows should take less than 15 s
and 4 GiB; making them takes minutes, and 5 GB of disk.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # for a script that is run in a checkout, before its imports

from posterior_bench.bench.analysis import leaderboard  # noqa: E402
from posterior_bench.bench.store import schema, shards, study_files  # noqa: E402
from posterior_bench.bench.store.compaction import PACK_CHUNKS  # noqa: E402

SOLVERS, MASKS, DRAWS = 20, 5, 10
METRICS = {
    "psnr": {"title": "PSNR", "direction": "up", "unit": "dB"},
    "ssim": {"title": "SSIM", "direction": "up", "unit": ""},
    "lpips_vgg": {"title": "LPIPS", "direction": "down", "unit": ""},
    "stlpips": {"title": "ST-LPIPS", "direction": "down", "unit": ""},
    "consistency": {"title": "consistency", "direction": "down", "unit": ""},
}
TEXTS = {
    "status": "ok",
    "message": "",
    "device": "cpu",
    "build": "2.11.0",
    "precision": "float32",
    "commit": "0" * 40,
}
PNG_BYTES = 400


def make_study(study: Path, rows: int, chunk: int, loose: bool) -> int:
    """Write a study of about so many rows, ``chunk`` images in a chunk; returns how many it has."""
    images = max(1, rows // (SOLVERS * MASKS * DRAWS))
    for cell in range(SOLVERS * MASKS):
        make_cell(study, cell, images, chunk, loose)
    return SOLVERS * MASKS * images * DRAWS


def make_cell(study: Path, number: int, images: int, chunk: int, loose: bool) -> None:
    """A cell with random scores and random bytes for pictures."""
    name, (solver, mask) = f"{number:016x}", divmod(number, MASKS)
    ids = [f"{i:05d}" for i in range(images)]
    chunks = {f"{i // chunk:05d}-{'0' * 16}": ids[i : i + chunk] for i in range(0, images, chunk)}
    identity = dict(
        solver=f"solver{solver}",
        data="data",
        mask=f"mask{mask}",
        operator="inpainting",
        prior="prior",
    )
    (folder := study / "cells" / name / "rows").mkdir(parents=True)
    config = {
        "cell": name,
        "identity": {**identity, "seed": 0, "images": images, "draws": DRAWS, "variant": ""},
        "chunks": chunks,
        "metrics": METRICS,
        "provenance": {"commit": "0" * 40, "dirty": False},
        "config": {},
    }
    (folder.parent / "config.yaml").write_text(study_files.plan_text(config))
    table, size = cell_rows(name, ids, number), chunk * DRAWS
    parts = {label: table.slice(i * size, size) for i, label in enumerate(chunks)}
    width = 1 if loose else PACK_CHUNKS
    for labels in (list(parts)[i : i + width] for i in range(0, len(parts), width)):
        file = labels[0] if loose else f"{shards.PACK}{labels[0]}"
        (folder / f"{file}.parquet").write_bytes(
            shards.encode_pack(file, {label: parts[label] for label in labels})
        )


def cell_rows(cell: str, ids: list[str], seed: int) -> pa.Table:
    """All rows of a cell, with the columns in their order."""
    rng, count = np.random.default_rng(seed), len(ids) * DRAWS
    pictures = pa.py_buffer(rng.bytes(count * PNG_BYTES))
    offsets = pa.py_buffer(np.arange(0, (count + 1) * PNG_BYTES, PNG_BYTES, dtype=np.int32))
    columns = {
        "cell": pa.repeat(cell, count),
        "image_id": pa.array(np.repeat(ids, DRAWS)),
        "draw": pa.array(np.tile(np.arange(DRAWS), len(ids))),
        "png": pa.Array.from_buffers(pa.binary(), count, [None, offsets, pictures]),
        **{name: pa.repeat(text, count) for name, text in TEXTS.items()},
        **{
            name: pa.array(rng.normal(size=count) + 0.01 * (seed // MASKS))
            for name in sorted(METRICS)
        },
    }
    for field in schema.FIXED:
        if field.name not in columns:
            columns[field.name] = pa.repeat(pa.scalar(1, field.type), count)
    return pa.table({name: columns[name] for name in [*schema.FIXED.names, *sorted(METRICS)]})


def measure(study: Path) -> None:
    """Build the tables of a study once, and say what it took."""
    start, used = time.perf_counter(), time.process_time()
    frame = leaderboard.write(study)
    seconds, processor = time.perf_counter() - start, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{len(frame)} lines in {seconds:.1f} s ({processor:.1f} s of processors), at most "
        f"{peak:.2f} GiB",
        flush=True,
    )


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("rows", type=int, nargs="*", default=[100_000, 1_000_000])
    options.add_argument("--chunk", type=int, default=10, help="images in a chunk")
    options.add_argument("--loose", action="store_true", help="a file per chunk, as before compact")
    options.add_argument(
        "--folder", type=Path, help="where the study is written (a temporary folder)"
    )
    options.add_argument(
        "--measure", type=Path, help="measure a study that is there, and nothing else"
    )
    given = options.parse_args()
    if given.measure:
        measure(given.measure)
        return
    for rows in given.rows:
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            count = make_study(Path(folder), rows, given.chunk, given.loose)
            files = len(list(Path(folder).glob("cells/*/rows/*.parquet")))
            print(f"{count} rows in {files} files:", end=" ", flush=True)
            subprocess.run([sys.executable, __file__, "--measure", folder], check=True)


if __name__ == "__main__":
    main()
