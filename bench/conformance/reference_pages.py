"""The pages ``solvers.md``, ``presets.md``, ``metrics.md``, ``applicability.md`` and
``downloads.md``, from the code.

``python -m bench.conformance.reference_pages`` writes them. A test compares the committed pages with what this module
would write, so they cannot fall behind the code.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from posterior_bench.bench.config.build import build, target
from posterior_bench.bench.config.catalog import Option, options
from posterior_bench.bench.config.presets import (
    AUTO,
    ORIGINS,
    case_of,
    default_preset,
    effective_settings,
    for_prior,
    origins,
    purpose,
)
from posterior_bench.bench.conformance.small_problems import small_prior
from posterior_bench.bench.core.environment import ROOT
from posterior_bench.solvers.base import lacking

if TYPE_CHECKING:
    from posterior_bench.metrics.base import AnyMetric, MetricCard
    from posterior_bench.solvers.base import Solver

NOTE = "<!-- Written from the code by `make docs`; edit the class or its yaml instead. -->"

SOLVERS = """\
Every method, as `python -m bench solver=NAME` runs it. A preset is chosen with `solver.preset=NAME`, and a single
setting with, for example, `solver.steps=50`; a preset in bold is the default. Most have `preset: auto`, which takes
the one that was chosen for the prior ([presets.md](presets.md)). The lists above the tables say where a preset takes
the place of another one: on latent priors, or on data of a few numbers, unless the named preset was chosen for the
prior. A preset's yaml lists what differs from the defaults of the class; the tables show every value. What a method
*needs* are capabilities of the operator and the prior; a combination that lacks one is refused before any work. A
method's *version* goes up with every change of its numbers and is part of a cell's hash, so results of different
versions never mix."""

PRESETS = """\
Good settings belong to a prior. Every preset of `conf/solver` names the priors it was chosen for. `preset: auto`, the
default, takes the one of the cell's prior; `python -m bench plan` says which that is, and `python -m bench show
solver=NAME prior=NAME` too. A preset that the user names wins. Where it was chosen for other priors, or none was chosen
for this one, the terminal and the tables say so. A preset with `instead_of: NAME` and `when: latent` is taken instead
of `NAME` on latent priors for which `NAME` was not chosen; with `when: small`, on data of a few numbers. A network in a
folder of the user's own goes by the name in its `prior.json`."""

METRICS = """\
Every number that a row can hold. The id is the column name of rows and leaderboards, and it names one exact
computation: another region, another network or pasted instead of raw images is another id. *Raw* images are the
solver's output; in *pasted* ones the observed pixels were put back. *Hole* and *known* are the pixels that the mask
hides and shows. Arrows point to the better end. Choose with `metrics=[NAME,NAME]`.

Some values need all draws of an image, or all images of a cell; the rows of a set metric hold features that the
leaderboard reduces to one number, with its interval. `metrics=calibration` chooses what needs draws and truth only,
`metrics=arena` adds what needs independent draws of the exact posterior, which closed-form priors give."""

APPLICABILITY = """\
Which solver runs with which prior and operator, computed from what a solver *needs* and what prior and operator *have*
(`Solver.needs`, `Prior.caps`, `Operator.caps`). A cell without what a solver needs is refused before any work, with the
names shown here; nothing is degraded silently. Single settings may need more, noisy measurements for instance
(`Solver.lacks`). `python -m bench check solver=NAME` runs a solver on a small prior of every kind."""

CAPABILITIES = {
    "exact": "the posterior is known in closed form, as for Gaussian mixtures",
    "features": "the network is a U-Net with named places for hooks; transformers have others",
    "grad": "the denoiser can be differentiated; every prior of ours can",
    "inpaint": "the network was trained to fill holes and reads mask and measurement as its input",
    "latent": "there is an autoencoder between the state and the image",
    "linear": "`A` is linear",
    "mask": "the operator keeps or drops pixels",
    "pinv": "there is a pseudo-inverse",
    "pixel": "the state is the image itself, so that a measured pixel is a place of the state",
    "projection": "`At A` is a projection",
    "prox": "the proximal step of the data term is in closed form",
    "unconditional": "the prior can be asked without a mask and a measurement; every method but "
    "those that need "
    "`inpaint` does so, and every prior but those that have it answers",
}
"""What a solver may need, in words; a test demands an entry for every need."""


@dataclasses.dataclass(frozen=True)
class Difference:
    """Where the table differs from what the literature has: which choices, in which columns, and
    why.
    """

    solvers: tuple[str, ...]
    columns: tuple[str, ...]
    reason: str


OPERATORS = "operators it takes"
VP, VE, LATENT, FLOW, CLOSED = (
    "pixel VP",
    "pixel VE / EDM",
    "latent VP",
    "latent flow (transformer)",
    "closed form",
)
INPAINT = "inpainting model"
PRIORS = (
    (
        VP,
        (
            "celeba256_adm",
            "celebahq_ddpm",
            "church_ddpm",
            "ffhq_adm",
            "imagenet256_adm",
            "imagenet64_adm",
        ),
    ),
    (VE, ("imagenet64_edm",)),
    (LATENT, ("celebahq", "celebahq_compvis", "imagenet256", "lsun_church", "sd15", "sd2")),
    (FLOW, ("dit256", "sd35")),
    (INPAINT, ("sd15_inpainting", "sd3_inpainting")),
)
"""Published priors by what they have in common; a test compares them with ``conf/prior``."""
DIFFERENCES = (
    Difference(
        ("blended", "repaint", "ddrm", "ddnm", "pigdm", "diffpir", "ding"),
        (LATENT, FLOW),
        "Ports use these on latents with a mask of latent cells and the encoding of a filled image "
        "as the measurement. "
        "Cells at the border then leak hidden pixels or lose observed ones: another method under "
        "the same name, so it "
        "is refused. LatentPaint runs there, because a latent mask is part of it.",
    ),
    Difference(
        ("mmps",),
        (LATENT, FLOW),
        "On latents every step of its conjugate gradients would go through the Jacobian of the "
        "decoder and back. Ours "
        "solves for the measured pixels alone.",
    ),
    Difference(
        ("ddrm",),
        (OPERATORS,),
        "The method takes any linear operator with a known singular value decomposition; ours "
        "takes masks, whose "
        "spectral space is the image itself.",
    ),
    Difference(
        ("pigdm",),
        (OPERATORS,),
        "The method takes any linear operator for which a system can be solved; ours takes "
        "projections, for which the "
        "solution is a division.",
    ),
)


def pages() -> dict[str, str]:
    """The text of every generated page by its path from the root of the checkout."""
    from posterior_bench.bench.conformance import downloads  # it uses what is below

    return {
        "docs/solvers.md": _page("Solvers", SOLVERS, _solvers()),
        "docs/presets.md": _page("Presets", PRESETS, _chosen()),
        "docs/metrics.md": _page("Metrics", METRICS, _metrics()),
        "docs/applicability.md": _page("Applicability", APPLICABILITY, _applicability()),
        "docs/downloads.md": _page("Downloads", downloads.INTRODUCTION, downloads.sections()),
    }


@dataclasses.dataclass(frozen=True)
class Note:
    """What a docstring says about one setting, or about several at once."""

    fields: tuple[str, ...]
    names: str
    text: str


_ENTRY = re.compile(r"(?P<names>\w+(?:, \w+)*) : [^\n]+\n(?P<text>(?:    [^\n]*\n?|\n(?=    ))*)")


def field_notes(cls: type) -> list[Note]:
    """Read the numpydoc section ``Parameters`` of a class.

    Parameters
    ----------
    cls : type
        A dataclass. An entry is ``name : type, default value`` or ``one, two : type``, with its
        text in the lines below, indented by four spaces.

    Returns
    -------
    list[Note]
        One note per entry, in the order of the docstring.
    """
    _, _, section = inspect.cleandoc(cls.__doc__ or "").partition("Parameters\n----------\n")
    section = re.split(r"\n\n(?=\S)", section)[0]
    return [
        Note(tuple(entry["names"].split(", ")), entry["names"], _flat(entry["text"]))
        for entry in _ENTRY.finditer(section)
    ]


def _page(title: str, introduction: str, sections: Iterable[str]) -> str:
    return "\n\n".join([NOTE, f"# {title}", introduction, *sections]) + "\n"


def _solvers() -> list[str]:
    by_class: dict[type[Solver], list[Option]] = {}
    for option in options("solver").values():
        by_class.setdefault(target(option.content), []).append(option)
    overview = [
        [_choice(option), cls.card.title, _codes(cls.needs)]
        for cls, found in by_class.items()
        for option in found
    ]
    return [
        _table(["choice", "method", "needs"], overview),
        *(_solver(cls, o) for cls, o in by_class.items()),
    ]


def _solver(cls: type[Solver], found: Sequence[Option]) -> str:
    card = cls.card
    facts = [
        f"**Paper**: {card.paper}",
        f"**Equations**: {card.equations}",
        f"**Needs**: {_codes(cls.needs) or 'nothing special'}",
        f"**Code**: `{cls.__module__.removeprefix('posterior_bench.')}.{cls.__qualname__}`, "
        f"version {cls.version}",
    ]
    parts = [f"## {card.title}", *_body(cls), _bullets(facts)]
    if card.deviations:
        parts += ["### Where it differs", _bullets(card.deviations)]
    if card.compat:
        parts += [
            "### `compat`",
            _bullets(f"`{name}`: {text}" for name, text in card.compat.items()),
        ]
    parts += ["### Settings", _bullets(map(_note, field_notes(cls)))]
    for option in found:
        parts += [f"{_choice(option)}: {option.summary}", _presets(option)]
    return "\n\n".join(parts)


def _note(note: Note) -> str:
    marked = re.sub(rf"(?<![(`\w])({'|'.join(note.fields)})(?=[ ,]|$)", r"`\1`", note.names)
    return f"{_code(marked)}: {_code(note.text)}"


