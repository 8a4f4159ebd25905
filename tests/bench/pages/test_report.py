"""The report, in a browser: what it shows is what the rows say, and everything works with a
keyboard, in any theme."""

from __future__ import annotations

import base64
import csv
import dataclasses
import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from tests.bench.harness import verb

from posterior_bench.bench.analysis import figures, leaderboard
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.pages import (
    report_data,
    report_facts,
    report_heading,
    report_pictures,
    thumbnails,
)
from posterior_bench.bench.pages.report import report
from posterior_bench.bench.pages.report_facts import rerun_command
from posterior_bench.bench.store.row_store import RowStore
from posterior_bench.bench.store.schema import VARIANTS
from posterior_bench.bench.store.variants import pack_variants
from posterior_bench.metrics.recognition import Component, Recognised

playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: pip install playwright"
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
browsing = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium"
)

EVIL = """<img src=x onerror="alert(1)">'&.png"""
FORMULA = "=SUM(A1).png"
IDS = [EVIL, FORMULA, "2.png", "3.png", "4.png", "5.png", "6.png"]
SOLVERS = {"dps": 24.0, "ddnm": 21.0, "<b>own</b>": 27.0}
MESSAGE = "ValueError: </script><script>alert(2)</script>"
CARD = {"title": "PSNR", "direction": "up", "unit": "dB", "region": "whole", "level": "image"}


def png(seed: int, side: int = 8) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def shown(grins: bool) -> bytes:
    """Two draws: in the second one, smile and sad look the same. Without ``grins``, so do both."""
    both = [2 / 3, 0.0, 1 / 3]
    mouth = Component(
        "mouth",
        ["smile", "<i>grin</i>", "sad"],
        torch.tensor([0.5, 0.25, 0.25]).double(),
        torch.tensor([[0.0, 1.0, 0.0] if grins else both, both]).double(),
    )
    # the last eyes are those of ten kinds that are hardly ever drawn
    rare = [0.99, *[0.001] * 10]
    eyes = Component(
        "eyes",
        ["round", *(f"kind {i}" for i in range(10))],
        torch.tensor(rare).double(),
        torch.eye(11)[[0, 0]].double(),
    )
    return pack_variants(Recognised(torch.tensor([0.0, 3.0]).double(), [eyes, mouth]), 12)


def write_cell(
    study: Path, root: Path, name: str, solver: str, mask: str, level: float, place: int
) -> None:
    """A cell of two draws, whose last image failed for ``ddnm``; values grow with the image."""
    config: dict[str, Any] = {
        "seed": 0,
        "draws": 2,
        "solver": {"_target_": "solvers.dps.DPS", "steps": 8},
        "data": {
            "_target_": "datasets.folder.Folder",
            "root": str(root),
            "size": 8,
            "mode": "grey",
            "images": len(IDS),
        },
        "mask": {
            "_target_": "masks.palette.Palette",
            "variant": "palette_20_30",
            "scale": "proportional",
        },
        "operator": {"_target_": "operators.inpainting.Inpainting", "sigma": 0.0},
        "prior": {"_target_": "priors.mixture.none"},
    }
    identity = {
        "solver": solver,
        "data": "folder",
        "mask": mask,
        "operator": "inpainting",
        "prior": "smooth",
    }
    identity |= {"seed": 0, "images": len(IDS), "draws": 2, "variant": ""}
    recorded = {
        "cell": name,
        "identity": identity,
        "padded": 8,
        "chunks": {"00000-a": IDS},
        "config": config,
    }
    recorded["metrics"] = {"psnr": {"id": "psnr", **CARD}}
    folder = study / "cells" / name
    rows: list[dict[str, object]] = []
    for i, image in enumerate(IDS):
        for draw in range(2):
            row: dict[str, object] = {
                "cell": name,
                "image_id": image,
                "draw": draw,
                "status": "ok",
                "message": "",
            }
            if solver == "ddnm" and i == len(IDS) - 1:
                row |= {"status": "error", "message": MESSAGE}
            else:
                row |= {"psnr": level + i + draw, "png": png(100 * place + 2 * i + draw)}
            if mask == "rotated" and solver != "ddnm" and i != 1 and draw == 0:
                row |= {VARIANTS: shown(grins=solver == "dps")}
            rows.append(
                {
                    **row,
                    "nfe": 100.0 / (place + 1),
                    "nge": 20.0,
                    "seconds_sample": 1.0 + place,
                    "seconds_fit": 0.0,
                }
            )
    RowStore(folder).write("00000-a", rows)
    (folder / "config.yaml").write_text(yaml.safe_dump(recorded, sort_keys=False))


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, folder = tmp_path_factory.mktemp("photos"), tmp_path_factory.mktemp("study")
    for i, image in enumerate(IDS):
        (root / image).write_bytes(png(i))
    place = 0
    for mask in ("palette", "rotated"):
        for solver, level in SOLVERS.items():
            write_cell(folder, root, f"{place:016x}", solver, mask, level, place)
            place += 1
    (folder / "config.yaml").write_text(yaml.safe_dump({"study": {"name": "a <i>study</i>"}}))
    report(folder)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as engine:
        chromium = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Any, study: Path) -> Iterator[Any]:
    """The report on a desktop; nothing may reach for the network, and the console must stay
    silent."""
    opened = browser.new_page(viewport={"width": 1440, "height": 900})
    said: list[str] = []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on(
        "request",
        lambda request: request.url.startswith(("file:", "data:")) or said.append(request.url),
    )
    opened.on("requestfailed", lambda request: said.append(f"failed {request.url[:80]}"))
    opened.on("dialog", lambda dialog: (said.append("an injected script ran"), dialog.dismiss()))
    opened.goto((study / "report.html").as_uri())
    yield opened
    opened.close()
    assert said == []


