"""The search itself, on objectives that are formulas."""

import math
from itertools import product

import pandas as pd
import pytest

from posterior_bench.bench.config.search_spaces import Choices, Range
from posterior_bench.bench.tuning.search import Proposals, Search, Trial, standard_error

SPACE = {"lr": Range(0.01, 100.0, log=True), "law": Choices(([1], [2], [3]))}


def bowl(setting):
    """Smallest at lr 3 with the second law."""
    return (math.log10(setting["lr"] / 3)) ** 2 + (0 if setting["law"] == [2] else 1)


def trial(setting, values):
    return Trial(setting, pd.DataFrame({"p": values}), passes=10.0, rows=len(values))


def searched(seed, trials=40, direction="down", worth=bowl, space=SPACE):
    proposals = Proposals(space, direction, seed)
    start = {"lr": 50.0, "law": [1]}
    tried = [start]
    proposals.learn(trial(start, [worth(start)]))
    while len(tried) < trials and (setting := proposals.next()) is not None:
        tried.append(setting)
        proposals.learn(trial(setting, [worth(setting)]))
    return tried


def test_the_minimum_of_a_bowl_is_found():
    best = min(searched(seed=0), key=bowl)
    assert best["law"] == [2]
    assert 1.5 < best["lr"] < 6


def test_upwards_the_maximum_is_found():
    best = max(searched(0, direction="up", worth=lambda s: -bowl(s)), key=lambda s: -bowl(s))
    assert best["law"] == [2]
    assert 1.5 < best["lr"] < 6


def test_the_search_beats_a_grid_of_the_same_size():
    grid = [{"lr": 10 ** (-2 + 4 * i / 12), "law": [k]} for i, k in product(range(13), (1, 2, 3))]
    found = [min(map(bowl, searched(seed))) for seed in range(5)]
    assert sorted(found)[2] < min(map(bowl, grid))


def test_the_same_seed_proposes_the_same_and_another_seed_does_not():
    assert searched(3, 12) == searched(3, 12)
    assert searched(3, 12) != searched(4, 12)


def test_nothing_is_proposed_twice_and_a_small_space_ends():
    space = {"law": Choices(("a", "b", "c"))}
    proposals = Proposals(space, "down", 0)
    proposals.learn(trial({"law": "b"}, [1.0]))
    seen = ["b"]
    while (setting := proposals.next()) is not None:
        seen.append(setting["law"])
        proposals.learn(trial(setting, [2.0]))
    assert sorted(seen) == ["a", "b", "c"]


def test_a_preset_outside_of_the_space_is_no_obstacle():
    proposals = Proposals({"lr": Range(1.0, 2.0)}, "down", 0)
    proposals.learn(trial({"lr": 7.0}, [1.0]))
    assert 1 <= proposals.next()["lr"] <= 2


def test_refused_and_failed_settings_are_avoided_and_never_the_best():
    good, other = trial({"lr": 1.0}, [2.0, 4.0]), trial({"lr": 2.0}, [1.0, 3.5])
    refused = Trial({"lr": 3.0}, refused="too large")
    failed = Trial({"lr": 4.0}, pd.DataFrame({"p": [0.0, math.nan]}), rows=2, failed=1)
    found = Search("s", "fast", [], "m", "down", [good, refused, failed, other], {})
    assert found.ranked == [other, good]
    assert not math.isfinite(failed.value)


def test_the_standard_error_is_that_of_paired_differences_of_images():
    one = Trial({}, pd.DataFrame({"p": [1.0, 2.0, 4.0], "q": [3.0, 2.0, 0.0]}), rows=6)
    other = Trial({}, pd.DataFrame({"p": [0.0, 2.0, 1.0], "q": [0.0, 0.0, 0.0]}), rows=6)
    # means over the problems of the differences: 2, 1, 1.5; their deviation 0.5 over root 3
    assert standard_error(one, other) == pytest.approx(0.5 / math.sqrt(3))


def test_alike_counts_what_the_images_cannot_tell_from_the_best():
    best = trial({"lr": 1.0}, [1.0, 2.0, 3.0])
    near = trial({"lr": 2.0}, [1.5, 1.9, 3.4])  # differences .5, -.1, .4: 1.5 standard errors
    far = trial({"lr": 3.0}, [2.0, 3.0, 4.1])
    found = Search("s", "fast", [], "m", "down", [far, near, best], {})
    assert found.alike == 2
    upwards = Search("s", "fast", [], "m", "up", [far, near, best], {})
    assert (upwards.ranked[0], upwards.alike) == (far, 1)
