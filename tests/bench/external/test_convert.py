"""``python -m bench convert``: exit codes, one-line errors, and what lies in the folder."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from posterior_bench.bench.__main__ import main
from posterior_bench.bench.cli.verbs import VERBS
from posterior_bench.bench.config.catalog import option, options, show
from posterior_bench.priors.load import load


class Touch:
    def __init__(self, flag: Path):
        self.flag = flag

    def __reduce__(self):
        return os.system, (f"touch {self.flag}",)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A pixel DDPM as the hub holds it."""
    from diffusers import DDPMScheduler, UNet2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DModel(
            sample_size=8,
            in_channels=3,
            out_channels=3,
            block_out_channels=[8],
            layers_per_block=1,
            down_block_types=["DownBlock2D"],
            up_block_types=["UpBlock2D"],
            norm_num_groups=4,
        )
    unet.save_pretrained(tmp_path / "ddpm" / "unet")
    DDPMScheduler().save_pretrained(tmp_path / "ddpm" / "scheduler")
    return tmp_path / "ddpm"


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return int(stop.value.code or 0)


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("bench: ") and error.count("\n") == 1
    return error


def test_a_folder_is_converted_and_says_where_it_comes_from(folder, tmp_path):
    assert (
        run("convert", folder, "--as", "hub", "--to", tmp_path / "out" / "ddpm", "--licence", "MIT")
        == 0
    )
    spec = json.loads((tmp_path / "out" / "ddpm" / "prior.json").read_text())
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    assert (
        spec["converted_from"][f"unet/{weights.name}"]
        == hashlib.sha256(weights.read_bytes()).hexdigest()
    )
    assert set(spec["converted_from"]) >= {"unet/config.json", "scheduler/scheduler_config.json"}
    assert (spec["name"], spec["licence"]) == ("ddpm", "MIT")
    assert load(tmp_path / "out" / "ddpm").image_shape == (3, 8, 8)


def test_the_disk_may_hold_half_precision(folder, tmp_path):
    assert run("convert", folder, "--as", "hub", "--to", tmp_path / "full", "--name", "a") == 0
    assert (
        run(
            "convert",
            folder,
            "--as",
            "hub",
            "--to",
            tmp_path / "half",
            "--name",
            "a",
            "--dtype",
            "fp16",
        )
        == 0
    )
    full, half = (load(tmp_path / name).net.state_dict() for name in ("full", "half"))
    assert all(torch.equal(half[name], value.half().float()) for name, value in full.items())


def test_a_wrong_command_line_is_one_line(capsys, folder, tmp_path):
    to = ("--to", tmp_path / "out")
    (tmp_path / "model.pt").write_bytes(b"x")
    assert "give --as edm, --as adm, --as compvis or --as pnpflow" in refusal(
        capsys, "convert", tmp_path / "model.pt", *to
    )
    assert "give --as edm" in refusal(capsys, "convert", tmp_path, *to)
    assert "does not exist" in refusal(capsys, "convert", tmp_path / "none", *to)
    assert "invalid choice: 'keras'" in refusal(capsys, "convert", folder, "--as", "keras", *to)
    assert "--layout is an option of --as adm, compvis and pnpflow alone" in refusal(
        capsys, "convert", folder, "--as", "hub", "--layout", "x", *to
    )
    assert "--controlnet is an option of --as hub alone" in refusal(
        capsys, "convert", folder, "--as", "edm", "--controlnet", "x", *to
    )
    assert "takes no ControlNet; leave --controlnet out" in refusal(
        capsys, "convert", folder, "--as", "hub", "--controlnet", "x", *to
    )
    assert "is not a file" in refusal(capsys, "convert", folder, "--as", "edm", *to)
    assert "is no folder" in refusal(capsys, "convert", tmp_path / "none", "--as", "hub", *to)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_there_is_kept(capsys, folder):
    assert "is there already" in refusal(capsys, "convert", folder, "--as", "hub", "--to", folder)


