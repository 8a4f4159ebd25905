"""All generated files: the pages of ``docs/``, and the description of the embedded images."""

from __future__ import annotations

from posterior_bench.bench.conformance.reference_pages import (
    applicability,
    downloads,
    embedded_images,
    metrics,
    presets,
    solvers,
    versions,
)
from posterior_bench.bench.conformance.reference_pages.markdown import page

_MODULES = {
    "Solvers": solvers,
    "Presets": presets,
    "Metrics": metrics,
    "Applicability": applicability,
    "Downloads": downloads,
    "Versions": versions,
}


def pages() -> dict[str, str]:
    """Return the text of every generated file.

    Returns
    -------
    dict of str to str
        By the path of the file from the root of the checkout.
    """
    found = {
        f"docs/{title.lower()}.md": page(title, module.INTRODUCTION, module.sections())
        for title, module in _MODULES.items()
    }
    return {**found, embedded_images.PATH: embedded_images.text()}
