"""Recognition of faces, with a distribution of twelve pixels that a loop can enumerate."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest

from posterior_bench.datasets.face_components import Choice, Variable
from posterior_bench.datasets.face_recognition import FaceRecogniser
from posterior_bench.datasets.face_search import Measured
from posterior_bench.datasets.face_supports import bits_of

EYES = {"round": (0, 0), "left": (0, 255), "right": (255, 0)}
PLACES = {
    "eyes": np.array([[0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]], bool),
    "hair": np.array([[0, 0, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]], bool),
    "hat": np.array([[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 1]], bool),
}


class Small:
    """Eyes on two pixels; hair in one of two colours over one of them; a hat over the hair."""

    variables = (
        Variable("eyes", tuple(EYES), (0.5, 0.3, 0.2)),
        Variable("hair", ("long", "none"), (0.6, 0.4)),
        Variable("hat", ("big", "none"), (0.2, 0.8)),
        Variable("hairColor", ("60", "90"), (0.25, 0.75)),
        Variable("hatColor", ("60", "200"), (0.5, 0.5), ("hairColor",)),
    )

    def context(self, name: str) -> frozenset[str]:
        return frozenset({name.removesuffix("Color")} - {name})

    def support(self, name: str, given: Choice) -> int:
        part = name.removesuffix("Color")
        return 0 if given.get(part) == "none" else bits_of(PLACES[part])

    def render(self, choice: Choice) -> np.ndarray:
        image = np.full((1, 3, 4), 120, np.uint8)
        image[0, PLACES["eyes"]] = EYES[choice["eyes"]]
        for part in ("hair", "hat"):
            if choice[part] != "none":
                image[0, PLACES[part]] = int(choice[f"{part}Color"])
        return image


def possible(measured: Measured) -> Iterator[tuple[dict[str, str], float]]:
    """Every face with these pixels, and its probability before the measurement."""
    for values in itertools.product(*(v.values for v in Small.variables)):
        choice = dict(zip((v.name for v in Small.variables), values, strict=True))
        chances = (v.probabilities(choice).get(choice[v.name], 0.0) for v in Small.variables)
        p = float(np.prod(list(chances)))
        seen = Small().render(choice)[:, measured.mask]
        if p and np.array_equal(seen, measured.bytes[:, measured.mask]):
            yield choice, p


def scaled(image: np.ndarray) -> np.ndarray:
    return image / 127.5 - 1


def recogniser(mask: np.ndarray, truth: dict[str, str]) -> tuple[FaceRecogniser, list]:
    measured = Measured(scaled(Small().render(truth)), mask)
    faces = list(possible(measured))
    total = sum(p for _, p in faces)
    marginals: dict[str, dict[str, float]] = {}
    for choice, p in faces:
        for name, value in choice.items():
            of = marginals.setdefault(name, {})
            of[value] = of.get(value, 0.0) + p / total
    return FaceRecogniser(
        Small(), measured, marginals, [choice for choice, _ in faces[:: len(faces) // 6 or 1]]
    ), faces


TRUTH = {"eyes": "left", "hair": "long", "hat": "none", "hairColor": "90", "hatColor": "200"}
MASKS = {
    "nothing observed": np.zeros((3, 4), bool),
    "the eyes hidden": ~PLACES["eyes"],
    "the right column hidden": np.array([[1, 1, 1, 0]] * 3, bool),
    "the lowest row observed": np.array([[0] * 4] * 2 + [[1] * 4], bool),
}


@pytest.mark.parametrize("mask", list(MASKS.values())[1:], ids=list(MASKS)[1:])
def test_a_noisy_face_is_recognised_as_the_nearest_of_all_possible_ones(mask):
    found_by, faces = recogniser(mask, TRUTH)
    rng, hidden = np.random.default_rng(0), ~mask
    images = np.stack([scaled(Small().render(choice)) for choice, _ in faces])
    for image in images:
        x = image + 0.05 * rng.normal(size=image.shape)
        found = found_by.recognise(x)
        squares = ((images - x)[:, :, hidden] ** 2).sum((1, 2))
        assert found.squares == pytest.approx(squares.min())
        shown = scaled(Small().render(found.choice))
        np.testing.assert_array_equal(shown[:, hidden], images[squares.argmin()][:, hidden])
        np.testing.assert_array_equal(shown[:, mask], images[0][:, mask])


def test_values_that_look_the_same_share_the_image_as_they_share_probability():
    found_by, _ = recogniser(MASKS["nothing observed"], TRUTH)
    bare = {**TRUTH, "hair": "none"}
    shares = found_by.recognise(scaled(Small().render(bare))).shares
    assert list(found_by.marginals["hairColor"]) == ["60", "90"]
    assert shares["hairColor"] == pytest.approx([0.25, 0.75])  # nobody sees it
    assert dict(zip(found_by.marginals["eyes"], shares["eyes"], strict=True)) == {
        "round": 0,
        "left": 1,
        "right": 0,
    }


def test_only_what_is_hidden_and_open_is_searched():
    found_by, faces = recogniser(MASKS["the right column hidden"], TRUTH)
    assert {choice["hair"] for choice, _ in faces} == {"long"}  # the pixel beside it shows that
    assert "eyes" not in found_by.open and "hair" not in found_by.open
    assert set(found_by.open) <= {"hat", "hatColor"}


def test_exact_draws_have_distance_zero():
    for mask in MASKS.values():
        found_by, faces = recogniser(mask, TRUTH)
        for choice, _ in faces:
            assert found_by.recognise(scaled(Small().render(choice))).squares < 1e-20