def solvers(page: Any) -> list[str]:
    return [
        text.split(" †")[0] for text in page.locator("#board tbody tr:visible th").all_inner_texts()
    ]


@browsing
def test_sort_by_mouse_and_keyboard(page: Any, study: Path) -> None:
    frame = leaderboard.build(study)
    heading = page.locator("#board thead th", has_text="PSNR")
    heading.locator("button").click()  # the best first
    assert heading.get_attribute("aria-sort") == "descending"
    assert solvers(page) == list(
        frame.sort_values("psnr", kind="stable", ascending=False)["solver"]
    )
    heading.locator("button").focus()
    page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending"
    assert solvers(page) == list(frame.sort_values("psnr", kind="stable")["solver"])
    assert page.locator("th[aria-sort]").count() == 1
    cost = page.locator("#board thead th", has_text="passes")
    cost.locator("button").click()  # the cheapest first
    assert (
        cost.get_attribute("aria-sort") == "ascending"
        and page.locator("th[aria-sort]").count() == 1
    )


@browsing
def test_filter_by_words_and_measurement(page: Any) -> None:
    page.fill("#filter", "ddnm rot")
    assert solvers(page) == ["ddnm"] and page.inner_text("#count") == "1 of 6 lines"
    page.fill("#filter", "")
    page.select_option("#board-scene", "0")
    assert sorted(solvers(page)) == sorted(SOLVERS)


@browsing
def test_slider(page: Any) -> None:
    assert page.inner_text("#left-name") == "observed"
    page.focus("#position")
    page.keyboard.press("Home")
    assert (
        page.evaluate("getComputedStyle(document.getElementById('before')).clipPath")
        == "inset(0px 100% 0px 0px)"
    )
    page.keyboard.press("End")
    assert (
        page.evaluate("getComputedStyle(document.getElementById('before')).clipPath")
        == "inset(0px 0% 0px 0px)"
    )
    page.select_option("#left", label="truth")
    assert (
        page.evaluate(f"({PIXELS})(document.getElementById('before'))")
        == np.asarray(Image.open(io.BytesIO(png(0)))).ravel().tolist()
    )


PIXELS = """img => { const c = document.createElement('canvas'); c.width = img.naturalWidth;
c.height = img.naturalHeight;
const g = c.getContext('2d'); g.drawImage(img, 0, 0);
return [...g.getImageData(0, 0, c.width, c.height).data].filter((_, i) => i % 4 === 0); }"""


@browsing
def test_zoom_with_the_keyboard(page: Any) -> None:
    thumbs = page.locator("#by-image .sheet").first.locator(".thumb")
    thumbs.first.focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == f"{EVIL}, observed"
    page.keyboard.press("Enter")
    assert page.locator("#zoom").is_visible() and page.inner_text("#zoom-title").startswith(
        f"{EVIL}, observed"
    )
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#zoom-title").startswith(f"{EVIL}, truth")
    page.keyboard.press("Escape")
    page.locator("#zoom").wait_for(state="hidden")
    # the browser gives the focus back after the key was handled
    page.wait_for_function(
        "label => document.activeElement.getAttribute('aria-label') === label",
        arg=f"{EVIL}, truth",
    )


