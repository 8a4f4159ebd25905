"""The page ``docs/applicability.md``: which solver runs with which operator and prior."""

from __future__ import annotations

from dataclasses import dataclass

from posterior_bench.bench.config.build import target
from posterior_bench.bench.config.catalog import Option, options
from posterior_bench.bench.conformance.reference_pages.markdown import (
    bullets,
    choice,
    codes,
    table,
)
from posterior_bench.bench.conformance.reference_pages.prior_kinds import (
    FLOW,
    LATENT,
    capabilities_by_kind,
    missing_capabilities,
    operator_needs,
)

INTRODUCTION = """\
The tables say which solver runs with which prior and operator. They are computed from the
capabilities that a solver *needs* and that prior and operator *have* (`Solver.needs`, `Prior.caps`,
`Operator.caps`). A cell that lacks a capability is refused before any work, with the names shown
here; the list below a table says why the operator has no such thing. The product never replaces a
method by a weaker one without saying so. Single settings may need more, for example DDNM+ on noisy
measurements (`Solver.lacks`). `python -m bench check solver=NAME` runs a solver on a small prior of
every kind."""

CAPABILITIES = {
    "amplitudes": "`A` measures the amplitudes of the frequencies of an image with zeros around it",
    "exact": "the posterior is known in closed form, as for Gaussian mixtures",
    "features": "the network is a U-Net with named places for hooks; transformers have other "
    "places",
    "flow": "the state is that of a rectified flow, between image and noise on a straight line",
    "grad": "the denoiser can be differentiated; every prior of this product can",
    "increments": "the prior is a signal with independent increments of a known law (Lévy)",
    "inpaint": "the network was trained to fill holes; mask and measurement are its inputs",
    "latent": "an autoencoder lies between the state and the image",
    "linear": "`A` is linear",
    "low_dimension": "an image has at most 128 values, so Markov chains can sample any posterior",
    "mask": "the operator keeps or drops pixels",
    "nonlinear": "`A` is not linear",
    "pinv": "the operator has a pseudo-inverse",
    "pixel": "the state is the image itself, so a measured pixel is an entry of the state",
    "projection": "`At A` is a projection",
    "prompt_grad": "the network reads a prompt, and the denoiser can be differentiated in its "
    "embedding; of the latent priors, those of Stable Diffusion",
    "prox": "the proximal step of the data term can be computed",
    "svd": "the singular value decomposition of `A` is known",
    "unconditional": "the prior can be called without a mask and a measurement; every prior "
    "without `inpaint` can, and every method that does not need `inpaint` does so",
}
"""The meaning of every capability that a solver may need; a test finds missing entries."""

OPERATORS = "operators it takes"


@dataclass(frozen=True)
class Difference:
    """A difference between the tables of the page and the literature.

    Parameters
    ----------
    solvers : tuple of str
        The solvers that it concerns.
    columns : tuple of str
        The columns that it concerns: kinds of priors, or :data:`OPERATORS`.
    reason : str
        The reason, in full sentences.
    """

    solvers: tuple[str, ...]
    columns: tuple[str, ...]
    reason: str


DIFFERENCES = (
    Difference(
        ("repaint", "ddrm", "ddnm", "pigdm", "diffpir", "ding"),
        (LATENT, FLOW),
        "Some ports use these methods on latents: with a mask of latent cells, and with the "
        "encoding of a filled image as the measurement. Cells at the border of the hole then leak "
        "hidden pixels or lose observed ones. That is another method under the same name, so it is "
        "refused here. LatentPaint and Blended run there: a latent mask is part of the first, and "
        "VIPaint's Table 5 has the second.",
    ),
    Difference(
        ("mmps",),
        (LATENT, FLOW),
        "On latents, every step of its conjugate gradients would go through the Jacobian of the "
        "decoder and back. The solver here solves for the measured pixels only.",
    ),
    Difference(
        ("ding",),
        (OPERATORS,),
        "The paper has masks. A step is a product of Gaussians, one per pixel. With known singular "
        "values there is one per singular vector, so the solver here takes those operators too.",
    ),
    Difference(
        ("pnpdm",),
        (OPERATORS,),
        "For operators that are not linear the paper draws by Langevin dynamics. That is a setting "
        "here, likelihood=langevin, which takes any operator. With the default, draws are exact.",
    ),
    Difference(
        ("pigdm", "ot_ode", "flower", "flower_cov"),
        (OPERATORS,),
        "These methods take any linear operator for which a linear system can be solved. The "
        "solvers here leave this to the proximal step of the operator, which solves the same "
        "system.",
    ),
)

