"""From published files to a leaderboard: every checkpoint format and real JPEG files, through every
verb."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from tests import checkpoints

from posterior_bench.bench.__main__ import main
from posterior_bench.bench.cli import app

SOLVERS = {
    "vipaint2": ["solver.iterations=2", "solver.refine_steps=2"],
    "dps": ["solver.steps=3"],
    "ddnm": ["solver.steps=3"],
    "psld": ["solver.steps=3"],
}
WNIDS = ("n01440764", "n01443537", "n01484850")  # the first three classes
MODES = ("RGB", "L", "CMYK")


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Validation images in torchvision's layout: colour, grey and CMYK JPEG files of unequal
    sides."""
    root = tmp_path_factory.mktemp("imagenet")
    rng = np.random.default_rng(0)
    for number, (wnid, mode) in enumerate(zip(WNIDS, MODES, strict=True), 1):
        (root / "val" / wnid).mkdir(parents=True)
        bands = len(Image.new(mode, (1, 1)).getbands())
        pixels = rng.integers(0, 256, (40, 52, bands), dtype=np.uint8).squeeze()
        file = root / "val" / wnid / f"ILSVRC2012_val_{number:08d}.JPEG"
        Image.fromarray(pixels, mode=mode).save(file, "JPEG")
    return root


# -- one small checkpoint of every family; each returns the arguments of convert -------------------

Written = tuple[Path, list[str]]


def _settings(folder: Path, content: dict) -> str:
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    return str(folder / "config.yaml")


def edm(folder: Path, golden: checkpoints.Golden) -> Written:
    weights = golden.weights("edm")
    name = next(name for name in weights if name.endswith("map_label.weight"))
    weights[name] = checkpoints.draw(len(weights[name]), 1000) / 32
    config = {**golden.config("edm"), "label_dim": 1000}
    return checkpoints.write_edm(folder / "edm.pkl", config, weights), ["--as", "edm"]


def adm(folder: Path, golden: checkpoints.Golden) -> Written:
    torch.save(golden.weights("adm"), folder / "model.pt")
    return folder / "model.pt", ["--as", "adm", "--config", _settings(folder, checkpoints.FLAGS)]


def pnpflow(folder: Path, golden: checkpoints.Golden) -> Written:
    torch.save(checkpoints.pnpflow_weights(), folder / "model_final.pt")
    settings = _settings(folder, checkpoints.PNPFLOW)
    return folder / "model_final.pt", ["--as", "pnpflow", "--config", settings]


def churches(folder: Path, golden: checkpoints.Golden) -> Written:
    content = checkpoints.ckpt(golden, "ldm_churches_like", "kl", scale_factor=torch.tensor(0.25))
    torch.save(content, folder / "model.ckpt")
    config = checkpoints.upstream_config(golden, "ldm_churches_like", "kl", scale_by_std=True)
    return folder / "model.ckpt", ["--as", "compvis", "--config", _settings(folder, config)]


def cin256(folder: Path, golden: checkpoints.Golden) -> Written:
    content = checkpoints.ckpt(
        golden, "ldm_cin_like", "vq", ema=False, classes=checkpoints.draw(1001, 24)
    )
    torch.save(content, folder / "model.ckpt")
    condition = {
        "target": "ldm.modules.ClassEmbedder",
        "params": {"n_classes": 1001, "embed_dim": 24},
    }
    config = checkpoints.upstream_config(golden, "ldm_cin_like", "vq", cond_stage_config=condition)
    return folder / "model.ckpt", ["--as", "compvis", "--config", _settings(folder, config)]


def ddpm(folder: Path, golden: checkpoints.Golden) -> Written:
    checkpoints.write_ddpm(folder).save_pretrained(folder / "unet")
    return folder, ["--as", "hub"]


def celebahq(folder: Path, golden: checkpoints.Golden) -> Written:
    from diffusers import VQModel

    checkpoints.write_ddpm(folder).save_pretrained(folder / "unet")
    checkpoints.made(VQModel, **checkpoints.AUTOENCODER, num_vq_embeddings=16).save_pretrained(
        folder / "vqvae"
    )
    return folder, ["--as", "hub"]