def pane(name: str) -> str:
    return f".tile:has(strong:text-is('{name}')) .pane"


@browsing
def test_the_answer_is_the_order_of_the_rows(page: Any) -> None:
    # values are level + image + draw, so every image ranks them alike; ddnm failed twice
    lines = page.locator(".answer:visible .order tbody tr").all_inner_texts()
    assert [line.split("\t")[1:3] for line in lines] == [
        ["<b>own</b>", "1.0 [1.0, 1.0]"],
        ["dps", "2.0 [2.0, 2.0]"],
    ]
    # forward passes of its two cells are 100 and 25, backward ones 20
    assert lines[1].split("\t")[-2] == "82.5"
    assert "Not ordered: ddnm, because 4 rows failed." in page.inner_text("#answer .notes")
    assert "4 rows failed or missing" in page.inner_text(".verdict")
    assert page.locator("#answer .plot").count() == 2


@browsing
def test_pictures_side_by_side_with_scores(page: Any) -> None:
    page.select_option("#image", label="2.png")
    page.select_option("#draw", label="2")
    names = page.locator("#tiles figcaption").all_inner_texts()
    assert [name.split("\n")[0] for name in names] == [
        *("truth", "observed", "<b>own</b>", "dps", "ddnm")
    ]
    # 24 + image 2 + draw 1
    assert "PSNR 27 dB" in names[3]
    # the page uses its width
    assert page.locator(pane("truth")).bounding_box()["width"] > 250
    picture = page.locator(pane("dps") + " img").element_handle()
    assert page.evaluate(PIXELS, picture) == grey(2 * 2 + 1)
    page.locator("#chooser label", has_text="ddnm").click()
    assert page.locator("#tiles figure").count() == 4


def grey(seed: int) -> list[int]:
    return [int(v) for v in np.asarray(Image.open(io.BytesIO(png(seed)))).ravel()]


@browsing
def test_one_zoom_for_all_pictures_by_mouse_and_keyboard(page: Any) -> None:
    page.locator("#tiles").scroll_into_view_if_needed()
    box = page.locator(pane("truth")).bounding_box()
    page.mouse.click(box["x"] + 0.75 * box["width"], box["y"] + 0.5 * box["height"])
    moves = page.evaluate(
        "[...document.querySelectorAll('.pane img')].map(e => getComputedStyle(e).transform)"
    )
    # twice as large, and the point under the pointer stays where it is: 0.75 w = 2 * 0.75 w + x
    numbers = [[float(v) for v in move[7:-1].split(",")] for move in moves]
    expected = [2, 0, 0, 2, -0.75 * box["width"], -0.5 * box["height"]]
    np.testing.assert_allclose(numbers, [expected] * 5, atol=1.5)
    page.keyboard.press("0")
    assert page.inner_text("#zoom-level") == "1×"
    page.keyboard.press("+")
    assert page.inner_text("#zoom-level") == "1.5×"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert page.input_value("#image") == "1" and page.input_value("#draw") == "1"


@browsing
def test_differences_are_those_of_the_pixels(page: Any) -> None:
    page.focus("#tiles")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("d")
    canvas = page.locator(pane("dps") + " canvas")
    canvas.wait_for()
    share = np.minimum(np.abs(np.subtract(grey(0), grey(1))) / 127.5, 1)
    ramp = base64.b64decode(thumbnails.ramp().partition(",")[2])
    colours = np.asarray(Image.open(io.BytesIO(ramp)))[0, :, 0]
    drawn = page.evaluate(RED, canvas.element_handle())
    np.testing.assert_array_equal(drawn, colours[np.floor(share * 95 + 0.5).astype(int)])
    assert page.locator(pane("truth") + " canvas").count() == 0
    page.keyboard.press("d")
    page.locator(pane("dps") + " img").wait_for()


RED = """c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]
.filter((_, i) => i % 4 === 0)"""


