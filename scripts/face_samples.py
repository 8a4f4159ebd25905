"""Measure the error of a prior for the cartoon faces by the variants that its samples show.

    python -m scripts.face_samples runs/faces_posterior [--draws 16] [--write]

The samples are those of the solver ``prior``, which ignores what is observed. For each of them, the
nearest face of its style is searched among all faces, and its variants are compared with the
probabilities of the style. Draws of the distribution itself, one for each sample, are searched in
the same way: they are what a perfect prior would give. The script prints a table, style by style;
``--write`` keeps it for the page of the faces (scripts/faces_page.py). It needs the packages of the
extra ``faces``. A sample takes some seconds on one core.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import PIL.Image
import torch
from numpy.typing import NDArray
from scripts.leaderboard import DATA

from posterior_bench.bench.api.study import Study
from posterior_bench.bench.engine.face_variants import recognised
from posterior_bench.bench.store.atomic import write_atomic
from posterior_bench.datasets.face_components import FaceStyle
from posterior_bench.datasets.face_drawing import SIDE
from posterior_bench.datasets.face_posterior import Face
from posterior_bench.datasets.face_recognition import FaceRecogniser
from posterior_bench.datasets.face_search import Measured, Solution
from posterior_bench.metrics.base import Draws
from posterior_bench.metrics.face_variants import (
    FaceCalibration,
    FaceCoverage,
    FaceDistance,
    FaceWeightsError,
)

METRICS = (FaceDistance(), FaceWeightsError(), FaceCoverage(), FaceCalibration())
STARTS = 3
TABLE = DATA / "face_samples.csv"

Image = NDArray[np.float32]


def whole(style: str) -> FaceRecogniser:
    """Return what recognises faces of a style of which nothing is observed."""
    law, rng = FaceStyle.named(style), np.random.default_rng(0)
    measured = Measured(np.zeros((3, SIDE, SIDE)), np.zeros((SIDE, SIDE), bool))
    posterior = Solution.of(law, measured)
    assert posterior is not None
    starts = [choice(law, rng) for _ in range(STARTS)]
    return FaceRecogniser(law, measured, posterior.marginals(), starts)


def choice(law: FaceStyle, rng: np.random.Generator) -> dict[str, str]:
    """Draw the value of every variable."""
    drawn: dict[str, str] = {}
    for variable in law.variables:
        chances = variable.probabilities(drawn)
        drawn[variable.name] = str(rng.choice(list(chances), p=list(chances.values())))
    return drawn


def renderings(style: str, count: int) -> list[Image]:
    """Draw images of the distribution itself."""
    law, rng = FaceStyle.named(style), np.random.default_rng(1)
    return [Face(style, choice(law, rng)).image() for _ in range(count)]


def scores(images: Sequence[Image], style: str) -> dict[str, float]:
    """Return the metrics of images of one style."""
    x = torch.from_numpy(np.stack(images))
    seen = recognised(whole(style), x)
    vectors = x.flatten(1).double()
    draws = Draws(
        vectors, vectors[0], torch.ones_like(vectors[0]).bool(), vectors[0], recognise=lambda: seen
    )
    return {metric.card.id: metric.score(draws) for metric in METRICS}


def samples(study: Study, draws: int) -> dict[str, list[Image]]:
    """Return the samples of the prior in a study by style, the first draws of every image.

    Cells of several masks have the same samples of an image; each counts once.
    """
    rows = study.rows(["png", "status"])
    rows = rows[(rows["solver"] == "prior") & (rows["status"] == "ok") & (rows["draw"] < draws)]
    found: dict[str, list[Image]] = {}
    for row in rows.drop_duplicates("png").itertuples():
        picture = PIL.Image.open(io.BytesIO(row.png)).convert("RGB")
        pixels = np.asarray(picture, np.float32).transpose(2, 0, 1) / 127.5 - 1
        found.setdefault(row.image_id.partition("_")[0], []).append(pixels)
    return dict(sorted(found.items()))


def table(found: Mapping[str, list[Image]]) -> pd.DataFrame:
    """Return the metrics of samples and of as many renderings, style by style, and their means."""
    lines: list[dict[str, object]] = []
    for style, images in found.items():
        for kind, some in (("samples", images), ("faces", renderings(style, len(images)))):
            line = {"style": style, "of": kind, "count": len(some), **scores(some, style)}
            print(*line.values(), flush=True)  # it takes minutes
            lines.append(line)
    each = pd.DataFrame(lines)
    mean = each.groupby("of", sort=False, as_index=False).mean(numeric_only=True)
    return pd.concat([each, mean.assign(style="mean")], ignore_index=True)


def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("study")
    parser.add_argument("--draws", type=int, default=16, help="samples of every image")
    parser.add_argument("--write", action="store_true", help="keep the table for the page")
    asked = parser.parse_args()
    found = table(samples(Study(asked.study), asked.draws))
    print(found.round(4).to_string(index=False))
    if asked.write:
        write_atomic(TABLE, found.round(6).to_csv(index=False).encode())


if __name__ == "__main__":
    main()
