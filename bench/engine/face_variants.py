"""What draws of cartoon faces show, for the metrics that compare it with the exact posterior."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from posterior_bench.bench.engine.measurement import Measurement
from posterior_bench.bench.engine.scoring import Row
from posterior_bench.bench.store.schema import VARIANTS
from posterior_bench.bench.store.variants import pack_variants
from posterior_bench.datasets.base import NUMBERS
from posterior_bench.datasets.face_components import FaceStyle
from posterior_bench.datasets.face_drawing import SIDE, STYLES
from posterior_bench.datasets.face_posterior import FacePosterior
from posterior_bench.datasets.face_recognition import FaceRecogniser
from posterior_bench.datasets.face_search import Measured, TooMany
from posterior_bench.metrics.base import AnyMetric, DrawSet
from posterior_bench.metrics.recognition import Component, Recognised
from posterior_bench.solvers.exact import ENUMERATED

COLOR = "Color"
"""How the names of colours end. Colours are matched, but they are no component."""

STARTS = 3
"""Possible faces from which the search for the nearest one starts."""

_KEPT = 512
"""Recognisers that are kept for the next cells that measure the same."""


def compares_variants(metrics: Iterable[AnyMetric]) -> bool:
    """Whether a metric compares draws with a posterior that the data set enumerates."""
    return any(ENUMERATED in metric.needs for metric in metrics)


def recognisers(measured: Measurement) -> list[Callable[[Tensor], Recognised]]:
    """Return a function for every image that finds what draws ``(D, d)`` of it show.

    They are kept for the next cells that measure the same. An image with too many possible faces to
    enumerate is not recognised: its distances are NaN, and it has no components.
    """
    return [_recogniser(measured, i) for i in range(len(measured.truth))]


def _recogniser(measured: Measurement, i: int) -> Callable[[Tensor], Recognised]:
    found = _found(measured, i)
    shape = measured.truth.shape[1:]

    def recognise(x: Tensor) -> Recognised:
        if found is None:
            return Recognised(torch.full((len(x),), torch.nan, dtype=torch.float64), ())
        return recognised(found, x.view(-1, *shape))

    return recognise


def recognised(recogniser: FaceRecogniser, x: Tensor) -> Recognised:
    """Recognise draws ``(D, C, H, W)`` of one image."""
    each = [recogniser.recognise(image) for image in x.double().cpu().numpy()]
    squares = torch.tensor([one.squares for one in each], dtype=torch.float64)
    components = []
    for name in sorted(recogniser.open):
        if not name.endswith(COLOR):
            chances = recogniser.marginals[name]
            weights = torch.tensor(list(chances.values()), dtype=torch.float64)
            shares = torch.from_numpy(np.stack([one.shares[name] for one in each]))
            components.append(Component(name, list(chances), weights, shares))
    return Recognised(squares, components)


def put_variants(rows: Sequence[Row], drawn: DrawSet, finite: Tensor) -> None:
    """Add what the draws of every image were recognised as to the row of its first draw.

    An image with a draw that is not finite has no such entry, as it has no metrics of its draws.

    Parameters
    ----------
    rows : sequence of dict
        The rows, image by image and draw by draw.
    drawn : DrawSet
        The draws, which metrics have looked at: nothing is recognised twice.
    finite : Tensor
        Bool ``(N D,)``.
    """
    complete = finite.view(len(drawn.x), -1).all(1).tolist()
    firsts = rows[:: drawn.x.shape[1]]
    for row, draws, whole in zip(firsts, drawn.images, complete, strict=True):
        if whole:
            row[VARIANTS] = pack_variants(draws.recognised, int(draws.hidden.sum()))


def _found(measured: Measurement, i: int) -> FaceRecogniser | None:
    """Return the recogniser of an image, made at its first use."""
    assert measured.labels is not None and measured.operator.mask is not None
    y = measured.y[i].cpu().numpy()
    mask = measured.operator.mask[i, 0].cpu().numpy()
    sigma = float(measured.operator.sigma)
    return _made(STYLES[int(measured.labels[i])], y.tobytes(), mask.tobytes(), sigma)


@lru_cache(maxsize=_KEPT)
def _made(style: str, values: bytes, observed: bytes, sigma: float) -> FaceRecogniser | None:
    y = np.frombuffer(values, np.float32).reshape(-1, SIDE, SIDE)
    mask = np.frombuffer(observed, np.bool_).reshape(SIDE, SIDE)
    try:
        posterior = FacePosterior.of(y, mask, sigma, [style])
    except TooMany:
        return None
    rng = np.random.default_rng(0)
    starts = [posterior.draw(rng.random(NUMBERS).tolist()).choice for _ in range(STARTS)]
    law = FaceStyle.named(style)
    return FaceRecogniser(law, Measured(y, mask, sigma), posterior.marginals(style), starts)
