"""Reading pickled checkpoints without executing them.

A pickle is a program: it imports names and calls them. The readers here resolve a fixed list of
names, replace foreign objects by inert stand-ins, and refuse every other name before it is looked
up. They return plain dicts and tensors. Size is not bounded: a hostile file can still ask for much
memory, so check its sha256 first.
"""

from __future__ import annotations

import io
import pickle
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from torch import Tensor

from posterior_bench.priors.fingerprint import refuse_pointer

FOREIGN = (
    "argparse",
    "datetime",
    "ldm",
    "lightning",
    "lightning_fabric",
    "lightning_utilities",
    "main",
    "numpy",
    "omegaconf",
    "pathlib",
    "pytorch_lightning",
    "taming",
    "torch.optim",
    "torch.torch_version",
    "typing",
    "wandb",
)
"""Packages whose objects lie in training checkpoints; they become inert and are not imported."""


def read_checkpoint(path: Path) -> dict[str, object]:
    """Read a ``torch.save`` file, zip or legacy.

    Parameters
    ----------
    path : Path
        The file.

    Returns
    -------
    dict[str, object]
        Its content as plain containers and CPU tensors. Objects of the packages in :data:`FOREIGN`
        are inert stand-ins.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If the file is damaged, is a TorchScript or tar archive, or wants to import any other name.
        The message is one line.
    """
    with _one_line(path):
        _check_container(path)
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:  # foreign objects, or an attack: the list here decides
            content = torch.load(
                path, map_location="cpu", weights_only=False, pickle_module=_restricted
            )
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} holds a {type(content).__name__}, not a dict of tensors; "
            "give the checkpoint itself"
        )
    return content


def tensors(content: Mapping[str, object], path: Path) -> dict[str, Tensor]:
    """Return a checkpoint as a flat dict of tensors.

    Parameters
    ----------
    content : Mapping[str, object]
        The content of the file.
    path : Path
        The file, for error messages.

    Returns
    -------
    dict[str, Tensor]
        The tensors by name.

    Raises
    ------
    ValueError
        If the content holds anything else than tensors.
    """
    other = next((key for key, value in content.items() if not isinstance(value, Tensor)), None)
    if other is not None:
        raise ValueError(f"{path}: '{other}' is no tensor; give a flat dict of weights")
    return {str(key): value for key, value in content.items() if isinstance(value, Tensor)}


@dataclass(frozen=True)
class Pickled:
    """A network in an NVlabs pickle.

    Parameters
    ----------
    cls : str
        Name of its class.
    kwargs : Mapping[str, object]
        Keyword arguments that it was built with.
    tensors : Mapping[str, Tensor]
        Its tensors, under the names of its state dict.
    """

    cls: str
    kwargs: Mapping[str, object]
    tensors: Mapping[str, Tensor]


def read_nvlabs(path: Path, key: str = "ema") -> Pickled:
    """Read a network from an NVlabs pickle (``torch_utils.persistence``).

    Such a file carries the source of its classes, to be executed on loading; here it stays a
    string.

    Parameters
    ----------
    path : Path
        The pickle.
    key : str, default 'ema'
        Key of the network in the pickled dict.

    Returns
    -------
    Pickled
        The network.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If the file is damaged or wants to import a name that is not on the list. The message is one
        line.
    """
    with _one_line(path), path.open("rb") as file:
        content = _NVlabsUnpickler(file).load()
        net = content.get(key) if isinstance(content, dict) else content
        if not isinstance(net, _Node):
            raise ValueError(f"holds no network under '{key}'")
        if net.state.get("_init_args"):
            raise ValueError(
                "the network was built with positional arguments, which no published file is"
            )
        kwargs = net.state.get("_init_kwargs") or {}
        if not isinstance(kwargs, dict):
            raise ValueError("the network does not say how it was built")
        return Pickled(net.cls, dict(kwargs), dict(_named_tensors(net)))


# -- what every reader shares ----------------------------------------------------------------------


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """Turn any exception that a malformed file raises into one line that names the file."""
    refuse_pointer(path)
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist; give the checkpoint to convert") from None
    except Exception as error:  # a damaged pickle can raise anything
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise ValueError(f"{path} cannot be read: {reason}; nothing of it was executed") from None


def _check_container(path: Path) -> None:
    """Refuse archives that ``torch.load`` hands to other loaders, and truncated zip files."""
    with path.open("rb") as file:
        is_zip = file.read(4) == b"PK\x03\x04"
    if is_zip:
        if not zipfile.is_zipfile(path):
            raise ValueError("the zip archive is truncated; copy the file again")
        with zipfile.ZipFile(path) as archive:
            if any(name.endswith("constants.pkl") for name in archive.namelist()):
                raise ValueError(
                    "it is a TorchScript archive, which holds code; give a checkpoint of weights"
                )
    elif tarfile.is_tarfile(path):
        raise ValueError("it is a tar archive; unpack it and give the checkpoint itself")


def _refuse(module: str, name: str) -> pickle.UnpicklingError:
    return pickle.UnpicklingError(
        f"it wants to import {module}.{name}, which no checkpoint of this kind needs"
    )


