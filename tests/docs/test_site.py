"""The documentation site: its navigation, its links, its commands, and that it asks no other host.

The slow test builds it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from scripts import site_hooks
from tests.docs.test_links import PAGES

from posterior_bench.bench.core.environment import ROOT

DOCS = ROOT / "docs"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


class _Loader(yaml.SafeLoader):
    """Takes a tag of Python for its text."""


_Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda loader, suffix, node: suffix)
SITE: dict[str, Any] = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), _Loader)


def places(entry: Any) -> Iterator[str]:
    """Yield the pages of a part of the navigation."""
    if isinstance(entry, str):
        yield entry
        return
    for part in entry.values() if isinstance(entry, dict) else entry:
        yield from places(part)


def test_the_navigation_has_every_page_once() -> None:
    shown = sorted(places(SITE["nav"]))
    there = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert shown == sorted(place for place in there if not place.startswith("examples/"))


def test_nothing_comes_from_another_host() -> None:
    assert SITE["theme"]["font"] is False
    assert "extra_javascript" not in SITE
    for file in (DOCS / "assets").rglob("*.css"):
        assert not re.search(r"url\(|@import", file.read_text(encoding="utf-8"))
    pictures = re.compile(r"!\[[^\]]*\]\(https?:|<img[^>]+src=.https?:")
    for page in DOCS.rglob("*.md"):
        assert not pictures.search(page.read_text(encoding="utf-8")), page


def test_links_leave_the_pages_as_they_must() -> None:
    text = (
        "[a](masks.md#m) [`b`](../CONTRIBUTING.md#style) [c](../datasets/assets) [d](https://x.y)\n"
        "![e](pictures/e.png) [f](examples/bench_nearest) [g](#g)\n\n"
        "```\n[h](../tests/h.py)\n```\n"
    )
    expected = (
        "[a](masks.md#m) [`b`](contributing.md#style) {c} [d](https://x.y)\n"
        "![e](pictures/e.png) {f} [g](#g)\n\n"
        "```\n[h](../tests/h.py)\n```\n"
    )
    found = site_hooks.rewritten(text, "docs/a.md", "a.md", None)
    assert found == expected.format(c="c", f="f")
    host = "https://host/us"
    c, f = (
        f"[{label}]({host}/blob/main/{file})"
        for label, file in (("c", "datasets/assets"), ("f", "docs/examples/bench_nearest"))
    )
    found = site_hooks.rewritten(text, "docs/a.md", "a.md", f"{host}/")
    assert found == expected.format(c=c, f=f)
    below = "[a](../../datasets/b) [c](../masks.md)"
    assert site_hooks.rewritten(below, "docs/priors/a.md", "priors/a.md", None) == (
        "a [c](../masks.md)"
    )
    root = site_hooks.rewritten("[a](docs/solver.md)", "CONTRIBUTING.md", "contributing.md", None)
    assert root == "[a](solver.md)"


# -- commands that are not `bench` -----------------------------------------------------------------

TARGETS = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def wrong_commands(text: str) -> list[str]:
    """Return targets, extras, modules and scripts that a page names and that do not exist."""
    code = "\n".join(re.findall(r"^ {4}.*$|`[^`]+`|^```.*?^```$", text, re.MULTILINE | re.DOTALL))
    wrong = []
    for words in re.findall(r"(?:^ *|[`;&] *|=\S+ )make ((?:[a-z-]+ ?)+)", code, re.MULTILINE):
        wrong += [f"make {word}" for word in words.split() if word not in TARGETS]
    wrong += [name for name in re.findall(r"posterior-bench\[(\w+)\]", code) if name not in EXTRAS]
    for module in re.findall(r"python -m ((?:scripts|tests|posterior_bench)[\w.]*)", code):
        wrong += [module] if find_spec(module) is None else []
    files = re.findall(r"python ((?:tests|scripts)/[\w/]+\.py)", code)
    return wrong + [file for file in files if not (ROOT / file).is_file()]


@pytest.mark.parametrize("page", PAGES)
def test_other_commands_name_what_exists(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert [name for name in wrong_commands(text) if name != "NAME"] == []


def test_a_wrong_command_is_noticed() -> None:
    page = (
        "    make docs-sites lint\n\nRun `make tests`, `python -m scripts.gone`, make sense, or\n"
        "`python tests/gone.py`.\n\n```bash\npip install 'posterior-bench[gone]'\n```\n"
    )
    expected = ["make docs-sites", "make tests", "gone", "scripts.gone", "tests/gone.py"]
    assert wrong_commands(page) == expected


# -- the built site --------------------------------------------------------------------------------


class _Links(HTMLParser):
    """What a page links to, what it loads, and the places on it that can be linked to."""

    def __init__(self) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.ids |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.add(values["href"])
        if tag == "link" and values.get("rel") not in ("next", "prev", "canonical"):
            self.loaded.add(values["href"])
        if "src" in values:
            self.loaded.add(values["src"])


@pytest.fixture(scope="module")
def site() -> Path:
    """The built site."""
    done = subprocess.run(
        ["make", "docs-site"], cwd=ROOT, capture_output=True, text=True, timeout=1800
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return ROOT / "build" / "site"


@pytest.mark.slow
def test_no_link_on_the_site_is_broken_and_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    pages = {}
    for path in site.rglob("*.html"):
        pages[path] = _Links()
        pages[path].feed(path.read_text(encoding="utf-8"))
    assert len(pages) > len(PAGES) - 5
    for path, page in pages.items():
        if path.name == "404.html":  # its addresses begin at the root of a host
            continue
        for target in page.loaded | page.links:
            if re.match(r"(https?|mailto|data):", target):
                assert target not in page.loaded, f"{path.name} loads {target}"
                continue
            file, _, anchor = target.partition("#")
            there = (path.parent / file).resolve() if file else path
            assert there.is_file(), f"{path.name}: {target}"
            if anchor and there in pages:
                assert anchor in pages[there].ids, f"{path.name}: {target}"


@pytest.mark.slow
@pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium on this machine: apt-get install chromium"
)
@pytest.mark.parametrize("width", [390, 1440])
def test_a_page_from_a_folder_fits_its_window_and_can_be_searched(site: Path, width: int) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": width, "height": 900})
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        # a page that is left early cancels what it still loads
        page.on(
            "requestfailed",
            lambda it: it.failure == "net::ERR_ABORTED" or problems.append(it.url),
        )
        for name in ("released-code", "choosing", "solvers"):
            page.goto((site / f"{name}.html").as_uri())
            page.wait_for_load_state("load")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.keyboard.press("/")
        page.keyboard.type("energy distance", delay=20)
        page.get_by_text("matching documents").wait_for(timeout=60_000)
        browser.close()
    assert problems == []
