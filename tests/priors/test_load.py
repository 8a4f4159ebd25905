"""The files of a prior: what is written comes back, and nothing else is accepted."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from posterior_bench.priors.base import Prior
from posterior_bench.priors.fingerprint import ROOT, fingerprint, resolve, sha256
from posterior_bench.priors.latents import KL, VQ
from posterior_bench.priors.load import load, save, untrained
from posterior_bench.priors.mixtures import g2
from posterior_bench.priors.nets import UNet2D
from posterior_bench.priors.process import VE, VP, Flow

NET = {
    "sample_size": 4,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [8, 8],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "num_class_embeds": 3,
    "norm_num_groups": 4,
    "attention_head_dim": 4,
}
META = {
    "name": "tiny",
    "training": {"steps": 0},
    "source": "made by a test",
    "licence": "MIT",
    "class_names": ["a", "b"],
}


def fresh(process=None) -> Prior:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return Prior(process or VE(0.01, 50.0), UNet2D(NET, 2), (1, 8, 8), "edm", 0.4, 2, 2)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("prior"), fresh(), META)


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(written, tmp_path / "prior"))


def edit(folder: Path, **changes: object) -> None:
    """Set keys of ``prior.json``; None removes one."""
    spec = json.loads((folder / "prior.json").read_text())
    spec = {k: v for k, v in {**spec, **changes}.items() if k not in changes or v is not None}
    (folder / "prior.json").write_text(json.dumps(spec))


def rewrite(folder: Path, change) -> None:
    """Change the weights and record their new hash."""
    state = load_file(folder / "net.safetensors")
    change(state)
    save_file(state, folder / "net.safetensors")
    edit(folder, sha256={"net.safetensors": sha256(folder / "net.safetensors")})


# -- what is written comes back --------------------------------------------------------------------


def test_round_trip_in_float32_is_exact(tmp_path):
    prior = fresh()
    again = load(save(tmp_path, prior, META, torch.float32))
    z = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    level, cond = prior.level(0.7), prior.condition(torch.tensor([0, 1, 0]))
    assert torch.equal(again.denoise(z, level, cond), prior.denoise(z, level, cond))
    kept = ("image_shape", "parameterization", "sigma_data", "num_classes", "null_label")
    assert [getattr(again, name) for name in kept] == [(1, 8, 8), "edm", 0.4, 2, 2]
    assert again.process.spec == {"kind": "ve", "ratio_min": 0.01, "ratio_max": 50.0}
    assert not any(p.requires_grad for p in again.net.parameters()) and not again.net.training


def test_half_precision_on_disk_is_float32_in_memory(written):
    prior = fresh()
    for name, value in load(written).net.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, prior.net.state_dict()[name].half().float())
    assert {v.dtype for v in load_file(written / "net.safetensors").values()} == {torch.float16}


@pytest.mark.parametrize(
    "process",
    [VE(), VP.scheduled("scaled_linear", 0.0015, 0.0155), Flow(3.0, 0.003)],
    ids=["ve", "vp", "flow"],
)
def test_processes_are_restored(tmp_path, process):
    again = load(save(tmp_path, fresh(process), META)).process
    assert type(again) is type(process) and again.spec == process.spec
    assert again.level(0.8) == process.level(0.8)


def test_loading_draws_no_random_number(written):
    state = torch.get_rng_state()
    load(written)
    assert torch.equal(torch.get_rng_state(), state)


def test_saving_twice_gives_the_same_bytes(written, tmp_path):
    again = save(tmp_path, fresh(), META)
    assert {f.name for f in again.iterdir()} == {"prior.json", "net.safetensors"}
    assert all((again / f.name).read_bytes() == f.read_bytes() for f in written.iterdir())


def test_relative_paths_start_here_or_beside_the_package(written, tmp_path, monkeypatch):
    monkeypatch.chdir(written.parent)
    assert resolve(written.name) == written
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("posterior_bench.priors.fingerprint.ROOT", written.parent)
    assert resolve(written.name) == written
    with pytest.raises(
        FileNotFoundError, match=r"no prior\.json in .*elsewhere or .*elsewhere; make one with"
    ):
        resolve("elsewhere")


# -- fingerprints ----------------------------------------------------------------------------------


def test_fingerprint_is_of_content_not_of_place_or_layout(written, folder):
    assert len(fingerprint(written)) == 16
    assert fingerprint(folder) == fingerprint(written)
    edit(folder)
    assert (folder / "prior.json").read_bytes() != (written / "prior.json").read_bytes()
    assert fingerprint(folder) == fingerprint(written)


@pytest.mark.parametrize("change", [{"sigma_data": 0.41}, {"null_label": 1}, {"name": "other"}])
def test_fingerprint_sees_every_setting(written, folder, change):
    edit(folder, **change)
    assert fingerprint(folder) != fingerprint(written)


def test_fingerprint_sees_the_weights_themselves(written, folder):
    data = bytearray((folder / "net.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "net.safetensors").write_bytes(data)
    assert fingerprint(folder) != fingerprint(written)


def test_fingerprint_needs_no_torch(written):
    code = (
        f"import sys, priors.fingerprint as f; print(f.fingerprint({str(written)!r}), 'torch' "
        f"in sys.modules)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert out.split() == [fingerprint(written), "False"]


# -- refusals: one line that names the file and the mistake ----------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "has format 2; this version reads format 1"),
        ({"licence": None}, "missing key 'licence'"),
        (
            {"lisence": "MIT", "xi": 1},
            "unknown key 'lisence', 'xi'; valid: class_names, converted_from, format",
        ),
        ({"num_classes": "two"}, "'num_classes' has a value of type str"),
        ({"num_classes": True}, "'num_classes' has a value of type bool"),
        (
            {"parameterization": "score"},
            "unknown parameterization 'score'; valid: edm, eps, x0, v, flow",
        ),
        ({"shape": [8, 8]}, r"'shape' must be three positive integers C, H, W, got \[8, 8\]"),
        ({"class_names": ["a"]}, "1 class_names for 2 classes"),
        (
            {"net": {"class": "os.system", "config": {}}},
            "net: unknown class 'os.system'; valid: UNet2D",
        ),
        (
            {"net": {"class": "UNet2D", "config": NET, "shuffle": 2}},
            "net: unknown key 'shuffle'; valid: class, config",
        ),
        (
            {"net": {"class": "UNet2D", "config": {**NET, "layers": 3}, "unshuffle": 2}},
            "net: .*layers",
        ),
        (
            {"net": {"class": "UNet2D", "config": {"sample_size": 4}, "unshuffle": 2}},
            "net.safetensors",
        ),
        ({"process": {"kind": "subvp"}}, "process: unknown kind 'subvp'; valid: ve, vp, flow"),
        (
            {"process": {"kind": "ve", "sigma": 1}},
            "process: unknown key 'sigma'; valid: kind, ratio_min, ratio_max",
        ),
        ({"process": {"kind": "vp"}}, "process: .*missing"),
        (
            {"process": {"kind": "ve", "ratio_min": 0.0}},
            "process: VE needs 0 < ratio_min < ratio_max",
        ),
        ({"sha256": {}}, "'sha256' must map each weight file to its hash"),
        (
            {"sha256": {"../net.safetensors": "0"}},
            "does not name a safetensors file in this folder",
        ),
        ({"sha256": {"net.safetensors": "0" * 64}}, "is not the file prior.json was written for"),
    ],
)
def test_wrong_descriptions_are_refused(folder, changes, message):
    edit(folder, **changes)
    with pytest.raises(ValueError, match=message) as refusal:
        load(folder)
    assert str(folder) in str(refusal.value) and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("unet.conv_in.bias"), "lacks 'unet.conv_in.bias'"),
        (lambda s: s.update(extra=torch.zeros(1)), "has unknown tensors 'extra'"),
        (
            lambda s: s.update({f"extra{i}": torch.zeros(1) for i in range(5)}),
            "'extra2' and 2 more",
        ),
        (
            lambda s: s.update({"unet.conv_in.bias": torch.zeros(9)}),
            r"'unet.conv_in.bias' has shape \(9,\), .* \(8,\)",
        ),
        (lambda s: s["unet.conv_in.bias"].fill_(float("nan")), "not finite in 'unet.conv_in.bias'"),
        (lambda s: s["unet.conv_in.bias"].fill_(float("inf")), "not finite in 'unet.conv_in.bias'"),
    ],
)
def test_wrong_weights_are_refused(folder, change, message):
    rewrite(folder, change)
    with pytest.raises(ValueError, match=message) as refusal:
        load(folder)
    assert "net.safetensors" in str(refusal.value) and "\n" not in str(refusal.value)


def test_damaged_files_are_refused(folder):
    (folder / "net.safetensors").write_bytes(b"not weights")
    with pytest.raises(ValueError, match="its sha256 differs"):
        load(folder)
    edit(folder, sha256={"net.safetensors": sha256(folder / "net.safetensors")})
    with pytest.raises(ValueError, match="is not a safetensors file"):
        load(folder)
    (folder / "net.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"net\.safetensors is missing"):
        load(folder)
    for text, message in (("{", "is not valid JSON"), ("[1]", "must hold one JSON object")):
        (folder / "prior.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            load(folder)


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({**META, "author": "me"}, "unknown key 'author'"),
        ({"name": "tiny"}, "missing key 'licence', 'source', 'training'"),
        ({**META, "class_names": ["a"]}, "1 class_names for 2 classes"),
    ],
)
def test_incomplete_facts_are_not_written(tmp_path, meta, message):
    with pytest.raises(ValueError, match=message):
        save(tmp_path / "prior", fresh(), meta)
    assert not (tmp_path / "prior").exists()


def test_priors_that_cannot_be_written(tmp_path):
    with pytest.raises(
        ValueError, match="a prior with the network NoneType cannot be written; valid: UNet2D"
    ):
        save(tmp_path, g2(), META)
    with pytest.raises(
        ValueError, match=r"bare table cannot be written to a file; use VP\.scheduled"
    ):
        save(tmp_path, fresh(VP(torch.linspace(0.99, 0.01, 10))), META)
    large = fresh()
    large.net.state_dict()["unet.conv_in.bias"].fill_(1e5)
    with pytest.raises(
        ValueError,
        match=r"float16 the weights for net\.safetensors: not finite in 'unet\.conv_in\.bias'",
    ):
        save(tmp_path, large, META)


def test_fresh_weights_follow_the_seed(written):
    spec = json.loads((written / "prior.json").read_text())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        weights = untrained(spec).net.state_dict()
    assert all(
        torch.equal(weights[name], value) for name, value in fresh().net.state_dict().items()
    )


# -- latent priors ---------------------------------------------------------------------------------

BLOCKS = {
    "in_channels": 1,
    "out_channels": 1,
    "latent_channels": 4,
    "block_out_channels": [4, 4],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "norm_num_groups": 2,
}


def fresh_latent(kind=KL, **more: object) -> Prior:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        latent = kind({**BLOCKS, **more}, shift=[0.1, 0.2, 0.3, 0.4], scale=0.7)
        return Prior(
            VE(),
            UNet2D({**NET, "in_channels": 4, "out_channels": 4}),
            (1, 8, 8),
            latent=latent,
            num_classes=2,
        )


def test_latent_priors_come_back(tmp_path):
    prior, x = fresh_latent(), torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    again = load(save(tmp_path, prior, META, torch.float32))
    assert (again.image_shape, again.latent_shape, again.is_latent) == ((1, 8, 8), (4, 4, 4), True)
    assert torch.equal(again.encode(x), prior.encode(x))
    assert torch.equal(again.decode(prior.encode(x)), prior.decode(prior.encode(x)))
    assert {f.name for f in tmp_path.iterdir()} == {
        "prior.json",
        "net.safetensors",
        "latent.safetensors",
    }
    assert not any(p.requires_grad for p in again.latent.parameters())


def test_both_files_of_a_latent_prior_are_wanted(tmp_path):
    folder = save(tmp_path, fresh_latent(), META)
    before = fingerprint(folder)
    content = (folder / "latent.safetensors").read_bytes()
    (folder / "latent.safetensors").write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(
        ValueError, match=r"latent\.safetensors is not the file prior\.json was written for"
    ):
        load(folder)
    (folder / "latent.safetensors").write_bytes(content)
    assert fingerprint(folder) == before
    (folder / "latent.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"latent\.safetensors is missing"):
        load(folder)
    edit(folder, sha256={"net.safetensors": sha256(folder / "net.safetensors")})
    with pytest.raises(
        ValueError, match=r"must name net\.safetensors and latent\.safetensors alone"
    ):
        load(folder)


def test_vq_gradient_is_a_setting_of_vq_alone(tmp_path):
    vq = save(tmp_path / "vq", fresh_latent(VQ, num_vq_embeddings=8, vq_embed_dim=4), META)
    assert load(vq).latent.gradient == "straight_through"
    assert load(vq, vq_gradient="unquantised").latent.gradient == "unquantised"
    with pytest.raises(
        ValueError, match="unknown vq_gradient 'soft'; valid: straight_through, unquantised, hard"
    ):
        load(vq, vq_gradient="soft")
    with pytest.raises(ValueError, match="setting of VQ autoencoders"):
        load(save(tmp_path / "kl", fresh_latent(), META), vq_gradient="hard")


def test_a_factor_that_does_not_divide_the_image_is_refused(tmp_path):
    folder = save(tmp_path, fresh_latent(), META)
    edit(folder, shape=[1, 7, 8])
    with pytest.raises(ValueError, match="7 x 8 pixels are no multiple of the latent's factor 2"):
        load(folder)
