"""What MkDocs does not do by itself for the site of ``mkdocs.yml``.

- Pages of ``docs`` are read on a code host too, so they link to files outside of ``docs``. Some of
  these files become pages. The other links lead to the code host, or nowhere if there is none.
- The reader of docstrings wants an ``__init__.py`` in every folder, and Markdown. It gets a copy of
  the package that has both.
"""

from __future__ import annotations

import posixpath
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.nav import Navigation
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
PAGES = {
    "CHANGELOG.md": ("changelog.md", "Changes"),
    "CONTRIBUTING.md": ("contributing.md", "Contributing"),
    "CODE_OF_CONDUCT.md": ("conduct.md", "Code of conduct"),
}
"""Files at the root that are pages, with their places on the site and titles."""

SOURCE = ROOT / "build" / "site-source"
"""The copy of the package whose docstrings are read; ``mkdocs.yml`` names it too."""

_ROLE = re.compile(r":(?:class|func|meth|mod|attr|data|exc):`[~.]?([^`]+)`")
_CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages of the root at the end of the navigation."""
    assert config.nav is not None
    project = next(iter(config.nav[-1].values()))
    for name, (place, title) in PAGES.items():
        if (ROOT / name).exists():
            project.append({title: place})
    return config


def on_startup(**_: Any) -> None:
    """Copy the package."""
    shutil.rmtree(SOURCE, ignore_errors=True)
    package = ROOT / "src" / "posterior_bench"
    for part in sorted({path.resolve() for path in package.iterdir() if path.is_dir()}):
        for path in part.rglob("*.py"):
            copy = SOURCE / "posterior_bench" / path.relative_to(ROOT.resolve())
            copy.parent.mkdir(parents=True, exist_ok=True)
            text = path.read_text(encoding="utf-8")
            copy.write_text(_ROLE.sub(r"`\1`", text), encoding="utf-8")
    shutil.copy(package / "__init__.py", SOURCE / "posterior_bench")
    for folder in [path for path in SOURCE.rglob("*") if path.is_dir()]:
        (folder / "__init__.py").touch()


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages of the root."""
    # MkDocs is in the environment of the site alone
    from mkdocs.structure.files import File

    for name, (place, _) in PAGES.items():
        if (ROOT / name).exists():
            text = (ROOT / name).read_text(encoding="utf-8")
            files.append(File.generated(config, place, content=text))
    return files


def on_nav(nav: Navigation, **_: Any) -> Navigation:
    """Lead the logo to the first page, and not to its folder, which a browser would list."""
    nav.homepage = next(page for page in nav.pages if page.file.src_uri == "index.md")
    return nav


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, **_: Any) -> str:
    """Lead links to files that are not on the site elsewhere."""
    places = {place: name for name, (place, _) in PAGES.items()}
    source = places.get(page.file.src_uri, f"docs/{page.file.src_uri}")
    return rewritten(markdown, source, page.file.src_uri, config.repo_url)


def rewritten(text: str, source: str, place: str, host: str | None) -> str:
    """Return a page with the links that it has on the site.

    Parameters
    ----------
    text : str
        The page, in Markdown.
    source : str
        Its path from the root of the checkout.
    place : str
        Its path from the root of the site's sources.
    host : str or None
        Address of the checkout on a code host.
    """

    def moved(link: re.Match[str]) -> str:
        picture, label, target = link.groups()
        path, hash_, anchor = target.partition("#")
        if not path or re.match(r"[a-z]+:", target):
            return link[0]
        file = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if on_site := _on_site(file):
            start = posixpath.dirname(place) or "."
            return f"{picture}[{label}]({posixpath.relpath(on_site, start)}{hash_}{anchor})"
        return f"[{label}]({host.rstrip('/')}/blob/main/{file})" if host else label

    parts, end = [], 0
    for code in _CODE.finditer(text):
        # a link may have code in its label, so only whole blocks stay out of reach
        if code[0].startswith("```"):
            parts += [_LINK.sub(moved, text[end : code.start()]), code[0]]
            end = code.end()
    return "".join([*parts, _LINK.sub(moved, text[end:])])


def _on_site(file: str) -> str | None:
    """Return where a file of the checkout lies on the site, if it does."""
    if file in PAGES:
        return PAGES[file][0]
    shown = file.startswith("docs/") and not file.startswith("docs/examples")
    return file.removeprefix("docs/") if shown and not (ROOT / file).is_dir() else None
