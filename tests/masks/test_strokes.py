"""Stroke geometry, against distances written out and against Pillow's drawing."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image, ImageDraw

from posterior_bench.masks.strokes import Brush, Canvas

Make = Callable[[int], np.random.Generator]
Points = list[tuple[int, int]]


def _distance(x: float, y: float, start: tuple[int, int], end: tuple[int, int]) -> float:
    """From a point to a segment."""
    px, py, qx, qy = *start, *end
    length2 = (qx - px) ** 2 + (qy - py) ** 2
    along = (
        0.0
        if length2 == 0
        else min(max(((x - px) * (qx - px) + (y - py) * (qy - py)) / length2, 0), 1)
    )
    return math.hypot(x - px - along * (qx - px), y - py - along * (qy - py))


@pytest.mark.parametrize(
    ("points", "thickness"),
    [
        ([(5, 5), (20, 12)], 5),
        ([(10, 3), (10, 25)], 4),
        ([(2, 20), (27, 20)], 7),
        ([(12, 12), (12, 12)], 6),
        ([(0, 0), (28, 22), (3, 24), (28, 1)], 3),
    ],
)
def test_a_polyline_covers_what_is_near(points: Points, thickness: int) -> None:
    canvas = Canvas(24, 28)
    canvas.polyline(points, thickness)
    segments = list(pairwise(points))
    near = [[min(_distance(j, i, p, q) for p, q in segments) for j in range(28)] for i in range(24)]
    clear = np.abs(np.array(near) - thickness / 2) > 1e-9  # ties are rounded in the reference
    assert np.array_equal(canvas.hole[clear], np.array(near)[clear] < thickness / 2)
    assert canvas.hole[~clear].all()


def test_proportional_is_the_reference_mask_at_the_pixel_centres() -> None:
    points = [(30, 40), (200, 90), (60, 220)]
    canvas = Canvas(64, 64, "proportional")
    canvas.polyline(points, 24)
    canvas.box(100, 180, 40, 20)
    for i, j in [(10, 7), (15, 27), (22, 50), (46, 28), (47, 34), (60, 60), (40, 30)]:
        x, y = 4 * j + 1.5, 4 * i + 1.5  # the centre of a 4 x 4 block of a 256-pixel image
        near = min(_distance(x, y, p, q) for p, q in pairwise(points)) < 12
        assert canvas.hole[i, j] == (near or (100 <= x < 140 and 180 <= y < 200))


def test_scales_agree_at_256_pixels(rng: Make) -> None:
    canvases = [Canvas(256, 256, scale) for scale in ("native", "proportional")]
    for canvas in canvases:
        Brush((4, 17), (12, 47)).stroke(rng(5), canvas)
    assert np.array_equal(canvases[0].hole, canvases[1].hole) and canvases[0].hole.any()


def test_close_to_pillow(rng: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The released generators draw lines and discs with Pillow; the covered area is the same to 1.5
    %."""
    drawn: list[tuple[Points, int]] = []
    polyline = Canvas.polyline
    monkeypatch.setattr(
        Canvas,
        "polyline",
        lambda self, points, width: (drawn.append((points, width)), polyline(self, points, width)),
    )
    ours, theirs = [], []
    for seed in range(60):
        canvas, image = Canvas(256, 256), Image.new("1", (256, 256))
        Brush((4, 17), (12, 47)).stroke(rng(seed), canvas)
        points, width = drawn.pop()
        draw, r = ImageDraw.Draw(image), width // 2
        draw.line(points, fill=1, width=width)
        for x, y in points:
            draw.ellipse((x - r, y - r, x + r, y + r), fill=1)
        assert (canvas.hole != np.asarray(image)).mean() < 0.012
        ours.append(canvas.hole.mean())
        theirs.append(np.asarray(image).mean())
    assert np.mean(ours) == pytest.approx(np.mean(theirs), rel=0.015)


def test_strokes_follow_the_published_ranges(rng: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    strokes: list[tuple[Points, int]] = []
    monkeypatch.setattr(
        Canvas, "polyline", lambda self, points, width: strokes.append((points, width))
    )
    for seed in range(400):
        Brush((4, 11), (12, 39)).stroke(rng(seed), Canvas(4096, 4096))
    assert {len(points) - 1 for points, _ in strokes} == set(range(4, 12))
    assert {width for _, width in strokes} == set(range(12, 40))
    inner = [
        (math.hypot(dx, dy), math.degrees(math.atan2(dy, dx)) * (-1 if index % 2 == 0 else 1))
        for points, _ in strokes
        for index, ((x, y), (X, Y)) in enumerate(pairwise(points))
        if 0 < X < 4096 and 0 < Y < 4096 and math.hypot(X - x, Y - y) > 100
        for dx, dy in [(X - x, Y - y)]
    ]
    lengths, angles = np.array(inner).T
    # 72 degrees, at most 24 to either side
    assert 47.5 < angles.min() < 50 and 94 < angles.max() < 96.5
    assert angles.mean() == pytest.approx(72, abs=1)
    assert lengths.max() <= 2 * 4096 * math.sqrt(2) / 8 + 2


def test_errors() -> None:
    with pytest.raises(ValueError, match="unknown scale 'half'; valid: native, proportional"):
        Canvas(32, 32, "half")
    with pytest.raises(ValueError, match="at least 2"):
        Canvas(1, 32)
