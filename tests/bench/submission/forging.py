"""A bundle in pieces that a test can change: rows and cells are read and written by hand."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from posterior_bench.bench.submission.bundle import read_bundle
from posterior_bench.bench.submission.metric_nodes import our_metrics
from posterior_bench.bench.submission.tables import board_of, table_text, write_study


class Pieces:
    """The files of a bundle; ``cells`` and ``rows`` are those of its cells by solver."""

    def __init__(self, path: Path):
        with ZipFile(path) as archive:
            self.files = {name: archive.read(name) for name in archive.namelist()}
        names = [name.split("/")[1] for name in self.files if name.endswith("cell.json")]
        cells = [json.loads(self.files[f"cells/{name}/cell.json"]) for name in names]
        self.cells: dict[str, Any] = {cell["identity"]["solver"]: cell for cell in cells}
        self.rows = {solver: self._rows(cell["cell"]) for solver, cell in self.cells.items()}
        self.about: dict[str, Any] = json.loads(self.files["bundle.json"])

    def _rows(self, cell: str) -> list[dict[str, str]]:
        return [*csv.DictReader(io.StringIO(self.files[f"cells/{cell}/rows.csv"].decode()))]

    @property
    def measured(self) -> str:
        """The name of the only file of measurements."""
        return next(name for name in self.files if name.startswith("measurements/"))

    def change(self, file: str, old: str, new: str) -> None:
        """Replace a text in a file, everywhere."""
        assert old in self.files[file].decode()
        self.files[file] = self.files[file].decode().replace(old, new).encode()

    def put(self) -> None:
        """Write cells and rows into the files."""
        self.files = {k: v for k, v in self.files.items() if not k.startswith("cells/")}
        for solver, cell in self.cells.items():
            sink = io.StringIO()
            writer = csv.DictWriter(sink, [*self.rows[solver][0]], lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows[solver])
            self.files[f"cells/{cell['cell']}/rows.csv"] = sink.getvalue().encode()
            self.files[f"cells/{cell['cell']}/cell.json"] = json.dumps(cell).encode()
        self.files["bundle.json"] = json.dumps(self.about).encode()

    def sign(self) -> None:
        """Write the checksums that belong to the files."""
        lines = [
            f"{sha256(data).hexdigest()}  {name}\n"
            for name, data in sorted(self.files.items())
            if name != "SHA256SUMS"
        ]
        self.files["SHA256SUMS"] = "".join(lines).encode()

    def tabulate(self, place: Path) -> None:
        """Write the table that the rows make, as a forger with this product could."""
        self.sign()
        bundle = read_bundle(self.files)
        write_study(place, [(cell, our_metrics(cell)) for cell in bundle.cells])
        self.files["table.csv"] = table_text(board_of(place))

    def save(self, path: Path) -> Path:
        """Write the zip."""
        with ZipFile(path, "w") as archive:
            for name, data in self.files.items():
                archive.writestr(name, data)
        return path


Forgery = Callable[[Pieces], None]