def _tensor(
    storage: torch.TypedStorage,
    offset: int,
    size: tuple[int, ...],
    stride: tuple[int, ...],
    *_: object,
) -> Tensor:
    """Rebuild a tensor as torch does, without hooks and metadata of the file; check the bounds."""
    if not isinstance(storage, torch.TypedStorage):
        raise pickle.UnpicklingError("a tensor has no storage")
    tensor: Tensor = torch._utils._rebuild_tensor_v2(
        storage, offset, size, stride, False, OrderedDict()
    )
    return tensor


def _parameter(data: Tensor, *_: object) -> Tensor:
    return data


_PLAIN: dict[tuple[str, str], object] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
}


# -- torch.save ------------------------------------------------------------------------------------


class _Inert:
    """Stand-in for an object of a training framework: accepts every operation and does nothing."""

    def __init__(self, *_: object, **__: object): ...
    def __new__(cls, *_: object, **__: object) -> _Inert:
        return object.__new__(cls)

    def __setstate__(self, state: object) -> None: ...
    def __setitem__(self, key: object, value: object) -> None: ...
    def append(self, value: object) -> None: ...
    def extend(self, values: object) -> None: ...


class _CheckpointUnpickler(pickle.Unpickler):
    """Resolve plain containers and tensors; ``torch.load`` adds storages."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) in _PLAIN:
            return _PLAIN[module, name]
        if any(module == package or module.startswith(f"{package}.") for package in FOREIGN):
            return type(name, (_Inert,), {})
        # protocol 2 writes bytes this way; only foreign objects use it here
        if (module, name) == ("_codecs", "encode"):
            return _Inert
        raise _refuse(module, name)


def _load(file: io.BufferedIOBase, **options: object) -> object:
    return _CheckpointUnpickler(file, **options).load()  # type: ignore[arg-type]  # torch passes the encoding


_restricted = SimpleNamespace(Unpickler=_CheckpointUnpickler, load=_load, __name__="restricted")
"""A pickle module for ``torch.load``."""


# -- NVlabs pickles --------------------------------------------------------------------------------


class _Node:
    """Stand-in for any object of an NVlabs pickle: the name of its class and its attributes."""

    cls: str
    state: dict[str, object]

    def __new__(cls, *_: object, **__: object) -> _Node:
        # not in __init__, which unpickling does not call
        node = object.__new__(cls)
        node.cls, node.state = "", {}
        return node

    def __init__(self, *_: object, **__: object): ...

    def __setstate__(self, state: object) -> None:
        self.state.update(state if isinstance(state, dict) else {})


class _EasyDict(dict[str, object]):
    """Stand-in for ``dnnlib.EasyDict``."""


@dataclass
class _Dtype:
    """Stand-in for ``numpy.dtype``."""

    code: str
    align: object = False
    copy: object = True

    def __setstate__(self, state: object) -> None: ...


def _reconstruct(meta: Mapping[str, object]) -> _Node:
    """Replace ``_reconstruct_persistent_obj``, which would execute ``meta['module_src']``."""
    node = _Node()
    node.cls = str(meta["class_name"])
    node.__setstate__(meta["state"])
    return node


def _storage(content: bytes) -> torch.TypedStorage:
    """Replace ``torch.storage._load_from_bytes``, which would unpickle without any restriction."""
    storage = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    if not isinstance(storage, torch.TypedStorage):
        raise pickle.UnpicklingError("the bytes of a tensor hold something else")
    return storage


def _scalar(dtype: _Dtype, content: bytes) -> float | int | bool:
    """Replace numpy's ``scalar``; numbers only."""
    if dtype.code not in ("f8", "f4", "i8", "i4", "b1"):
        raise pickle.UnpicklingError(f"a numpy scalar has the type '{dtype.code}'")
    value = np.frombuffer(content, np.dtype(dtype.code).newbyteorder("<"))[0].item()
    assert isinstance(value, float | int)
    return value


_NVLABS: dict[tuple[str, str], Callable[..., object]] = {
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _reconstruct,
    ("torch.storage", "_load_from_bytes"): _storage,
    ("torch.nn.modules.container", "ModuleDict"): _Node,
    ("torch.nn.modules.container", "ModuleList"): _Node,
    ("torch.nn.modules.container", "Sequential"): _Node,
    ("dnnlib.util", "EasyDict"): _EasyDict,
    ("numpy", "dtype"): _Dtype,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("_codecs", "encode"): lambda text, encoding="latin1": str(text).encode("latin1"),
    ("builtins", "bytearray"): bytearray,
}


class _NVlabsUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> object:
        if (module, name) in _NVLABS:
            return _NVLABS[module, name]
        if (module, name) in _PLAIN:
            return _PLAIN[module, name]
        # the loss and augmentation of the training run: kept, never used
        if module.startswith("training."):
            return _Node
        raise _refuse(module, name)


def _named_tensors(node: _Node, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield parameters and buffers under the names of ``state_dict``."""
    for kind in ("_parameters", "_buffers"):
        for name, value in _items(node, kind):
            if isinstance(value, Tensor):
                yield prefix + name, value.detach()
    for name, child in _items(node, "_modules"):
        if isinstance(child, _Node):
            yield from _named_tensors(child, f"{prefix}{name}.")


def _items(node: _Node, kind: str) -> list[tuple[str, object]]:
    found = node.state.get(kind)
    return list(found.items()) if isinstance(found, dict) else []
