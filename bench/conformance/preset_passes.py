"""How often each preset for a published prior calls network and autoencoder; counted, without any
checkpoint.

``python -m bench.conformance.preset_passes`` runs every solver once, in full length, on a small prior of the right
kind whose network is left out (:func:`bench.engine.budget.weightless`), and writes ``bench/conformance/passes.json``,
from which ``docs/downloads.md`` estimates minutes. Counts depend on the settings of the preset and
on the kind of prior alone. A test compares the settings that were counted with those of today.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from posterior_bench.bench.config.build import arguments, build
from posterior_bench.bench.config.catalog import Option, options
from posterior_bench.bench.config.cell import digest
from posterior_bench.bench.conformance.reference_pages import (
    FLOW,
    INPAINT,
    LATENT,
    VE,
    VP,
    automatic,
    choices,
)
from posterior_bench.bench.conformance.reference_pages import PRIORS as FAMILIES
from posterior_bench.priors.base import Prior

FILE = Path(__file__).with_name("passes.json")
COUNTS = ("nfe", "nge", "decode", "decode_grad", "encode", "encode_grad")


def kind_of(prior: str) -> str:
    """The kind of a published prior: one of the column heads of ``docs/applicability.md``."""
    return next(kind for kind, names in FAMILIES if prior in names)


def wanted() -> Iterator[tuple[Option, str, str]]:
    """Every solver, preset and kind of prior that a published prior chooses by itself."""
    found = {
        (option.name, preset, kind_of(prior)): option
        for option in automatic()
        for prior, preset in choices(option).items()
        if preset is not None
    }
    yield from ((option, preset, kind) for (_, preset, kind), option in sorted(found.items()))


def key(option: Option, preset: str, kind: str) -> str:
    """What a count is filed under."""
    return f"{option.name} {preset}, {kind}"


def settings_hash(option: Option, preset: str) -> str:
    """Of the settings that were counted."""
    return digest(arguments({**option.content, "preset": preset}))


def read() -> dict[str, dict[str, Any]]:
    """The counts by :func:`key`: ``settings``, then ``fit`` and ``draw`` with a number for each of
    :data:`COUNTS`.
    """
    content: dict[str, dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))
    return content


def count(option: Option, preset: str, kind: str) -> Mapping[str, Any]:
    """What one fit and one draw take, or ``skipped`` with the reason."""
    from posterior_bench.bench.conformance.small_problems import Rig
    from posterior_bench.bench.engine.budget import _apart, weightless

    entry = {"settings": settings_hash(option, preset)}
    try:
        solver = build({**option.content, "preset": preset})
        distance = _apart if getattr(solver, "perceptual", "none") != "none" else None
        rig = Rig(_small(kind), options("operator")["inpainting"].content, perceptual=distance)
        measured = rig.measure([0])
        with weightless(rig.prior, "features" in solver.needs), rig.prior.metered() as meter:
            posterior = solver.fit(rig.observe(measured), rig.prior, rig.noise(measured))
            fit = meter.counts()
            posterior.sample([0])
            whole = meter.counts()
    except (
        Exception
    ) as error:  # of a library that is not installed, or modules that are trained first
        return {**entry, "skipped": str(error).splitlines()[0]}
    parts = {"fit": fit, "draw": {name: whole[name] - fit[name] for name in COUNTS}}
    return {
        **entry,
        **{part: {k: v for k, v in found.items() if v} for part, found in parts.items()},
    }


def _small(kind: str) -> Prior:
    """A small prior that is called as one of this kind: the process, the learned variance and the
    latents count.
    """
    from posterior_bench.bench.conformance.small_problems import _CLASSES, _unet, small_prior
    from posterior_bench.priors.process import VP as VPProcess
    from posterior_bench.priors.process import Flow

    if kind in (VE, LATENT, INPAINT):
        return small_prior({VE: "network", LATENT: "latent", INPAINT: "inpainting"}[kind])
    if kind == FLOW:
        latent = small_prior("latent")
        return Prior(
            Flow(3.0),
            latent.net,
            latent.image_shape,
            "flow",
            1.0,
            _CLASSES,
            _CLASSES,
            latent=latent.latent,
        )
    assert kind == VP
    net: nn.Module = _unet(1)
    process = VPProcess.scheduled("linear", 0.0001, 0.02)
    return Prior(process, net, (1, 8, 8), "eps", 1.0, _CLASSES, _CLASSES, learned_var=True)


if __name__ == "__main__":
    known = read() if FILE.exists() else {}
    found: dict[str, Any] = {}
    for each in wanted():
        name, same = key(*each), settings_hash(*each[:2])
        found[name] = known[name] if known.get(name, {}).get("settings") == same else count(*each)
        print(name, found[name], file=sys.stderr, flush=True)
        lines = (f"{json.dumps(k)}: {json.dumps(v)}" for k, v in found.items())
        FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
