from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from posterior_bench.bench.pages.contact_sheet import contact_sheet, solver_sheet
from posterior_bench.bench.pages.sheet_colours import HOLE, STRIPE
from posterior_bench.bench.pages.sheet_layout import _wrapped, arrange, arrange_solvers
from posterior_bench.bench.pages.sheet_panels import Panel

N, D, SIZE = 3, 4, 28


def pictures(*shape: int, seed: int = 0) -> np.ndarray:
    """Random grey levels that are exact in 8 bits."""
    return (np.random.default_rng(seed).integers(0, 256, shape) / 127.5 - 1).astype(np.float32)


def panel(
    title: str = "dps", n: int = N, draws: int = D, channels: int = 1, size: int = SIZE, **more
) -> Panel:
    truth = pictures(n, channels, size, size)
    mask = np.ones((n, 1, size, size), bool)
    mask[:, :, : size // 2] = False
    return Panel(
        title,
        truth,
        np.where(mask, truth, 0),
        mask,
        pictures(n, draws, channels, size, size, seed=len(title)),
        **more,
    )


def render(path: Path, panels: list[Panel]) -> np.ndarray:
    contact_sheet(path, panels)
    return np.asarray(Image.open(path).convert("RGB"))


def places(sheet: np.ndarray, image: np.ndarray, factor: int) -> list[tuple[int, int]]:
    """Where the enlarged picture ``(1, H, W)`` lies, found by its pixels alone."""
    tile = np.round((image[0] + 1) * 127.5).astype(np.uint8).repeat(factor, 0).repeat(factor, 1)
    height, width = tile.shape
    grey = sheet[..., 1]
    probes = [
        (0, 0),
        (0, width - 1),
        (height - 1, 0),
        (height // 2, width // 2),
        (height // 3, width // 5),
    ]
    fits = np.ones((grey.shape[0] - height + 1, grey.shape[1] - width + 1), bool)
    for y, x in probes:
        fits &= grey[y : y + fits.shape[0], x : x + fits.shape[1]] == tile[y, x]
    return [
        (int(y), int(x))
        for y, x in np.argwhere(fits)
        if (grey[y : y + height, x : x + width] == tile).all()
    ]


def test_every_picture_lies_in_its_row_and_column(tmp_path: Path) -> None:
    shown = panel()
    sheet = render(tmp_path / "s.png", [shown])
    truth = [places(sheet, image, 4) for image in shown.truth]
    draws = [[places(sheet, image, 4) for image in row] for row in shown.draws]
    assert all(len(found) == 1 for found in truth)
    assert all(len(found) == 1 for row in draws for found in row)
    for i in range(N):
        (top, left) = truth[i][0]
        assert left == truth[0][0][1], "truths share a column"
        assert [draws[i][d][0][0] for d in range(D)] == [top] * D, (
            "draws share the row of their truth"
        )
        columns = [left] + [draws[i][d][0][1] for d in range(D)]
        assert columns == sorted(columns)
        assert min(np.diff(columns)) > 112, "no picture covers another"
    assert [found[0][0] for found in truth] == sorted(found[0][0] for found in truth)


def test_the_hole_is_hatched_and_the_rest_is_shown(tmp_path: Path) -> None:
    shown = panel(n=1)
    sheet = render(tmp_path / "s.png", [shown])
    (top, left) = places(sheet, shown.truth[0], 4)[0]
    right = left + 112 + 4
    observed = sheet[top : top + 112, right : right + 112]
    colours = {f"#{bytes(pixel).hex()}" for pixel in observed[:56].reshape(-1, 3)}
    assert colours == {HOLE, STRIPE}
    assert (observed[56:] == sheet[top + 56 : top + 112, left : left + 112]).all()


def test_solvers_of_one_measurement_share_its_columns(tmp_path: Path) -> None:
    both = [panel("dps", group="box"), panel("repaint", group="box")]
    sheet = render(tmp_path / "s.png", both)
    assert len(places(sheet, both[0].truth[0], 4)) == 1
    first, second = (places(sheet, p.draws[0, 0], 4)[0] for p in both)
    assert first[0] == second[0]
    assert first[1] < second[1]


def test_other_measurements_come_below(tmp_path: Path) -> None:
    both = [panel("dps", group="box"), panel("dps", group="half")]
    found = places(render(tmp_path / "s.png", both), both[0].truth[0], 4)
    assert len(found) == 2
    assert found[0][1] == found[1][1]
    assert [words.text for words in arrange(both).words if words.text in ("box", "half")] == [
        "box",
        "half",
    ]


def test_a_failed_draw_is_not_a_black_picture(tmp_path: Path) -> None:
    shown = panel(n=1)
    shown.draws[0, 1] = np.nan
    sheet = render(tmp_path / "s.png", [shown])
    (top, left) = places(sheet, shown.draws[0, 0], 4)[0]
    failed = sheet[top : top + 112, left + 116 : left + 116 + 112]
    assert failed.min() > 100


def test_large_colour_images_are_shrunk_by_averages() -> None:
    shown = panel(n=2, draws=2, channels=3, size=512)
    tile = arrange([shown]).tiles[0].pixels
    assert tile.shape == (256, 256, 3)
    exact = (shown.truth[0].reshape(3, 256, 2, 256, 2).mean((2, 4)).transpose(1, 2, 0) + 1) * 127.5
    assert np.abs(tile - exact).max() < 1.01, "rounded once per direction"


def test_sizes_stay_readable() -> None:
    one = arrange([panel(n=20)])
    many = arrange([panel(f"solver{i}", n=20, group="same") for i in range(12)])
    apart = arrange([panel(f"solver{i}", n=20, group=f"mask{i}") for i in range(12)])
    big = arrange([panel(n=20, size=256, channels=3)])
    for layout in (one, many, big):
        assert layout.width <= 2000
        assert layout.height <= 2300
    assert apart.height <= 4500
    # eight images of six pictures and a map, then two swatches of the legend
    assert len(one.tiles) == 8 * 7 + 2


def test_the_sheet_of_one_image_has_a_row_of_draws_per_solver(tmp_path: Path) -> None:
    both = [panel(name, n=1, captions=[f"said of {name}"]) for name in ("dps", "repaint")]
    solver_sheet(tmp_path / "s.png", both)
    sheet = np.asarray(Image.open(tmp_path / "s.png").convert("RGB"))
    ((top, left),) = places(sheet, both[0].truth[0], 8)
    found = [[places(sheet, draw, 8) for draw in shown.draws[0]] for shown in both]
    assert all(len(place) == 1 for row in found for place in row)
    tops = [[place[0][0] for place in row] for row in found]
    assert tops[0] == [top] * D and tops[1] == [tops[1][0]] * D and tops[1][0] > top + 224
    lefts = [[place[0][1] for place in row] for row in found]
    assert lefts[0] == lefts[1] and min(np.diff([left, *lefts[0]])) >= 224
    observed = sheet[tops[1][0] : tops[1][0] + 224, left : left + 224]
    assert {f"#{bytes(pixel).hex()}" for pixel in observed[:112].reshape(-1, 3)} == {HOLE, STRIPE}
    assert (observed[112:] == sheet[top + 112 : top + 224, left : left + 224]).all()
    texts = [words.text for words in arrange_solvers(both).words]
    assert {
        "truth",
        "observed",
        "dps",
        "repaint",
        "said of dps",
        "said of repaint",
        "draw 4",
        "std of draws",
    } <= {*texts}


@pytest.mark.parametrize(("draws", "size"), [(1, 256), (8, 256), (10, 512), (4, 8), (30, 28)])
def test_the_sheet_of_one_image_stays_readable(draws: int, size: int) -> None:
    layout = arrange_solvers([panel(n=1, draws=draws, size=size, channels=3)])
    assert layout.width <= 2400
    assert layout.tiles[0].pixels.shape[0] >= 100
    ends = [(tile.x + tile.pixels.shape[1], tile.y + tile.pixels.shape[0]) for tile in layout.tiles]
    assert max(x for x, _ in ends) < layout.width and max(y for _, y in ends) < layout.height


def test_the_sheet_of_one_image_refuses_other_measurements() -> None:
    for panels in ([], [panel(n=2)], [panel(n=1, group="box"), panel(n=1, group="half")]):
        with pytest.raises(ValueError, match="one image and one measurement"):
            arrange_solvers(panels)


def test_captions_titles_and_few_draws() -> None:
    layout = arrange(
        [panel("a|$b_c$", draws=1, captions=["PSNR 20", "PSNR 21", "PSNR 22"]), panel("other")]
    )
    texts = [words.text for words in layout.words]
    assert {"a|$b_c$", "other", "PSNR 22", "truth", "observed", "draw 1"} <= set(texts)
    assert texts.count("std of draws") == 1, "one draw has no spread"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"truth": pictures(N, 2, SIZE, SIZE)}, "truth must be"),
        ({"draws": pictures(N, D, 1, SIZE, SIZE + 1)}, "are no draws of truth"),
        ({"mask": np.ones((N, SIZE, SIZE), bool)}, "mask must be"),
        ({"captions": ["one"]}, "1 captions for 3 images"),
    ],
)
def test_shapes_that_disagree_are_refused(change: dict[str, object], message: str) -> None:
    given = {**vars(panel()), **change}
    with pytest.raises(ValueError, match=message):
        arrange([Panel(**given)])


def test_no_panels_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one panel"):
        contact_sheet(tmp_path / "s.png", [])
    assert list(tmp_path.iterdir()) == []


def test_the_same_panels_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        contact_sheet(tmp_path / name, [panel()])
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_titles_are_broken_between_words_and_long_names_at_underscores() -> None:
    assert _wrapped("latentpaint_free", 107) == ["latentpaint_", "free"]
    assert _wrapped("mgdm fit_steps=5 levels=4", 120) == ["mgdm fit_steps=5", "levels=4"]
