"""Variants shown by draws of a face: counts by hand, plain loops, and exact draws as the zero."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from posterior_bench.metrics.base import Draws, reference_draws
from posterior_bench.metrics.face_variants import (
    FaceCalibration,
    FaceCoverage,
    FaceDistance,
    FaceWeightsError,
)
from posterior_bench.metrics.recognition import Listed

OF_VARIANTS = (FaceWeightsError, FaceCoverage, FaceCalibration)
METRICS = (FaceDistance, *OF_VARIANTS)

EYES = torch.tensor([[0.5, 0.5], [-0.5, 0.5], [0.0, -1.0]])
"""The renderings of three pairs of eyes on two pixels."""
P_EYES = [0.6, 0.3, 0.1]


def listed(images: torch.Tensor, weights: list[float], observed: int = 1, **shown) -> Listed:
    """Possible images of six pixels, the first of which are observed; ``name=variants``."""
    variants = list(zip(*shown.values(), strict=True))
    hidden = torch.arange(6) >= observed
    return Listed(images, torch.tensor(weights).double(), tuple(shown), variants, hidden)


def face(x: torch.Tensor, possible: Listed) -> Draws:
    x, image = x.double(), -torch.ones(6).double()
    return Draws(x, image, possible.hidden, image, recognise=lambda: possible(x))


def shown(places: list[int]) -> torch.Tensor:
    """Images of six pixels with the eyes at the places 1 and 2."""
    x = -torch.ones(len(places), 6, dtype=torch.float64)
    x[:, 1:3] = EYES[places].double()
    return x


def eyes(places: list[int]) -> Draws:
    return face(shown(places), listed(shown([0, 1, 2]), P_EYES, eyes="abc"))


def test_variants_counted_by_hand():
    draws = eyes([0, 0, 1, 0])
    [found] = draws.recognised.components
    assert found.name == "eyes" and found.shares.argmax(1).tolist() == [0, 0, 1, 0]
    assert FaceDistance().score(draws) == 0
    assert FaceWeightsError().score(draws) == pytest.approx((0.15 + 0.05 + 0.1) / 2)
    assert FaceCoverage().score(draws) == pytest.approx(0.9)
    # 3 of 6 pairs agree; a draw is right with probability (3 x 0.6 + 0.3) / 4
    assert FaceCalibration().score(draws) == pytest.approx(3 / 6 - 2.1 / 4)


def test_components_are_averaged_and_what_cannot_vary_is_left_out():
    images = shown([0, 1, 2] * 2)
    images[:3, 4], images[3:, 4], images[:, 5] = 1.0, 0.0, 0.3
    weights = [p / 2 for p in P_EYES * 2]
    possible = listed(images, weights, eyes="abcabc", mouth="xxxyyy", nose="nnnnnn")
    draws = face(images[[0, 3]], possible)
    assert [one.name for one in draws.recognised.components] == ["eyes", "mouth"]
    assert FaceWeightsError().score(draws) == pytest.approx((0.4 + 0) / 2)
    assert FaceCoverage().score(draws) == pytest.approx((0.6 + 1) / 2)
    assert FaceCalibration().score(draws) == pytest.approx(((1 - 0.6) + (0 - 0.5)) / 2)


def test_the_distance_counts_every_hidden_value_and_no_observed_one():
    x, possible = shown([2]), listed(shown([0, 1, 2]), P_EYES, eyes="abc")
    x[0, 1] += 0.3  # in the eyes
    x[0, 5] += 0.4  # where all possible images are the same
    x[0, 0] += 9  # observed
    assert FaceDistance().score(face(x, possible)) == pytest.approx(
        math.sqrt((0.3**2 + 0.4**2) / 5)
    )
    both = face(torch.cat([x, shown([0])]), possible)
    assert FaceDistance().score(both) == pytest.approx(0.5 / math.sqrt(5) / 2)


def test_variants_that_look_the_same_share_a_draw_as_they_share_probability():
    # the first pixel of the eyes is observed; without it the first two pairs look the same
    possible = listed(shown([0, 1, 2]), P_EYES, 2, eyes="abc")
    [found] = possible(shown([0, 1, 2])).components
    same = pytest.approx([2 / 3, 1 / 3, 0])
    assert found.shares.tolist() == [same, same, pytest.approx([0, 0, 1])]


def test_exact_draws_have_the_values_that_the_docstrings_say():
    rng, count, p = np.random.default_rng(0), 6, np.array(P_EYES)
    sets = [eyes(rng.choice(3, count, p=p).tolist()) for _ in range(1000)]
    k = np.arange(count + 1)
    error = sum(stats.binom.pmf(k, count, w) @ abs(k / count - w) for w in p) / 2
    expected = {
        FaceDistance: 0.0,
        FaceWeightsError: error,
        FaceCoverage: (p * (1 - (1 - p) ** count)).sum(),
        FaceCalibration: 0.0,
    }
    for metric, value in expected.items():
        values = [metric().score(one) for one in sets]
        assert np.mean(values) == pytest.approx(value, abs=4 * np.std(values) / 1000**0.5 + 1e-12)


def test_one_mouth_for_ever_is_overconfident_and_an_even_spread_is_not():
    assert FaceCalibration().score(eyes([1] * 5)) == pytest.approx(1 - 0.3)
    # every variant as often as the others: two draws agree with probability 4/14, in place of 1/3
    assert FaceCalibration().score(eyes([0, 1, 2] * 5)) == pytest.approx(4 / 14 - 1 / 3)


def loops(draws: Draws) -> dict[str, float]:
    """The definitions, one draw and one possible image at a time."""
    possible = reference_draws().recognise[0]
    assert isinstance(possible, Listed)
    images, p_image = possible.images.numpy(), possible.weights.numpy()
    hidden = draws.hidden.numpy()
    errors = [[np.sqrt(np.mean((x - r)[hidden] ** 2)) for r in images] for x in draws.x.numpy()]
    nearest = np.argmin(errors, axis=1)
    values: dict[str, list[float]] = {m.card.id: [] for m in OF_VARIANTS}
    for c in range(len(possible.components)):
        variant = np.array([int(one[c]) for one in possible.variants])
        p = np.array([p_image[variant == v].sum() for v in range(variant.max() + 1)])
        seen = variant[nearest]
        q = np.array([np.mean(seen == v) for v in range(len(p))])
        agree = np.mean([a == b for a, b in itertools.permutations(seen, 2)])
        values["face_weights_error"].append(abs(q - p).sum() / 2)
        values["face_coverage"].append(p[q > 0].sum())
        values["face_calibration"].append(agree - np.mean(p[seen]))
    means = {name: float(np.mean(each)) for name, each in values.items()}
    return means | {"face_distance": float(np.mean(np.min(errors, axis=1)))}


@pytest.mark.parametrize("metric", METRICS)
def test_plain_loops_give_the_same(metric):
    one = reference_draws().images[0]
    expected = loops(one)[metric.card.id]
    assert metric().score(one) == pytest.approx(expected, abs=1e-9)
    assert metric.reference == pytest.approx(expected, abs=1e-6)
    metric().check()


def test_a_face_with_nothing_to_guess_has_no_value():
    certain = face(shown([0, 1]), listed(shown([0]), [1.0], eyes="a"))
    for metric in OF_VARIANTS:
        assert math.isnan(metric().score(certain))
    assert FaceDistance().score(certain) > 0
    all_seen = listed(shown([0]), [1.0], 6, eyes="a")
    assert math.isnan(FaceDistance().score(face(shown([0, 1]), all_seen)))
    assert math.isnan(FaceCalibration().score(eyes([1])))
    assert not math.isnan(FaceCoverage().score(eyes([1])))


def test_other_data_are_refused():
    x = shown([0, 1])
    with pytest.raises(ValueError, match="choose data=faces"):
        FaceDistance().score(Draws(x, x[0], torch.ones(6, dtype=torch.bool), x[0]))
