"""All generated pages of ``docs/``."""

from __future__ import annotations

from posterior_bench.bench.conformance.reference_pages import (
    applicability,
    downloads,
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
    """Return the text of every generated page.

    Returns
    -------
    dict of str to str
        By the path of the page from the root of the checkout.
    """
    return {
        f"docs/{title.lower()}.md": page(title, module.INTRODUCTION, module.sections())
        for title, module in _MODULES.items()
    }
