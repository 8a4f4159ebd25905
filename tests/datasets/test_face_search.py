"""The posterior of independent choices, against the enumeration of all of them.

The images are painted by hand on 5 x 5 pixels, so no package is needed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from functools import cached_property

import numpy as np
import pytest
from numpy.typing import NDArray

from posterior_bench.datasets.face_components import Variable
from posterior_bench.datasets.face_search import Measured, Search, Solution, TooMany
from posterior_bench.datasets.face_supports import bits_of, pixels_of

SIDE = 5


def area(*rows: str) -> NDArray[np.bool_]:
    """Pixels that are drawn as ``#``, from the top row on."""
    whole = [*rows, *("",) * (SIDE - len(rows))]
    return np.array([[c == "#" for c in row.ljust(SIDE)] for row in whole])


FULL = area(*("#####",) * 5)
# component: {variant: pixels}, painted in this order; the colour that paints it, or its own shade
LAYERS: dict[str, tuple[dict[str, NDArray[np.bool_]], str | int]] = {
    "head": (
        {
            "round": area("", " ### ", " ### ", " ### ", ""),
            "long": area("", " ### ", " ### ", " ### ", " ### "),
        },
        "skin",
    ),
    "eyes": ({"open": area("", "", " # # "), "shut": area("", "", " ### ")}, 10),
    "mouth": ({"small": area("", "", "", "  #  "), "wide": area("", "", "", " ### ")}, "lips"),
    "hair": (
        {
            "short": area("#####"),
            "long": area("#####", "#   #", "#   #"),
            "fringe": area(" ###", " ###"),
        },
        "dye",
    ),
    "glasses": ({"dark": area("", "", "#####")}, 10),  # hides the eyes, as dark as they are
}
PALETTES = {"back": (200, 220), "skin": (100, 140), "lips": (60, 80, 100), "dye": (100, 30)}


class Painted:
    """Layers of plain colour, each hiding what lies below it; the lips never have the skin's."""

    @cached_property
    def variables(self) -> tuple[Variable, ...]:
        chances = {"head": (0.5, 0.5), "eyes": (0.75, 0.25), "mouth": (0.5, 0.4, 0.1)}
        chances |= {"hair": (0.3, 0.3, 0.2, 0.2), "glasses": (0.25, 0.75)}
        found = []
        for name, (variants, _) in LAYERS.items():
            values = (*variants, "none")[: len(chances[name])]
            found.append(Variable(name, values, chances[name]))
        for name, shades in PALETTES.items():
            even = (1 / len(shades),) * len(shades)
            other = ("skin",) if name == "lips" else ()
            found.append(Variable(name, tuple(map(str, shades)), even, other))
        return tuple(found)

    def context(self, name: str) -> tuple[str, ...]:
        return tuple(layer for layer, (_, paint) in LAYERS.items() if paint == name)

    def support(self, name: str, given: Mapping[str, str]) -> int:
        if name == "back":
            return bits_of(FULL)
        found = 0
        for layer in [name] if name in LAYERS else self.context(name):
            for value, pixels in LAYERS[layer][0].items():
                if given.get(layer, value) == value:
                    found |= bits_of(pixels)
        return found

    def render(self, choice: Mapping[str, str]) -> NDArray[np.uint8]:
        image = np.full((1, SIDE, SIDE), int(choice.get("back", "0")), np.uint8)
        for layer, (variants, paint) in LAYERS.items():
            value = choice.get(layer, "none")
            if value != "none":
                shade = paint if isinstance(paint, int) else int(choice.get(paint, "0"))
                image[:, variants[value]] = shade
        return image


LAW = Painted()


def all_choices() -> dict[tuple[str, ...], float]:
    """The prior probability of every choice."""
    found = {}
    for values in itertools.product(*(v.values for v in LAW.variables)):
        choice = {v.name: value for v, value in zip(LAW.variables, values, strict=True)}
        chances = [v.probabilities(choice).get(choice[v.name], 0.0) for v in LAW.variables]
        found[values] = math.prod(chances)
    return {values: chance for values, chance in found.items() if chance > 0}


def named(values: tuple[str, ...]) -> dict[str, str]:
    return {v.name: value for v, value in zip(LAW.variables, values, strict=True)}


def enumerated(
    y: NDArray[np.float64], mask: NDArray[np.bool_], sigma: float
) -> tuple[dict[tuple[str, ...], float], float]:
    """The posterior of every choice, and the evidence."""
    weights = {}
    for values, chance in all_choices().items():
        residual = (LAW.render(named(values)) / 127.5 - 1 - y)[:, mask]
        if sigma:
            weights[values] = chance * math.exp(-float((residual**2).sum()) / 2 / sigma**2)
        elif np.abs(residual).max(initial=0) < 1e-9:
            weights[values] = chance
    total = sum(weights.values())
    return {values: weight / total for values, weight in weights.items()}, total


def masks() -> list[NDArray[np.bool_]]:
    rng = np.random.default_rng(3)
    holes = [area(), area("", "", "#####"), area("#####", "#####", "#####"), area(*("#####",) * 5)]
    drawn = [rng.random((SIDE, SIDE)) < share for share in (0.2, 0.5, 0.8, 0.9)]
    return [~hole for hole in holes] + drawn