def dit(folder: Path, golden: checkpoints.Golden) -> Written:
    checkpoints.write_dit(folder)
    return folder, ["--as", "hub"]


def sd15(folder: Path, golden: checkpoints.Golden) -> Written:
    checkpoints.write_stable_diffusion(folder)
    table = checkpoints.draw(2, 5, 6)
    prompts = checkpoints.prompts_file(folder / "prompts.safetensors", ["a dog", ""], context=table)
    return folder, ["--as", "hub", "--prompts", str(prompts)]


def sd35(folder: Path, golden: checkpoints.Golden) -> Written:
    checkpoints.write_stable_diffusion_3(folder)
    return folder, _two_tables(folder)


def sdxl(folder: Path, golden: checkpoints.Golden) -> Written:
    checkpoints.write_stable_diffusion_xl(folder)
    return folder, _two_tables(folder)


def flux_dev(folder: Path, golden: checkpoints.Golden) -> Written:
    checkpoints.write_flux(folder)
    return folder, [*_two_tables(folder), "--size", "16"]


def _two_tables(folder: Path) -> list[str]:
    tables = {"context": checkpoints.draw(2, 5, 6), "pooled": checkpoints.draw(2, 10)}
    prompts = checkpoints.prompts_file(folder / "prompts.safetensors", ["a dog", ""], **tables)
    return ["--as", "hub", "--prompts", str(prompts)]


def _family(
    write: Callable[..., Written], prior: str, size: int, third: str, slow: bool = True
) -> object:
    return pytest.param(
        write, prior, size, third, id=write.__name__, marks=[pytest.mark.slow] if slow else []
    )


FAMILIES = [
    _family(edm, "imagenet64_edm", 16, "ddnm", slow=False),
    _family(cin256, "imagenet256", 16, "psld"),
    _family(sd35, "sd35", 16, "psld"),
    _family(adm, "imagenet256_adm", 16, "ddnm"),
    _family(pnpflow, "celeba128_flow", 16, "ddnm"),
    _family(churches, "lsun_church", 16, "psld"),
    _family(ddpm, "celebahq_ddpm", 8, "ddnm"),
    _family(celebahq, "celebahq", 16, "psld"),
    _family(dit, "dit256", 16, "psld"),
    _family(sd15, "sd15", 16, "psld"),
    _family(sdxl, "sdxl", 16, "psld"),
    _family(flux_dev, "flux_dev", 16, "psld"),
]


def verb(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    return int(stop.value.code or 0)


@pytest.mark.parametrize(("write", "prior", "size", "third"), FAMILIES)
def test_from_published_files_to_a_leaderboard(
    write: Callable[..., Written],
    prior: str,
    size: int,
    third: str,
    imagenet: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, kept, out = tmp_path / "source", tmp_path / "kept", tmp_path / "study"
    source.mkdir()
    checkpoint, options = write(source, checkpoints.Golden())
    common = [
        f"prior={prior}",
        f"prior.path={kept}",
        "data=imagenet256",
        f"data.root={imagenet}",
        f"data.size={size}",
    ]
    common += [
        "data.images=3",
        "draws=1",
        "batch=2",
        "threads=1",
        "metrics=[psnr,consistency]",
        "mask=rotated",
    ]
    common += ["quiet=true", "sheet=false", f"out={out}"]

    assert verb("doctor", "solver=dps", *common) == 2
    assert f"--to {kept}" in capsys.readouterr().out
    assert verb("convert", str(checkpoint), *options, "--to", str(kept)) == 0
    assert verb("doctor", "-m", f"solver=vipaint2,dps,{third}", *common) == 0
    assert "missing" not in capsys.readouterr().out
    for solver in ("vipaint2", "dps", third):
        monkeypatch.setattr(app, "OUTCOMES", [])
        monkeypatch.setattr("sys.argv", ["bench"])
        assert verb(f"solver={solver}", *SOLVERS[solver], *common) == 0

    board = pd.read_csv(out / "leaderboard.csv")
    assert set(board["solver"]) == {"vipaint2", "dps", third}
    assert list(board["failed"]) == [0, 0, 0] and list(board["images"]) == [3, 3, 3]
    assert board["psnr"].notna().all() and (board["nfe"] > 0).all()
    assert (board["decode"] > 0).all() == (third == "psld")