def _presets(option: Option) -> str:
    content = option.content
    presets = content.get("presets", {})
    values = {name: effective_settings(content, name) for name in presets} or {
        "value": option.parameters
    }
    head = [f"**{name}**" if name == content.get("preset") else name for name in values]
    rows = [
        [f"`{key}`", *(_value(preset[key]) for preset in values.values())]
        for key in option.parameters
    ]
    told = {name: purpose(preset) for name, preset in presets.items()}
    words = (
        [_bullets(f"`{name}`: {text}" for name, text in told.items() if text)]
        if any(told.values())
        else []
    )
    return "\n\n".join([*words, _table(["setting", *head], rows)])


def choices(option: Option) -> dict[str, str | None]:
    """Every published prior that a solver runs with, for masks at least, and the preset that was
    chosen for it.
    """
    operator, presets = options("operator")["inpainting"], option.content.get("presets", {})
    runs = [
        name for family, names in PRIORS if not missing(option, operator, family) for name in names
    ]
    return {name: for_prior(presets, name) for name in sorted(runs)}


def automatic() -> list[Option]:
    """The solvers whose preset depends on the prior."""
    return [option for option in options("solver").values() if option.content.get("preset") == AUTO]


def _chosen() -> list[str]:
    rows = [row for option in automatic() for row in _choice_rows(option)]
    return [
        "Where settings come from:",
        _bullets(f"**{name}**: {text}" for name, text in ORIGINS.items()),
        "A method does not run with the priors that are missing here "
        "([applicability.md](applicability.md)).",
        _table(["choice", "preset", "from", "priors", "note"], rows),
    ]


