"""The page ``docs/presets.md``: the preset that ``preset: auto`` takes for every prior."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from posterior_bench.bench.config.catalog import Option, options
from posterior_bench.bench.config.presets import (
    AUTO,
    ORIGINS,
    case_of,
    default_preset,
    for_prior,
    origins,
)
from posterior_bench.bench.conformance.reference_pages.markdown import (
    bullets,
    choice,
    codes,
    table,
)
from posterior_bench.bench.conformance.reference_pages.prior_kinds import (
    PUBLISHED_PRIORS,
    priors_for_inpainting,
)

INTRODUCTION = """\
Good settings belong to a prior. Every preset of `conf/solver` names the priors for which it was
chosen. `preset: auto`, the default, takes the preset of the cell's prior. `python -m bench plan`
and `python -m bench show solver=NAME prior=NAME` say which one that is. A preset that you name
yourself is always taken. If it was chosen for other priors, or if no preset was chosen for this
prior, the terminal and the tables say so.

A preset with `instead_of: NAME` and `when: latent` takes the place of `NAME` on latent priors for
which `NAME` was not chosen. With `when: small` it does so on data of a few numbers. For a network
in a folder of your own, the `name` in its `prior.json` counts."""


def presets_by_prior(option: Option) -> dict[str, str | None]:
    """Return the preset that was chosen for each published prior.

    Parameters
    ----------
    option : Option
        The solver.

    Returns
    -------
    dict of str to (str or None)
        By the name of each prior with which the solver can inpaint; None where no preset names the
        prior.
    """
    presets = option.content.get("presets", {})
    return {name: for_prior(presets, name) for name in priors_for_inpainting(option)}


def auto_solvers() -> list[Option]:
    """Return the solvers whose default is ``preset: auto``."""
    return [option for option in options("solver").values() if option.content.get("preset") == AUTO]


def sections() -> list[str]:
    """Return the sections of the page."""
    rows = [row for option in auto_solvers() for row in _rows(option)]
    return [
        "Where settings come from:",
        bullets(f"**{name}**: {text}" for name, text in ORIGINS.items()),
        "A method does not run with the priors that its rows leave out "
        "([applicability.md](applicability.md)).",
        table(["choice", "preset", "from", "priors", "note"], rows),
    ]


def _rows(option: Option) -> list[list[str]]:
    """Return a row for each preset and origin, best origin first, then that of other priors."""
    presets = option.content["presets"]
    by_choice: dict[tuple[str, str], list[str]] = {}
    for prior, name in _all_priors(option).items():
        if name is not None:
            by_choice.setdefault((name, origins(presets[name])[prior]), []).append(prior)
    order = [*ORIGINS]
    rows = [
        [choice(option), f"`{name}`", origin, codes(priors), str(presets[name].get("note", ""))]
        for (name, origin), priors in sorted(
            by_choice.items(), key=lambda item: order.index(item[0][1])
        )
    ]
    default = default_preset(option.content)
    last = [choice(option), f"`{default}`", "", "any other", _replacements(presets, default)]
    return [*rows, last]


def _all_priors(option: Option) -> dict[str, str | None]:
    """Return the preset of each published prior and of each other prior that a preset names."""
    presets, chosen = option.content["presets"], presets_by_prior(option)
    published = {prior for names in PUBLISHED_PRIORS.values() for prior in names}
    names = {prior for preset in presets.values() for prior in origins(preset)}
    others = sorted(names - chosen.keys() - published)
    return chosen | {prior: for_prior(presets, prior) for prior in others}


def _replacements(presets: Mapping[str, Any], name: str | None) -> str:
    """Return the presets that take the place of this one, and where."""
    return ", ".join(
        f"`{other}` {case_of(preset)}"
        for other, preset in presets.items()
        if preset.get("instead_of") == name
    )