@browsing
def test_a_link_brings_back_what_is_shown(page: Any, study: Path) -> None:
    page.select_option("#scene", "1")
    page.select_option("#image", label=FORMULA)
    page.select_option("#draw", label="2")
    page.locator("#chooser label", has_text="ddnm").click()
    page.locator("#board thead th", has_text="passes").locator("button").click()
    page.fill("#filter", "ddnm")
    page.click("#zoom-in")
    address = (study / "report.html").as_uri() + page.get_attribute("#permalink", "href")
    page.goto("about:blank")
    page.goto(address)
    assert page.input_value("#scene") == "1" and page.input_value("#image") == "1"
    assert page.input_value("#draw") == "1" and page.inner_text("#zoom-level") == "1.5×"
    assert page.locator(pane("ddnm")).count() == 0 and page.locator(pane("dps")).count() == 1
    assert page.get_attribute("#board th[aria-sort]", "aria-sort") == "ascending"
    assert {*solvers(page)} == {"ddnm"}
    # links within the page keep the address
    page.click("nav a[href='#cost']")
    page.wait_for_timeout(200)
    assert "draw=2" in page.url


@browsing
def test_headings_explain_themselves(page: Any) -> None:
    page.locator("#board thead th", has_text="PSNR").locator("button").focus()
    assert page.inner_text("#words").startswith("PSNR (column psnr). Higher is better.")
    page.keyboard.press("Escape")
    assert not page.locator("#words").is_visible()
    page.locator(".answer:visible .said", has_text="letters").hover()
    assert page.inner_text("#words") == "Solvers that share a letter cannot be told apart."


@browsing
def test_breakdown_by_coverage(page: Any) -> None:
    head = page.locator("#breakdown .heat:visible thead th").all_inner_texts()
    # seven images make two groups
    assert [text.split("\n")[-1] for text in head[1:]] == ["4 images", "3 images"]
    lines = page.locator("#breakdown .heat:visible tbody th").all_inner_texts()
    assert lines == ["<b>own</b>", "dps", "ddnm"]


@browsing
def test_cases_follow_the_values(page: Any) -> None:
    line = page.locator(".case", has=page.locator("h4", has_text="dps"))
    # values are 24 + image + draw: the mean of the last image is 30.5, of the first 24.5, of the
    # middle one 27.5
    assert line.locator("p").all_inner_texts() == [
        "best · 30.5 · 6.png",
        "median · 27.5 · 3.png",
        f"worst · 24.5 · {EVIL}",
    ]


