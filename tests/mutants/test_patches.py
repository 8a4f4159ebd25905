"""The planted mistakes stay usable: every patch applies to the tree and names tests that exist."""

from __future__ import annotations

import pytest
from tests.mutants.__main__ import ROOT, Mutant, applies, mutants


@pytest.mark.parametrize("mutant", mutants(), ids=lambda mutant: mutant.name)
def test_a_patch_applies_and_names_tests_that_exist(mutant: Mutant) -> None:
    assert applies(mutant) == ""
    for test in mutant.tests:
        path, _, name = test.partition("::")
        assert name.partition("[")[0].rpartition("::")[2] in (ROOT / path).read_text(
            encoding="utf-8"
        )


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown mutant nonsense; valid: "):
        mutants(["nonsense"])
