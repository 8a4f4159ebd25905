"""Modules of a solver: trained, interrupted, resumed, loaded, and refused where they do not
belong."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from posterior_bench.bench.config.compose import compose
from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.config.trained_modules import ModulesFolder, load_modules
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.engine.prepare import prepare
from posterior_bench.bench.engine.session import Session
from posterior_bench.bench.training import inputs, train_solver
from posterior_bench.datasets.base import ImageSet
from posterior_bench.datasets.selection import belongs
from posterior_bench.priors.base import Prior
from posterior_bench.priors.fingerprint import fingerprint
from posterior_bench.priors.latents import KL
from posterior_bench.priors.load import save
from posterior_bench.priors.nets import UNet2D
from posterior_bench.priors.process import VE
from posterior_bench.priors.train import Trainer

CONF = Path(__file__).parents[3] / "conf"
NET = {
    "sample_size": 4,
    "block_out_channels": [8, 8],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D"],
    "num_class_embeds": 3,
    "norm_num_groups": 4,
}
AUTOENCODER = {
    "in_channels": 1,
    "out_channels": 1,
    "latent_channels": 2,
    "block_out_channels": [4, 4],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "norm_num_groups": 2,
}
FACTS = {"name": "tiny", "training": {}, "source": "a test", "licence": "MIT"}


class Patches(ImageSet):
    """Sixteen flat patches of two brightnesses."""

    def __init__(self, split: str):
        self.name, self.ids = f"patches-{split}", [f"{split}-{i}" for i in range(16)]
        self.shape, self.num_classes = (1, 8, 8), 2

    def labels(self, ids):
        return torch.tensor([int(i.split("-")[1]) % 2 for i in ids])

    def images(self, ids):
        return (self.labels(ids) - 0.5).view(-1, 1, 1, 1).expand(len(ids), 1, 8, 8).contiguous()


@pytest.fixture(autouse=True)
def patches(monkeypatch):
    monkeypatch.setattr(
        train_solver, "image_splits", lambda node: (Patches("train"), Patches("validation"))
    )


@pytest.fixture(scope="module", params=[False, True], ids=["pixel", "latent"])
def prior(request, tmp_path_factory) -> Path:
    """The folder of an untrained prior over 8 x 8 images."""
    return make_prior(tmp_path_factory.mktemp("priors") / "tiny", latent=request.param)


def make_prior(folder: Path, latent: bool = False, seed: int = 0) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        channels = 2 if latent else 4
        net = UNet2D({**NET, "in_channels": channels, "out_channels": channels}, 1 if latent else 2)
        made = Prior(
            VE(),
            net,
            (1, 8, 8),
            num_classes=2,
            null_label=2,
            latent=KL(AUTOENCODER) if latent else None,
        )
    return save(folder, made, FACTS)


def config(folder: Path, prior: Path, **changes: object) -> JobConfig:
    solver = yaml.safe_load((CONF / "solver" / "latentpaint.yaml").read_text())
    solver["modules"] = str(folder / "modules")
    solver["train"] |= {
        "steps": 6,
        "batch": 4,
        "checkpoint_every": 2,
        "bf16": False,
        "mask_count": 10,
    }
    solver["train"] |= {
        "validation_images": 8,
        "masks": [{"_target_": "masks.rotated.RotatedWindow"}],
        **changes,
    }
    node = {"_target_": "priors.load.load", "path": str(prior), "train": {"data": {}}}
    return JobConfig.of({"solver": solver, "prior": node, "out": str(folder / "run")})


def weights(folder: Path) -> bytes:
    return (folder / "modules" / "tiny" / "modules.safetensors").read_bytes()


def test_a_whole_run(tmp_path, prior):
    assert (
        train_solver.train_solver(config(tmp_path, prior), quiet=True)
        == tmp_path / "modules" / "tiny"
    )
    facts = json.loads((tmp_path / "modules" / "tiny" / "modules.json").read_text())
    assert (facts["prior"], facts["channels"]) == (
        fingerprint(prior),
        {"down1_layer0": 8, "middle": 8},
    )
    # two modules of 16 -> 2 -> 16
    assert facts["training"]["parameters"] == 2 * (16 * 2 + 2 + 2 * 16 + 16)
    assert facts["training"]["settings"]["steps"] == 6
    rows = (tmp_path / "run" / "loss.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["step", "2", "4", "6"]
    assert float(rows[-1].split(",")[3]) == pytest.approx(
        facts["training"]["validation_loss"], abs=2e-6
    )
    loaded = load_modules(config(tmp_path, prior), "cpu")
    assert loaded is not None and set(loaded) == {"down1_layer0", "middle"}
    assert not any(
        p.requires_grad or p.is_meta for module in loaded.values() for p in module.parameters()
    )


def test_an_interrupted_run_continues_bit_for_bit(tmp_path, prior, monkeypatch):
    train_solver.train_solver(config(tmp_path / "whole", prior), quiet=True)
    original = Trainer.step

    def step(self):
        if self.step_count == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", step)
        with pytest.raises(KeyboardInterrupt):
            train_solver.train_solver(config(tmp_path / "halves", prior), quiet=True)
    assert not (tmp_path / "halves" / "modules").exists()
    train_solver.train_solver(config(tmp_path / "halves", prior), quiet=True)
    assert weights(tmp_path / "halves") == weights(tmp_path / "whole")
    with pytest.raises(UserError, match="holds a training with another lr"):
        train_solver.train_solver(config(tmp_path / "halves", prior, lr=0.5), quiet=True)


def test_modules_that_do_not_belong_are_refused(tmp_path):
    prior, other = make_prior(tmp_path / "tiny"), make_prior(tmp_path / "other" / "tiny", seed=1)
    how = (
        r"make them with `python -m bench train solver=latentpaint prior=tiny solver\.modules=/.*`"
    )
    with pytest.raises(
        UserError,
        match=rf"no modules of latentpaint for this prior .*modules\.json is missing\); {how}",
    ):
        load_modules(config(tmp_path, prior), "cpu")
    train_solver.train_solver(config(tmp_path, prior), quiet=True)
    with pytest.raises(
        UserError,
        match=rf"trained for a prior with fingerprint {fingerprint(prior)}, this one .*{how}",
    ):
        load_modules(config(tmp_path, other), "cpu")
    folder = ModulesFolder.of(config(tmp_path, prior))
    assert folder is not None
    (folder.path / "modules.safetensors").write_bytes(b"damaged")
    with pytest.raises(UserError, match=rf"its sha256 differs\); {how}"):
        folder.spec()
    (folder.path / "modules.json").write_text("[]")
    with pytest.raises(UserError, match=rf"not what this version writes; {how}"):
        folder.spec()


def test_wrong_settings_are_refused(tmp_path, real_splits):
    prior = make_prior(tmp_path / "tiny")
    with pytest.raises(UserError, match=r"solver\.train does not know rate; its keys are .*lr"):
        train_solver.ModulesTraining.of(config(tmp_path, prior, rate=1))
    untrainable = config(tmp_path, prior).with_settings("solver", {"train": None})
    with pytest.raises(UserError, match="this solver has nothing to train"):
        train_solver.ModulesTraining.of(untrainable)
    g2 = yaml.safe_load((CONF / "prior" / "g2.yaml").read_text())
    closed = replace(config(tmp_path, prior), prior=g2)
    with pytest.raises(UserError, match="modules are trained for a prior that lies in files"):
        train_solver.ModulesTraining.of(closed)
    nameless = {"_target_": "priors.load.load", "path": str(prior)}
    with pytest.raises(UserError, match=r"name them with data=NAME data\.root=DIR"):
        train_solver.ModulesTraining.of(replace(config(tmp_path, prior), prior=nameless))
    wrong = images(tmp_path / "wrong", size=16)
    with pytest.raises(UserError, match=r"gives images of \(1, 16, 16\), the prior is made for"):
        train_solver.train_solver(config(tmp_path, prior), quiet=True, data=wrong)
    with pytest.raises(UserError, match=r"leave data\.part out"):
        inputs.image_splits({**images(tmp_path / "part"), "part": "test"})


def test_training_images_that_need_a_missing_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "dicebear", None)
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    node = {"_target_": "datasets.faces.Faces", "root": str(tmp_path)}
    with pytest.raises(UserError, match=r'pip install "posterior-bench\[faces\]"'):
        inputs.image_splits(node)


def images(folder: Path, size: int = 8) -> dict[str, object]:
    """A data node with forty grey images of random numbers, without labels."""
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (40, size, size), dtype=np.uint8)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{i:02d}.png")
    node = {"_target_": "datasets.folder.Folder", "root": str(folder), "images": 8}
    return {**node, "size": size, "mode": "grey", "part": None}


@pytest.fixture
def real_splits(monkeypatch, patches):
    monkeypatch.setattr(train_solver, "image_splits", inputs.image_splits)


def test_images_may_be_named_and_stay_on_disk(tmp_path, real_splits, monkeypatch):
    """The prior is told nothing of images without labels; a tenth of them is for validation."""
    prior, node = make_prior(tmp_path / "tiny"), images(tmp_path / "images")
    train, held_out = inputs.image_splits(node)
    assert set(train.ids).isdisjoint(held_out.ids) and len(train) + len(held_out) == 40
    assert {*held_out.ids} == {i for i in (*train.ids, *held_out.ids) if belongs(i, "validation")}
    train_solver.train_solver(config(tmp_path / "memory", prior), quiet=True, data=node)
    facts = json.loads((tmp_path / "memory" / "modules" / "tiny" / "modules.json").read_text())
    assert facts["training"]["images"] == len(train) > 30
    monkeypatch.setattr(inputs, "IN_MEMORY", 0)
    assert isinstance(inputs.image_rows(train), inputs.ImageFiles)
    train_solver.train_solver(config(tmp_path / "disk", prior), quiet=True, data=node)
    assert weights(tmp_path / "disk") == weights(tmp_path / "memory")


def test_a_folder_for_one_module_gets_that_of_the_middle(tmp_path):
    prior = make_prior(tmp_path / "tiny")
    asked = config(tmp_path, prior)
    one = asked.with_settings("solver", {"modules": str(tmp_path / "modules_one")})
    train_solver.train_solver(one, quiet=True)
    loaded = load_modules(one, "cpu")
    assert loaded is not None and set(loaded) == {"middle"}
    assert sum(p.numel() for p in loaded["middle"].parameters()) == 16 * 2 + 2 + 2 * 16 + 16


def test_masks_of_every_family_and_of_no_two_splits_alike(tmp_path):
    families = [
        {"_target_": "masks.rotated.RotatedWindow"},
        {"_target_": "masks.box.Box", "position": "centre"},
    ]
    job = train_solver.ModulesTraining.of(
        config(tmp_path, make_prior(tmp_path / "tiny"), masks=families)
    )
    masks = train_solver._masks(job, Patches("train"))
    assert masks.shape == (10, 1, 8, 8) and masks.dtype == torch.bool
    assert masks.flatten(1).float().mean(1).tolist() == [0.5, 0.75] * 5
    assert not torch.equal(masks, train_solver._masks(job, Patches("validation")))
    assert torch.equal(masks[:4], train_solver._masks(job, Patches("train"), 4))


def cell(*more: str):
    overrides = [
        "solver=latentpaint",
        "data=fashion",
        "data.images=2",
        "draws=1",
        "metrics=[psnr]",
        "threads=1",
        *more,
    ]
    return prepare(*compose(overrides), write=False)[1].cell


def test_a_cell_knows_the_content_of_its_modules_and_not_their_place(tmp_path):
    """The shipped modules of the prior ``fashion``."""
    shipped = cell()
    copied = tmp_path / "elsewhere"
    shutil.copytree(ModulesFolder.of(shipped.config).path, copied / "fashion")
    assert cell(f"solver.modules={copied}").name == shipped.name
    assert cell("solver=latentpaint_free").name != shipped.name
    modules = Session(shipped.config, "cpu").modules
    assert (
        modules is not None
        and sum(p.numel() for m in modules.values() for p in m.parameters()) == 33344
    )
    # others with the same description count as others
    spec = json.loads((copied / "fashion" / "modules.json").read_text())
    folder = ModulesFolder.of(compose_config(f"solver.modules={copied}"))
    loaded = folder.load()
    loaded["middle"].phi[-1].bias.data += 1
    folder.save(loaded, spec["channels"], spec["training"])
    assert cell(f"solver.modules={copied}").name != shipped.name


def compose_config(*more: str) -> JobConfig:
    from posterior_bench.bench.engine.job import job_of

    return job_of(compose(["solver=latentpaint", "data=fashion", *more])[0])


def test_missing_modules_are_refused_before_any_work(tmp_path):
    with pytest.raises(
        UserError,
        match=r"python -m bench train solver=latentpaint prior=fashion solver\.modules=",
    ):
        cell(f"solver.modules={tmp_path}")
    with pytest.raises(
        UserError, match="LatentPaint needs features, which this prior and operator do not have"
    ):
        cell("prior=smooth", "prior.shape=[1,28,28]")
