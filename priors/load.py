"""Priors on disk: a folder with ``prior.json`` and ``net.safetensors``.

A latent prior has a second file, ``latent.safetensors``, with its autoencoder.

Reading is strict: a prior that loads is the prior that was written. ``prior.json`` records the hash
of every weight file. Every key must be known, and every tensor must be there, have its shape and be
finite. Nothing in the files can name code to run.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from posterior_bench.priors.base import Prior, View
from posterior_bench.priors.fingerprint import (
    read_spec,
    refuse_pointer,
    resolve,
    sha256,
    weight_hashes,
)
from posterior_bench.priors.latents import GRADIENTS, LATENTS, VQ, Latent
from posterior_bench.priors.nets import NETS, Contexts, Flux, SD3Inpainting, TextUNet
from posterior_bench.priors.process import PROCESSES, Process

FORMAT = 1
WEIGHTS = "net.safetensors"
LATENT_WEIGHTS = "latent.safetensors"
PARAMETERIZATIONS = ("edm", "eps", "x0", "v", "flow")

_ARCHITECTURE: dict[str, type | tuple[type, ...]] = {
    "net": dict,
    "process": dict,
    "parameterization": str,
    "sigma_data": (int, float),
    "shape": list,
    "num_classes": int,
    "null_label": (int, type(None)),
}
_OPTIONAL_ARCHITECTURE: dict[str, type | tuple[type, ...]] = {
    "latent": dict,
    "learned_var": bool,
    "timestep_scaling": (int, float),
}
_META: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "training": dict,
    "source": str,
    "licence": str,
}
_OPTIONAL_META: dict[str, type | tuple[type, ...]] = {"class_names": list, "converted_from": dict}
_FILE: dict[str, type | tuple[type, ...]] = {"format": int, "sha256": dict}


def save(
    folder: str | Path, prior: Prior, meta: Mapping[str, object], dtype: torch.dtype = torch.float16
) -> Path:
    """Write a prior to a folder.

    Parameters
    ----------
    folder : str or Path
        The folder; it is made if it does not exist.
    prior : Prior
        A prior with a network of :data:`priors.nets.NETS`.
    meta : Mapping[str, object]
        Facts to record: ``name``, ``training`` (a dict), ``source`` and ``licence``. Optional are
        ``class_names`` (a list with a name per label) and ``converted_from`` (the sha256 of every
        file that the prior was converted from).
    dtype : torch.dtype, default torch.float16
        Type of the weights on disk. They are always loaded as float32.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    ValueError
        If the prior or a fact cannot be written, or a weight is not finite or leaves the range of
        ``dtype``.

    Notes
    -----
    ``prior.json`` is written last, so an interrupted call never leaves a folder that looks
    complete.
    """
    _check_keys("the facts of a prior", meta, _META, _OPTIONAL_META)
    architecture = architecture_of(prior)
    _check_values("the prior to save", {**architecture, **meta})
    folder = Path(folder)
    files = {name: _half(name, module, dtype) for name, module in _modules(prior).items()}
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        _replace(folder / name, lambda part, content=content: part.write_bytes(content))  # type: ignore[misc]
    spec = {
        "format": FORMAT,
        **meta,
        **architecture,
        "sha256": {name: sha256(folder / name) for name in files},
    }
    text = json.dumps(spec, indent=2, ensure_ascii=False) + "\n"
    _replace(folder / "prior.json", lambda part: part.write_text(text, encoding="utf-8"))
    return folder


def _modules(prior: Prior) -> dict[str, nn.Module]:
    """Return the networks of a prior by the name of their file."""
    named = {WEIGHTS: prior.net, LATENT_WEIGHTS: prior.latent}
    return {name: module for name, module in named.items() if module is not None}


def _half(name: str, module: nn.Module, dtype: torch.dtype) -> bytes:
    """Return the weights of a network as the bytes of a safetensors file."""
    state = {
        key: value.detach().cpu().to(dtype).contiguous()
        for key, value in module.state_dict().items()
    }
    _check_finite(f"after the cast to {dtype} the weights for {name}", state)
    return to_bytes(state)


def load(
    path: str | Path,
    vq_gradient: str | None = None,
    control_scale: float | None = None,
    embedded_guidance: float | None = None,
    view: str | None = None,
) -> Prior:
    """Load the prior in a folder.

    Parameters
    ----------
    path : str or Path
        A folder with ``prior.json``. A relative path that does not exist in the working directory
        is looked up beside this package.
    vq_gradient : str or None, default None
        Gradient of a VQ decoder: ``straight_through`` (also for None), ``unquantised`` or ``hard``;
        see :class:`priors.latents.VQ`.
    control_scale : float or None, default None
        Factor of the output of a ControlNet; None means 1.
    embedded_guidance : float or None, default None
        Strength of the guidance that a distilled network imitates in one evaluation; None means 1
        for FLUX and 8.5 for latent consistency models.
    view : str or None, default None
        Coordinates that count as the native ones: ``vp``, ``ve`` or ``flow``; see
        :meth:`priors.base.Prior.view`. None keeps those that the network was trained in.

    Returns
    -------
    Prior
        The prior on the CPU, in float32, frozen.

    Raises
    ------
    FileNotFoundError
        If the folder or a file is missing.
    ValueError
        If a file was changed or damaged, or a setting does not apply to the prior. The message is
        one line.

    Notes
    -----
    Loading draws no random number.

    Examples
    --------
    >>> prior = load("priors/assets/fashion")
    >>> prior.image_shape, prior.num_classes
    ((1, 28, 28), 10)
    """
    return load_on("cpu", path, vq_gradient, control_scale, embedded_guidance, view)


def load_on(
    device: str,
    path: str | Path,
    vq_gradient: str | None = None,
    control_scale: float | None = None,
    embedded_guidance: float | None = None,
    view: str | None = None,
) -> Prior:
    """Load the prior in a folder onto a device.

    The host holds no copy of its weights: they go from the pages of the files, which all processes
    of a machine share, to the device, and become float32 there.

    Parameters
    ----------
    device : str
        ``cpu``, ``cuda`` or ``cuda:N``.
    path, vq_gradient, control_scale, embedded_guidance, view
        As for :func:`load`.

    Returns
    -------
    Prior
        The prior on the device, in float32, frozen.

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`load`.
    """
    folder = resolve(path)
    prior, modules = _described(folder)
    for name, module in modules.items():
        _assign(folder / name, module, device)
        module.eval().requires_grad_(False)
    _configure(prior, vq_gradient, control_scale, embedded_guidance)
    return _seen(prior.to(device), view)


def describe(
    path: str | Path,
    vq_gradient: str | None = None,
    control_scale: float | None = None,
    embedded_guidance: float | None = None,
    view: str | None = None,
) -> Prior:
    """Load everything of a prior but its weights.

    Parameters
    ----------
    path, vq_gradient, control_scale, embedded_guidance, view
        As for :func:`load`.

    Returns
    -------
    Prior
        The prior on the meta device, as :func:`verify` returns it. The embeddings of its prompts,
        if it has any, are read: they say what the network is told.

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`verify`, and if a setting does not apply to the prior.
    """
    prior = verify(path)
    _configure(prior, vq_gradient, control_scale, embedded_guidance)
    if isinstance(net := prior.net, Contexts) and prior.reads_text:
        with safe_open(resolve(path) / WEIGHTS, "pt") as file:
            for name in ("contexts", "pooled"):
                if getattr(net, name) is not None:
                    table = file.get_tensor(name).float()
                    setattr(net, name, nn.Parameter(table, requires_grad=False))
    return _seen(prior, view)


def _seen(prior: Prior, view: str | None) -> Prior:
    """Return the prior in the coordinates that the setting ``view`` names."""
    return prior if view in (None, prior.process.kind) else View(prior, view, loaded=True)


def _configure(
    prior: Prior,
    vq_gradient: str | None,
    control_scale: float | None,
    embedded_guidance: float | None,
) -> None:
    """Apply the settings of :func:`load` that are not in ``prior.json``."""
    if vq_gradient is not None:
        _set_gradient(prior.latent, vq_gradient)
    if control_scale is not None:
        if not isinstance(prior.net, SD3Inpainting):
            raise ValueError(
                "control_scale is a setting of ControlNets, and this prior has none; leave it out"
            )
        prior.net.control_scale = float(control_scale)
    if embedded_guidance is not None:
        if not (isinstance(prior.net, Flux | TextUNet) and prior.net.is_distilled):
            raise ValueError(
                "embedded_guidance is a setting of distilled networks that read it, and this prior "
                "is none; leave it out"
            )
        prior.net.embedded_guidance = float(embedded_guidance)


def verify(path: str | Path) -> Prior:
    """Check the files of a prior without loading its weights.

    Parameters
    ----------
    path : str or Path
        A folder with ``prior.json``, found as :func:`load` finds it.

    Returns
    -------
    Prior
        The prior on the meta device, which holds no weights.

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`load`, but for values of tensors: the files, their sha256, and name and shape of
        every tensor are checked.
    """
    folder = resolve(path)
    prior, modules = _described(folder)
    for name, module in modules.items():
        try:
            with safe_open(folder / name, "pt") as file:
                shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118 - no dict
        except SafetensorError as error:
            raise ValueError(
                f"{folder / name} is not a safetensors file ({error}); export the prior again"
            ) from None
        _check_shapes(str(folder / name), shapes, module, "prior.json describes another network")
    return prior


def _described(folder: Path) -> tuple[Prior, dict[str, nn.Module]]:
    """Return the prior that ``prior.json`` describes, on the meta device, and its networks by file.

    Check the keys and the sha256 of every file.
    """
    where = str(folder / "prior.json")
    spec = read_spec(folder)
    if spec.get("format") != FORMAT:
        raise ValueError(
            f"{where} has format {spec.get('format')}; this version reads format {FORMAT}"
        )
    _check_keys(
        where,
        spec,
        {**_FILE, **_META, **_ARCHITECTURE},
        {**_OPTIONAL_META, **_OPTIONAL_ARCHITECTURE},
    )
    _check_values(where, spec)
    # on the meta device: no memory and no random numbers for weights that are replaced at once
    latent = untrained_latent(spec["latent"], where, "meta") if "latent" in spec else None
    prior = untrained(spec, where, "meta", latent)
    modules, recorded = _modules(prior), weight_hashes(folder, spec)
    if set(recorded) != set(modules):
        raise ValueError(
            f"{where}: 'sha256' must name {' and '.join(modules)} alone, got {', '.join(recorded)}"
        )
    for name in modules:
        refuse_pointer(folder / name)
        if sha256(folder / name) != recorded[name]:
            raise ValueError(
                f"{folder / name} is not the file prior.json was written for (its sha256 differs)"
            )
    prior.class_names = (
        tuple(map(str, names)) if isinstance(names := spec.get("class_names"), list) else ()
    )
    return prior, modules


def _set_gradient(latent: Latent | None, gradient: str) -> None:
    if not isinstance(latent, VQ):
        raise ValueError(
            "vq_gradient is a setting of VQ autoencoders, and this prior has none; leave it out"
        )
    if gradient not in GRADIENTS:
        raise ValueError(f"unknown vq_gradient '{gradient}'; valid: {_or(GRADIENTS)}")
    latent.gradient = gradient


def untrained(
    spec: Mapping[str, object],
    where: str = "the prior",
    device: str = "cpu",
    latent: Latent | None = None,
) -> Prior:
    """Build a prior with fresh weights from its description.

    Parameters
    ----------
    spec : Mapping[str, object]
        The keys ``net``, ``process``, ``parameterization``, ``sigma_data``, ``shape``,
        ``num_classes`` and ``null_label`` of a ``prior.json``, and where it has them
        ``learned_var`` and ``timestep_scaling``. Other keys are ignored.
    where : str, default 'the prior'
        Name of the source in error messages.
    device : str, default 'cpu'
        Where the weights are created, from torch's global generator.
    latent : Latent or None, default None
        Autoencoder of a latent prior.

    Returns
    -------
    Prior
        The prior, frozen.

    Raises
    ------
    ValueError
        If ``spec`` names an unknown network or process, or an unknown setting of one.
    """
    with torch.device(device):
        net = _build(f"{where}, net", spec["net"], "class", NETS)
    process = _build(f"{where}, process", spec["process"], "kind", PROCESSES)
    assert isinstance(net, nn.Module) and isinstance(process, Process)
    keys = ("shape", "parameterization", "sigma_data", "num_classes", "null_label")
    settings = {
        key: tuple(value) if isinstance(value := spec[key], list) else value for key in keys
    }
    settings["learned_var"] = spec.get("learned_var", False)
    settings["timestep_scaling"] = spec.get("timestep_scaling")
    return Prior(process, net, latent=latent, **settings)  # type: ignore[arg-type]  # checked against _ARCHITECTURE


def untrained_latent(spec: object, where: str = "the prior", device: str = "cpu") -> Latent:
    """Build an autoencoder with fresh weights from its description.

    Parameters
    ----------
    spec : object
        The node ``latent`` of a ``prior.json``, a mapping.
    where : str, default 'the prior'
        Name of the source in error messages.
    device : str, default 'cpu'
        Where the weights are created, from torch's global generator.

    Returns
    -------
    Latent
        The autoencoder.

    Raises
    ------
    ValueError
        If ``spec`` names an unknown autoencoder or setting.
    """
    with torch.device(device):
        latent = _build(f"{where}, latent", spec, "class", LATENTS)
    assert isinstance(latent, Latent)
    return latent


def architecture_of(prior: Prior) -> dict[str, object]:
    """Return the description from which :func:`untrained` builds a prior again.

    Parameters
    ----------
    prior : Prior
        A prior with a network of :data:`priors.nets.NETS`.

    Returns
    -------
    dict[str, object]
        Plain JSON types, with a node ``latent`` for a latent prior.

    Raises
    ------
    ValueError
        If the prior has no such network, or its process cannot be written to a file.
    """
    name = next((name for name, cls in NETS.items() if type(prior.net) is cls), None)
    if name is None:
        raise ValueError(
            f"a prior with the network {type(prior.net).__name__} cannot be written; "
            f"valid: {_or(NETS)}"
        )
    architecture = {
        "net": {"class": name, **getattr(prior.net, "settings")},  # noqa: B009 - an nn.Module types it as a Tensor
        "process": prior.process.spec,
        "parameterization": prior.parameterization,
        "sigma_data": prior.sigma_data,
        "shape": list(prior.image_shape),
        "num_classes": prior.num_classes,
        "null_label": prior.null_label,
    }
    if prior.learned_var:
        architecture["learned_var"] = True
    if prior.timestep_scaling is not None:
        architecture["timestep_scaling"] = prior.timestep_scaling
    if prior.latent is not None:
        kind = next(name for name, cls in LATENTS.items() if type(prior.latent) is cls)
        architecture["latent"] = {"class": kind, **prior.latent.settings}
    return json.loads(json.dumps(architecture))


def _build(
    where: str, spec: object, selector: str, table: Mapping[str, Callable[..., object]]
) -> object:
    """Call the entry of ``table`` that ``spec[selector]`` names with the other keys of ``spec``."""
    assert isinstance(spec, Mapping)
    name = str(spec.get(selector))
    if name not in table:
        raise ValueError(f"{where}: unknown {selector} '{name}'; valid: {_or(table)}")
    settings = {key: value for key, value in spec.items() if key != selector}
    valid = inspect.signature(table[name]).parameters
    if unknown := settings.keys() - valid.keys():
        raise ValueError(
            f"{where}: unknown key {_quoted(unknown)}; valid: {selector}, {', '.join(valid)}"
        )
    try:
        return table[name](**settings)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {str(error).splitlines()[0]}") from error


def _assign(path: Path, net: nn.Module, device: str) -> None:
    """Put the tensors of a file on a device, into a network built on the meta device."""
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a safetensors file ({error}); export the prior again"
        ) from None
    fill(str(path), state, net, "prior.json describes another network", device)


def fill(
    where: str, state: Mapping[str, Tensor], net: nn.Module, reason: str, device: str = "cpu"
) -> None:
    """Put tensors into a network built on the meta device, as float32.

    Parameters
    ----------
    where : str
        Name of the source in error messages.
    state : Mapping[str, Tensor]
        Exactly the tensors of the network's state dict.
    net : nn.Module
        The network; its weights are replaced.
    reason : str
        Explanation at the end of an error message about missing or extra tensors.
    device : str, default 'cpu'
        Where the weights are put.

    Raises
    ------
    ValueError
        If a tensor is missing, extra, of another shape or not finite. The message is one line.
    """
    _check_shapes(where, {name: tuple(value.shape) for name, value in state.items()}, net, reason)
    _check_finite(where, state)
    there = {name: value.to(device).float() for name, value in state.items()}
    net.load_state_dict(there, assign=True)
    if any(tensor.is_meta for tensor in chain(net.parameters(), net.buffers())):
        raise ValueError(
            f"{type(net).__name__} has buffers that no file holds; register them as persistent"
        )


def _check_shapes(
    where: str, shapes: Mapping[str, tuple[int, ...]], net: nn.Module, reason: str
) -> None:
    """Check that the tensors have the names and shapes that the network wants."""
    expected = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    missing, extra = expected.keys() - shapes.keys(), shapes.keys() - expected.keys()
    for problem, names in (("lacks", missing), ("has unknown tensors", extra)):
        if names:
            raise ValueError(f"{where} {problem} {_quoted(names)}; {reason}")
    for name, shape in expected.items():
        if shapes[name] != shape:
            raise ValueError(
                f"{where}: '{name}' has shape {shapes[name]}, the network wants {shape}"
            )


def _check_keys(
    where: str,
    found: Mapping[str, object],
    required: Mapping[str, type | tuple[type, ...]],
    optional: Mapping[str, type | tuple[type, ...]],
) -> None:
    if missing := required.keys() - found.keys():
        raise ValueError(f"{where}: missing key {_quoted(missing)}")
    known = {**required, **optional}
    if unknown := found.keys() - known.keys():
        raise ValueError(
            f"{where}: unknown key {_quoted(unknown)}; valid: {', '.join(sorted(known))}"
        )
    for key, value in found.items():
        if not isinstance(value, known[key]) or (
            isinstance(value, bool) and known[key] is not bool
        ):
            raise ValueError(
                f"{where}: '{key}' has a value of type {type(value).__name__}, which is not valid"
            )


def _check_values(where: str, spec: Mapping[str, object]) -> None:
    """Check the values of keys whose type alone does not make them valid."""
    if (kind := spec["parameterization"]) not in PARAMETERIZATIONS:
        raise ValueError(
            f"{where}: unknown parameterization '{kind}'; valid: {_or(PARAMETERIZATIONS)}"
        )
    shape = spec["shape"]
    if not (
        isinstance(shape, list)
        and len(shape) == 3
        and all(isinstance(n, int) and n > 0 for n in shape)
    ):
        raise ValueError(f"{where}: 'shape' must be three positive integers C, H, W, got {shape}")
    names, classes = spec.get("class_names"), spec["num_classes"]
    if isinstance(names, list) and len(names) != classes:
        raise ValueError(f"{where}: {len(names)} class_names for {classes} classes")


def _check_finite(where: str, state: Mapping[str, Tensor]) -> None:
    bad = [name for name, value in state.items() if not value.isfinite().all()]
    if bad:
        raise ValueError(f"{where}: not finite in {_quoted(bad)}")


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Write to a dot-file beside ``path``, then rename it."""
    part = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        write(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _quoted(names: Iterable[str]) -> str:
    """Return up to three names, and how many more there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - 3} more" if len(ordered) > 3 else ""
    return ", ".join(f"'{name}'" for name in ordered[:3]) + more


def _or(names: Iterable[str]) -> str:
    return ", ".join(names)
