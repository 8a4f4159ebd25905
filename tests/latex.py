"""LaTeX, where it is installed: what it says of a table, and how wide it sets it."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

MISSING = "LaTeX is not installed"


@dataclass(frozen=True)
class Typeset:
    """A compiled document.

    Parameters
    ----------
    overfull : list of str
        The complaints about boxes that are too large.
    width : float
        The width of the tabular in points.
    pages : int
        The number of pages.
    """

    overfull: list[str]
    width: float
    pages: int


def typeset(table: str, folder: Path, text_width: float, column: float, height: float) -> Typeset:
    """Compile a table in a page of these measures in points; skip the test without LaTeX."""
    if shutil.which("pdflatex") is None:
        pytest.skip(MISSING)
    two = column < text_width
    separation = rf"\setlength{{\columnsep}}{{{text_width - 2 * column:.2f}pt}}" if two else ""
    tabular = re.search(r"\\fontsize.*?\\end\{tabular\}", table, re.DOTALL)
    assert tabular is not None
    lines = [
        rf"\documentclass[10pt{',twocolumn' if two else ''}]{{article}}",
        r"\usepackage[utf8]{inputenc}\usepackage{booktabs}",
        rf"\setlength{{\textwidth}}{{{text_width:.2f}pt}}{separation}",
        rf"\setlength{{\textheight}}{{{height:.2f}pt}}",
        r"\begin{document}",
        rf"\sbox0{{{tabular[0]}}}\typeout{{WIDTH=\the\wd0}}",
        table,
        r"\end{document}",
    ]
    (folder / "paper.tex").write_text("\n".join(lines), encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    log = (folder / "paper.log").read_text(encoding="latin-1")
    width, pages = re.search(r"WIDTH=([\d.]+)pt", log), re.search(r"\((\d+) pages?", log)
    assert width is not None and pages is not None
    return Typeset(re.findall(r"Overfull .*", log), float(width[1]), int(pages[1]))
