"""The example in the docstring of the base class gives what it prints."""

from __future__ import annotations

import doctest

from posterior_bench.operators import base


def test_the_example_of_the_base_class_gives_what_it_prints():
    failed, attempted = doctest.testmod(base)
    assert failed == 0 and attempted > 0
