"""The training command: settings, interruption, resume and export."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.training import loop, train_prior
from posterior_bench.bench.training.pictures import sheet
from posterior_bench.datasets.base import ImageSet
from posterior_bench.priors.load import load
from posterior_bench.priors.train import TrainConfig, Trainer

CONF = Path(__file__).parents[3] / "conf" / "prior"
NET = {
    "sample_size": 4,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [8, 8],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D"],
    "num_class_embeds": 3,
    "norm_num_groups": 4,
}


class Patches(ImageSet):
    """Sixteen flat patches of two brightnesses."""

    def __init__(self, split: str):
        self.name, self.ids = f"patches-{split}", [f"{split}-{i}" for i in range(16)]
        self.shape, self.num_classes, self.class_names = (1, 8, 8), 2, ("dark", "bright")

    def labels(self, ids):
        return torch.tensor([int(i.split("-")[1]) % 2 for i in ids])

    def images(self, ids):
        return (self.labels(ids) - 0.5).view(-1, 1, 1, 1).expand(len(ids), 1, 8, 8).contiguous()


@pytest.fixture(autouse=True)
def patches(monkeypatch):
    monkeypatch.setattr(
        train_prior, "image_splits", lambda node: (Patches("train"), Patches("validation"))
    )


def config(folder: Path, **changes: object) -> JobConfig:
    block = yaml.safe_load((CONF / "fashion.yaml").read_text())["train"]
    block |= {
        "net": {"class": "UNet2D", "unshuffle": 2, "config": NET},
        "steps": 6,
        "batch": 4,
        "checkpoint_every": 2,
    }
    block |= {"validation_images": 8, "bf16": False, **changes}
    prior = {"_target_": "priors.load.load", "path": str(folder / "asset"), "train": block}
    return JobConfig.of({"prior": prior, "out": str(folder / "run")})


def stop_after(monkeypatch, steps: int, how) -> None:
    """Let ``how`` happen in the middle of a step."""
    original = Trainer.step

    def step(self):
        if self.step_count + 1 == steps:
            how()
        return original(self)

    monkeypatch.setattr(Trainer, "step", step)


def weights(folder: Path) -> bytes:
    return (folder / "asset" / "net.safetensors").read_bytes()


def test_a_whole_run(tmp_path):
    assert train_prior.train_prior(config(tmp_path), quiet=True) == tmp_path / "asset"
    facts = json.loads((tmp_path / "asset" / "prior.json").read_text())
    assert (facts["name"], facts["class_names"], facts["null_label"]) == (
        "asset",
        ["dark", "bright"],
        2,
    )
    assert (facts["training"]["data"], facts["training"]["images"]) == ("patches-train", 16)
    assert facts["training"]["settings"]["steps"] == 6
    prior = load(tmp_path / "asset")
    assert (prior.image_shape, prior.num_classes) == ((1, 8, 8), 2)
    with (tmp_path / "run" / "loss.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["2", "4", "6"]
    assert float(rows[-1]["validation_loss"]) == pytest.approx(
        facts["training"]["validation_loss"], abs=2e-6
    )
    # two classes, eight columns, every pixel doubled, two pixels between
    assert Image.open(tmp_path / "run" / "samples.png").size == (8 * 18 + 2, 2 * 18 + 2)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_continues_bit_for_bit(tmp_path, monkeypatch, number):
    train_prior.train_prior(config(tmp_path / "whole"), quiet=True)
    with monkeypatch.context() as patch:
        stop_after(patch, 3, lambda: os.kill(os.getpid(), number))
        before = signal.getsignal(number)
        with pytest.raises(KeyboardInterrupt):
            train_prior.train_prior(config(tmp_path / "halves"), quiet=True)
        assert signal.getsignal(number) is before
    checkpoint = torch.load(tmp_path / "halves" / "run" / "checkpoint.pt", weights_only=True)
    assert checkpoint["step"] == 3
    assert not (tmp_path / "halves" / "asset").exists()
    train_prior.train_prior(config(tmp_path / "halves"), quiet=True)
    assert weights(tmp_path / "halves") == weights(tmp_path / "whole")


def test_a_killed_run_continues_from_its_last_checkpoint(tmp_path, monkeypatch):
    """Killed after writing a row of the log and before the checkpoint it belongs to."""
    train_prior.train_prior(config(tmp_path / "whole"), quiet=True)

    class Killed(BaseException):
        pass

    def kill():
        raise Killed

    with monkeypatch.context() as patch:
        stop_after(patch, 6, kill)
        with pytest.raises(Killed):
            train_prior.train_prior(config(tmp_path / "halves"), quiet=True)
    log = tmp_path / "halves" / "run" / "loss.csv"
    log.write_text(log.read_text() + "6,99.0,9.0,9.0\n")
    train_prior.train_prior(config(tmp_path / "halves"), quiet=True)
    assert [line.split(",")[0] for line in log.read_text().splitlines()] == ["step", "2", "4", "6"]
    assert "9.0" not in log.read_text().split()[-1]
    assert weights(tmp_path / "halves") == weights(tmp_path / "whole")
    assert {f.name for f in log.parent.iterdir()} == {
        "settings.json",
        "checkpoint.pt",
        "loss.csv",
        "samples.png",
    }


def test_a_finished_run_is_exported_again(tmp_path, monkeypatch):
    train_prior.train_prior(config(tmp_path), quiet=True)
    first = weights(tmp_path)
    stop_after(monkeypatch, 7, lambda: pytest.fail("a finished run made another step"))
    (tmp_path / "asset" / "net.safetensors").unlink()
    train_prior.train_prior(config(tmp_path), quiet=True)
    assert weights(tmp_path) == first


def test_other_settings_do_not_continue_a_run(tmp_path):
    train_prior.train_prior(config(tmp_path), quiet=True)
    with pytest.raises(
        UserError, match=r"holds a training with another lr, steps; give its settings again"
    ):
        train_prior.train_prior(config(tmp_path, lr=1e-3, steps=8), quiet=True)


def test_a_damaged_checkpoint_is_named(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint.pt").write_bytes(b"damaged")
    with pytest.raises(
        UserError, match=r"cannot continue from .*checkpoint\.pt .*remove it to start anew"
    ):
        train_prior.train_prior(config(tmp_path), quiet=True)


def test_wrong_settings_are_refused(tmp_path):
    with pytest.raises(
        UserError, match=r"prior\.train does not know learning_rate; its keys are .*lr"
    ):
        train_prior.PriorTraining.of(config(tmp_path, learning_rate=1))
    whole = config(tmp_path)
    block = {key: value for key, value in whole.prior["train"].items() if key != "lr"}
    lacking = whole.with_settings("prior", {"train": block})
    with pytest.raises(UserError, match=r"prior\.train lacks lr"):
        train_prior.PriorTraining.of(lacking)
    with pytest.raises(UserError, match="unknown class 'Unet'; valid: UNet2D"):
        train_prior.train_prior(config(tmp_path, net={"class": "Unet"}), quiet=True)
    with pytest.raises(UserError, match="nothing to train"):
        train_prior.PriorTraining.of(
            JobConfig.of({"prior": yaml.safe_load((CONF / "g2.yaml").read_text())})
        )


def test_initial_weights_follow_the_seed_alone(tmp_path):
    job, other = (train_prior.PriorTraining.of(config(tmp_path, seed=seed)) for seed in (0, 1))
    state = torch.get_rng_state()
    first, again, different = (
        j.prior(Patches("train")).net.state_dict() for j in (job, job, other)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not torch.equal(first["unet.conv_in.weight"], different["unet.conv_in.weight"])


def test_training_outside_the_main_thread(tmp_path):
    worker = threading.Thread(target=train_prior.train_prior, args=(config(tmp_path), True))
    worker.start()
    worker.join()
    assert weights(tmp_path)


def test_lines_where_there_is_no_terminal(tmp_path, capsys, monkeypatch):
    lines: list[str] = []
    monkeypatch.setattr(loop.terminal.out, "print", lines.append)
    train_prior.train_prior(config(tmp_path))
    assert [line.split("  ")[0] for line in lines[1:-1]] == ["step 2", "step 4", "step 6"]
    assert lines[-2].endswith("0 min left")
    assert str(tmp_path / "asset") in lines[-1]


def test_sheet_places_images_row_by_row():
    values = torch.tensor([-1.0, 0.0, 1.0]).view(3, 1, 1, 1).expand(3, 1, 4, 5)
    pixels = np.asarray(Image.open(io.BytesIO(sheet(values, columns=2, scale=1, gap=1))))
    assert pixels.shape == (2 * 5 + 1, 2 * 6 + 1)
    assert [pixels[1, 1], pixels[1, 7], pixels[6, 1], pixels[6, 7]] == [0, 128, 255, 255]
    colour = torch.zeros(1, 3, 4, 5)
    assert np.asarray(Image.open(io.BytesIO(sheet(colour, columns=1)))).shape == (
        12,
        14,
        3,
    )


@pytest.mark.parametrize("name", ["fashion", "fashion_latent", "faces", "faces_latent"])
def test_shipped_training_settings_are_complete(name):
    node = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    job = train_prior.PriorTraining.of(JobConfig.of({"prior": node}))
    assert isinstance(job.config, TrainConfig) and job.target.parts[-3:] == (
        "priors",
        "assets",
        name,
    )
    assert job.folder == Path(f"runs/train/{name}") and job.is_latent == name.endswith("latent")


# -- latent priors ---------------------------------------------------------------------------------

AUTOENCODER = {
    "config": {
        "in_channels": 1,
        "out_channels": 1,
        "latent_channels": 1,
        "block_out_channels": [4, 4],
        "down_block_types": ["DownEncoderBlock2D"] * 2,
        "up_block_types": ["UpDecoderBlock2D"] * 2,
        "norm_num_groups": 2,
    },
    **{
        "steps": 4,
        "batch": 4,
        "lr": 1e-3,
        "warmup": 2,
        "ema": 0.9,
        "kl": 1e-4,
        "bf16": False,
        "seed": 0,
    },
}
# an autoencoder of factor 2 leaves 4 x 4 latents of one channel
LATENT = {
    "autoencoder": AUTOENCODER,
    "process": {
        "kind": "vp",
        "schedule": "scaled_linear",
        "beta_start": 0.00085,
        "beta_end": 0.012,
    },
    "parameterization": "v",
    "sigma_data": 1.0,
}


def test_a_latent_prior_is_trained_in_two_stages(tmp_path):
    train_prior.train_prior(config(tmp_path, **LATENT), quiet=True)
    prior = load(tmp_path / "asset")
    assert (prior.image_shape, prior.latent_shape) == ((1, 8, 8), (1, 4, 4))
    x = Patches("train").images(Patches("train").ids)
    z = prior.encode(x)
    assert (z.mean().item(), z.std().item()) == pytest.approx((0, 1), abs=0.01)
    facts = json.loads((tmp_path / "asset" / "prior.json").read_text())["training"]["autoencoder"]
    mse = (prior.decode(z[:8]).clamp(-1, 1) - x[:8]).square().mean((1, 2, 3))
    assert facts["reconstruction_psnr"] == pytest.approx(
        (10 * torch.log10(4 / mse)).mean().item(), abs=0.05
    )
    assert {f.name for f in (tmp_path / "run" / "autoencoder").iterdir()} == {
        "settings.json",
        "checkpoint.pt",
        "loss.csv",
        "reconstructions.png",
    }


@pytest.mark.parametrize("steps", [2, 7], ids=["in the autoencoder", "in the denoiser"])
def test_a_latent_training_continues_bit_for_bit(tmp_path, monkeypatch, steps):
    train_prior.train_prior(config(tmp_path / "whole", **LATENT), quiet=True)
    made = []
    original = Trainer.step

    def step(self):
        made.append(1)
        if len(made) == steps:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", step)
        with pytest.raises(KeyboardInterrupt):
            train_prior.train_prior(config(tmp_path / "halves", **LATENT), quiet=True)
    train_prior.train_prior(config(tmp_path / "halves", **LATENT), quiet=True)
    assert weights(tmp_path / "halves") == weights(tmp_path / "whole")
    latents = [
        (tmp_path / run / "asset" / "latent.safetensors").read_bytes()
        for run in ("halves", "whole")
    ]
    assert latents[0] == latents[1]


def test_wrong_settings_of_an_autoencoder_are_refused(tmp_path):
    with pytest.raises(
        UserError, match=r"prior\.train\.autoencoder does not know gan; its keys are .*kl"
    ):
        train_prior.PriorTraining.of(
            config(tmp_path, **{**LATENT, "autoencoder": {**AUTOENCODER, "gan": 1}})
        )
    with pytest.raises(UserError, match=r"prior\.train\.autoencoder lacks kl"):
        train_prior.PriorTraining.of(
            config(
                tmp_path,
                **{**LATENT, "autoencoder": {k: v for k, v in AUTOENCODER.items() if k != "kl"}},
            )
        )