def test_a_hostile_file_is_one_line_and_nothing_happens(capsys, tmp_path):
    torch.save({"w": torch.ones(1), "x": Touch(tmp_path / "executed")}, tmp_path / "model.pt")
    for family, layout in (
        ("edm", ()),
        ("adm", ("--layout", "ffhq")),
        ("compvis", ("--layout", "cin256")),
        ("pnpflow", ("--layout", "celeba128")),
    ):
        arguments = (
            "convert",
            tmp_path / "model.pt",
            "--as",
            family,
            "--to",
            tmp_path / "out",
            *layout,
        )
        assert "nothing of it was executed" in refusal(capsys, *arguments)
    assert not (tmp_path / "executed").exists() and not (tmp_path / "out").exists()


def test_another_file_than_the_one_meant_is_refused(capsys, tmp_path):
    torch.save({"w": torch.ones(1)}, tmp_path / "model.pt")
    arguments = (
        "convert",
        tmp_path / "model.pt",
        "--as",
        "adm",
        "--layout",
        "ffhq",
        "--to",
        tmp_path / "out",
    )
    assert "has the sha256" in refusal(capsys, *arguments, "--sha256", "0" * 64)
    found = hashlib.sha256((tmp_path / "model.pt").read_bytes()).hexdigest()
    assert "lacks 'time_embed.0.weight'" in refusal(capsys, *arguments, "--sha256", found)


def test_a_configuration_may_be_given(capsys, tmp_path):
    torch.save({"w": torch.ones(1)}, tmp_path / "model.pt")
    (tmp_path / "flags.yaml").write_text("colour: 1\n")
    arguments = (
        "convert",
        tmp_path / "model.pt",
        "--as",
        "adm",
        "--to",
        tmp_path / "out",
        "--config",
    )
    assert "unknown flag colour" in refusal(capsys, *arguments, tmp_path / "flags.yaml")
    (tmp_path / "flags.yaml").write_text("- a: [")
    assert "cannot be read" in refusal(capsys, *arguments, tmp_path / "flags.yaml")


@pytest.mark.parametrize("family", [["--as", "diffusers"], []])
def test_the_library_may_be_named_or_seen_and_the_next_command_is_said(
    capsys, folder, tmp_path, family
):
    """The command that is printed is taken as it stands, but for the folder of photographs."""
    from PIL import Image

    assert run("convert", folder, *family, "--to", tmp_path / "my prior") == 0
    said = capsys.readouterr().out.splitlines()[-1]
    typed = f"'prior={tmp_path / 'my prior'}' data=folder data.root=PHOTOS solver=dps"
    assert said == f"next: python -m bench {typed}"
    assert json.loads((tmp_path / "my prior" / "prior.json").read_text())["source"].endswith(
        "--as hub`"
    )
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (20, 10)).save(tmp_path / "photos" / "a.png")
    arguments = shlex.split(said.removeprefix("next: python -m bench "))
    arguments = [
        f"data.root={tmp_path / 'photos'}" if a == "data.root=PHOTOS" else a for a in arguments
    ]
    assert run("doctor", *arguments, "data.images=1", "data.size=8", "metrics=[psnr]") == 0
    assert f"{tmp_path / 'my prior'}: hashes, tensor names and shapes" in capsys.readouterr().out


def test_the_next_command_uses_names_where_there_are_some(folder, tmp_path, monkeypatch):
    """A published prior in its own folder has a name; any other folder is written so that it is
    read as a path."""
    from posterior_bench.bench.external.conversion import next_command

    monkeypatch.chdir(tmp_path)
    for to, prior in (
        ("checkpoints/celebahq_ddpm", "celebahq_ddpm"),
        ("mine", "./mine"),
        ("a/b", "a/b"),
    ):
        assert run("convert", folder, "--to", to) == 0
        assert next_command(Path(to)).startswith(f"python -m bench prior={prior} data=folder ")
    edit = json.loads(Path("mine/prior.json").read_text())
    edit["net"]["class"] = "UNet2DInpainting"
    Path("mine/prior.json").write_text(json.dumps(edit))
    assert next_command(Path("mine")).endswith(" solver=conditional")


