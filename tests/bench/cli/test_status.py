"""``bench status``: what a folder says about a study that runs, has died, or is done."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from tests.bench.harness import verb

from posterior_bench.bench.cli.study_status import rate, read, summary
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.engine.heartbeat import STALLED_SECONDS, beating, beats
from posterior_bench.bench.store.row_store import RowStore


def cell(
    study: Path, name: str, chunks: int = 4, done: int = 0, solver: str = "dps", status: str = "ok"
) -> Path:
    """A planned cell of two images a chunk and three draws, with its first chunks stored a minute
    apart until now."""
    folder, now = study / "cells" / name, time.time()
    folder.mkdir(parents=True)
    plan = {f"{i:05d}": [f"{i}a", f"{i}b"] for i in range(chunks)}
    identity = {
        "solver": solver,
        "variant": "",
        "data": "fashion",
        "mask": "box",
        "operator": "inpainting",
        "draws": 3,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump({"identity": identity, "chunks": plan}))
    for i, (chunk, images) in enumerate(list(plan.items())[:done]):
        rows = [
            {
                "cell": name,
                "image_id": image,
                "draw": d,
                "status": status,
                "message": "" if status == "ok" else "boom",
            }
            for image in images
            for d in range(3)
        ]
        RowStore(folder).write(chunk, rows)
        written = now - 60 * (done - 1 - i)
        os.utime(folder / "rows" / f"{chunk}.parquet", (written, written))
    return folder


def sign(folder: Path, worker: str, silent: float) -> None:
    path = folder / "alive" / f"{worker}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"chunk": "00001", "since": time.time() - 600}))
    os.utime(path, (time.time() - silent, time.time() - silent))


def test_states_come_from_rows_and_signs_of_life(tmp_path):
    cell(tmp_path, "a", done=4, solver="a")
    sign(cell(tmp_path, "b", done=2, solver="b"), "node1.17", silent=20)
    sign(cell(tmp_path, "c", done=1, solver="c"), "node2.4", silent=STALLED_SECONDS + 20)
    cell(tmp_path, "d", solver="d")
    cells = read(tmp_path)
    assert [(c.title[0], c.state, c.rows, c.planned) for c in cells] == [
        ("a", "done", 24, 24),
        ("b", "running", 12, 24),
        ("c", "stalled", 6, 24),
        ("d", "waiting", 0, 24),
    ]


def test_rate_and_time_left_by_hand(tmp_path):
    """Four shards of six rows, a minute apart: eighteen rows in the three minutes after the
    first."""
    sign(cell(tmp_path, "a", chunks=6, done=4), "node1.17", silent=1)
    cells = read(tmp_path)
    assert rate(cells) == pytest.approx(18 / 180)
    text = summary(cells)
    assert (
        "24 of 36 rows, 0 failed" in text and "6 rows per minute" in text and "2 min left" in text
    )


def test_a_dead_study_says_how_to_go_on(tmp_path):
    sign(cell(tmp_path, "a", done=2), "node1.17", silent=1000)
    assert "nobody is working on it; give the command of the run again" in summary(read(tmp_path))


def test_failures_have_their_reason(tmp_path, capsys):
    cell(tmp_path, "a", done=2, status="nan")
    assert verb("status", tmp_path) == 1
    text = capsys.readouterr().out
    assert "12  nan: boom" in text and "12 of 24 rows, 12 failed" in text


def test_a_folder_without_cells_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not a study folder with planned cells"):
        read(tmp_path)


def test_a_worker_is_heard_while_it_works_and_gone_after(tmp_path):
    with beating(tmp_path, "00003"):
        (beat,) = beats(tmp_path)
        assert beat.chunk == "00003" and beat.fresh and beat.worker.endswith(f".{os.getpid()}")
    assert beats(tmp_path) == []


def test_a_killed_worker_leaves_its_sign(tmp_path):
    code = (
        "import sys, time\nfrom pathlib import Path\n"
        "from posterior_bench.bench.engine.heartbeat import beating\n"
        "with beating(Path(sys.argv[1]), '00003'):\n    print('up', flush=True)\n    time.sleep(60)"
    )
    worker = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert worker.stdout is not None and worker.stdout.readline() == b"up\n"
    worker.send_signal(signal.SIGKILL)
    worker.wait(timeout=60)
    worker.stdout.close()
    (beat,) = beats(tmp_path)
    old = time.time() - STALLED_SECONDS - 1
    os.utime(tmp_path / "alive" / f"{beat.worker}.json", (old, old))
    assert not beats(tmp_path)[0].fresh


def test_a_worker_that_is_interrupted_before_it_begins_leaves_no_sign(tmp_path, monkeypatch):
    def interrupted(thread):
        assert len(beats(tmp_path)) == 1
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt), beating(tmp_path, "00003"):
        pytest.fail("the block is not reached")
    assert beats(tmp_path) == []


def test_work_goes_on_where_no_sign_can_be_left(tmp_path):
    (tmp_path / "alive").write_text("a file where the folder would be")
    with beating(tmp_path, "00003"):
        pass
    assert beats(tmp_path) == []


def test_half_written_signs_are_passed_over(tmp_path):
    (tmp_path / "alive").mkdir()
    (tmp_path / "alive" / "node1.17.json").write_text('{"chunk": "000')
    assert beats(tmp_path) == []