@browsing
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1440])
def test_fits_the_window_in_both_themes(browser: Any, study: Path, theme: str, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=theme)
    page.goto((study / "report.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") == width
    # the contrast of text that WCAG 2 asks for, level AA
    for place in ("body", ".notes", "nav a"):
        luminance = (
            f"s => {{ const e = document.querySelector(s); return "
            f"[getComputedStyle(e).color, {BACK}]; }}"
        )
        ink, paper = (_luminance(colour) for colour in page.evaluate(luminance, place))
        assert (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) > 4.5
        assert (ink < paper) == (theme == "light")
    page.close()


@browsing
def test_variants_of_draws_beside_the_posterior(page: Any) -> None:
    assert not page.locator("#variants").is_visible()  # nothing was recognised here
    page.select_option("#scene", "1")
    page.select_option("#image", "0")
    tables = page.locator("#variants table")
    assert tables.locator("caption").all_inner_texts() == ["mouth", "eyes"]
    # columns stand as in the answer, where own is the best; it misses the grin
    lines = tables.first.locator("tr").all_inner_texts()
    assert [[" ".join(text.split()) for text in line.split("\t")] for line in lines] == [
        ["variant", "posterior", "<b>own</b> 2 draws", "dps 2 draws"],
        ["smile", "50 %", "67 %", "33 %"],
        ["<i>grin</i>", "25 %", "0 %", "50 %"],
        ["sad", "25 %", "33 %", "17 %"],
    ]
    found = (
        "rows => rows.map(row => [...row.querySelectorAll('.bar-line')].map(e => e.style.width))"
    )
    widths = page.evaluate(
        f"({found})([...document.querySelectorAll('#variant-tables > :first-child tbody tr')])"
    )
    assert widths[1] == ["25%", "0%", "25%", "50%", "25%"]
    # of eleven kinds of eyes the eight most frequent ones have a line
    last = tables.last.locator("tbody tr").last.inner_text().split()
    assert last == ["3", "others", "<", "1", "%", "0", "%", "0", "%"]
    # the second draw
    page.select_option("#draw", label="2")
    said = page.locator(".tile:has(strong:text-is('dps')) .seen").inner_text()
    assert said == "mouth: smile or sad · eyes: round · 0.500 from a possible image"
    small = page.locator("#by-image .block:has(p:text-is('dps')) .thumb small").first
    assert small.inner_text().split("\n")[1:] == [
        "mouth: <i>grin</i>",
        "eyes: round",
        "distance 0.000",
    ]
    # an image that nobody recognised
    page.select_option("#image", "1")
    assert not page.locator("#variants").is_visible()


BACK = "getComputedStyle(document.body).backgroundColor"


def _luminance(colour: str) -> float:
    """Relative luminance of ``rgb(r, g, b)``, WCAG 2."""
    levels = np.array([float(v) for v in colour[4:-1].split(",")]) / 255
    linear = np.where(levels <= 0.04045, levels / 12.92, ((levels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_every_string_is_escaped(study: Path) -> None:
    text = (study / "report.html").read_text()
    assert (
        "<b>own" not in text
        and "<i>study" not in text
        and 'onerror="' not in text
        and "<img src=x" not in text
    )
    assert "alert(2)</script>" not in text and "&lt;/script&gt;&lt;script&gt;alert(2)" in text
    assert "http://" not in text.split('id="data"')[0] and 'src="http' not in text


def test_costs_are_headed_and_explained(study: Path) -> None:
    text = (study / "report.html").read_text().split('<table id="board">')[1]
    head = text.split("<thead>")[1].split("</thead>")[0]
    assert "NFE" not in re.sub(r'data-words="[^"]*"', "", head)
    for name, words in {
        "passes": "forward + backward",
        "forward": "forward passes",
        "s / draw": "seconds",
    }.items():
        assert re.search(
            rf'<button type="button" data-words="[^"]*{re.escape(words)}[^"]*">{name}</button>',
            head,
        )
    # 100 forwards and 20 backwards of the first cell
    first = next(
        line for line in text.split("<tbody>")[1].split("<tr ") if 'data-n="100.0"' in line
    )
    assert '<td class="num" data-n="120.0">120</td>' in first
    assert 'data-best="up"' in head
    assert re.search(r'data-words="PSNR \(column psnr\)\. Higher is better\.[^"]*Mean over', head)


@pytest.mark.parametrize(("device", "cuda"), [("cpu", None), ("NVIDIA H100", "13.0")])
def test_cuda_is_named_where_a_gpu_ran_it(
    study: Path, tmp_path: Path, device: str, cuda: str | None
) -> None:
    copy = shutil.copytree(study, tmp_path / "study")
    environment = {"devices": ["NVIDIA H100"], "processor": "a CPU", "cuda": "13.0"}
    (copy / "environment.json").write_text(json.dumps(environment))
    material = report_data.ReportData.read(copy, leaderboard.build(copy))
    material = dataclasses.replace(material, rows=material.rows.assign(device=device))
    facts = report_facts.provenance(material)["facts"]
    assert facts.get("CUDA") == cuda and facts["Hardware"] == f"{device}, a CPU"


@pytest.mark.parametrize(
    ("name", "title"), [("arena", "arena"), ("default", "holes"), (None, "holes")]
)
def test_a_report_is_named_by_its_study(tmp_path: Path, name: str | None, title: str) -> None:
    folder = tmp_path / "holes"
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump({"study": {"name": name}}))
    board = pd.DataFrame(
        {"solver": "dps", "data": "fashion", "operator": "inpainting"},
        index=range(2),
    ).assign(mask=["comod sha256=684b504a", "palette"], images=8, draws=2)
    found = report_heading.heading(folder, board, 2)
    assert found["title"] == title
    assert found["question"] == "How good is dps on fashion, behind comod and palette masks?"
    assert found["size"] == "1 solver · 2 measurements · 2 cells · 8 images · 2 draws"


def test_a_study_says_its_own_title_and_question(tmp_path: Path) -> None:
    said = {"name": "arena", "title": "Two moons", "question": "Which one is round?"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"study": said}))
    board = pd.DataFrame({"solver": ["a", "b"], "data": "d", "mask": "m", "operator": "blur"})
    found = report_heading.heading(tmp_path, board.assign(images=8, draws=2), 1)
    assert (found["title"], found["question"]) == ("Two moons", "Which one is round?")
    assert report_heading.question(board) == "Which of 2 solvers is best on d, with blur?"


def test_failures_are_said_once_with_their_number(study: Path) -> None:
    board = leaderboard.build(study)
    (first, second) = report_facts.failures(report_data.ReportData.read(study, board))
    assert (first["solver"], first["count"], first["message"]) == ("ddnm", 2, MESSAGE)
    assert second["scene"] != first["scene"]


def test_whole_pictures_on_demand(study: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(study, tmp_path / "study")
    report(copy, images=1, extract=tmp_path / "full")
    with (tmp_path / "full" / "index.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    # 6 cells of 7 images and 2 draws, two of them with a failed image, and truth and observation of
    # 2 measurements
    assert len(lines) == 6 * 14 - 4 + 2 * 2 * 7
    chosen = next(line for line in lines if line["solver"] == "dps" and line["draw"] == "1")
    assert chosen["image_id"] == EVIL and (tmp_path / "full" / chosen["file"]).read_bytes() == png(
        1 + _place(chosen)
    )
    assert all((tmp_path / "full" / line["file"]).is_file() for line in lines)
    assert {line["image_id"] for line in lines} >= {"'" + FORMULA}
    assert "../full/" in (copy / "report.html").read_text()


def _place(line: dict[str, str]) -> int:
    """The seed of the first picture of a cell."""
    return 100 * int(line["file"].split("/")[0], 16)


def test_originals_that_are_gone_are_missing_and_said(study: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(study, tmp_path / "study")
    for path in copy.glob("cells/*/config.yaml"):
        recorded = yaml.safe_load(path.read_text())
        recorded["config"]["data"]["root"] = "/nowhere"
        path.write_text(yaml.safe_dump(recorded, sort_keys=False))
    report(copy)
    assert "The originals cannot be read here" in (copy / "report.html").read_text()


@pytest.mark.parametrize(
    "given, said",
    [
        ([], "required: STUDY"),
        (["{study}", "image=3"], "Did you mean 'images'"),
        (["{study}", "images=0"], "whole number of at least 1"),
        (["{study}", "metric=lpips"], "unknown metric 'lpips'"),
        (["/nowhere"], "not a study folder"),
    ],
)
def test_bad_settings_are_one_line(study: Path, given: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        verb("report", *(text.format(study=study) for text in given))


def test_pictures_end_with_the_budget_and_are_counted() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)
    size = len(thumbnails.data_uri(*thumbnails.thumbnail(noise)))
    kept = thumbnails.Thumbnails(budget=3 * size)
    numbers = [kept.add(i, noise) for i in (0, 1, 1, 2, 3, 4)]
    assert numbers == [0, 1, 1, 2, None, None] and kept.left_out == 2
    assert sum(len(str(item["src"])) for item in kept.items) <= 3 * size


def test_a_large_study_stays_below_50_megabytes() -> None:
    """100 images, 10 draws, 10 solvers: how many pictures are asked for, and what the worst of them
    could weigh."""
    cells = [SimpleNamespace(identity={"draws": 10})] * 10
    shown = report_pictures.images_shown([SimpleNamespace(cells=cells)])  # type: ignore[list-item]
    assert shown == 8
    smooth = np.asarray(
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).resize(
            (256, 256)
        )
    )
    # draws, maps, truth and observation, then three cases of three metrics with their own truth and
    # observation
    count = shown * (10 * 11 + 2) + 10 * 3 * 3 * 3
    assert count * len(thumbnails.data_uri(*thumbnails.thumbnail(smooth))) < 50e6
    assert thumbnails.BUDGET < 45e6


def test_the_spread_is_that_of_the_draws() -> None:
    draws = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)
    expected = (
        pd.DataFrame((draws / 127.5 - 1).reshape(5, -1)).std().to_numpy().reshape(4, 6, 3).mean(-1)
    )
    np.testing.assert_allclose(thumbnails.spread(list(draws)), expected)


def test_front_of_a_hand_made_example() -> None:
    cost = np.array([0.0, 10, 10, 20, 30, 40, np.nan])
    value = np.array([9.0, 1, 2, 1.5, 3, 3, 99])
    assert figures.on_front(cost, value, "up").tolist() == [2, 4]
    assert figures.on_front(cost, value, "down").tolist() == [1]


def test_a_cell_says_how_it_is_run_again() -> None:
    identity = {
        "solver": "dps",
        "data": "fashion",
        "mask": "comod low=0.3",
        "operator": "inpainting sigma=0.05",
    }
    identity |= {
        "prior": "fashion",
        "seed": 3,
        "images": 8,
        "draws": 2,
        "variant": "authors zeta=[0.1, 0.2] budget=nfe:9",
    }
    assert rerun_command(identity) == (
        "python -m bench solver=dps solver.preset=authors 'solver.zeta=[0.1, 0.2]' budget=nfe:9 "
        "data=fashion "
        "mask=comod mask.low=0.3 operator=inpainting operator.sigma=0.05 prior=fashion "
        "data.images=8 draws=2 seed=3"
    )