def test_variables_have_the_probabilities_that_were_counted() -> None:
    assert sum(all_choices().values()) == pytest.approx(1)
    # lips never are 100 on skin 100, so 2 of 3 shades are left there
    lips = LAW.variables[-2]
    assert lips.probabilities({"skin": "100"}) == {"60": 0.5, "80": 0.5}
    assert lips.probabilities({"skin": "140"}) == pytest.approx(dict.fromkeys(lips.values, 1 / 3))


@pytest.mark.parametrize("sigma", [0.0, 0.3])
def test_against_the_enumeration_of_all_choices(sigma: float) -> None:
    rng = np.random.default_rng(7)
    prior = list(all_choices().items())
    for mask in masks():
        values = prior[rng.choice(len(prior), p=[chance for _, chance in prior])][0]
        y = LAW.render(named(values)) / 127.5 - 1 + sigma * rng.normal(size=(1, SIDE, SIDE))
        posterior, evidence = enumerated(y, mask, sigma)
        solution = Solution.of(LAW, Measured(y, mask, sigma))
        assert solution is not None
        assert solution.log_evidence == pytest.approx(math.log(evidence), abs=1e-9)
        for choice, _ in prior:
            found = solution.probability(named(choice))
            assert found == pytest.approx(posterior.get(choice, 0.0), abs=1e-11)
        marginals = solution.marginals()
        for place, variable in enumerate(LAW.variables):
            for value in variable.values:
                expected = sum(w for v, w in posterior.items() if v[place] == value)
                got = marginals[variable.name].get(value, 0.0)
                assert got == pytest.approx(expected, abs=1e-10)
        if not sigma:
            assert solution.count == len(posterior)


def test_hidden_eyes_by_hand() -> None:
    """Dark glasses hide the eyes and are as dark as shut ones.

    The row of the eyes shows the ground left and right of the head: with glasses it would be dark.
    So without that row, glasses have the prior probability 1/4; with it, they are excluded.
    """
    choice = {"head": "round", "eyes": "shut", "mouth": "small", "hair": "short", "glasses": "none"}
    choice |= {"back": "200", "skin": "100", "lips": "60", "dye": "30"}
    y = LAW.render(choice) / 127.5 - 1
    hidden = ~area("", "", "#####")
    solution = Solution.of(LAW, Measured(y, hidden))
    assert solution is not None
    marginals = solution.marginals()
    assert marginals["glasses"] == pytest.approx({"dark": 0.25, "none": 0.75})
    assert marginals["eyes"] == pytest.approx({"open": 0.75, "shut": 0.25})
    # the three pixels of the head alone: shut eyes (1/4) or glasses (1/4), not neither
    inside = ~area("", "", "#   #")
    solution = Solution.of(LAW, Measured(y, inside))
    assert solution is not None
    # dark: 1/4 with any eyes; none and shut: 3/4 * 1/4
    assert solution.marginals()["glasses"] == pytest.approx({"dark": 4 / 7, "none": 3 / 7})
    assert solution.marginals()["eyes"] == pytest.approx({"open": 3 / 7, "shut": 4 / 7})


def test_draws_have_the_posterior_probabilities() -> None:
    choice = {"head": "round", "eyes": "shut", "mouth": "small", "hair": "short", "glasses": "none"}
    choice |= {"back": "200", "skin": "100", "lips": "60", "dye": "30"}
    mask = ~area("", "", "#   #", "#####")
    solution = Solution.of(LAW, Measured(LAW.render(choice) / 127.5 - 1, mask))
    assert solution is not None
    rng = np.random.default_rng(5)
    names = [v.name for v in LAW.variables]
    counts: dict[tuple[str, ...], int] = {}
    for _ in range(3000):
        drawn = solution.draw(dict(zip(names, rng.random(len(names)), strict=True)))
        key = tuple(drawn[name] for name in names)
        counts[key] = counts.get(key, 0) + 1
    assert len(counts) == solution.count  # every possible choice is drawn
    for key, count in counts.items():
        chance = solution.probability(named(key))
        assert abs(count - 3000 * chance) < 5 * math.sqrt(3000 * chance)


def test_impossible_images_and_limits() -> None:
    y = np.full((1, SIDE, SIDE), 0.123)
    assert Solution.of(LAW, Measured(y, FULL)) is None
    assert Solution.of(LAW, Measured(y, FULL, sigma=0.01)) is None
    choice = {v.name: v.values[0] for v in LAW.variables} | {"lips": "60"}
    y = LAW.render(choice) / 127.5 - 1
    with pytest.raises(TooMany, match="more than 3 drawings"):
        Search(LAW, Measured(y, FULL), limit=3).run()


def test_few_images_are_drawn() -> None:
    """Most of the choices are excluded together."""
    # 96 of the components, 2 grounds, 2 dyes, and 2 or 3 lips on 2 skins
    assert len(all_choices()) == 96 * 2 * 2 * 5
    choice = {v.name: v.values[0] for v in LAW.variables} | {"lips": "60"}
    search = Search(LAW, Measured(LAW.render(choice) / 127.5 - 1, FULL))
    assert search.run() is not None
    assert search.compared < 60


def test_sets_of_pixels() -> None:
    pixels = np.random.default_rng(0).random((5, 7)) < 0.5
    assert np.array_equal(pixels_of(bits_of(pixels), 5, 7), pixels)
    assert bits_of(area("#", "#")) == 0b100001
