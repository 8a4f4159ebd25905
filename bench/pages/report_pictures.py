"""The pictures of a report: truth, observation, draws, maps, selected images and fits."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from posterior_bench.bench.analysis import figures
from posterior_bench.bench.pages.report_data import CellFile, Group, ReportData
from posterior_bench.bench.pages.report_plots import svg_uri
from posterior_bench.bench.pages.report_variants import variants_of
from posterior_bench.bench.pages.thumbnails import (
    BUDGET,
    LARGE,
    SIDE,
    Floats,
    Pixels,
    Thumbnails,
    heat,
    spread,
    stored_pixels,
)
from posterior_bench.bench.store import truth

IMAGES, DRAWS, PICTURES, METRICS, SCORES = 8, 10, 2000, 3, 3


LARGE_SIZE = 80_000
"""Characters of a picture of :data:`LARGE` pixels, roughly."""


STEPS = 12
"""Pictures of a fit, at most."""


CASES = ("best", "median", "worst")


def images_shown(groups: Sequence[Group]) -> int:
    """Return how many images of every measurement are embedded."""
    largest = max(map(_per_image, groups))
    return max(1, min(IMAGES, PICTURES // len(groups) // largest))


def picture_side(groups: Sequence[Group], shown: int) -> int:
    """Return the longer side of pictures in pixels: larger where there are few."""
    count = shown * sum(map(_per_image, groups))
    return LARGE if count * LARGE_SIZE <= BUDGET else SIDE


def _per_image(group: Group) -> int:
    """Return how many pictures of an image there are: two, and draws and a map of every solver."""
    return sum(min(int(c.identity["draws"]), DRAWS) + 1 for c in group.cells) + 2


# pictures
def scene_of(
    group: Group,
    study: ReportData,
    means: pd.DataFrame,
    choice: tuple[int, Sequence[str]],
    pictures: Thumbnails,
    full: Mapping[Hashable, str],
) -> dict[str, Any]:
    """Return what the page shows of a measurement: numbers of pictures, and words.

    ``choice`` holds the number of images and the metrics whose values stand under the pictures.
    """
    shown, metrics = choice
    first, cards = group.ids[:shown], study.board.attrs["metrics"]
    cases = _cases(group, study, means)
    wanted = list(
        dict.fromkeys([*first, *(case["image"] for lines in cases for case in lines["cases"])])
    )
    originals, note = originals_of(group, wanted, study)
    for image in wanted:
        for kind, pixels in zip(
            ("truth", "observed"), originals.get(image, (None, None)), strict=True
        ):
            pictures.add((group.name, image, kind), pixels, full.get((group.name, image, kind), ""))
    rows = study.rows[study.rows["image_id"].isin(first)]
    said = _said(rows[rows["cell"].isin([cell.name for cell in group.cells])], metrics)
    columns = [_column(cell, first, cases, pictures, full, said) for cell in group.cells]
    largest = _largest([values for column in columns for values in column.pop("spread")])
    for column in columns:
        maps = [heat(values, largest) for values in column.pop("maps")]
        column["std"] = [
            pictures.add((column["cell"], image, "std"), m)
            for image, m in zip(first, maps, strict=True)
        ]
    for lines in cases:
        for case in lines["cases"]:
            case["picture"] = pictures.find((lines["cell"], case["image"], case["draw"]))
    posteriors, recognised = variants_of(group.cells, first, DRAWS)
    for column in columns:
        column["variants"] = recognised.get(column["cell"], [])
    return {
        "name": group.name,
        "variants": posteriors,
        "note": note,
        "largest": f"{largest:.2g}",
        "images": first,
        "scores": [
            {"id": m, "title": cards[m]["title"], "unit": cards[m]["unit"]} for m in metrics
        ],
        "originals": {
            image: [pictures.find((group.name, image, kind)) for kind in ("truth", "observed")]
            for image in wanted
        },
        "solvers": columns,
        "cases": cases,
    }


def scored(study: ReportData, main: str | None) -> list[str]:
    """Return the metrics whose values stand under every picture, the main one first."""
    return [*filter(None, [main]), *(m for m in study.metrics if m != main)][:SCORES]


def originals_of(
    group: Group, ids: Sequence[str], study: ReportData
) -> tuple[dict[str, tuple[Pixels, Pixels | None]], str]:
    """Return truth and observation by image, and a note; nothing and the reason if unreadable."""
    mine = study.rows[study.rows["cell"].isin([cell.name for cell in group.cells])]
    try:
        return group.scene.pictures(ids, truth.truth_hashes(mine)), ""
    except Exception as error:  # the report of rows from elsewhere must not need their data
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        return (
            {},
            f"The originals cannot be read here, so truth and observation are missing: {reason}",
        )


def _column(
    cell: CellFile,
    first: Sequence[str],
    cases: Sequence[Mapping[str, Any]],
    pictures: Thumbnails,
    full: Mapping[Hashable, str],
    said: Mapping[Hashable, Mapping[str, object]],
) -> dict[str, Any]:
    """Return the draws of one solver; all solvers' maps are scaled by ``maps`` and ``spread``."""
    own = {
        (case["image"], case["draw"])
        for lines in cases
        if lines["cell"] == cell.name
        for case in lines["cases"]
    }
    pngs = cell.pngs([*first, *(image for image, _ in own)])
    draws = int(cell.identity["draws"])
    for image, draw in own:
        if draw in pngs[image]:
            pictures.add(
                (cell.name, image, draw),
                stored_pixels(pngs[image][draw]),
                full.get((cell.name, image, draw), ""),
            )
    grid, maps = [], []
    for image in first:
        pixels = {draw: stored_pixels(png) for draw, png in pngs[image].items()}
        for draw in range(min(draws, DRAWS)):
            pictures.add(
                (cell.name, image, draw), pixels.get(draw), full.get((cell.name, image, draw), "")
            )
        keys = [(cell.name, image, draw) for draw in range(min(draws, DRAWS))]
        missing = {"status": "missing"}
        grid.append([{"p": pictures.find(key), **said.get(key, missing)} for key in keys])
        maps.append(spread(list(pixels.values())) if len(pixels) == draws else None)
    known = [values for values in maps if values is not None]
    return {"cell": cell.name, "solver": cell.label, "draws": grid, "maps": maps, "spread": known}


