"""The examples in docstrings of priors give what they print."""

from __future__ import annotations

import doctest

import pytest

from posterior_bench.priors import base, load, mixture, process


@pytest.mark.parametrize("module", [base, load, mixture, process], ids=lambda m: m.__name__)
def test_examples_give_what_they_print(module):
    failed, attempted = doctest.testmod(module)
    assert failed == 0 and attempted > 0
