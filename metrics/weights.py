"""Find and check published weight files, and read tensors without running what is in a file.

Nothing is downloaded. Every file is looked for in the torch hub cache.
"""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.metrics.base import MissingWeights

_STORAGES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
}


@dataclass(frozen=True)
class WeightFile:
    """File with published weights in the folder ``checkpoints`` of the torch hub cache.

    Parameters
    ----------
    name : str
        Name of the file, with its folder if it has one.
    url : str
        Address from which it comes.
    size : str, default ''
        Size of the download, such as ``1.2 GB``; empty if it is not known.
    sha256 : str, default ''
        SHA-256 of the file, or its first digits; empty if it is not known.
    where : str, default 'into that folder'
        What to do with the download.
    """

    name: str
    url: str
    size: str = ""
    sha256: str = ""
    where: str = "into that folder"

    @property
    def path(self) -> Path:
        """Return where the file must be."""
        return Path(torch.hub.get_dir()) / "checkpoints" / self.name

    def find(self, metric: str) -> Path:
        """Return the path of the file.

        Parameters
        ----------
        metric : str
            Id of the metric that needs the file, for the message.

        Raises
        ------
        MissingWeights
            If it is not there.
        """
        if not self.path.is_file():
            size = f" ({self.size})" if self.size else ""
            raise MissingWeights(
                f"metric '{metric}' needs {self.path.name}, looked for in {self.path.parent} "
                f"(TORCH_HOME moves it); download {self.url}{size} {self.where}"
            )
        return self.path

    def checked(self, metric: str) -> Path:
        """Return the path of the file if its hash is the published one, or none is known.

        Raises
        ------
        MissingWeights
            If the file is missing or has another hash.
        """
        path = self.find(metric)
        if self.sha256:
            verify(path, self.sha256, f"download {self.url} again")
        return path


def demand_library(metric: str, library: str, extra: str) -> None:
    """Check that an optional library is installed.

    Parameters
    ----------
    metric : str
        Id of the metric that needs it.
    library : str
        Name under which it is imported.
    extra : str
        Name of our extra that installs it.

    Raises
    ------
    MissingWeights
        If it is not installed.
    """
    if find_spec(library) is None:
        raise MissingWeights(
            f"metric '{metric}' needs the library {library}; pip install 'posterior-bench[{extra}]'"
        )


def verify(path: Path, sha256: str, remedy: str) -> None:
    """Check the hash of a weight file, because wrong weights would give wrong scores.

    Raises
    ------
    MissingWeights
        Unless the SHA-256 of the file starts with ``sha256``; the message ends with ``remedy``.
    """
    found = digest(path)
    if not found.startswith(sha256):
        raise MissingWeights(
            f"{path} is damaged or another file: sha256 {found[:16]}, not {sha256[:16]}; {remedy}"
        )


def digest(*paths: Path) -> str:
    """Return the SHA-256 of a file, or of the hashes of several files."""
    hashes = [_digest(path, path.stat().st_mtime_ns, path.stat().st_size) for path in paths]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


@lru_cache(maxsize=32)
def _digest(path: Path, changed: int, size: int) -> str:
    """Return the SHA-256 of a file; reading gigabytes again takes seconds."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def pinned_digest(files: Sequence[WeightFile], sha256: str) -> str:
    """Return the recorded hash of files whose hash nobody published, or else that of the files.

    Returns
    -------
    str
        ``sha256`` if it is not empty, the hash of the files if all are there, or an empty string.
    """
    paths = [file.path for file in files]
    return sha256 or (digest(*paths) if all(path.is_file() for path in paths) else "")


def demand_recorded(metric: str, files: Sequence[WeightFile], sha256: str) -> list[Path]:
    """Check that files are there, and are those whose hash was recorded.

    Parameters
    ----------
    metric : str
        Id of the metric that needs them.
    files : Sequence of WeightFile
        The files.
    sha256 : str
        Recorded hash, see :func:`pinned_digest`; empty if none is recorded.

    Returns
    -------
    list[Path]
        Paths of the files.

    Raises
    ------
    MissingWeights
        If a file is missing or damaged, or the files are others than the recorded ones.
    """
    paths = [file.checked(metric) for file in files]
    if sha256 and (found := digest(*paths)) != sha256:
        names = ", ".join(path.name for path in paths)
        raise MissingWeights(
            f"metric '{metric}' was set up with other weights: {names} in {paths[0].parent} has "
            f"sha256 {found[:16]}, not {sha256[:16]}; take the earlier files, or another out=DIR"
        )
    return paths


def tensors(path: Path) -> Any:
    """Read a file of ``torch.save`` that holds tensors, strings, numbers and containers only.

    Raises
    ------
    MissingWeights
        If it holds anything else or is damaged.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).strip().splitlines()[0][:120]
        raise MissingWeights(f"{path} is not a file of plain tensors ({reason})") from None


