"""The page ``docs/downloads.md``: what is published elsewhere, where, how large, and minutes an
image by estimate.

Facts are in ``bench/conformance/downloads.yaml``, names and presets in ``conf``, counts of network passes in
``bench/conformance/passes.json``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from posterior_bench.bench.config.catalog import Option, options
from posterior_bench.bench.conformance import preset_passes
from posterior_bench.bench.conformance.reference_pages import _choice, _table, automatic, choices
from posterior_bench.bench.store.study_files import read_yaml
from posterior_bench.priors.fingerprint import CHECKPOINTS

FILE = Path(__file__).with_name("downloads.yaml")

INTRODUCTION = """\
Nothing is downloaded by this product. This page lists every prior and data set of `conf/` that is published elsewhere:
fetch the files, then convert a prior with the command of its row. `python -m bench doctor` looks at all that a run
needs before it starts. *Not recorded* and *not measured* are meant literally: no published file has been read here yet,
so no sha256 is known, and `convert --sha256 HASH` refuses any file but the one that you name."""

PRIORS = """\
Sizes of downloads follow from the number of parameters in float32 where nothing else is said. *Memory* is the peak that
`bench convert` took, with a file of the same layout and size and random weights. *Disk* is what the converted prior
takes in float32; `--dtype fp16` halves it."""

DATA = """\
Data sets are read as they lie, in the layouts of [data.md](data.md); nothing is converted or copied."""

ESTIMATE = """\
**An estimate, not a measurement: nothing here was timed on a GPU.** Minutes are passes times seconds a pass. Passes are
counted: one image, one mask, the preset that `preset: auto` takes for the prior, the solver's full length on a small
prior whose network is left out (`python -m bench.conformance.preset_passes`). Seconds a pass are the operations of one forward pass of the
network, counted as well, over half of the float32 peak that the maker of the card states ({rates} x 10^12 a second);
a backward pass takes as long as a forward one, and calls of the autoencoder are added in the same way. That holds for
batches that fill the card and for convolutions that reach half of its peak. One image at a time takes longer, because
starting each kernel then takes longer than computing it; `precision=tf32` or `bf16` takes less. Loading, metrics and
perceptual losses are left out. Minutes are for one image with one draw; the part of *fit* is shared by all draws of
an image, the rest is due for each."""


def facts() -> dict[str, Any]:
    """The content of ``bench/conformance/downloads.yaml``: ``priors``, ``data``, ``gpus``."""
    content: dict[str, Any] = read_yaml(FILE)
    return content


def published(group: str) -> list[Option]:
    """The options of ``prior`` or ``data`` that need files of somebody else."""
    found = options(group).values()
    if group == "prior":
        return [o for o in found if str(o.content.get("path", "")).startswith(f"{CHECKPOINTS}/")]
    # a folder of the user's own is published nowhere
    return [o for o in found if o.content.get("root") == "???" and o.name != "folder"]


def sections() -> list[str]:
    """The text of the page behind its introduction."""
    known = facts()
    rates = ", ".join(f"{name} {rate:g}" for name, rate in known["gpus"].items())
    return [
        "## Priors",
        PRIORS,
        _table(
            [
                "choice",
                "published",
                "files",
                "download, GB",
                "sha256",
                "memory, GB",
                "disk, GB",
                "command",
            ],
            [_prior(option, known["priors"][option.name]) for option in published("prior")],
        ),
        "## Data sets",
        DATA,
        _table(
            ["choice", "published", "files", "images", "download, GB", "sha256"],
            [_data(option, known["data"][option.name]) for option in published("data")],
        ),
        "## Minutes an image",
        ESTIMATE.format(rates=rates),
        *_minutes(known),
    ]


def _prior(option: Option, entry: Mapping[str, Any]) -> list[str]:
    sizes = entry["parameters"]
    disk = f"{4 * sum(sizes.values()) / 1000:.1f}" if sizes else "not measured"
    memory = entry["convert_gb"] or "not measured"
    return [_choice(option), *_where(entry), *_download(entry), str(memory), disk, _command(option)]


def _data(option: Option, entry: Mapping[str, Any]) -> list[str]:
    return [_choice(option), *_where(entry), f"{entry['images']}", *_download(entry)]


def _where(entry: Mapping[str, Any]) -> tuple[str, str]:
    files = str(entry["files"])
    return str(entry["published"]), files if " " in files else f"`{files}`"


def _download(entry: Mapping[str, Any]) -> tuple[str, str]:
    note = f" ({entry['note']})" if entry.get("note") else ""
    return str(entry["gb"] or "not recorded"), str(entry["sha256"] or "not recorded") + note


def _command(option: Option) -> str:
    found = re.search(r"`bench (convert [^`]*)`", option.summary)
    return f"`python -m bench {found[1]}`" if found else ""


# -- minutes ---------------------------------------------------------------------------------------


def _minutes(known: Mapping[str, Any]) -> list[str]:
    """A table for each prior whose passes are counted, and the names of the others."""
    counts, parts, left = preset_passes.read(), [], []
    for option in published("prior"):
        work = known["priors"][option.name]["gflop"]
        if work is None:
            left.append(option)
            continue
        rows = list(_rows(option.name, work, counts, known["gpus"]))
        table = _table(["solver", "preset", "passes, fit", "passes, draw", *known["gpus"]], rows)
        parts += [f"### {_choice(option)}", _work(work), table]
    names = " and ".join(map(_choice, left))
    return [
        *parts,
        f"Not counted, because the size of the network depends on the version you take: {names}.",
    ]


def _work(work: Mapping[str, float]) -> str:
    parts = ", ".join(f"{name} {value:g}" for name, value in work.items())
    return f"10^9 operations of one call: {parts}."


def _rows(
    prior: str, work: Mapping[str, float], counts: Mapping[str, Any], gpus: Mapping[str, float]
) -> Iterable[list[str]]:
    for option in automatic():
        preset = choices(option).get(prior)
        if preset is None:
            continue
        entry = counts.get(preset_passes.key(option, preset, preset_passes.kind_of(prior)), {})
        if "draw" not in entry:
            yield [
                _choice(option),
                f"`{preset}`",
                *["not counted"] * 2,
                *["not measured"] * len(gpus),
            ]
            continue
        each = [
            sum(entry[part].get(name, 0) for name in ("nfe", "nge")) for part in ("fit", "draw")
        ]
        total = operations([entry["fit"], entry["draw"]], work)
        minutes = [_significant(total / (60e3 * rate)) for rate in gpus.values()]
        yield [_choice(option), f"`{preset}`", *(f"{number:g}" for number in each), *minutes]


def operations(counted: Sequence[Mapping[str, float]], work: Mapping[str, float]) -> float:
    """10^9 operations of counted calls; a backward call takes as many as its forward one."""
    of = {"nfe": "network", "nge": "network", "decode": "decoder", "decode_grad": "decoder"}
    of |= {"encode": "encoder", "encode_grad": "encoder"}
    return sum(
        number * work.get(of[name], 0.0) for part in counted for name, number in part.items()
    )


def _significant(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2g}"
