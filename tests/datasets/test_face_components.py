"""The distribution of the cartoon faces, as the packages draw it from seeds."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from scipy.stats import chisquare

pytest.importorskip("dicebear")

from posterior_bench.datasets.face_components import NONE, FaceStyle
from posterior_bench.datasets.face_drawing import STYLES, definition
from posterior_bench.datasets.face_posterior import Face, FacePosterior
from posterior_bench.datasets.face_search import Measured, Solution
from posterior_bench.datasets.face_supports import bits_of
from posterior_bench.datasets.faces import Faces


def rect(x: int, y: int, width: int, height: int, fill: Any, **more: str) -> dict[str, Any]:
    place = {k: str(v) for k, v in {"x": x, "y": y, "width": width, "height": height}.items()}
    return {"type": "element", "name": "rect", "attributes": {**place, "fill": fill, **more}}


def color(name: str) -> dict[str, str]:
    return {"type": "color", "name": name}


def part(name: str) -> dict[str, Any]:
    return {"type": "component", "name": name}


def tiny() -> dict[str, Any]:
    """A style whose 2 x 3 x 2 x 2 variants overlap: a ring within hair, and eyes below the hair."""
    real = definition("miniavs")
    components = {
        "eyes": {"small": [rect(20, 20, 5, 5, "black")], "wide": [rect(20, 20, 20, 5, "black")]},
        "hair": {
            "short": [rect(8, 0, 40, 12, color("hair"))],
            "long": [rect(8, 0, 40, 23, color("hair"), opacity=".7"), part("ring")],
            "side": [rect(8, 0, 9, 40, color("hair")), part("ring")],
        },
        "ring": {"gold": [rect(9, 30, 5, 5, color("ring"))]},
    }
    chances = {"eyes": 100, "hair": 80, "ring": 40}
    return {
        **{k: v for k, v in real.items() if k in ("$schema", "meta", "attributes")},
        "canvas": {"width": 64, "height": 64, "elements": [part("eyes"), part("hair")]},
        "components": {
            name: {
                **{"width": 64, "height": 64, "probability": chances[name]},
                "variants": {value: {"elements": e} for value, e in variants.items()},
            }
            for name, variants in components.items()
        },
        "colors": {
            "hair": {"values": ["#102030", "#a05020"]},
            "ring": {"values": ["#102030", "#e0c040"], "notEqualTo": ["hair"]},
        },
    }


@pytest.fixture(scope="module")
def small() -> FaceStyle:
    return FaceStyle(tiny(), backgrounds=("b8e0f2", "fbe7a1"))


def all_choices(style: FaceStyle) -> list[dict[str, str]]:
    names = [v.name for v in style.variables]
    every = itertools.product(*(v.values for v in style.variables))
    choices = [dict(zip(names, values, strict=True)) for values in every]
    return [choice for choice in choices if style.probability(choice) > 0]


def test_choices_of_a_tiny_style(small: FaceStyle) -> None:
    chances = {v.name: dict(zip(v.values, v.weights, strict=True)) for v in small.variables}
    assert chances == {
        "eyes": {"small": 0.5, "wide": 0.5},
        "hair": pytest.approx({"short": 0.8 / 3, "long": 0.8 / 3, "side": 0.8 / 3, NONE: 0.2}),
        "ring": pytest.approx({"gold": 0.4, NONE: 0.6}),
        "hairColor": {"#102030": 0.5, "#a05020": 0.5},
        "ringColor": {"#102030": 0.5, "#e0c040": 0.5},
        "backgroundColor": {"#b8e0f2": 0.5, "#fbe7a1": 0.5},
    }
    # eyes, hair, ring, ground, and 1 or 2 colours of the ring beside 2 of the hair
    assert len(all_choices(small)) == 2 * 4 * 2 * 2 * 3
    assert sum(map(small.probability, all_choices(small))) == pytest.approx(1)


@pytest.mark.parametrize("sigma", [0.0, 0.2])
def test_posterior_of_a_tiny_style(small: FaceStyle, sigma: float) -> None:
    """All 96 images are drawn, and compared with what the search says."""
    rng = np.random.default_rng(1)
    choices = all_choices(small)
    images = [small.render(choice) / 127.5 - 1 for choice in choices]
    for hole in (np.s_[16:40, 0:30], np.s_[0:24, :], np.s_[:, 4:20], np.s_[:, :]):
        mask = np.ones((64, 64), bool)
        mask[hole] = False
        y = images[rng.integers(len(images))] + sigma * rng.normal(size=(3, 64, 64))
        if sigma:
            logs = [-(((x - y)[:, mask] / sigma) ** 2).sum() / 2 for x in images]
            likelihoods = np.exp(np.array(logs) - max(logs))
        else:
            likelihoods = np.array([float(np.allclose(x[:, mask], y[:, mask])) for x in images])
        weights = likelihoods * [small.probability(choice) for choice in choices]
        solution = Solution.of(small, Measured(y, mask, sigma))
        assert solution is not None
        found = [solution.probability(choice) for choice in choices]
        assert np.allclose(found, weights / weights.sum(), atol=1e-9)


def test_choices_of_a_seed_draw_its_image() -> None:
    data = Faces()
    for style, row in itertools.product(STYLES, (0, 21)):
        image_id = f"{style}_test_{row:05d}"
        expected = ((data.images([image_id])[0] + 1) * 127.5).round().numpy().astype(np.uint8)
        face = Face.of_id(image_id)
        assert np.array_equal(face.pixels(), expected)
        assert np.array_equal(face.image(), data.images([image_id])[0].numpy())
        assert face.choice.keys() == {v.name for v in FaceStyle.named(style).variables}
    with pytest.raises(ValueError, match="'x' is no image of the cartoon faces"):
        Face.of_id("x")


def test_probability_by_hand() -> None:
    """No blush 0.8, body 1/2, eyes 1/3, glasses 0.2, hair 1/9, head 1/3, mouth 1/2, no moustache
    0.8, colours of body, hair and skin 1/3 each, ground 1/6."""
    style = FaceStyle.named("miniavs")
    choice = style.choice("miniavs_test_00001") | {"blush": NONE, "mustache": NONE}
    expected = 0.8 * 0.2 * 0.8 / (2 * 3 * 9 * 3 * 2 * 27 * 6)
    assert style.probability(choice | {"glasses": "normal"}) == pytest.approx(expected)
    moustache = choice | {"glasses": "normal", "mustache": "freddy"}
    assert style.probability(moustache) == pytest.approx(expected / 0.8 * 0.2 / 4)
    # colours that differ: 12 of the 13 for hair, 11 for the shirt, as skin and hair are out
    micah = FaceStyle.named("micah")
    colors = {
        v.name: len(v.probabilities({"baseColor": "#ac6651", "hairColor": "#000000"}))
        for v in micah.variables
        if v.name.endswith("Color")
    }
    assert colors == {
        **{"baseColor": 3, "eyeShadowColor": 5, "backgroundColor": 6, "earringColor": 12},
        **{"glassesColor": 12, "hairColor": 12, "shirtColor": 11},
    }


@pytest.mark.parametrize("name", ["micah", "miniavs"])
def test_frequencies_over_seeds(name: str) -> None:
    """2000 seeds have every value as often as its probability says."""
    style = FaceStyle.named(name)
    drawn = [style.choice(f"{name}_frequency_{i:05d}") for i in range(2000)]
    for variable in style.variables:
        expected: Counter[str] = Counter()
        for choice in drawn:
            expected.update(variable.probabilities(choice))
        counts = Counter(choice[variable.name] for choice in drawn)
        assert counts.keys() <= expected.keys()
        values = sorted(expected)
        result = chisquare([counts[v] for v in values], [expected[v] for v in values])
        assert result.pvalue > 1e-4, (variable.name, counts, expected)


def test_choices_are_independent_over_seeds() -> None:
    style = FaceStyle.named("miniavs")
    drawn = [style.choice(f"miniavs_pairs_{i:05d}") for i in range(2000)]
    own = {v.name: dict(zip(v.values, v.weights, strict=True)) for v in style.variables}
    for first, second in itertools.combinations(own, 2):
        pairs = Counter((choice[first], choice[second]) for choice in drawn)
        table = {(a, b): p * q for a, p in own[first].items() for b, q in own[second].items()}
        result = chisquare([pairs[k] for k in table], [2000 * p for p in table.values()])
        assert result.pvalue > 1e-5, (first, second)


def test_nothing_changes_outside_the_support() -> None:
    rng = np.random.default_rng(2)
    for name in ("micah", "personas", "miniavs"):
        style = FaceStyle.named(name)
        for i in range(8):
            choice = style.choice(f"support_{i}")
            variable = style.variables[rng.integers(len(style.variables))]
            changed = {**choice, variable.name: str(rng.choice(variable.values))}
            rest = {k: v for k, v in choice.items() if k != variable.name}
            differ = bits_of((style.render(choice) != style.render(changed)).any(0))
            assert not differ & ~style.support(variable.name, rest)


def test_posterior_of_a_real_image() -> None:
    """The pixels in which two mouths differ are hidden, so both are possible."""
    face = Face.of_id("miniavs_test_00002")
    style = FaceStyle.named("miniavs")
    looks = {
        value: style.render({**face.choice, "mouth": value})
        for value in ("default", "missingTooth")
    }
    mask = ~(looks["default"] != looks["missingTooth"]).any(0)
    posterior = FacePosterior.of(face.image(), mask, styles=("toon-head", "miniavs"))
    assert posterior.styles == {"miniavs": 1.0}
    found = posterior.marginals("miniavs")
    assert found["mouth"] == pytest.approx({"default": 0.5, "missingTooth": 0.5})
    for name, value in face.choice.items():
        assert found[name].get(value, 0) > 0
    rng = np.random.default_rng(0)
    for image in posterior.sample(rng.random((4, 20))):
        assert np.array_equal(image[:, mask], face.image()[:, mask])
    with pytest.raises(ValueError, match="no cartoon face has these pixels"):
        FacePosterior.of(-face.image(), mask, styles=("miniavs",))


@pytest.mark.slow
def test_against_full_renderings_of_a_real_style() -> None:
    """Every face of miniavs with some of its variants is drawn: 3456 images."""
    content = definition("miniavs")
    kept = {"hair": 3, "mustache": 2, "head": 2, "body": 1, "eyes": 3}
    components = {
        name: {**c, "variants": dict(list(c["variants"].items())[: kept.get(name, 2)])}
        for name, c in content["components"].items()
    }
    colors = {
        name: {"values": c["values"][: 1 if name == "body" else 2]}
        for name, c in content["colors"].items()
    }
    style = FaceStyle({**content, "components": components, "colors": colors}, ("b8e0f2",))
    choices = all_choices(style)
    assert len(choices) == 2 * 3 * 2 * 3 * 2 * 2 * 3 * 2 * 2
    images = np.stack([style.render(choice) for choice in choices])
    prior = np.array([style.probability(choice) for choice in choices])
    rng = np.random.default_rng(4)
    holes = [np.s_[36:54, 22:44], np.s_[28:40, :], np.s_[:, 32:], np.s_[0:30, :]]
    for hole, sigma in itertools.product(holes, (0.0, 0.5)):
        mask = np.ones((64, 64), bool)
        mask[hole] = False
        truth = images[rng.choice(len(images), p=prior)]
        y = truth / 127.5 - 1 + sigma * rng.normal(size=truth.shape)
        if sigma:
            distance = (((images / 127.5 - 1 - y)[:, :, mask] / sigma) ** 2).sum((1, 2))
            weights = prior * np.exp((distance.min() - distance) / 2)
        else:
            weights = prior * (images[:, :, mask] == truth[:, mask]).all((1, 2))
        solution = Solution.of(style, Measured(y, mask, sigma))
        assert solution is not None
        found = np.array([solution.probability(choice) for choice in choices])
        assert np.abs(found - weights / weights.sum()).max() < 1e-9
        assert math.isclose(found.sum(), 1, abs_tol=1e-9)


def test_styles_that_cannot_be_enumerated() -> None:
    content = tiny()
    content["components"]["eyes"]["rotate"] = {"min": -5, "max": 5}
    with pytest.raises(ValueError, match="component 'eyes' has 'rotate'; only choices from lists"):
        FaceStyle(content)