def _choice_rows(option: Option) -> list[list[str]]:
    """A row for each preset that ``auto`` may take and each way it came to priors; the usual one
    last.
    """
    presets, taken = option.content["presets"], choices(option)
    own = {prior for preset in presets.values() for prior in origins(preset)} - taken.keys()
    published = {prior for _, names in PRIORS for prior in names}
    taken |= {prior: for_prior(presets, prior) for prior in sorted(own - published)}
    found: dict[tuple[str, str], list[str]] = {}
    for prior, name in taken.items():
        if name is not None:
            found.setdefault((name, origins(presets[name])[prior]), []).append(prior)
    rows = [
        [_choice(option), f"`{name}`", origin, _codes(priors), str(presets[name].get("note", ""))]
        for (name, origin), priors in sorted(
            found.items(), key=lambda item: [*ORIGINS].index(item[0][1])
        )
    ]
    return [
        *rows,
        [
            _choice(option),
            f"`{default_preset(option.content)}`",
            "",
            "any other",
            _instead(presets, default_preset(option.content)),
        ],
    ]


def _instead(presets: Mapping[str, Any], name: str | None) -> str:
    """Which presets take the place of this one, and where."""
    found = (
        f"`{other}` {case_of(preset)}"
        for other, preset in presets.items()
        if preset.get("instead_of") == name
    )
    return ", ".join(found)


def families() -> dict[str, frozenset[str]]:
    """The capabilities of every kind of prior: a U-Net in pixels or latents, a transformer flow, a
    closed form, and one that was trained for inpainting.
    """
    unet, latent = small_prior("network").caps, small_prior("latent").caps
    kinds = {
        VP: unet,
        VE: unet,
        LATENT: latent,
        FLOW: latent - {"features"},
        CLOSED: small_prior("exact").caps,
    }
    return {**kinds, INPAINT: small_prior("inpainting").caps}


def missing(option: Option, operator: Option, family: str) -> frozenset[str]:
    """What a solver needs and this operator with this kind of prior lacks; empty where it runs."""
    needs: frozenset[str] = target(option.content).needs
    has: frozenset[str] = target(operator.content).caps
    return lacking(needs, families()[family] | has)


