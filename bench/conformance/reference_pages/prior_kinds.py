"""Kinds of priors, their capabilities, and which solver can run with them."""

from __future__ import annotations

from posterior_bench.bench.config.build import operator_caps, target
from posterior_bench.bench.config.catalog import Option, options
from posterior_bench.bench.conformance.small_priors import small_prior
from posterior_bench.solvers.base import lacking

VP, VE, PIXEL_FLOW, LATENT, FLOW, CLOSED = (
    "pixel VP",
    "pixel VE / EDM",
    "pixel flow",
    "latent VP",
    "latent flow (transformer)",
    "closed form",
)
INPAINT = "inpainting model"
SIGNAL = "Lévy signal"
PUBLISHED_PRIORS = {
    VP: (
        "celeba256_adm",
        "celebahq_ddpm",
        "church_ddpm",
        "ffhq_adm",
        "imagenet256_adm",
        "imagenet64_adm",
    ),
    VE: ("imagenet64_edm",),
    PIXEL_FLOW: ("afhq256_flow", "celeba128_flow"),
    LATENT: (
        "celebahq",
        "celebahq_compvis",
        "ffhq_compvis",
        "imagenet256",
        "lsun_church",
        "sd15",
        "sd15_lcm",
        "sd2",
        "sdxl",
        "sdxl_lcm",
    ),
    FLOW: ("dit256", "flux_dev", "sd3", "sd35"),
    INPAINT: ("flux_fill", "sd15_inpainting", "sd3_inpainting", "sdxl_inpainting"),
}
"""Names of the published priors by their kind; a test compares them with ``conf/prior``."""

WITHOUT_PROMPTS = frozenset(
    {"celebahq", "celebahq_compvis", "dit256", "ffhq_compvis", "imagenet256", "lsun_church"}
)
"""The published latent priors that read no prompts; all others do."""


def kind_of(prior: str) -> str:
    """Return the kind of a published prior.

    Parameters
    ----------
    prior : str
        Its name in ``conf/prior``.

    Returns
    -------
    str
        A key of :data:`PUBLISHED_PRIORS`.
    """
    return next(kind for kind, names in PUBLISHED_PRIORS.items() if prior in names)


def capabilities_by_kind() -> dict[str, frozenset[str]]:
    """Return the capabilities of every kind of prior.

    Returns
    -------
    dict of str to frozenset of str
        By kind, in the order of the columns of ``docs/applicability.md``. Pixel and latent priors
        are U-Nets. The latent flow is a transformer, so it lacks ``features``. Latent priors have
        ``prompt_grad``, but for :data:`WITHOUT_PROMPTS`.
    """
    unet, latent = small_prior("network").caps, small_prior("latent").caps | {"prompt_grad"}
    return {
        VP: unet,
        VE: unet,
        PIXEL_FLOW: unet | {"flow"},
        LATENT: latent,
        FLOW: (latent - {"features"}) | {"flow"},
        CLOSED: small_prior("exact").caps,
        SIGNAL: small_prior("increments").caps,
        INPAINT: small_prior("inpainting").caps,
    }


def missing_capabilities(option: Option, operator: Option, kind: str) -> frozenset[str]:
    """Return the capabilities that a solver needs and that operator and prior lack.

    Parameters
    ----------
    option : Option
        The solver.
    operator : Option
        The operator.
    kind : str
        The kind of the prior.

    Returns
    -------
    frozenset of str
        Empty if the solver runs.
    """
    needs: frozenset[str] = target(option.content).needs
    has = capabilities_by_kind()[kind] | operator_caps(operator.content)
    return lacking(needs, has)


def operator_needs(option: Option) -> frozenset[str]:
    """Return the needs of a solver that only an operator can satisfy."""
    needs: frozenset[str] = target(option.content).needs
    return needs.difference(*capabilities_by_kind().values())


def priors_for_inpainting(option: Option) -> list[str]:
    """Return the published priors with which a solver can inpaint, sorted by name."""
    operator, needs = options("operator")["inpainting"], target(option.content).needs
    return sorted(
        name
        for kind, names in PUBLISHED_PRIORS.items()
        if not missing_capabilities(option, operator, kind)
        for name in names
        if "prompt_grad" not in needs or name not in WITHOUT_PROMPTS
    )
