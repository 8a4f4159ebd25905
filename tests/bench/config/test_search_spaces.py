import pytest
from hydra.utils import get_class

from posterior_bench.bench.config.catalog import options
from posterior_bench.bench.config.presets import effective_settings
from posterior_bench.bench.config.search_spaces import Choices, Range, space_of
from posterior_bench.bench.core.errors import UserError

SETTINGS = {
    "_target_": "nowhere.Solver",
    "presets": {
        "fast": {"steps": 50, "lr": 0.2, "share": 0.5, "order": 3, "clip": True, "law": "a"}
    },
    **dict.fromkeys(["steps", "lr", "share", "order", "clip", "law"]),
}


def test_every_number_gets_a_range_where_no_space_is_declared():
    assert space_of(SETTINGS, "mine", "fast", fixed={"steps"}) == {
        "lr": Range(0.02, 1.0, log=True),
        "share": Range(0.05, 1.0, log=True),
        "order": Range(1, 6, log=True),
    }


def test_a_number_above_one_is_not_taken_for_a_share():
    node = {**SETTINGS, "presets": {"fast": {"lr": 4.0}}}
    assert space_of(node, "mine", "fast") == {"lr": Range(0.4, 40.0, log=True)}


def test_a_declared_space_is_read_as_it_is():
    declared = {"lr": {"low": 0.1, "high": 10, "log": True}, "law": ["a", "b"]}
    assert space_of({**SETTINGS, "space": declared}, "mine", "fast") == {
        "lr": Range(0.1, 10, log=True),
        "law": Choices(("a", "b")),
    }


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"lrr": [1, 2]}, "unknown setting in the space of mine 'lrr'. Did you mean 'lr'?"),
        ({"lr": 0.1}, "the space of mine, lr: give a list of values, or a range such as"),
        ({"lr": [0.1]}, "lr: a list needs at least two values"),
        ({"lr": {"low": 1, "high": 1}}, "lr: low 1 must be below high 1"),
        ({"lr": {"low": 0, "high": 1, "log": True}}, "lr: low 0 must be above 0 where log is true"),
        ({"lr": {"low": "a", "high": 1}}, "lr: low 'a' and high 1 must be numbers"),
        ({"lr": {"low": 1, "hi": 2}}, "the space of mine, lr: .*hi"),
        ({"steps": [10, 20]}, "the space of mine has steps, which the budget decides"),
    ],
)
def test_a_wrong_space_is_refused_in_one_line(declared, message):
    with pytest.raises(UserError, match=message):
        space_of({**SETTINGS, "space": declared}, "mine", "fast", fixed={"steps"})


def test_values_have_three_digits_and_stay_within_the_range():
    assert Range(0.0123456, 1.0).rounded(0.0123456) == 0.0123456
    assert Range(0.01, 1.0).rounded(0.123456) == 0.123
    assert Range(1, 9).rounded(3.6) == 4


@pytest.mark.parametrize("name", [n for n, o in options("solver").items() if "space" in o.content])
def test_shipped_spaces_hold_the_presets_that_searches_begin_with(name):
    node = options("solver")[name].content
    starts = [preset for preset in node["presets"] if preset in ("fast", "fast_small", "default")]
    assert starts
    for preset in starts:
        values = effective_settings(node, preset)
        solver = get_class(node["_target_"])(**values)
        space = space_of(node, name, preset, {*solver.workload, *solver.growth, "guidance"})
        assert [key for key in space if values[key] not in space[key]] == []
