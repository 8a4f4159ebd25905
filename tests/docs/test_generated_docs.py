"""The committed pages are what the code says today, and the code says enough."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import pytest

from posterior_bench.bench.config.build import target
from posterior_bench.bench.config.catalog import options
from posterior_bench.bench.conformance.reference_pages.markdown import field_notes
from posterior_bench.bench.conformance.reference_pages.pages import pages
from posterior_bench.bench.core.environment import ROOT


@pytest.mark.parametrize("path", pages())
def test_committed_page_is_up_to_date(path: str) -> None:
    assert ROOT.joinpath(path).read_text(encoding="utf-8") == pages()[path], (
        "run 'make docs' and commit the pages"
    )


@pytest.mark.parametrize("name", options("solver"))
def test_every_setting_of_a_solver_is_described(name: str) -> None:
    cls = target(options("solver")[name].content)
    described = [field for note in field_notes(cls) for field in note.fields]
    fields = [field.name for field in dataclasses.fields(cls)]
    assert sorted(described) == sorted(fields), (
        "the docstring's section 'Parameters' must name every field once"
    )


def test_notes_are_read_from_a_numpydoc_section() -> None:
    @dataclass
    class Example:
        """Something.

        Parameters
        ----------
        steps : int
            Network calls; one each.
        eta, clip : float or bool, default 1.0
            Two things, for
            example 1.0 or 2.

            A second paragraph.

        Raises
        ------
        ValueError
            For steps below 1.
        """

        steps: int
        eta: float
        clip: bool

    assert [(note.fields, note.names, note.text) for note in field_notes(Example)] == [
        (("steps",), "steps", "Network calls; one each."),
        (("eta", "clip"), "eta, clip", "Two things, for example 1.0 or 2. A second paragraph."),
    ]