def _applicability() -> list[str]:
    solvers = options("solver").values()
    parts: list[str] = []
    for operator in options("operator").values():
        rows = [
            [
                _choice(o),
                _codes(asked(o)) or "any",
                *(_runs(missing(o, operator, f)) for f in families()),
            ]
            for o in solvers
        ]
        parts += [
            f"## {_choice(operator)}",
            operator.summary,
            _table(["choice", OPERATORS, *families()], rows),
        ]
    used = frozenset({"unconditional"}).union(*(target(option.content).needs for option in solvers))
    meanings = (
        f"`{name}`: {CAPABILITIES.get(name, 'as its solver says')}" for name in sorted(used)
    )
    parts += ["## What the needs mean", _bullets(meanings)]
    differences = (
        f"{_codes(d.solvers)}, {' and '.join(d.columns)}: {d.reason}" for d in DIFFERENCES
    )
    return [*parts, "## Where this differs from the literature", _bullets(differences)]


def asked(option: Option) -> frozenset[str]:
    """What a solver needs of the operator: all that no prior has."""
    needs: frozenset[str] = target(option.content).needs
    return needs.difference(*families().values())


def _runs(lacking: frozenset[str]) -> str:
    return f"no {_codes(lacking)}" if lacking else "yes"


def _metrics() -> list[str]:
    by_class: dict[type[AnyMetric], list[tuple[Option, MetricCard]]] = {}
    for option in options("metrics").values():
        for node in option.parameters.values():
            metric: AnyMetric = build(node)
            by_class.setdefault(type(metric), []).append((option, metric.card))
    return [_metric(cls, found) for cls, found in by_class.items()]


def _metric(cls: type[AnyMetric], found: Sequence[tuple[Option, MetricCard]]) -> str:
    cards = [card for _, card in found]
    rows = [
        [f"`{card.id}`", _choice(option), *_seen(card), _direction(card)] for option, card in found
    ]
    shared = {
        "Range": [card.range + (f" ({card.unit})" if card.unit else "") for card in cards],
        "Images": [card.preprocessing for card in cards],
        "Network": [card.backbone for card in cards],
        "Weights": [card.weights for card in cards],
        "Source": [card.source for card in cards],
    }
    facts = [f"**{name}**: {_by_id(cards, texts)}" for name, texts in shared.items() if any(texts)]
    facts.append(
        f"**Code**: `{cls.__module__.removeprefix('posterior_bench.')}.{cls.__qualname__}`"
    )
    parts = [f"## {_common_title(cards)}", *_body(cls), _bullets(facts)]
    return "\n\n".join(
        [
            *parts,
            _table(["id", "chosen with", "one value from", "pixels", "images", "better"], rows),
        ]
    )


def _by_id(cards: Sequence[MetricCard], texts: Sequence[str]) -> str:
    """One text where all cards agree, else each text with the ids it holds for."""
    if len(set(texts)) == 1:
        return texts[0]
    ids: dict[str, list[str]] = {}
    for card, text in zip(cards, texts, strict=True):
        ids.setdefault(text, []).append(card.id)
    return "; ".join(f"{text or 'none'} ({_codes(names)})" for text, names in ids.items())


def _common_title(cards: Sequence[MetricCard]) -> str:
    return " / ".join(dict.fromkeys(card.title for card in cards))


def _seen(card: MetricCard) -> tuple[str, str, str]:
    """What one value is computed from: how many images, which pixels of them, and which images."""
    level = {"image": "one image", "draws": "all draws of an image", "set": "all images"}[
        card.level
    ]
    return level, card.region, "pasted" if card.pasted else "raw"


def _direction(card: MetricCard) -> str:
    return {"up": "↑ higher", "down": "↓ lower", "none": "neither"}[card.direction]


def _body(cls: type) -> list[str]:
    """Return the paragraphs of a docstring's summary, description and ``Notes``."""
    parts = re.split(r"(?:^|\n\n)(\w[\w ]*)\n-{3,}\n", inspect.cleandoc(cls.__doc__ or ""))
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    text = f"{parts[0]}\n\n{sections.get('Notes', '')}"
    paragraphs = [
        re.sub(r"(^| )Raises .*", "", _code(_flat(paragraph))) for paragraph in text.split("\n\n")
    ]
    return [paragraph for paragraph in paragraphs if paragraph]


def _flat(text: str) -> str:
    return " ".join(text.split())


def _code(text: str) -> str:
    """Docstring markup to Markdown: roles and double backticks become code."""
    return re.sub(r":\w+:`~?([^`]+)`", r"`\1`", text).replace("``", "`")


def _choice(option: Option) -> str:
    return f"`{option.group}={option.name}`" if option.group != "metrics" else f"`{option.name}`"


def _codes(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))


def _value(value: object) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines
    )


if __name__ == "__main__":
    for path, text in pages().items():
        ROOT.joinpath(path).write_text(text, encoding="utf-8")
        print(path)
