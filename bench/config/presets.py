"""Choose the preset that a solver gets in a cell: every preset names the priors it is for.

A preset of ``conf/solver/*.yaml`` lists the settings that differ from the defaults of the solver's
class, and no others: a default stands once, in the class. :func:`effective` gives every setting.
Further keys say what a preset is for:

``for``
    The priors it was chosen for, by the names of ``conf/prior``.
``from``
    Who chose it, one of :data:`ORIGINS`.
``similar``
    Priors for which nobody has published settings; those of this preset are the nearest.
``note``
    A short sentence.
``instead_of``, ``when``
    The name of another preset, and the case in which this one takes its place: ``latent`` for a
    latent prior, or the word that a YAML file of ``conf/data`` says under ``preset`` (``small``:
    data of a few numbers).
``tuned``
    How ``bench tune`` chose the settings: on which problems, by which objective, with how much
    effort, and how flat the optimum is.

``preset: auto`` asks for the preset of the cell's prior. No torch is imported here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from posterior_bench.bench.config.class_source import class_defaults
from posterior_bench.bench.config.option_files import group_content, option_files
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

LATENT = "latent"
CASES = {LATENT: "on latent priors", "small": "on data of a few numbers"}
"""What a preset says under ``when``, and how people read it; data of a plug-in may add words."""

HARNESS_KEYS = frozenset({"_target_", "preset", "presets", "space", "train"})
"""Keys of a solver's node that are no settings of its class."""

_SAID = ("for", "similar", "from", "note", "instead_of", "when", "tuned")


@dataclass(frozen=True)
class Choice:
    """The preset of one cell, and why it has this one.

    Parameters
    ----------
    preset : str
        Its name.
    prior : str
        The name of the prior of the cell; empty if neither an option nor ``prior.json`` names it.
    priors : tuple of str
        The priors that the preset was chosen for; empty if its YAML file does not say.
    origin : str
        Who chose it for the cell's prior, one of :data:`ORIGINS`; empty if it does not name that
        prior.
    note : str
        What its YAML file says about it.
    instead : str or None
        The preset that was chosen for the cell's prior, if there is one.
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
    """Return the settings that a preset lists, without what it says of itself."""
    return {key: value for key, value in preset.items() if key not in _SAID}


def effective_settings(solver: Node, preset: str) -> dict[str, Any]:
    """Return the value of every setting of a solver with one of its presets.

    Parameters
    ----------
    solver : Mapping of str to Any
        The solver's node: the content of its YAML file, with what the user set.
    preset : str
        The name of one of its presets.

    Returns
    -------
    dict of str to Any
        By setting, in the order of the node: what the user set, else what the preset says, else the
        default of the class; None where none of them gives a value.
    """
    values = {**class_defaults(str(solver.get("_target_", ""))), **solver["presets"][preset]}
    return {
        key: values.get(key) if value is None else value
        for key, value in solver.items()
        if key not in HARNESS_KEYS
    }


def with_all_settings(solver: Node, preset: str) -> dict[str, Any]:
    """Return the solver's node with a preset chosen that lists every setting nobody has set."""
    presets, values = solver["presets"], effective_settings(solver, preset)
    unset = {k: v for k, v in values.items() if solver[k] is None and v is not None}
    full = {**presets[preset], **unset}
    return {**solver, "preset": preset, "presets": {**presets, preset: full}}


def origins(preset: Node) -> dict[str, str]:
    """Return the priors that a preset names, with its origin for each of them."""
    own = {str(name): str(preset.get("from", "tuned")) for name in preset.get("for") or ()}
    return {**{str(name): "similar" for name in preset.get("similar") or ()}, **own}


def default_preset(solver: Node) -> str | None:
    """Return the preset for a prior that no preset names.

    It is the one that the node asks for, the first one for ``auto``.
    """
    asked = solver.get("preset")
    return next(iter(solver["presets"])) if asked == AUTO and solver.get("presets") else asked


