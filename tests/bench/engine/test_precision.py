"""Precision and its neighbours in a run: recorded in the rows, part of a cell's name, refused in
one line."""

from __future__ import annotations

import pytest
import torch
from tests.bench.harness import planned, run

from posterior_bench.bench.__main__ import main
from posterior_bench.bench.engine.device import tf32

SMALL = [
    "solver.steps=2",
    "data.images=2",
    "draws=1",
    "batch=2",
    "metrics=[psnr]",
    "quiet=true",
    "sheet=false",
]


def cell(*more: str) -> list[str]:
    return ["solver=dps", *SMALL, "threads=1", *more]


def test_defaults_have_no_part_in_a_cells_name(tmp_path) -> None:
    out = f"out={tmp_path}"
    plain = planned(cell(out))
    assert (
        planned(cell(out, "precision=fp32", "checkpointing=none", "compile=false")).cell.name
        == plain.cell.name
    )
    others = [
        "precision=bf16",
        "precision=tf32",
        "channels_last=true",
        "compile=true",
        "checkpointing=call",
    ]
    names = {planned(cell(out, other)).cell.name for other in others}
    assert len(names) == len(others) and plain.cell.name not in names


def test_rows_say_how_they_were_made(tmp_path) -> None:
    plain = run(cell(f"out={tmp_path}")).plan
    low = run(cell(f"out={tmp_path}", "precision=bf16", "checkpointing=call")).plan
    again = run(cell(f"out={tmp_path / 'again'}")).plan  # the shared prior is itself again
    rows, other = plain.store.read(), low.store.read()
    assert set(rows["precision"]) == {"float32"} and set(other["precision"]) == {
        "bf16 checkpointing=call"
    }
    assert set(rows["status"]) == set(other["status"]) == {"ok"}
    assert low.cell.identity["variant"].endswith("precision=bf16 checkpointing=call")
    assert (rows["psnr"] - other["psnr"]).abs().max() > 0
    assert list(rows["psnr"]) == list(again.store.read()["psnr"])
    assert list(rows["nfe"]) == list(other["nfe"]) and list(rows["nge"]) == list(other["nge"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("precision=fp16", "precision=fp16: valid are fp32, tf32, bf16"),
        ("checkpointing=full", "checkpointing=full: valid are none, call"),
        ("compile=1", "compile=1: compile takes true or false"),
    ],
)
def test_a_wrong_value_is_one_line(override, message, capsys, tmp_path) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["plan", *cell(f"out={tmp_path}", override)])
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and message in line


def test_closed_form_priors_have_no_network_to_run_so(command, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["plan", *command("dps", "precision=bf16")])
    assert stop.value.code == 2 and "runs no network" in capsys.readouterr().err


def test_tf32_ends_with_the_solver() -> None:
    backends = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    with pytest.raises(RuntimeError), tf32(True):
        assert all(backend.allow_tf32 for backend in backends)
        raise RuntimeError
    assert [backend.allow_tf32 for backend in backends] == before