def torchscript_tensors(path: Path) -> dict[str, Tensor]:
    """Read the parameters and buffers of a TorchScript archive without loading its program.

    ``torch.jit.load`` would read the program of the archive too. Here only tensors are rebuilt;
    every class of the archive becomes an empty holder of its attributes.

    Parameters
    ----------
    path : Path
        Archive as ``torch.jit.save`` writes it.

    Returns
    -------
    dict[str, Tensor]
        Tensors by their dotted names, as ``state_dict`` of the module would give them.

    Raises
    ------
    MissingWeights
        If the file is not such an archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            index = next(name for name in names if name.endswith("/data.pkl"))
            with archive.open(index) as file:
                root = _TensorUnpickler(file, archive, index.removesuffix("data.pkl")).load()
        return dict(_named_tensors(root, ""))
    except (zipfile.BadZipFile, StopIteration, pickle.UnpicklingError, KeyError) as error:
        raise MissingWeights(f"{path} is not a TorchScript archive of tensors ({error})") from None


class _Holder:
    """Attributes of an object of a TorchScript class."""

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.attributes = dict(state)


class _TensorUnpickler(pickle.Unpickler):
    """Rebuild tensors from an archive, and nothing else."""

    def __init__(self, file: Any, archive: zipfile.ZipFile, folder: str) -> None:
        super().__init__(file, encoding="utf-8")
        self.archive, self.folder = archive, folder

    @override
    def find_class(self, module: str, name: str) -> Any:
        if module.startswith("__torch__"):
            return _Holder
        known = {
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch._utils", "_rebuild_parameter"): _parameter,
            ("torch.jit._pickle", "restore_type_tag"): _untyped,
            ("torch.jit._pickle", "build_intlist"): _untyped,
            ("torch.jit._pickle", "build_tensorlist"): _untyped,
            ("torch.jit._pickle", "build_doublelist"): _untyped,
            ("torch.jit._pickle", "build_boollist"): _untyped,
            ("collections", "OrderedDict"): OrderedDict,
        }
        if (module, name) in known:
            return known[module, name]
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        raise pickle.UnpicklingError(f"it names {module}.{name}")

    @override
    def persistent_load(self, pid: Any) -> Tensor:
        _, dtype, key, _, count = pid
        data = bytearray(self.archive.read(f"{self.folder}data/{key}"))
        return torch.frombuffer(data, dtype=dtype, count=count) if count else torch.empty(0)


def _tensor(
    storage: Tensor, offset: int, size: Sequence[int], stride: Sequence[int], *_: Any
) -> Tensor:
    return storage.as_strided(tuple(size), tuple(stride), offset)


def _parameter(data: Tensor, *_: Any) -> Tensor:
    return data


def _untyped(value: Any, *_: Any) -> Any:
    return value


def _named_tensors(holder: _Holder, prefix: str) -> list[tuple[str, Tensor]]:
    found: list[tuple[str, Tensor]] = []
    for name, value in holder.attributes.items():
        if isinstance(value, Tensor):
            found.append((prefix + name, value))
        elif isinstance(value, _Holder):
            found += _named_tensors(value, f"{prefix}{name}.")
    return found
