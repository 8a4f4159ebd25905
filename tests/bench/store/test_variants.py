"""What draws were recognised as is stored with the rows, and read again as it was."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from posterior_bench.bench.engine import solving
from posterior_bench.bench.store.row_store import RowStore
from posterior_bench.bench.store.schema import VARIANTS
from posterior_bench.bench.store.variants import pack_variants, unpack_variants
from posterior_bench.metrics.base import DrawSet, reference_draws
from posterior_bench.metrics.face_variants import FaceDistance, FaceWeightsError
from posterior_bench.metrics.recognition import Component, Recognised

EYES = Component(
    "eyes",
    ["round", "left"],
    torch.tensor([0.9, 0.1]).double(),
    torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]]).double(),
)
MOUTH = Component(
    "mouth",
    ["smile", "grin", "sad"],
    torch.tensor([0.5, 0.25, 0.25]).double(),
    # the second draw shows no difference between two, the third one none at all
    torch.tensor([[0.0, 0.0, 1.0], [2 / 3, 1 / 3, 0.0], [0.5, 0.25, 0.25], [0, 1, 0]]).double(),
)


def test_shares_and_words_counted_by_hand() -> None:
    squares = torch.tensor([0.0, 48.0, 12.0, 3.0]).double()
    seen = unpack_variants(pack_variants(Recognised(squares, [EYES, MOUTH]), 12))
    assert seen.distances == [0.0, 2.0, 1.0, 0.5]
    # two draws agree with probability 0.82 on the eyes, and 0.375 on the mouth
    assert [one.name for one in seen.by_uncertainty] == ["mouth", "eyes"]
    assert [one.agreement for one in seen.components] == pytest.approx([0.82, 0.375])
    mouth = seen.by_uncertainty[0]
    assert mouth.variants == ["smile", "grin", "sad"] and mouth.posterior == [0.5, 0.25, 0.25]
    assert mouth.shares == pytest.approx([7 / 24, 19 / 48, 5 / 16])
    assert [mouth.words(d) for d in range(4)] == [
        "mouth: sad",
        "mouth: smile or grin",
        "mouth: any of 3",
        "mouth: grin",
    ]


def test_an_image_that_nobody_can_recognise() -> None:
    nothing = Recognised(torch.full((2,), math.nan).double(), ())
    seen = unpack_variants(pack_variants(nothing, 12))
    assert [math.isnan(value) for value in seen.distances] == [True, True]
    assert seen.components == []


@pytest.mark.parametrize("data", [b"", b"PNG", pack_variants(Recognised(EYES.weights, ()), 1)[:-3]])
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="these are no recognised variants"):
        unpack_variants(data)


def scored(
    monkeypatch: pytest.MonkeyPatch, x: torch.Tensor, drawn: DrawSet
) -> list[dict[str, Any]]:
    """Rows of six images whose possible images are listed, as a worker makes them."""
    metrics = {"face_distance": FaceDistance(), "face_weights_error": FaceWeightsError()}
    operator = SimpleNamespace(mask=drawn.mask)
    measured = SimpleNamespace(truth=drawn.truth, operator=operator, y=drawn.y)
    monkeypatch.setattr(solving, "recognisers", lambda _: drawn.recognise)
    monkeypatch.setattr(solving, "batch_of", lambda *_: None)  # for metrics of single draws
    session = SimpleNamespace(metrics=metrics)
    return solving.score_images(session, measured, x.flatten(0, 1), 8)  # type: ignore[arg-type]


def test_rows_hold_what_their_metrics_were_made_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    drawn = reference_draws()
    x = drawn.x.clone()
    x[4, 3] = torch.nan
    rows = scored(monkeypatch, x, drawn)
    # one entry for an image, in the row of its first draw; none where a draw is not finite
    assert [i for i, row in enumerate(rows) if VARIANTS in row] == [0, 8, 16, 24, 40]
    for row in rows[::8]:
        if VARIANTS in row:
            seen = unpack_variants(row[VARIANTS])
            assert len(seen.distances) == 8
            assert sum(seen.distances) / 8 == pytest.approx(row["face_distance"])
            errors = [
                sum(abs(q - p) for q, p in zip(one.shares, one.posterior, strict=True)) / 2
                for one in seen.components
            ]
            assert sum(errors) / len(errors) == pytest.approx(row["face_weights_error"])
    assert len(unpack_variants(rows[0][VARIANTS]).components) == 3
    store = RowStore(tmp_path / ("0" * 16))
    for i in range(6):
        keys = [{"image_id": f"{i}.png", "draw": d, "cell": store.cell} for d in range(8)]
        part = rows[8 * i : 8 * i + 8]
        store.write(f"chunk{i}", [row | key for row, key in zip(part, keys, strict=True)])
    assert VARIANTS not in store.read()  # nobody takes it for a metric
    kept = store.read([VARIANTS]).dropna()
    assert list(kept["image_id"]) == ["0.png", "1.png", "2.png", "3.png", "5.png"]
    assert list(kept[VARIANTS]) == [row[VARIANTS] for row in rows if VARIANTS in row]
