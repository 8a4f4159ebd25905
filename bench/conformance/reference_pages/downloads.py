"""The page ``docs/downloads.md``: what is published elsewhere, and estimated minutes an image.

Facts are in ``downloads.yaml`` beside this module, counts of network passes in ``passes.json``,
names and presets in ``conf``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from posterior_bench.bench.config.catalog import Option, options
from posterior_bench.bench.conformance.reference_pages import preset_passes
from posterior_bench.bench.conformance.reference_pages.markdown import choice, codes, table
from posterior_bench.bench.conformance.reference_pages.presets import (
    auto_solvers,
    presets_by_prior,
)
from posterior_bench.bench.conformance.reference_pages.prior_kinds import kind_of
from posterior_bench.bench.store.study_files import read_yaml
from posterior_bench.priors.fingerprint import CHECKPOINTS

FILE = Path(__file__).with_name("downloads.yaml")

INTRODUCTION = """\
This product downloads nothing. This page lists every prior and data set of `conf/`, and every
weight file of a metric, that is published elsewhere: fetch the files, then convert a prior with the
command of its row.
`python -m bench doctor` checks before a run that everything it needs is there. *Not recorded* and
*not measured* are meant literally: no published file has been read here yet, so no sha256 is known.
`convert --sha256 HASH` refuses every file but the one with this hash."""

PRIORS = """\
Unless the row says otherwise, the size of a download follows from the number of parameters in
float32. *Memory* is the peak that `bench convert` took with a file of the same layout and size and
random weights. *Disk* is the size of the converted prior in float32; `--dtype fp16` halves it.

