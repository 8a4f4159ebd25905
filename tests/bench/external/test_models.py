"""Folders of diffusers as models: converted once, kept by their content, and never half done."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.bench.harness import planned

from posterior_bench.bench.config.overrides import check
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.external import model_cache
from posterior_bench.bench.external.model_cache import cache_folder
from posterior_bench.bench.external.models import local_model
from posterior_bench.priors.fingerprint import fingerprint
from posterior_bench.priors.load import load

WEIGHTS = Path("unet") / "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pixel DDPM of 3 x 8 x 8 as the library itself saves it."""
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DModel(
            sample_size=8,
            block_out_channels=[8],
            layers_per_block=1,
            down_block_types=["DownBlock2D"],
            up_block_types=["UpBlock2D"],
            norm_num_groups=4,
        )
    folder = tmp_path_factory.mktemp("saved") / "pipeline"
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(folder)
    return folder


@pytest.fixture
def model(saved: Path, tmp_path: Path) -> Path:
    """A copy of it to change."""
    return Path(shutil.copytree(saved, tmp_path / "my model"))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "posterior-bench" / "models"


@pytest.fixture
def conversions(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that were really converted."""
    done: list[Path] = []
    convert = model_cache._convert
    monkeypatch.setattr(
        model_cache,
        "_convert",
        lambda folder, target: (done.append(folder), convert(folder, target)),
    )
    return done


def entries(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir()) if cache.exists() else []


def test_a_pipeline_is_converted_once_and_said_in_one_line(
    model: Path, cache: Path, conversions: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = local_model(model)
    said = capsys.readouterr().err
    assert (
        said.startswith(f"bench: converted {model} into {folder} (hash {folder.name[:8]}, ")
        and said.count("\n") == 1
    )
    assert [
        local_model(model),
        local_model(str(model)),
        local_model(model / "model_index.json"),
        local_model(model / "unet"),
    ] == [folder] * 4
    assert (conversions, capsys.readouterr().err, entries(cache)) == ([model], "", [folder.name])
    state = load(folder).net.state_dict()
    assert all(
        torch.equal(state[f"unet.{name}"], value)
        for name, value in load_file(model / WEIGHTS).items()
    )
    assert (
        local_model(folder) == local_model(folder / "prior.json") == folder
        and len(conversions) == 1
    )


def test_another_content_is_another_prior_and_another_place_is_not(
    model: Path, cache: Path, tmp_path: Path, conversions: list[Path]
) -> None:
    first = local_model(model, quiet=True)
    moved = Path(shutil.copytree(model, tmp_path / "elsewhere" / "other name"))
    assert (
        local_model(moved, quiet=True) == first
        and "my model" not in (first / "prior.json").read_text()
    )
    (model / "unet" / ".DS_Store").write_bytes(b"x")
    (model / "picture.png").write_bytes(b"x")
    assert local_model(model, quiet=True) == first and len(conversions) == 1
    state = load_file(model / WEIGHTS)
    save_file({**state, "conv_in.bias": state["conv_in.bias"] + 1}, model / WEIGHTS)
    second = local_model(model, quiet=True)
    assert second != first and len(conversions) == 2
    assert torch.equal(
        load(second).net.state_dict()["unet.conv_in.bias"], state["conv_in.bias"] + 1
    )
    shutil.rmtree(cache)
    before = fingerprint(second) if second.exists() else ""
    assert not before and fingerprint(local_model(moved, quiet=True)) == fingerprint(first)


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), MemoryError(), UserError("refused")])
def test_a_conversion_that_is_cut_off_leaves_nothing(
    stop: BaseException, model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(folder: Path, target: Path) -> None:
        (target / "net.safetensors").write_bytes(b"half")
        raise stop

    with monkeypatch.context() as patch:
        patch.setattr(model_cache, "_convert", cut)
        with pytest.raises(type(stop)):
            local_model(model)
    assert entries(cache) == []
    assert entries(cache) == [] and load(local_model(model, quiet=True)).image_shape == (3, 8, 8)


def test_what_a_killed_process_left_goes_later(model: Path, cache: Path) -> None:
    host = model_cache.socket.gethostname()
    old, young, alive, other = (
        cache / name
        for name in (
            f".k.{host}.99999999.aa",
            f".k.{host}.99999999.bb",
            f".k.{host}.{os.getpid()}.cc",
            ".k.x.99999999.dd",
        )
    )
    for part in (old, young, alive, other):
        part.mkdir(parents=True)
        if part != young:
            os.utime(part, (0, 0))
    place = local_model(model, quiet=True)
    assert entries(cache) == sorted(path.name for path in (young, alive, other, place))


def test_a_damaged_conversion_is_made_again(
    model: Path, cache: Path, conversions: list[Path]
) -> None:
    place = local_model(model, quiet=True)
    (place / "net.safetensors").write_bytes(b"0" * 100)
    assert local_model(model, quiet=True) == place and load(place).image_shape == (3, 8, 8)
    (place / "prior.json").unlink()
    assert local_model(model, quiet=True) == place and load(place).image_shape == (3, 8, 8)
    assert len(conversions) == 3 and entries(cache) == [place.name]


def test_of_two_processes_at_once_one_is_kept(
    model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one ends while this one still writes."""
    convert, others = model_cache._convert, list[Path]()

    def meanwhile(folder: Path, target: Path) -> None:
        if not others:
            others.append(folder)
            others[0] = local_model(folder, quiet=True)
        convert(folder, target)

    monkeypatch.setattr(model_cache, "_convert", meanwhile)
    place = local_model(model, quiet=True)
    assert (
        others == [place]
        and entries(cache) == [place.name]
        and load(place).image_shape == (3, 8, 8)
    )


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as refused:
        local_model(path)
    return str(refused.value)


def test_what_is_no_model_is_one_line_that_says_what_one_is(
    tmp_path: Path, saved: Path, model: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "model.ckpt").write_bytes(b"x")
    assert "does not exist; give a folder with prior.json, or a folder of diffusers" in refusal(
        tmp_path / "none"
    )
    assert "(it holds nothing)" in refusal(tmp_path / "empty")
    assert f"convert {tmp_path / 'model.ckpt'} --as edm|adm|compvis --to DIR" in refusal(
        tmp_path / "model.ckpt"
    )
    assert "cannot be read: File name too long" in refusal(tmp_path / ("x" * 300))
    assert "does not exist" in refusal(Path("a\0b"))
    (model / WEIGHTS).write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    )
    assert "is a git-lfs pointer" in refusal(model)
    shutil.copytree(saved / "unet", tmp_path / "bare")
    assert "no scheduler/scheduler_config.json" in refusal(tmp_path / "bare")


