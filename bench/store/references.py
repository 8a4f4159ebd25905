"""Reference samples of a study: one file per image in ``references/``, and a table of all.

A file is written whole and never replaced. Its name is a hash of the measurement and of the
sampler, and it holds a hash of its own tensors. ``references.csv`` of the study says how precise
each reference is.
"""

from __future__ import annotations

import csv
import fcntl
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.store.atomic import write_atomic, write_first

FOLDER = "references"
TABLE = "references.csv"
COLUMNS = ("image_id", "data", "operator", "solver", "rhat", "ess", "error", "file")
"""Columns of the table; the middle three say how precise a reference is."""


class ReferenceStore:
    """The reference samples of one study.

    Parameters
    ----------
    study : Path
        The folder of the study.
    """

    def __init__(self, study: Path):
        self.study, self.folder = study, study / FOLDER

    def read(self, name: str) -> dict[str, Tensor] | None:
        """Return the tensors of a reference, or None if it is not stored.

        Raises
        ------
        UserError
            If the file is damaged.
        """
        path = self._path(name)
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            tensors = load(data)
            with safe_open(path, "pt") as file:
                stored = (file.metadata() or {}).get("hash")
        except SafetensorError:
            stored, tensors = None, {}
        if stored != _hash(tensors):
            raise UserError(
                f"{path} is damaged; delete it, and the same command makes the reference anew"
            )
        return tensors

    def write(self, name: str, tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> None:
        """Store a reference, unless it is stored already.

        Parameters
        ----------
        name : str
            Hash of the measurement and of the sampler.
        tensors : Mapping[str, Tensor]
            The reference.
        about : Mapping[str, str]
            Columns of the table.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        whole = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
        write_first(self._path(name), save(whole, {**about, "hash": _hash(whole)}))

    @contextmanager
    def locked(self, names: Sequence[str]) -> Iterator[None]:
        """Let no other process of this host make the same references at the same time.

        A process on another host may: then the file of the first one stays.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        together = blake2b("".join(sorted(names)).encode(), digest_size=8).hexdigest()
        path = self.folder / f".{together}.lock"
        with path.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                yield
            finally:
                path.unlink(missing_ok=True)

    def write_table(self) -> None:
        """Write the table of all stored references anew."""
        rows = []
        for path in sorted(self.folder.glob("*.safetensors")):
            with safe_open(path, "pt") as file:
                rows.append({**(file.metadata() or {}), "file": path.name})
        rows.sort(key=lambda row: [row.get(column, "") for column in COLUMNS])
        text = io.StringIO()
        table = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
        write_atomic(self.study / TABLE, text.getvalue().encode())

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"


def _hash(tensors: Mapping[str, Tensor]) -> str:
    total = blake2b(digest_size=16)
    for name in sorted(tensors):
        values = tensors[name]
        total.update(f"{name}{values.dtype}{tuple(values.shape)}".encode())
        total.update(values.flatten().contiguous().view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