MIXED = "every measured value is a sum over several pixels, so no pixel is observed by itself"
NO_MATRIX = "`A` is not linear, and only a linear map has one"
NO_MINIMISER = "`A` is not linear: the minimiser has no closed form, and need not be unique"
MIRRORED = (
    "no fast transform makes a blur with an asymmetric kernel and mirrored borders diagonal; "
    "`border=circular` has it"
)
OTHER_VALUES = "it does not measure amplitudes of frequencies"
CURVED = ("hdr", "nonlinear_blur", "phase_retrieval", "squared_projection", "xray")
"""The operators that are not linear."""

LACKING = {
    "amplitudes": dict.fromkeys(
        (
            "anisotropic_blur",
            "box_blur",
            "denoising",
            "fourier",
            "gaussian_blur",
            "hdr",
            "inpainting",
            "motion_blur",
            "motion_blur_circular",
            "nonlinear_blur",
            "projection",
            "squared_projection",
            "super_resolution",
            "xray",
        ),
        OTHER_VALUES,
    ),
    "linear": {
        "hdr": "values beyond the range are cut off",
        "nonlinear_blur": "the measurement is a network's output",
        "phase_retrieval": "a modulus forgets the phase",
        "squared_projection": "a square forgets the sign",
        "xray": "absorption is exponential",
    },
    "mask": {
        **dict.fromkeys(
            (
                "anisotropic_blur",
                "box_blur",
                "fourier",
                "gaussian_blur",
                "motion_blur",
                "motion_blur_circular",
                "nonlinear_blur",
                "projection",
                "squared_projection",
                "super_resolution",
                "xray",
            ),
            MIXED,
        ),
        "denoising": "it measures every pixel, so there is nothing to mask",
        "fourier": "it measures frequencies, and no pixels",
        "hdr": "measured values are scaled and cut off, so they are not those of the pixels",
        "phase_retrieval": "it measures frequencies, and no pixels",
    },
    "pinv": {
        **dict.fromkeys(CURVED, NO_MATRIX),
        "motion_blur": MIRRORED,
    },
    "nonlinear": dict.fromkeys(
        (
            "anisotropic_blur",
            "box_blur",
            "denoising",
            "fourier",
            "gaussian_blur",
            "inpainting",
            "motion_blur",
            "motion_blur_circular",
            "projection",
            "super_resolution",
        ),
        "`A` is linear, so `exact` knows the posterior in closed form",
    ),
    "prox": dict.fromkeys(CURVED[1:], NO_MINIMISER),
    "svd": {
        **dict.fromkeys(CURVED, NO_MATRIX),
        "motion_blur": MIRRORED,
    },
}
"""Why an operator lacks a capability that some solver needs, by capability and operator."""


def sections() -> list[str]:
    """Return the sections of the page: an operator each, the meanings, the differences."""
    parts: list[str] = []
    for operator in options("operator").values():
        rows = [_row(option, operator) for option in options("solver").values()]
        head = ["choice", OPERATORS, *capabilities_by_kind()]
        parts += [f"## {choice(operator)}", operator.summary, table(head, rows)]
        if reasons := [
            f"no `{name}`: {by_operator[operator.name]}"
            for name, by_operator in LACKING.items()
            if operator.name in by_operator
        ]:
            parts += [bullets(reasons)]
    needs = (target(option.content).needs for option in options("solver").values())
    names = sorted(frozenset({"unconditional"}).union(*needs))
    meanings = (f"`{name}`: {CAPABILITIES.get(name, 'as its solver says')}" for name in names)
    parts += ["## What the needs mean", bullets(meanings)]
    differences = (
        f"{codes(d.solvers)}, {' and '.join(d.columns)}: {d.reason}" for d in DIFFERENCES
    )
    return [*parts, "## Where this differs from the literature", bullets(differences)]


def _row(option: Option, operator: Option) -> list[str]:
    """Return the row of a solver in the table of an operator."""
    missing = (missing_capabilities(option, operator, kind) for kind in capabilities_by_kind())
    cells = (f"no {codes(names)}" if names else "yes" for names in missing)
    return [choice(option), codes(operator_needs(option)) or "any", *cells]
