"""The generated table of what runs where, against a table compiled by hand from the papers."""

from __future__ import annotations

import pytest

from posterior_bench.bench.config.build import operator_caps, target
from posterior_bench.bench.config.catalog import options
from posterior_bench.bench.conformance.reference_pages.applicability import (
    CAPABILITIES,
    DIFFERENCES,
    LACKING,
    OPERATORS,
)
from posterior_bench.bench.conformance.reference_pages.pages import pages
from posterior_bench.bench.conformance.reference_pages.prior_kinds import (
    FLOW,
    LATENT,
    VE,
    VP,
    capabilities_by_kind,
    missing_capabilities,
    operator_needs,
)

LINEAR_INVERSE = {"linear", "pinv"}
# What the methods' papers and public ports support. Y: works as written; v: needs the state in
# other coordinates, which a solver asks of its prior; dec: with the gradient of the decoder; m:
# with an approximate mask and measurement in the latent space; "-": not meaningful; "?": an open
# question.
LITERATURE: dict[tuple[str, ...], tuple[set[str], str, str, str, str]] = {
    # choices: (what the operator must be, pixel VP, pixel VE / EDM, latent VP, flow)
    ("blended", "repaint"): ({"mask"}, "Y", "Y", "m", "m"),
    ("lanpaint",): ({"mask"}, "Y", "v", "m", "m"),
    ("dps",): (set(), "Y", "v", "Y", "Y"),
    ("copaint", "copaint_tt"): (set(), "Y", "v", "dec", "dec"),
    ("reddiff", "reddiff_v"): (set(), "Y", "Y", "dec", "Y"),
    ("psld",): ({"linear"}, "-", "-", "Y", "Y"),
    ("resample",): (set(), "-", "-", "Y", "Y"),
    ("latentpaint", "latentpaint_free"): ({"mask"}, "Y", "Y", "m", "?"),
    ("ddrm",): ({"linear", "svd"}, "Y", "Y", "m", "m"),
    ("ddnm",): (LINEAR_INVERSE, "Y", "Y", "m", "m"),
    ("pigdm",): ({"linear"}, "Y", "Y", "m", "m"),
    ("diffpir",): ({"prox"}, "Y", "Y", "m", "m"),
    ("daps",): (set(), "Y", "v", "Y", "v"),
    ("mmps",): ({"linear"}, "Y", "Y", "dec", "Y"),
    ("tds",): (set(), "Y", "Y", "dec", "Y"),
    ("mgdm",): (set(), "Y", "v", "dec", "Y"),
    ("sitcom", "dmplug"): (set(), "Y", "v", "dec", "dec"),
    ("dcdp",): (set(), "Y", "Y", "dec", "dec"),
    ("ding",): ({"mask"}, "Y", "v", "m", "m"),
    ("pnpdm",): (set(), "v", "Y", "-", "-"),
    ("fps", "mcgdiff"): ({"linear", "svd"}, "Y", "v", "-", "-"),
    ("flowdps", "flair"): (set(), "v", "v", "v", "Y"),
    ("dflow",): (set(), "v", "v", "dec", "dec"),
    ("flow_priors",): (set(), "-", "-", "-", "?"),
    # of flows in pixels, read in other coordinates
    ("flower", "flower_cov", "ot_ode"): ({"linear"}, "v", "v", "-", "-"),
    ("pnpflow",): (set(), "v", "v", "dec", "dec"),
    ("flowchef",): (set(), "v", "v", "dec", "Y"),
}
RUNS = {"Y": True, "v": True, "dec": True, "m": True, "-": False, "?": False}


def test_the_table_is_that_of_the_literature_but_for_the_differences_it_lists() -> None:
    inpainting, solvers, columns = (
        options("operator")["inpainting"],
        options("solver"),
        (VP, VE, LATENT, FLOW),
    )
    found = set()
    for choices, (operator, *marks) in LITERATURE.items():
        for choice in choices:
            option = solvers[choice]
            runs = {
                family: not missing_capabilities(option, inpainting, family) for family in columns
            }
            theirs = {family: RUNS[mark] for family, mark in zip(columns, marks, strict=True)}
            found |= {(choice, family) for family in columns if runs[family] != theirs[family]}
            found |= {(choice, OPERATORS)} if operator_needs(option) != operator else set()
    assert found == {
        (choice, column) for d in DIFFERENCES for choice in d.solvers for column in d.columns
    }


def test_the_page_gives_every_difference_and_its_reason() -> None:
    page = pages()["docs/applicability.md"]
    for difference in DIFFERENCES:
        assert difference.reason in page
        assert set(difference.solvers) <= options("solver").keys()
        assert set(difference.columns) <= {OPERATORS, *capabilities_by_kind()}


@pytest.mark.parametrize("name", options("solver"))
def test_every_need_has_its_meaning_in_the_page(name: str) -> None:
    assert target(options("solver")[name].content).needs <= CAPABILITIES.keys()


def test_every_operator_says_why_it_lacks_what_solvers_need() -> None:
    needed = frozenset().union(*(operator_needs(option) for option in options("solver").values()))
    lacking = {
        (capability, name)
        for name, option in options("operator").items()
        for capability in needed - operator_caps(option.content)
    }
    explained = {(capability, name) for capability, names in LACKING.items() for name in names}
    assert explained == lacking
    page = pages()["docs/applicability.md"]
    for names in LACKING.values():
        assert all(reason in page for reason in names.values())
