"""Write the whole pictures of a study as PNG files, with an index."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
from PIL import Image

from posterior_bench.bench.analysis.columns import to_csv
from posterior_bench.bench.pages.report_data import ReportData
from posterior_bench.bench.pages.report_pictures import originals_of
from posterior_bench.bench.pages.thumbnails import Pixels
from posterior_bench.bench.store.atomic import write_atomic


# whole pictures
def extract_pictures(study: ReportData, folder: Path) -> dict[Hashable, str]:
    """Write every stored draw, truth and observation as PNG, and ``index.csv``.

    Returns
    -------
    dict
        The address of each picture's file, relative to the report.
    """
    found: dict[Hashable, str] = {}
    index = []
    for place, group in enumerate(study.groups):
        names = {image: f"{i:05d}-{_safe(image)}" for i, image in enumerate(group.ids)}
        originals, _ = originals_of(group, group.ids, study)
        files: dict[tuple[str, str, object], tuple[Path, bytes]] = {}
        for image, pair in originals.items():
            for kind, pixels in zip(("truth", "observed"), pair, strict=True):
                if pixels is not None:
                    path = folder / f"measurement-{place + 1}" / f"{names[image]}_{kind}.png"
                    files[group.name, image, kind] = (path, _png(pixels))
        _save(files, study.folder, found)
        index += [
            [_relative(path, folder), "", group.name, key[1], key[2]]
            for key, (path, _) in files.items()
        ]
        for cell in group.cells:
            files = {
                (cell.name, image, draw): (
                    folder / cell.name / f"{names.get(image, _safe(image))}_{draw}.png",
                    png,
                )
                for image, draws in cell.pngs(cell.ids).items()
                for draw, png in draws.items()
            }
            _save(files, study.folder, found)
            index += [
                [_relative(path, folder), cell.label, group.name, *key[1:]]
                for key, (path, _) in files.items()
            ]
    columns = ["file", "solver", "measurement", "image_id", "draw"]
    write_atomic(folder / "index.csv", to_csv(pd.DataFrame(index, columns=columns)))
    return found


def _save(files: Mapping[Any, tuple[Path, bytes]], study: Path, found: dict[Hashable, str]) -> None:
    for key, (path, png) in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png)
        found[key] = quote(_relative(path, study))


def _relative(path: Path, start: Path) -> str:
    return Path(os.path.relpath(path, start)).as_posix()


def _safe(image: str) -> str:
    """Return an image id as part of a file name."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", image)[:60]


def _png(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