def for_prior(presets: Mapping[str, Node], prior: str) -> str | None:
    """Return the preset that was chosen for a prior; None if no preset names it."""
    by_name = {name: origins(preset).get(prior) for name, preset in presets.items()}
    return next(
        (name for best in ORIGINS for name, origin in by_name.items() if origin == best), None
    )


def replacement(presets: Mapping[str, Node], preset: str | None, case: str | None) -> str | None:
    """Return the preset that takes the place of another one in a case; None where there is none."""
    if preset is None or case is None:
        return None
    return next(
        (
            name
            for name, node in presets.items()
            if (node.get("instead_of"), node.get("when")) == (preset, case)
        ),
        None,
    )


def choose(solver: Node, prior: Node, data: Node) -> Choice | None:
    """Choose the preset of a cell.

    A preset that the user names wins; where it was not chosen for the prior, one that is there
    ``instead_of`` it in such a case takes its place. ``auto`` does the same where no preset names
    the prior.

    Returns
    -------
    Choice or None
        None for a solver without presets, and for a name that it does not have.
    """
    presets: Mapping[str, Node] = solver.get("presets") or {}
    name, asked = prior_name(prior), default_preset(solver)
    chosen = for_prior(presets, name) if solver.get("preset") == AUTO else None
    if chosen is None and name not in origins(presets.get(str(asked), {})):
        cases = [*([LATENT] if is_latent(prior) else []), data.get("preset")]
        chosen = next(
            (other for case in cases if (other := replacement(presets, asked, case))), None
        )
    preset = str(chosen or asked)
    if preset not in presets:
        return None
    said = origins(presets[preset])
    own = tuple(map(str, presets[preset].get("for") or ())) or tuple(said)
    note = str(presets[preset].get("note", ""))
    return Choice(preset, name, own, said.get(name, ""), note, for_prior(presets, name))


def prior_name(node: Node) -> str:
    """Return the name of a prior: of its option, or in its ``prior.json``; empty if unknown."""
    files = option_files("prior")
    shipped = {name: group_content(file.path, "prior") for name, file in files.items()}
    if "path" in node:
        same_path = [name for name, own in shipped.items() if own.get("path") == node["path"]]
        # options that share a folder differ in a setting: the same network in other coordinates
        same = [name for name in same_path if _alike(shipped[name], node)]
        return next(iter([*same, *same_path]), None) or str(_spec(node).get("name", ""))
    same = [
        name
        for name, own in shipped.items()
        if all(own.get(k) == node.get(k) for k in ("_target_", "shape"))
    ]
    return same[0] if same else ""


def _alike(*priors: Node) -> bool:
    """Return whether two priors have the same settings; one that is None is not set."""
    one, other = (
        {k: v for k, v in prior.items() if v is not None and k != "train"} for prior in priors
    )
    return one == other


def is_latent(prior: Node) -> bool:
    """Return whether the prior of a node works on latents."""
    return "path" in prior and "latent" in _spec(prior)


def _spec(prior: Node) -> Mapping[str, Any]:
    try:
        return read_spec(resolve(prior["path"]))
    except (OSError, ValueError):
        return {}  # whoever loads the prior says what is wrong with it


def purposes(presets: Mapping[str, Node]) -> Sequence[str]:
    """Return a line per preset on what it was chosen for."""
    return [f"{name}: {line}" for name, preset in presets.items() if (line := purpose(preset))]


def purpose(preset: Node) -> str:
    """Return what a preset is for, in words.

    For example ``for ffhq_adm (authors); nearest for church_ddpm; box inpainting``.
    """
    own, nearest = preset.get("for") or (), preset.get("similar") or ()
    parts = [f"instead of {preset['instead_of']} {case}"] if (case := case_of(preset)) else []
    parts += [f"for {', '.join(own)} ({preset.get('from', 'tuned')})"] if own else []
    parts += [f"nearest published for {', '.join(nearest)}"] if nearest else []
    return "; ".join([*parts, *([str(preset["note"])] if preset.get("note") else [])])


def case_of(preset: Node) -> str:
    """Return in which case a preset takes the place of another, in words; empty if in none."""
    case = preset.get("when")
    return "" if case is None else CASES.get(case, f"on data with `preset: {case}`")
