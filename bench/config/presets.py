"""Which preset of a solver a cell gets: every preset names the priors it was chosen for.

A preset of ``conf/solver/*.yaml`` holds settings, and says under four more keys what they are for:
``for`` are the priors it was chosen for, by the names of ``conf/prior``; ``from`` says by whom
(:data:`ORIGINS`); ``similar`` are priors for which nobody has published settings and these are the
nearest; ``note`` is a short sentence. ``preset: auto`` asks for the preset of the cell's prior. No
torch is imported here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from posterior_bench.priors.fingerprint import read_spec, resolve

Node = Mapping[str, Any]

AUTO = "auto"
ORIGINS = {
    "paper": "the paper whose tables are reproduced here has these settings for this prior",
    "authors": "published by those who made the method, or ported it to this prior",
    "similar": "none published: the settings of a similar prior",
    "tuned": "chosen here; for the embedded priors on images that no table shows",
}
"""Where settings come from, best first: of several presets for one prior, ``auto`` takes the first
in this order."""

_SAID = ("for", "similar", "from", "note")


@dataclass(frozen=True)
class Choice:
    """A preset as a cell gets it.

    ``origin``: how it came to the cell's ``prior``, one of :data:`ORIGINS`; empty where it does not
    name that prior. ``priors``: those it was chosen for; none in the yaml of a solver that says
    nothing of that. ``prior`` is empty for a network that no yaml knows, and ``instead`` is the
    preset chosen for it, if there is one.
    """

    preset: str
    prior: str
    priors: tuple[str, ...]
    origin: str
    note: str
    instead: str | None

    @property
    def foreign(self) -> bool:
        """Whether the preset was chosen for other priors than this one."""
        return bool(self.priors) and not self.origin

    @property
    def text(self) -> str:
        """``authors, chosen for ffhq_adm (authors: box inpainting)``."""
        if not self.priors:
            return self.preset
        if self.foreign:
            other = f"{self.instead} is" if self.instead else "no preset is"
            return (
                f"{self.preset}, chosen for {', '.join(self.priors)}, not for "
                f"{self.prior or 'this prior'} ({other})"
            )
        said = f"{self.origin}: {self.note}" if self.note else self.origin
        return f"{self.preset}, chosen for {self.prior} ({said})"


def settings(preset: Node) -> dict[str, Any]:
    """What a preset sets, without what it says of itself."""
    return {key: value for key, value in preset.items() if key not in _SAID}


def origins(preset: Node) -> dict[str, str]:
    """The priors a preset names, with how it came to each of them."""
    own = {str(name): str(preset.get("from", "tuned")) for name in preset.get("for") or ()}
    return {**{str(name): "similar" for name in preset.get("similar") or ()}, **own}


def usual(solver: Node) -> str | None:
    """The preset that runs where none names the prior: the one the yaml asks for, of ``auto`` the
    first.
    """
    asked = solver.get("preset")
    return next(iter(solver["presets"])) if asked == AUTO and solver.get("presets") else asked


def for_prior(presets: Mapping[str, Node], prior: str) -> str | None:
    """The preset chosen for a prior; None where none names it."""
    found = {name: origins(preset).get(prior) for name, preset in presets.items()}
    return next(
        (name for origin in ORIGINS for name, given in found.items() if given == origin), None
    )


def choose(solver: Node, prior: Node, data: Node) -> Choice | None:
    """The preset of a cell; None for a solver without presets, and for a name that it does not
    have.

    A preset that the user names wins. It may have twins for what it was not chosen for: on a latent
    prior ``NAME`` is ``NAME_latent``, and on data whose yaml says ``preset: small`` it is
    ``NAME_small``. ``auto`` does the same where no preset names the prior.
    """
    presets: Mapping[str, Node] = solver.get("presets") or {}
    name, asked = prior_name(prior), usual(solver)
    chosen = for_prior(presets, name) if solver.get("preset") == AUTO else None
    if chosen is None and name not in origins(presets.get(str(asked), {})):
        kinds = [*(["latent"] if _is_latent(prior) else []), data.get("preset")]
        chosen = next(
            (twin for twin in (f"{asked}_{kind}" for kind in kinds) if twin in presets), None
        )
    preset = str(chosen or asked)
    if preset not in presets:
        return None
    said = origins(presets[preset])
    own = tuple(map(str, presets[preset].get("for") or ())) or tuple(said)
    note = str(presets[preset].get("note", ""))
    return Choice(preset, name, own, said.get(name, ""), note, for_prior(presets, name))


def prior_name(node: Node) -> str:
    """The name of a prior: that of the option, or of the ``prior.json`` in a folder that the user
    named; else empty.
    """
    from posterior_bench.bench.config.catalog import options

    shipped = {name: option.content for name, option in options("prior").items()}
    if "path" in node:
        named = next(
            (name for name, given in shipped.items() if given.get("path") == node["path"]), None
        )
        return named or str(_spec(node).get("name", ""))
    same = [
        name
        for name, given in shipped.items()
        if all(given.get(k) == node.get(k) for k in ("_target_", "shape"))
    ]
    return same[0] if same else ""


def _is_latent(prior: Node) -> bool:
    return "path" in prior and "latent" in _spec(prior)


def _spec(prior: Node) -> Mapping[str, Any]:
    try:
        return read_spec(resolve(prior["path"]))
    except (OSError, ValueError):
        return {}  # whoever loads the prior says what is wrong with it


def lines(presets: Mapping[str, Node]) -> Sequence[str]:
    """What every preset was chosen for, a line each; for people."""
    return [f"{name}: {line}" for name, preset in presets.items() if (line := said(preset))]


def said(preset: Node) -> str:
    """``for ffhq_adm (authors); nearest for church_ddpm; box inpainting``."""
    own, nearest = preset.get("for") or (), preset.get("similar") or ()
    parts = [f"for {', '.join(own)} ({preset.get('from', 'tuned')})"] if own else []
    parts += [f"nearest published for {', '.join(nearest)}"] if nearest else []
    return "; ".join([*parts, *([str(preset["note"])] if preset.get("note") else [])])
