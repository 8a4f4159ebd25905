"""A latent consistency model from the folder of diffusers to rows: convert, doctor, run."""

from __future__ import annotations

import pandas as pd
import pytest
from PIL import Image
from tests.checkpoints import draw, prompts_file, write_lcm, write_sdxl_lcm

from posterior_bench.bench.__main__ import main


def command(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return int(stop.value.code or 0)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_a_latent_consistency_model_becomes_a_prior(family, tmp_path, capsys):
    tables = {"context": draw(2, 7, 6)}
    if family == "sd15":
        write_lcm(tmp_path / "model")
    else:
        write_sdxl_lcm(tmp_path / "model")
        tables["pooled"] = draw(2, 10, seed=1)
    prompts = prompts_file(tmp_path / "p.safetensors", ["a dog", ""], **tables)
    folder = tmp_path / "prior"
    assert command("convert", tmp_path / "model", "--prompts", prompts, "--to", folder) == 0
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (16, 16), (90, 20, 200)).save(tmp_path / "photos" / "a.png")
    cell = [
        f"prior={folder}",
        "data=folder",
        f"data.root={tmp_path / 'photos'}",
        *("data.size=16", "data.images=1", "mask=box", "metrics=[psnr]", "draws=2"),
        *("sheet=false", "report=false", f"out={tmp_path / 'runs'}"),
    ]
    capsys.readouterr()
    assert command("doctor", *cell, "solver=latino_pro", "prompt=a dog") == 0
    said = capsys.readouterr().out
    assert "hashes, tensor names and shapes are right" in said
    assert "LATINOPro fits prior, operator and data" in said
    assert command(*cell, "solver=latino", "prompt=a dog", "solver.preset=authors") == 0
    rounds = ("solver.rounds=2", "solver.preset=authors")
    assert command(*cell, "solver=latino_pro", "prompt=a dog", *rounds) == 0
    board = pd.read_csv(tmp_path / "runs" / "leaderboard.csv").set_index("solver")
    assert (board["failed"] == 0).all()
    # a draw has 8 calls; two rounds of four are shared by two draws, with three gradients each
    assert board["nfe"].to_dict() == {"latino": 8, "latino_pro": 8 + 2 * 4 / 2}
    assert board["nge"].to_dict() == {"latino": 0, "latino_pro": 2 * 3 / 2}
