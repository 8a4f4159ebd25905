"""Precision and its neighbours in a run: recorded in the rows, part of a cell's name, refused in
one line."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from tests.bench.harness import TINY, planned, rows, run

from posterior_bench.bench.__main__ import main
from posterior_bench.bench.engine.cache import _KEPT
from posterior_bench.priors import compiled
from posterior_bench.priors.base import Prior
from posterior_bench.priors.load import save
from posterior_bench.priors.low_precision import tf32
from posterior_bench.priors.nets import UNet2D
from posterior_bench.priors.process import VE

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
        "precision=bf16+tf32",
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
        ("precision=fp16", "precision=fp16: valid are fp32, tf32, bf16, bf16+tf32"),
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


@pytest.mark.slow
def test_compiled_rows_are_the_same_whatever_ran_before(tmp_path, monkeypatch) -> None:
    """VIPaint with guidance has five forms of calls for each batch, and plain ``torch.compile``
    stops compiling at eight. The compiler of this test makes every output a tenth larger."""
    graphs: list[object] = []

    def larger(graph, inputs):
        graphs.append(graph)
        return lambda *values: tuple(1.1 * out for out in graph(*values))

    monkeypatch.setattr(compiled, "BACKEND", larger)

    unet = {"sample_size": 28, "in_channels": 1, "out_channels": 1, "add_attention": False}
    unet |= {"block_out_channels": [8, 8], "norm_num_groups": 4, "layers_per_block": 1}
    unet |= {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = UNet2D({**unet, "num_class_embeds": 11})
    prior = Prior(VE(), net, (1, 28, 28), num_classes=10, null_label=10)
    folder = save(tmp_path / "tiny", prior, TINY)

    def stored(out: str, batch: int, *more: str) -> pd.DataFrame:
        words = ["solver=vipaint2", "solver.iterations=2", "solver.refine_steps=2", *SMALL[1:]]
        words += ["solver.guidance_sample=2", f"prior.path={folder}", f"batch={batch}"]
        plan = run([*words, f"data.images={batch}", "threads=1", f"out={tmp_path / out}", *more])
        return rows(plan.plan)

    counts, found = [], {}
    for batch in (4, 2, 6, 8):
        before = len(graphs)
        found[batch] = stored("all", batch, "compile=true")
        counts.append(len(graphs) - before)
    assert min(counts) > 7  # batch 2 with guidance has the rows of batch 4 without
    _KEPT.clear()
    alone = stored("alone", 8, "compile=true")
    pd.testing.assert_frame_equal(alone, found[8], check_exact=True)
    assert set(alone["precision"]) == {"float32 compile=blocks"}
    plain = stored("plain", 8)
    assert (alone["psnr"] - plain["psnr"]).abs().min() > 1e-3
