"""The jump schedule, against published counts and a schedule written out by hand."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from posterior_bench.solvers.shared.walk import walk


@pytest.mark.parametrize(
    ("steps", "jump_length", "resamples", "levels", "reverse", "forward"),
    [
        (250, 10, 10, 4571, 2410, 2160),
        (256, 10, 10, 4757, 2506, 2250),
        (250, 10, 20, 9371, 4810, 4560),
        (100, 10, 10, 1721, 910, 810),
        (1000, 10, 10, 18821, 9910, 8910),
        (250, 1, 1, 251, 250, 0),
    ],
)
def test_counts_of_the_published_schedules(steps, jump_length, resamples, levels, reverse, forward):
    pairs = walk(steps, jump_length, resamples)
    down = [(t, s) for t, s in pairs if s > t]
    climbed = sum(t - s for t, s in pairs if s < t)
    assert (len(down), climbed, len(down) + climbed + 1) == (reverse, forward, levels)


def test_schedule_of_copaint_time_travel_visits_730_noisy_levels():
    pairs = walk(250, 10, 2)
    visited = 1 + sum(abs(t - s) for t, s in pairs)  # every level of a climb counts
    assert visited - 1 == 730  # less the clean end
    assert sum(s < t for t, s in pairs) == 24


def test_small_schedule_written_out_by_hand():
    visited = [0, 1, 0, 1, 2, 1, 2, 3, 2, 3, 4]
    assert walk(4, 1, 2) == list(pairwise(visited))


def test_first_jump_of_the_published_schedule_is_from_index_230_to_240():
    pairs = walk(250, 10, 10)
    position = {index: 249 - index for index in range(250)}
    assert pairs[:19] == [(i, i + 1) for i in range(19)]
    assert pairs[19] == (position[230], position[240])
    jumps = Counter(pair for pair in pairs if pair[1] < pair[0])
    assert jumps == {(position[j], position[j + 10]): 9 for j in range(0, 240, 10)}


@pytest.mark.parametrize("schedule", [(50, 5, 3), (7, 3, 2), (3, 5, 4), (1, 1, 1)])
def test_walk_is_a_chain_from_noise_to_clean(schedule):
    pairs = walk(*schedule)
    assert pairs[0][0] == 0
    assert pairs[-1][1] == schedule[0]
    assert all(before[1] == after[0] for before, after in pairwise(pairs))
    assert all(
        s == t + 1 or (s == t - schedule[1] and s >= 0 and t < schedule[0]) for t, s in pairs
    )


@pytest.mark.parametrize("field", ["steps", "jump_length", "resamples"])
def test_impossible_schedule_is_refused_by_name(field):
    with pytest.raises(ValueError, match=f"{field} must be at least 1, got 0"):
        walk(**{"steps": 10, "jump_length": 1, "resamples": 1, field: 0})
