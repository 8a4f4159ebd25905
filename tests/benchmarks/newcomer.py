"""The first hour of somebody with photographs, masks and a model: ``python
tests/benchmarks/newcomer.py``.

In an empty folder it makes photographs in four sizes (one turned by its EXIF tag, one smaller than
the model's images), masks drawn on them, and models saved with the library diffusers. Then it types
what a newcomer would: own data in one command, ``try``, a conversion, captions and prompts, and a
few mistakes. Every command is a process of its own, in that folder. It prints command, seconds and
whether it ended as it should, and exits with 1 where one did not.

The text encoder is a real one where the package transformers is installed. Elsewhere embeddings of
a few prompts are written in the format of ``embed-prompts``, and the table says so. Nothing is
downloaded. ``--work DIR`` names an empty folder to work in and keeps it; ``--only WORD`` runs the
commands that contain a word, after those they depend on.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image

ROOT = Path(__file__).resolve().parents[2]
SIDE = 32
"""Pixels of the images that the models are made for."""

SIZES = {
    "beach.jpg": (640, 427),
    "door.png": (300, 450),
    "tiny.jpg": (24, 20),
    "upright.jpg": (400, 300),
}
"""Width and height as stored; the last one is turned by its EXIF tag, so that a person sees 300 x
400."""
TURNED = "upright.jpg"
CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
PROMPTS = ("a street", "a door in a wall", *(f"a photo of {name}" for name in CLASSES), "")
"""Those that are embedded where there is no text encoder; the names are those of the classes of
Fashion-MNIST."""
HAS_ENCODER = importlib.util.find_spec("transformers") is not None


@dataclass(frozen=True)
class Step:
    """A command of the benchmark: how it must end, what it must say, and which files it must leave.

    ``follows``: the last command that the step before it has printed is typed instead, with PHOTOS
    replaced.
    """

    what: str
    command: str
    code: int = 0
    says: tuple[str, ...] = ()
    leaves: tuple[str, ...] = ()
    follows: bool = False


OWN = "data=folder data.root=photos mask=files mask.path=masks"
WITH_PROMPTS = "convert sd --as diffusers --prompts prompts.safetensors --to sd_converted"
SD = "prior=sd" if HAS_ENCODER else "prior=sd_converted"
QUICK = "solver=dps solver.steps=10 draws=2"

STEPS = (
    # own data in one command
    Step(
        "own photographs, masks and model",
        f"{OWN} prior.path=model solver=dps",
        leaves=("runs/default/report.html",),
    ),
    Step(
        "the same model as prior=",
        f"{OWN} prior=model solver=ddnm draws=2 out=second",
        leaves=("second",),
    ),
    Step("three solvers", f"-m {OWN} prior=model solver=ddnm,repaint,vipaint2 draws=2 out=three"),
    Step(
        "one mask for all",
        "data=folder data.root=photos mask=comod prior=model solver=ddnm draws=2 out=drawn",
    ),
    Step(
        "convert", "convert model --as diffusers --to converted", leaves=("converted/prior.json",)
    ),
    Step("the command that convert prints", "", follows=True),
    Step(
        "every mistake at once",
        "data=folder data.root=no_photos mask=files mask.path=no_masks prior=./no_model solver=dps",
        code=2,
        says=("no_photos", "no_masks", "no_model"),
    ),
    # try
    Step("try", "try photos/beach.jpg masks/beach.png --model model", leaves=("try_beach.png",)),
    Step(
        "try, portrait",
        "try photos/door.png masks/door.png --model model --draws 2 --solvers ddnm,dps --out a.png",
    ),
    Step(
        "try, turned",
        "try photos/upright.jpg masks/upright.png --model converted --solvers ddnm --out b.png",
    ),
    Step(
        "try, small",
        "try photos/tiny.jpg masks/tiny.png --model model --solvers ddnm --out c.png",
        leaves=("c.png",),
    ),
    Step(
        "try, nothing but a photograph",
        "try photos/beach.jpg comod --solvers ddnm --draws 2 --out d.png",
    ),
    Step("try, a typo", "try photos/beach.jpg comod --solvers dsp", code=2, says=("dps",)),
    Step(
        "try, a mask of another size",
        "try photos/beach.jpg masks/door.png --model model",
        code=2,
        says=("640 x 427",),
    ),
    # captions and prompts
    *([] if HAS_ENCODER else [Step("convert with prompts", WITH_PROMPTS)]),
    Step("one prompt for all", f'{OWN} {SD} {QUICK} prompt="a street" out=prompt'),
    Step("captions, CSV", f"{OWN} {SD} {QUICK} data.captions=captions.csv out=csv"),
    Step("captions, JSON lines", f"{OWN} {SD} {QUICK} data.captions=captions.jsonl out=jsonl"),
    Step(
        "try with a prompt",
        f'try photos/beach.jpg comod --model {SD[6:]} --solvers dps prompt="a street" --out e.png',
    ),
    Step(
        "class names",
        f'data=fashion32 {SD} {QUICK} data.images=4 data.class_prompt="a photo of {{}}" '
        f"out=classes",
    ),
    Step(
        "a caption is missing",
        f"{OWN} {SD} {QUICK} data.captions=short.csv",
        code=2,
        says=("tiny",),
    ),
    Step(
        "a prompt that no model reads",
        f'{OWN} prior=model {QUICK} prompt="a street"',
        code=2,
        says=("prompt",),
    ),
)


# -- what the newcomer has -------------------------------------------------------------------------


def make_photographs(folder: Path) -> None:
    """Photographs, and masks drawn on them as a person sees them."""
    (folder / "photos").mkdir()
    (folder / "masks").mkdir()
    for number, (name, (width, height)) in enumerate(SIZES.items()):
        rows, columns = np.mgrid[:height, :width]
        waves = np.sin(columns / (9 + 3 * number)) * np.cos(rows / 11) / 2
        colours = np.stack([columns / width, rows / height, 0.5 + waves], -1)
        exif = Image.Exif()
        if name == TURNED:
            exif[ExifTags.Base.Orientation] = 6
        image = Image.fromarray((255 * colours).astype(np.uint8))
        image.save(folder / "photos" / name, exif=exif)
        seen = (width, height) if name == TURNED else (height, width)
        mask = np.zeros(seen, np.uint8)
        mask[seen[0] * 3 // 8 : seen[0] * 5 // 8, seen[1] * 3 // 8 : seen[1] * 5 // 8] = 255
        Image.fromarray(mask).save(folder / "masks" / f"{Path(name).stem}.png")


def make_models(folder: Path) -> None:
    """A pixel DDPM with its pipeline, and the parts of Stable Diffusion in small, by the library's
    own classes."""
    from diffusers import (
        AutoencoderKL,
        DDPMPipeline,
        DDPMScheduler,
        PNDMScheduler,
        UNet2DConditionModel,
        UNet2DModel,
    )

    torch.manual_seed(0)
    blocks = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4}
    pixels = UNet2DModel(
        sample_size=SIDE,
        in_channels=3,
        out_channels=3,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        **blocks,
    )
    DDPMPipeline(pixels, DDPMScheduler()).save_pretrained(folder / "model")
    latents = UNet2DConditionModel(
        sample_size=SIDE // 2,
        in_channels=4,
        out_channels=4,
        cross_attention_dim=8,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        **blocks,
    )
    latents.save_pretrained(folder / "sd" / "unet")
    autoencoder = AutoencoderKL(
        # grey, so that it can be used with the embedded images as well, whose classes have names
        in_channels=1,
        out_channels=1,
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )
    autoencoder.save_pretrained(folder / "sd" / "vae")
    schedule = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1
    )
    schedule.save_pretrained(folder / "sd" / "scheduler")


def make_words(folder: Path) -> None:
    """Captions in both formats, and the text encoder: a real one, or a table of embeddings in its
    place."""
    captions = {
        "beach": "a street",
        "door": "a door in a wall",
        "tiny": "a photo of Bag",
        "upright": "a photo of Coat",
    }
    lines = [f"{image},{text}" for image, text in captions.items()]
    (folder / "captions.csv").write_text("\n".join(["image_id,caption", *lines]) + "\n")
    (folder / "short.csv").write_text("\n".join(["image_id,caption", *lines[:2], lines[3]]) + "\n")
    objects = [json.dumps({"image_id": image, "caption": text}) for image, text in captions.items()]
    (folder / "captions.jsonl").write_text("\n".join(objects) + "\n")
    if HAS_ENCODER:
        make_encoder(folder / "sd")
        return
    from safetensors.torch import save_file

    table = torch.randn(len(PROMPTS), 5, 8, generator=torch.Generator().manual_seed(1))
    save_file({"context": table}, folder / "prompts.safetensors", {"prompts": json.dumps(PROMPTS)})


def make_encoder(folder: Path) -> None:
    """A tiny CLIP text encoder, whose tokenizer knows letters."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    letters = [*"abcdefghijklmnopqrstuvwxyz-0123456789"]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "vocab.json").write_text(
        json.dumps({word: i for i, word in enumerate(words)})
    )
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    names = (str(folder / "tokenizer" / name) for name in ("vocab.json", "merges.txt"))
    CLIPTokenizer(*names, model_max_length=24).save_pretrained(folder / "tokenizer")
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=24,
        bos_token_id=len(words) - 2,
        eos_token_id=len(words) - 1,
    )
    CLIPTextModel(config).save_pretrained(folder / "text_encoder")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "tokenizer": ["transformers", "CLIPTokenizer"],
    }
    (folder / "model_index.json").write_text(
        json.dumps({**index, "text_encoder": ["transformers", "CLIPTextModel"]})
    )