def test_pointers_of_git_lfs_are_called_so_before_their_hash_is(capsys, tmp_path):
    pointer = tmp_path / "model.pt"
    pointer.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    arguments = ("convert", pointer, "--as", "adm", "--to", tmp_path / "out", "--layout", "ffhq")
    assert "is a git-lfs pointer" in refusal(capsys, *arguments, "--sha256", "0" * 64)
    real = tmp_path / "real.pt"
    torch.save({"w": torch.ones(1)}, real)
    arguments = ("convert", real, "--as", "adm", "--to", tmp_path / "out", "--config", pointer)
    assert "is a git-lfs pointer" in refusal(capsys, *arguments)
    (tmp_path / "kept").mkdir()
    pointer.rename(tmp_path / "kept" / "prior.json")
    with pytest.raises(ValueError, match=r"prior\.json is a git-lfs pointer"):
        load(tmp_path / "kept")


def test_a_network_that_cannot_be_called_is_not_written(capsys, folder, tmp_path):
    """Seven channels of latents are no image of three: seen by the call at the end, and by no check
    of files."""
    from diffusers import VQModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vq = VQModel(
            block_out_channels=[8], norm_num_groups=4, latent_channels=7, num_vq_embeddings=4
        )
    vq.save_pretrained(folder / "vqvae")
    error = refusal(capsys, "convert", folder, "--as", "hub", "--to", tmp_path / "out")
    assert f"{folder}: the network cannot be called, so nothing is written: " in error
    assert not (tmp_path / "out").exists()


PUBLISHED = [
    name
    for name in options("prior")
    if str(option("prior", name).content.get("path")).startswith("check")
]


def test_the_priors_of_the_papers_are_listed():
    assert {
        "imagenet64_edm",
        "imagenet256",
        "lsun_church",
        "celebahq",
        "ffhq_adm",
        "sd15",
        "sd35",
    } <= {*PUBLISHED}
    assert {"sd2", "sd15_inpainting", "sd3_inpainting"} <= {*PUBLISHED}
    assert {"sdxl", "sdxl_inpainting", "sd3", "flux_dev", "flux_fill"} <= {*PUBLISHED}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_prior_says_how_to_convert_it(name, tmp_path, monkeypatch):
    content = option("prior", name).content
    assert content["path"] == f"checkpoints/{name}"
    command = option("prior", name).summary.split("`")[1].split()
    assert command[:2] == ["bench", "convert"] and " ".join(command) in show(f"prior={name}")
    from posterior_bench.bench.external.conversion import _OPTIONS, SYNONYMS

    given = SimpleNamespace(**VERBS["convert"].parser().read(command[2:]))
    given.family = SYNONYMS.get(given.family, given.family)
    assert str(given.target) == content["path"]
    assert all(
        getattr(given, key) is None or given.family in families
        for key, families in _OPTIONS.items()
    )
    if given.layout:
        from posterior_bench.priors.convert import adm, compvis, pnpflow

        modules = {"adm": adm, "compvis": compvis, "pnpflow": pnpflow}
        assert given.layout in modules[given.family].LAYOUTS
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        FileNotFoundError,
        match=f"python -m bench convert .*--to checkpoints/{name}` .*prior={name}`",
    ):
        load(content["path"])


def test_a_run_with_a_prior_that_is_not_there_is_refused_in_one_line(capsys, tmp_path):
    error = refusal(capsys, "plan", "solver=prior", "prior=lsun_church", f"out={tmp_path}")
    assert "python -m bench convert FILE --as FAMILY --to checkpoints/lsun_church" in error
