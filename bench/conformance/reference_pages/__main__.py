"""Write the generated pages of ``docs/``.

``python -m posterior_bench.bench.conformance.reference_pages`` does it. A test compares the
committed pages with the code, so that they cannot fall behind it.
"""

from __future__ import annotations

from posterior_bench.bench.conformance.reference_pages.pages import pages
from posterior_bench.bench.core.environment import ROOT

if __name__ == "__main__":
    for path, text in pages().items():
        ROOT.joinpath(path).write_text(text, encoding="utf-8")
        print(path)
