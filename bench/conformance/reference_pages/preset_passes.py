"""Count how often each preset for a published prior calls the network and the autoencoder.

``python -m posterior_bench.bench.conformance.reference_pages.preset_passes`` runs every solver once
in full length and writes ``passes.json``, from which ``docs/downloads.md`` estimates minutes. It
needs no checkpoint: the solver runs on a small prior of the same kind whose network is left out
(:func:`bench.engine.budget.weightless`). Counts depend on the settings of the preset and on the
kind of the prior alone. A test compares the settings that were counted with the settings of today.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from posterior_bench.bench.config.build import arguments, build
from posterior_bench.bench.config.catalog import Option, options
from posterior_bench.bench.config.cell import digest
from posterior_bench.bench.conformance.reference_pages.presets import (
    auto_solvers,
    presets_by_prior,
)
from posterior_bench.bench.conformance.reference_pages.prior_kinds import (
    FLOW,
    INPAINT,
    LATENT,
    PIXEL_FLOW,
    VE,
    VP,
    kind_of,
)
from posterior_bench.bench.conformance.small_priors import CLASSES, small_prior, small_unet
from posterior_bench.bench.conformance.small_problem import SmallProblem, absolute_distance
from posterior_bench.bench.engine.budget import weightless
from posterior_bench.priors import process
from posterior_bench.priors.base import Prior

FILE = Path(__file__).with_name("passes.json")
COUNTS = ("nfe", "nge", "decode", "decode_grad", "encode", "encode_grad")
_SMALL = {VE: "network", LATENT: "latent", INPAINT: "inpainting"}


def wanted() -> Iterator[tuple[Option, str, str]]:
    """Yield every solver, preset and kind of prior that ``preset: auto`` may combine."""
    combinations = {
        (option.name, preset, kind_of(prior)): option
        for option in auto_solvers()
        for prior, preset in presets_by_prior(option).items()
        if preset is not None
    }
    for (_, preset, kind), option in sorted(combinations.items()):
        yield option, preset, kind


def key(option: Option, preset: str, kind: str) -> str:
    """Return the key of a count in ``passes.json``."""
    return f"{option.name} {preset}, {kind}"


def settings_hash(option: Option, preset: str) -> str:
    """Return a hash of the settings of a preset."""
    return digest(arguments({**option.content, "preset": preset}))


def read() -> dict[str, dict[str, Any]]:
    """Read the counts.

    Returns
    -------
    dict of str to dict
        By :func:`key`: ``settings``, the hash of the settings that were counted; ``fit`` and
        ``draw`` with a number for each of :data:`COUNTS`, zeros left out; or ``skipped`` with the
        reason.
    """
    content: dict[str, dict[str, Any]] = json.loads(FILE.read_text(encoding="utf-8"))
    return content


def count(option: Option, preset: str, kind: str) -> Mapping[str, Any]:
    """Count the calls of one fit and one draw.

    Parameters
    ----------
    option : Option
        The solver.
    preset : str
        One of its presets.
    kind : str
        The kind of the prior.

    Returns
    -------
    Mapping of str to Any
        An entry as :func:`read` returns it.
    """
    entry = {"settings": settings_hash(option, preset)}
    try:
        fit, whole = _run(option, preset, kind)
    except Exception as error:  # a library is not installed, or modules must be trained first
        return {**entry, "skipped": str(error).splitlines()[0]}
    parts = {"fit": fit, "draw": {name: whole[name] - fit[name] for name in COUNTS}}
    return {
        **entry,
        **{part: {k: v for k, v in calls.items() if v} for part, calls in parts.items()},
    }


def _run(option: Option, preset: str, kind: str) -> tuple[Mapping[str, int], Mapping[str, int]]:
    """Return the calls after a fit, and after one draw more."""
    solver = build({**option.content, "preset": preset})
    distance = absolute_distance if getattr(solver, "perceptual", "none") != "none" else None
    problem = SmallProblem(
        _prior(kind, solver.needs), options("operator")["inpainting"].content, perceptual=distance
    )
    prior, measurement = problem.prior, problem.measure([0])
    with weightless(prior, "features" in solver.needs), prior.metered() as meter:
        posterior = solver.fit(problem.observe(measurement), prior, problem.noise(measurement))
        fit = meter.counts()
        posterior.sample([0])
        return fit, meter.counts()


def _prior(kind: str, needs: frozenset[str]) -> Prior:
    """Return a small prior of a kind; process, learned variance and latents change counts."""
    if "prompt_grad" in needs:
        return small_prior("text")
    if kind in _SMALL:
        return small_prior(_SMALL[kind])
    if kind == FLOW:
        latent = small_prior("latent")
        return Prior(
            process.Flow(3.0),
            latent.net,
            latent.image_shape,
            "flow",
            1.0,
            CLASSES,
            CLASSES,
            latent=latent.latent,
        )
    if kind == PIXEL_FLOW:
        return Prior(process.Flow(), small_unet(1), (1, 8, 8), "flow", 1.0, CLASSES, CLASSES)
    assert kind == VP
    vp = process.VP.scheduled("linear", 0.0001, 0.02)
    return Prior(vp, small_unet(1), (1, 8, 8), "eps", 1.0, CLASSES, CLASSES, learned_var=True)


def _write_all() -> None:
    """Count what has changed or is missing, and write the file after every count."""
    known = read() if FILE.exists() else {}
    counts: dict[str, Any] = {}
    for each in wanted():
        name, same = key(*each), settings_hash(*each[:2])
        counts[name] = known[name] if known.get(name, {}).get("settings") == same else count(*each)
        print(name, counts[name], file=sys.stderr, flush=True)
        lines = (f"{json.dumps(k)}: {json.dumps(v)}" for k, v in counts.items())
        FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    _write_all()