def _said(rows: pd.DataFrame, metrics: Sequence[str]) -> dict[Hashable, dict[str, object]]:
    """Return the status of every draw, and its values as texts if it has any."""
    found: dict[Hashable, dict[str, object]] = {}
    columns = ["cell", "image_id", "draw", "status", *metrics]
    for cell, image, draw, status, *values in rows[columns].itertuples(index=False):
        texts = [number(float(v)) if pd.notna(v) else "–" for v in values]
        scores = {"scores": texts} if status == "ok" else {}
        found[str(cell), str(image), int(draw)] = {"status": str(status), **scores}
    return found


def _largest(maps: Sequence[Floats]) -> float:
    """Return the end of the colour scale, which all but the last 0.5 % of pixels reach.

    So one pixel does not darken all others.
    """
    return float(np.quantile(np.concatenate([m.ravel() for m in maps]), 0.995)) if maps else 0.0


def _cases(group: Group, study: ReportData, means: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the best, median and worst image of every solver by metric.

    Each comes with the draw nearest to the image's mean.
    """
    cards = study.board.attrs["metrics"]
    ok = study.rows[study.rows["status"] == "ok"]
    lines = []
    for cell in group.cells:
        rows = ok[ok["cell"] == cell.name].set_index(["image_id", "draw"])
        for metric in study.metrics[:METRICS] if len(rows) else ():
            values = means.loc[cell.name, metric].dropna()
            values = values.sort_values(
                ascending=cards[metric]["direction"] == "down", kind="stable"
            )
            if len(values):
                cases = _picked(values, rows[metric].unstack())
                lines.append(
                    {"metric": metric, "cell": cell.name, "solver": cell.label, "cases": cases}
                )
    return lines


def _picked(values: pd.Series, draws: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the cases among ``values``, best image first.

    ``draws`` has the values of all draws, a row per image.
    """
    places = (0, (len(values) - 1) // 2, len(values) - 1)
    return [
        {
            "case": case,
            "image": str(values.index[place]),
            "value": number(float(values.iloc[place])),
            "draw": typical_draw(
                draws.loc[values.index[place]].dropna(), float(values.iloc[place])
            ),
        }
        for case, place in zip(CASES, places, strict=True)
    ]


def typical_draw(draws: pd.Series, mean: float) -> int:
    """Return the draw whose value is nearest to the mean; the first if the mean is infinite."""
    away = (draws - mean).abs().fillna(0.0)
    return int(away.index[int(away.to_numpy().argmin())])


def fits_of(group: Group, shown: int, pictures: Thumbnails, looks: figures.Looks) -> dict[str, Any]:
    """Return the figure of losses, and the pictures that each fit went through, if traces exist."""
    curves, strips = [], []
    for cell in group.cells:
        traces = cell.traces(group.ids[:shown])
        if traces:
            curves.append(
                (cell.label, np.stack([trace.loss for trace in traces.values()]).astype(float))
            )
        for image, trace in traces.items():
            steps = [
                {"after": n, "p": pictures.add((cell.name, image, f"after {n}"), trace.progress[n])}
                for n in _thinned(sorted(trace.progress))
            ]
            strips.append({"solver": cell.label, "image": image, "steps": steps})
    return {"losses": svg_uri(figures.losses(curves, looks) if curves else None), "strips": strips}


def _thinned(numbers: Sequence[int]) -> list[int]:
    """Return at most :data:`STEPS` of the numbers, evenly, with the first and the last."""
    places = np.linspace(0, len(numbers) - 1, min(STEPS, len(numbers)))
    return [numbers[round(place)] for place in places]


def number(value: float) -> str:
    """Return four significant digits."""
    return "∞" if value == math.inf else f"{value:.4g}"
