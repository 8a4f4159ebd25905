"""Metrics of the variants of faces in a run: what reaches them, and which cells are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.bench.harness import planned
from tests.datasets.test_face_recognition import MASKS, TRUTH, Small, recogniser, scaled

from posterior_bench.bench.config.studies import expand
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.core.streams import Key, Noise
from posterior_bench.bench.engine import face_variants
from posterior_bench.bench.engine.enumerated import enumerated
from posterior_bench.bench.engine.measurement import Measurement
from posterior_bench.datasets import face_posterior
from posterior_bench.datasets.face_drawing import STYLES
from posterior_bench.datasets.face_posterior import FacePosterior
from posterior_bench.datasets.face_search import Measured, Solution, TooMany
from posterior_bench.datasets.faces import Faces
from posterior_bench.metrics.base import DrawSet
from posterior_bench.metrics.face_variants import FaceCoverage, FaceDistance, FaceWeightsError
from posterior_bench.operators.inpainting import Inpainting
from posterior_bench.priors.mixtures import g2


def test_components_reach_the_metrics_and_colours_do_not():
    found_by, _ = recogniser(MASKS["nothing observed"], TRUTH)
    shown = [{**TRUTH, "hair": "none", "eyes": eyes} for eyes in ("left", "left", "round")]
    x = torch.from_numpy(np.stack([scaled(Small().render(one)) for one in shown]))
    seen = face_variants.recognised(found_by, x)
    assert [one.name for one in seen.components] == ["eyes", "hair", "hat"]
    assert seen.squares.max() < 1e-20
    eyes = seen.components[0]
    weights = dict(zip(eyes.variants, eyes.weights.tolist(), strict=True))
    assert weights == pytest.approx({"round": 0.5, "left": 0.3, "right": 0.2})
    assert dict(zip(eyes.variants, eyes.shares.mean(0).tolist(), strict=True)) == pytest.approx(
        {"round": 1 / 3, "left": 2 / 3, "right": 0}
    )


def measured(count: int = 2) -> Measurement:
    """Images of which the upper half is hidden."""
    truth = torch.zeros(count, 3, 64, 64)
    mask = (torch.arange(64) >= 32)[:, None].expand(count, 1, 64, 64)
    keys = [Key(0, "faces", f"micah_test_{i:05d}") for i in range(count)]
    labels = torch.full((count,), STYLES.index("micah"))
    return Measurement(keys, truth, labels, Inpainting(mask), truth * mask)


def test_the_posterior_of_an_image_is_made_once_and_one_too_large_has_no_value(monkeypatch):
    asked = []

    def too_many(*given: object) -> None:
        asked.append(given[3])
        raise TooMany("more than 20000 drawings")

    face_variants._made.cache_clear()
    monkeypatch.setattr(face_variants.FacePosterior, "of", too_many)
    problem = measured()
    x = torch.zeros(2, 3, 3, 64, 64)
    for _ in range(2):
        drawn = DrawSet(
            x,
            problem.truth,
            problem.operator.mask,
            problem.y,
            recognise=face_variants.recognisers(problem),
        )
        for metric in (FaceDistance(), FaceWeightsError(), FaceCoverage()):
            assert metric(drawn).isnan().all()
    assert asked == [["micah"]]  # both images show the same
    face_variants._made.cache_clear()


class NoChoice:
    """A style of one face, which stands for one that packages draw."""

    variables = ()

    @staticmethod
    def render(choice: object) -> np.ndarray:
        return np.zeros((3, 64, 64), np.uint8)


def test_the_solver_exact_and_the_metrics_enumerate_an_image_once(monkeypatch):
    asked = []

    def solved(law: object, given: Measured, limit: int) -> Solution:
        asked.append((law, given.sigma, limit))
        return Solution(())

    face_variants._made.cache_clear()
    monkeypatch.setattr(face_posterior.FaceStyle, "named", lambda style: NoChoice)
    monkeypatch.setattr(face_posterior.Solution, "of", solved)
    face_posterior._solved.cache_clear()
    problem, images, prior = measured(), Faces(), g2()
    prior.num_classes = images.num_classes
    noise = Noise(problem.keys, "solver")
    enumerated(images, prior, problem, noise).sample([0])
    assert asked == [(NoChoice, 0.0, 20_000)]  # both images show the same
    for recognise in face_variants.recognisers(problem):
        assert recognise(torch.zeros(1, 3 * 64 * 64).double()).components == []
    assert len(asked) == 1
    # hidden pixels say nothing, observed ones do, and so do noise and style
    y, mask = problem.y[0].numpy().copy(), problem.operator.mask[0, 0].numpy()
    y[:, 0] = 0.5
    FacePosterior.of(y, mask, 0.0, ["micah"])
    assert len(asked) == 1
    y[0, 63, 63] = 0.5
    FacePosterior.of(y, mask, 0.0, ["micah"])
    FacePosterior.of(y, mask, 0.1, ["micah"])
    FacePosterior.of(y, ~mask, 0.1, ["micah"])
    FacePosterior.of(y, mask, 0.1, ["micah", "personas"])
    assert len(asked) == 5
    face_posterior._solved.cache_clear()
    face_variants._made.cache_clear()


@pytest.mark.parametrize(
    "words", [["data=fashion"], ["data=faces", "operator=super_resolution", "solver=dps"]]
)
def test_cells_without_a_known_posterior_are_refused(words, tmp_path):
    with pytest.raises(UserError, match="choose data=faces operator=inpainting"):
        planned([*words, "metrics=[face_coverage]", "data.images=1", f"out={tmp_path}"])


@pytest.mark.parametrize("scale", ["full", "smoke"])
def test_the_study_hides_the_same_parts_at_every_scale(scale):
    sweeps = expand(["study=faces_posterior", f"scale={scale}"])
    hidden = [[w for w in sweep if w.startswith("mask")] for sweep in sweeps]
    assert hidden == [
        *(["mask=face_part", f"mask.part={part}"] for part in ("mouth", "eyes", "hair")),
        ["mask=half,rotated"],
    ]
    images = {w for sweep in sweeps for w in sweep if w.startswith(("data.images", "draws"))}
    assert images == (
        {"data.images=2", "draws=2"} if scale == "smoke" else {"data.images=48", "draws=16"}
    )