# -- what the newcomer types -----------------------------------------------------------------------


def typed(step: Step, printed: str) -> list[str]:
    """The words behind ``python -m bench``; those of the last printed command for a step that
    follows one."""
    if not step.follows:
        return shlex.split(step.command)
    command = next(
        (line for line in reversed(printed.splitlines()) if "python -m bench" in line), ""
    )
    return shlex.split(
        command.partition("python -m bench")[2]
        .replace("PHOTOS", "photos")
        .replace("MASKS", "masks")
    )


def run(step: Step, words: Sequence[str], folder: Path) -> tuple[float, str, str]:
    """Seconds, what went wrong (nothing, if all is well), and what was printed."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = {
        **os.environ,
        "PYTHONPATH": path,
        "XDG_CACHE_HOME": str(folder / "cache"),
        "HF_HUB_OFFLINE": "1",
    }
    start = time.perf_counter()
    command = [sys.executable, "-m", "bench", *words]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    seconds, text = time.perf_counter() - start, done.stdout + done.stderr
    problems = (
        [f"exit code {done.returncode}, not {step.code}"] if done.returncode != step.code else []
    )
    problems += [f"does not say '{word}'" for word in step.says if word not in text]
    problems += [f"leaves no {name}" for name in step.leaves if not (folder / name).exists()]
    problems += ["a traceback"] if "Traceback" in text else []
    problems += ["no command is printed"] if step.follows and not words else []
    last = done.stderr.strip().splitlines()[-1:] or done.stdout.strip().splitlines()[-1:]
    return seconds, "; ".join([*problems, *(last if problems else [])]), text


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--work", type=Path, help="an empty or new folder to work in; it is kept")
    parser.add_argument(
        "--only", default="", help="run the steps whose name or command contains this"
    )
    given = parser.parse_args()
    if given.work is None:
        with tempfile.TemporaryDirectory() as folder:
            return walk(Path(folder), given.only)
    given.work.mkdir(parents=True, exist_ok=True)
    if any(given.work.iterdir()):
        parser.error(f"{given.work} is not empty")
    return walk(given.work.absolute(), given.only)


def walk(folder: Path, only: str) -> int:
    make_photographs(folder)
    make_models(folder)
    make_words(folder)
    encoder = (
        "a text encoder of transformers"
        if HAS_ENCODER
        else "embeddings written here (transformers is missing)"
    )
    print(f"{folder}: {len(SIZES)} photographs, masks, two models of diffusers, {encoder}\n")
    failures, printed, began = 0, "", time.perf_counter()
    for step in STEPS:
        makes_model = step.command.startswith("convert ")
        if only and not makes_model and only not in f"{step.what} {step.command}":
            continue
        words = typed(step, printed)
        seconds, problem, printed = run(step, words, folder)
        failures += bool(problem)
        refused = (
            f" (refused, as it should: exit code {step.code})" if step.code and not problem else ""
        )
        print(f"{seconds:6.1f} s  {'FAILED' if problem else 'ok    '}  {step.what}{refused}")
        print(f"                  python -m bench {shlex.join(words)}", flush=True)
        if problem:
            print(f"                  {problem}", flush=True)
    print(f"\n{failures} failures (0 wanted) in {time.perf_counter() - began:.0f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