def test_a_cache_that_cannot_be_written_is_named_with_the_way_out(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    error = refusal(model)
    assert (
        "cannot be written to /proc/nowhere/posterior-bench/models" in error
        and "set XDG_CACHE_HOME" in error
    )
    assert "--as diffusers --to DIR" in error


def test_a_snapshot_of_the_hub_is_found(
    saved: Path, tmp_path: Path, conversions: list[Path]
) -> None:
    """Its files are links into another folder."""
    snapshot = tmp_path / "models--a--b" / "snapshots" / "0123"
    for file in (path for path in saved.rglob("*") if path.is_file()):
        (snapshot / file.relative_to(saved)).parent.mkdir(parents=True, exist_ok=True)
        (snapshot / file.relative_to(saved)).symlink_to(file)
    assert (
        local_model(tmp_path / "models--a--b", quiet=True) == local_model(saved, quiet=True)
        and len(conversions) == 1
    )


def test_the_cache_is_where_the_desktop_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for unset in ("", "relative"):  # as the XDG base directory specification wants
        monkeypatch.setenv("XDG_CACHE_HOME", unset)
        assert cache_folder() == tmp_path / ".cache" / "posterior-bench" / "models"


@pytest.fixture
def photographs(tmp_path: Path) -> Iterator[Path]:
    from PIL import Image

    (tmp_path / "photos").mkdir()
    Image.new("RGB", (20, 10), "red").save(tmp_path / "photos" / "a.png")
    yield tmp_path / "photos"


def test_a_cell_has_no_trace_of_where_the_model_lies(
    model: Path, photographs: Path, tmp_path: Path, conversions: list[Path]
) -> None:
    """Named either way and from two places it is one cell, and one conversion."""
    moved = Path(shutil.copytree(model, tmp_path / "moved"))
    common = [
        "data=folder",
        f"data.root={photographs}",
        "data.images=1",
        "data.size=8",
        "solver=dps",
        "solver.steps=2",
    ]
    common += ["metrics=[psnr]", "draws=1", f"out={tmp_path / 'study'}", "quiet=true"]
    ways = f"prior={model}", f"prior.path={model}", f"prior={moved}"
    cells = [planned(check([*common, way])).cell for way in ways]
    assert len({cell.name for cell in cells}) == 1 and len(conversions) == 1
    assert all(
        str(cell.identity["prior"]).startswith("DDPMPipeline fingerprint=") for cell in cells
    )
    assert not any(
        "moved" in str(cell.identity) or "my model" in str(cell.config) for cell in cells
    )