Few-step models: a folder whose scheduler is a `LCMScheduler` is converted as a latent consistency
model. `latent-consistency/lcm-sdxl` and the LCM-LoRAs hold a part of a model, so make a whole
folder with diffusers first; `embed-prompts` and `convert` read that folder. (DMD2, the model of
LATINO's tables, is a U-Net of Stable Diffusion XL alone, too.)

```python
from diffusers import DiffusionPipeline, LCMScheduler, UNet2DConditionModel

# a U-Net alone
unet = UNet2DConditionModel.from_pretrained("latent-consistency/lcm-sdxl")
pipe = DiffusionPipeline.from_pretrained("stabilityai/stable-diffusion-xl-base-1.0", unet=unet)
# or a LoRA, fused into the U-Net
pipe = DiffusionPipeline.from_pretrained("stable-diffusion-v1-5/stable-diffusion-v1-5")
pipe.load_lora_weights("latent-consistency/lcm-lora-sdv1-5")
pipe.fuse_lora()
pipe.unload_lora_weights()
# in both cases
pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
pipe.save_pretrained("FOLDER")
```

A U-Net with `time_cond_proj_dim` reads a strength of guidance: `prior.embedded_guidance=8.5`, the
default, is that of the library. `solver.guidance` comes on top, so leave it at 1 there. With a LoRA
fused in, `solver.guidance` of 1 to 2 is usual. What such a prior returns is one clean image and not
the mean of all, so solvers that need the mean (DPS, PiGDM, MMPS) are not exact with it."""

DATA = """\
Data sets are read in the layouts of [data.md](data.md); nothing is converted or copied."""

WEIGHTS = """\
Weights of metrics stay as they are: put them into the folder `checkpoints` of the torch hub cache,
`~/.cache/torch/hub/checkpoints` unless `TORCH_HOME` moves it. A folder in the first column is the
unpacked archive of its row. A file with another hash than the one here is refused. Where no hash is
published, that of your file is recorded with a cell, and another file is refused later."""

ESTIMATE = """\
**An estimate, not a measurement: nothing here was timed on a GPU.** Minutes are passes times
seconds a pass.

Passes are counted for one image, one mask and the preset that `preset: auto` takes for the prior:
the solver runs in full length on a small prior without its network
(`python -m posterior_bench.bench.conformance.reference_pages.preset_passes`). Seconds a pass are
the operations of one forward pass of the network, also counted, over half of the float32 peak that
the maker of the card states ({rates} x 10^12 a second).
A backward pass takes as long as a forward pass, and calls of the autoencoder are added in the same
way.

The estimate holds for batches that fill the card and for convolutions that reach half of its peak.
One image at a time takes longer, because starting each kernel then takes longer than computing it.
`precision=tf32` or `bf16` takes less. Loading, metrics and perceptual losses are left out. Minutes
are for one image with one draw. All draws of an image share the part of *fit*; each draw takes the
rest."""


def facts() -> dict[str, Any]:
    """Read ``downloads.yaml``: ``priors``, ``data``, ``weights`` and ``gpus``."""
    content: dict[str, Any] = read_yaml(FILE)
    return content


def published(group: str) -> list[Option]:
    """Return the options of ``prior`` or ``data`` whose files somebody else publishes."""
    members = options(group).values()
    if group == "prior":
        return [o for o in members if str(o.content.get("path", "")).startswith(f"{CHECKPOINTS}/")]
    # data=folder is a folder of the user, which nobody publishes
    return [o for o in members if o.content.get("root") == "???" and o.name != "folder"]


def sections() -> list[str]:
    """Return the sections of the page."""
    known = facts()
    rates = ", ".join(f"{name} {rate:g}" for name, rate in known["gpus"].items())
    files = ["choice", "published", "files"]
    return [
        "## Priors",
        PRIORS,
        table(
            [*files, "download, GB", "sha256", "memory, GB", "disk, GB", "command"],
            [_prior(option, known["priors"][option.name]) for option in published("prior")],
        ),
        "## Data sets",
        DATA,
        table(
            [*files, "images", "download, GB", "sha256"],
            [_data(option, known["data"][option.name]) for option in published("data")],
        ),
        "## Weights of metrics",
        WEIGHTS,
        table(
            ["file", "download", "size", "sha256", "metrics"],
            [_weights(name, entry) for name, entry in known["weights"].items()],
        ),
        "## Minutes an image",
        ESTIMATE.format(rates=rates),
        *_minutes(known),
    ]


def _prior(option: Option, entry: Mapping[str, Any]) -> list[str]:
    sizes = entry["parameters"]
    disk = f"{4 * sum(sizes.values()) / 1000:.1f}" if sizes else "not measured"
    memory = entry["convert_gb"] or "not measured"
    return [choice(option), *_where(entry), *_download(entry), str(memory), disk, _command(option)]


def _data(option: Option, entry: Mapping[str, Any]) -> list[str]:
    return [choice(option), *_where(entry), f"{entry['images']}", *_download(entry)]


def _weights(name: str, entry: Mapping[str, Any]) -> list[str]:
    sha256 = entry["sha256"]
    known = "not published" if sha256 is None else f"`{sha256}`" + "..." * (len(sha256) < 64)
    size = entry["size"] or "not recorded"
    return [f"`{name}`", entry["url"], size, known, codes(entry["metrics"])]


def _where(entry: Mapping[str, Any]) -> tuple[str, str]:
    files = str(entry["files"])
    return str(entry["published"]), files if " " in files else f"`{files}`"


def _download(entry: Mapping[str, Any]) -> tuple[str, str]:
    note = f" ({entry['note']})" if entry.get("note") else ""
    return str(entry["gb"] or "not recorded"), str(entry["sha256"] or "not recorded") + note


def _command(option: Option) -> str:
    """Return the command that converts a prior, from the summary of its YAML file."""
    match = re.search(r"`bench (convert [^`]*)`", option.summary)
    return f"`python -m bench {match[1]}`" if match else ""


# -- minutes ---------------------------------------------------------------------------------------


def _minutes(known: Mapping[str, Any]) -> list[str]:
    """Return a table for each prior whose operations are counted, and the names of the others."""
    counts, parts, uncounted = preset_passes.read(), [], []
    head = ["solver", "preset", "passes, fit", "passes, draw", *known["gpus"]]
    for option in published("prior"):
        work = known["priors"][option.name]["gflop"]
        if work is None:
            uncounted.append(option)
            continue
        rows = list(_rows(option.name, work, counts, known["gpus"]))
        parts += [f"### {choice(option)}", _work(work), table(head, rows)]
    names = " and ".join(map(choice, uncounted))
    return [
        *parts,
        "Not counted, some because the size of the network depends on the version you take: "
        f"{names}.",
    ]


def _work(work: Mapping[str, float]) -> str:
    parts = ", ".join(f"{name} {value:g}" for name, value in work.items())
    return f"10^9 operations of one call: {parts}."


def _rows(
    prior: str, work: Mapping[str, float], counts: Mapping[str, Any], gpus: Mapping[str, float]
) -> Iterable[list[str]]:
    """Yield the row of every solver that has a preset for the prior."""
    for option in auto_solvers():
        preset = presets_by_prior(option).get(prior)
        if preset is None:
            continue
        entry = counts.get(preset_passes.key(option, preset, kind_of(prior)), {})
        cells = _estimate(entry, work, gpus)
        yield [choice(option), f"`{preset}`", *cells]


def _estimate(
    entry: Mapping[str, Any], work: Mapping[str, float], gpus: Mapping[str, float]
) -> list[str]:
    """Return the passes of a fit and a draw, and the minutes on every GPU."""
    if "draw" not in entry:
        return ["not counted"] * 2 + ["not measured"] * len(gpus)
    passes = [sum(entry[part].get(name, 0) for name in ("nfe", "nge")) for part in ("fit", "draw")]
    total = operations([entry["fit"], entry["draw"]], work)
    minutes = [_significant(total / (60e3 * rate)) for rate in gpus.values()]
    return [*(f"{number:g}" for number in passes), *minutes]


def operations(counted: Sequence[Mapping[str, float]], work: Mapping[str, float]) -> float:
    """Return the 10^9 operations of counted calls.

    Parameters
    ----------
    counted : Sequence of Mapping of str to float
        Numbers of calls by the names of a meter, such as ``nfe``; a mapping for each part of a run.
    work : Mapping of str to float
        10^9 operations of one call of ``network``, ``decoder`` and ``encoder``.

    Returns
    -------
    float
        The sum; a backward call takes as many operations as its forward call.
    """
    of = {"nfe": "network", "nge": "network", "decode": "decoder", "decode_grad": "decoder"}
    of |= {"encode": "encoder", "encode_grad": "encoder"}
    return sum(
        number * work.get(of[name], 0.0) for part in counted for name, number in part.items()
    )


def _significant(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"
