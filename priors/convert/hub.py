"""Convert diffusers folders: pixel DDPM, LDM, DiT, Stable Diffusion 1.5, 2, XL, 3 and 3.5, FLUX.

The inpainting models too: U-Nets with nine input channels, version 3 with a ControlNet, and FLUX
that fills; and latent consistency models, whose scheduler says that they are. Files are read
directly. No pipeline and no scheduler is built, and of a scheduler only the numbers count. Weights
are safetensors or, through the restricted reader, ``.bin`` files.
:mod:`priors.convert.diffusers_settings` lists the settings that a configuration may have.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from posterior_bench.priors.base import Prior
from posterior_bench.priors.convert.base import Converted, latent, network
from posterior_bench.priors.convert.diffusers_settings import (
    ANY,
    check_network,
    check_scheduler,
    defaults,
    is_default,
)
from posterior_bench.priors.convert.lcm import scheduler_kind, timestep_scaling
from posterior_bench.priors.convert.readers import read_checkpoint
from posterior_bench.priors.convert.wrappers import unwrapped, weights_of
from posterior_bench.priors.fingerprint import refuse_pointer
from posterior_bench.priors.latents import Latent
from posterior_bench.priors.nets import DiT
from posterior_bench.priors.process import VP, Flow, Process

Config = Mapping[str, object]

WEIGHTS = "diffusion_pytorch_model"
DENOISERS = ("unet", "transformer", ".")
"""Where in a folder the network may lie."""
PARAMETERIZATIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}
SCHEDULES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
SD_SCALE = 0.18215
"""The scale of KL latents where a folder names none: that of kl-f8, diffusers' default."""

FLUX_SIDE = 128
"""Side of FLUX's latents, which no file names: that of the library's pipelines."""
_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


@dataclass(frozen=True)
class Part:
    """One component of a folder.

    Parameters
    ----------
    cls : str
        Name of its class in diffusers.
    config : Mapping[str, object]
        Its configuration, without keys that begin with ``_``.
    state : Mapping[str, Tensor]
        Its tensors.
    files : list[Path]
        The configuration and the weight files.
    """

    cls: str
    config: Config
    state: Mapping[str, Tensor]
    files: list[Path]

    def number(self, key: str) -> int:
        """Return the whole number at ``key`` of the configuration; refuse other values."""
        value = self.config.get(key)
        if not isinstance(value, int):
            raise ValueError(f"{self.files[0]}: '{key}' must be a whole number, got {value!r}")
        return value


@dataclass(frozen=True)
class Given:
    """What is given beside a folder; the fields are arguments of :func:`convert_diffusers`."""

    prompts: Path | None = None
    controlnet: Path | None = None
    size: int | None = None


def convert_diffusers(
    folder: Path,
    prompts: Path | None = None,
    controlnet: Path | None = None,
    size: int | None = None,
) -> Converted:
    """Convert a diffusers folder to a prior.

    Parameters
    ----------
    folder : Path
        The folder, as downloaded.
    prompts : Path or None, default None
        For models that read text: a safetensors file with ``context`` (K, L, D), from version XL on
        also ``pooled`` (K, P), and in its metadata ``prompts``, a JSON list of the K prompts. The
        empty prompt must be among them. `python -m bench embed-prompts` writes such a file.
    controlnet : Path or None, default None
        For Stable Diffusion 3: the folder of a matching ControlNet for inpainting.
    size : int or None, default None
        For models that read text: height and width of the images, in pixels. None is the size that
        the folder names.

    Returns
    -------
    Converted
        The prior.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If a component is not supported or does not fit. The message is one line.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; give a downloaded diffusers repository")
    denoiser = _part(folder, DENOISERS)
    make = _FAMILIES.get(denoiser.cls)
    if make is None:
        raise ValueError(
            f"{denoiser.files[0]} is a {denoiser.cls}, which is not supported; "
            f"valid: {', '.join(_FAMILIES)}"
        )
    given = Given(prompts, controlnet, size)
    _check_given(folder, denoiser.cls, given)
    converted = make(folder, denoiser, given)
    extra = [] if prompts is None else [prompts]
    return replace(converted, files=[*converted.files, *extra], licence=_licence(folder))


def _check_given(folder: Path, cls: str, given: Given) -> None:
    """Refuse what the family of a folder does not take, and the absence of what it needs."""
    takes_prompts = cls in READ_TEXT
    if takes_prompts != (given.prompts is not None):
        what = "needs its prompts embedded beforehand" if takes_prompts else "takes no prompts"
        raise ValueError(f"{folder} holds a {cls}, which {what}; see --prompts")
    if given.size is not None and not takes_prompts:
        raise ValueError(f"{folder} holds a {cls}, which has one size; leave --size out")
    if given.controlnet is not None and cls != "SD3Transformer2DModel":
        if (given.controlnet / "config.json").is_file():
            _described(given.controlnet, (".",))  # a network of no family is named
        raise ValueError(
            f"{folder} holds a {cls}, which takes no ControlNet; leave --controlnet out"
        )


# -- families --------------------------------------------------------------------------------------


def _unet_2d(folder: Path, unet: Part, _given: Given) -> Converted:
    """Convert google/ddpm-*-256, or CompVis/ldm-celebahq-256, which has an autoencoder."""
    channels, size = unet.number("in_channels"), unet.number("sample_size")
    net = network("UNet2D", {"config": unet.config}, _below("unet", unet.state), folder)
    found = [name for name in ("vqvae", "vae") if (folder / name / "config.json").is_file()]
    schedule, file = _schedule(folder)
    files = [*unet.files, file]
    made, more = _autoencoder(folder, found[0]) if found else (None, [])
    prior = Prior(
        _vp(schedule, file),
        net,
        (channels, size, size) if made is None else _image(made, size),
        _parameterization(schedule, file),
        # no file says whether a label means 'none': all labels are classes, without guidance
        num_classes=0
        if unet.config.get("num_class_embeds") is None
        else unet.number("num_class_embeds"),
        latent=made,
        learned_var=_learned_variance(unet, schedule),
    )
    return Converted(prior, [*files, *more], "")


def _learned_variance(unet: Part, schedule: Config) -> bool:
    """Return whether the output has a variance behind its channels; check the number of outputs."""
    inputs, outputs = unet.number("in_channels"), unet.number("out_channels")
    learned = schedule.get("variance_type") == "learned_range" and outputs == 2 * inputs
    if outputs != inputs and not learned:
        raise ValueError(
            f"{unet.files[0]}: UNet2DModel with out_channels={outputs} is not supported; "
            f"valid: {inputs}, or {2 * inputs} with variance_type=learned_range in the scheduler"
        )
    return learned


def _dit(folder: Path, transformer: Part, _given: Given) -> Converted:
    schedule, file = _schedule(folder)
    made, more = _autoencoder(folder, "vae")
    config = transformer.config
    # no file holds the table of positions; a network of one layer has the same table
    positions = DiT({**config, "num_layers": 1}).transformer.pos_embed.pos_embed
    state = {"pos_embed.pos_embed": positions, **transformer.state}
    classes = transformer.number("num_embeds_ada_norm")
    prior = Prior(
        _vp(schedule, file),
        network("DiT", {"config": config}, _below("transformer", state), folder),
        _image(made, transformer.number("sample_size")),
        _parameterization(schedule, file),
        num_classes=classes,
        null_label=classes,
        latent=made,
        learned_var=transformer.number("out_channels") == 2 * transformer.number("in_channels"),
    )
    return Converted(prior, [*transformer.files, file, *more], "")


def _stable_diffusion(folder: Path, unet: Part, given: Given) -> Converted:
    names, tables = _prompts(given.prompts, ("context",))
    _check_width(given.prompts, tables["context"], unet.number("cross_attention_dim"))
    settings = {"contexts": list(tables["context"].shape)}
    name = "UNet2DInpainting" if _reads_mask(folder, unet) else "UNet2DCondition"
    vae = _autoencoder(folder, "vae")
    return _text_unet(folder, unet, vae, given, (name, settings), names, tables)


def _stable_diffusion_xl(folder: Path, unet: Part, given: Given) -> Converted:
    index = _json(file) if (file := folder / "model_index.json").is_file() else {}
    if index.get("requires_aesthetics_score"):
        raise ValueError(f"{file}: a refiner, which reads an aesthetic score, is not supported")
    names, tables = _prompts(given.prompts, ("context", "pooled"))
    context, pooled = tables["context"], tables["pooled"]
    sizes = 6 * unet.number("addition_time_embed_dim")
    _check_width(given.prompts, context, unet.number("cross_attention_dim"))
    _check_width(
        given.prompts, pooled, unet.number("projection_class_embeddings_input_dim") - sizes
    )
    # as the pipeline does where no negative prompt is given, and as the network was trained
    if zeros := bool(index.get("force_zeros_for_empty_prompt", True)):
        context[-1], pooled[-1] = 0, 0
    vae = _autoencoder(folder, "vae")
    settings = {
        "contexts": list(context.shape),
        "pooled": pooled.shape[1],
        "factor": vae[0].factor,
    }
    name = "SDXLInpainting" if _reads_mask(folder, unet) else "SDXL"
    converted = _text_unet(folder, unet, vae, given, (name, settings), names, tables)
    return replace(
        converted,
        files=[*converted.files, *([file] if index else [])],
        facts={"empty_prompt": "zeros" if zeros else "embedded"},
    )


def _reads_mask(folder: Path, unet: Part) -> bool:
    """Return whether a U-Net has the nine input channels of inpainting; refuse other numbers."""
    channels, inputs = unet.number("out_channels"), unet.number("in_channels")
    if inputs not in (channels, 2 * channels + 1):
        raise ValueError(
            f"{folder} has {inputs} input channels for latents of {channels}; "
            f"a model for text alone has {channels}, one for inpainting {2 * channels + 1}"
        )
    return inputs != channels


def _text_unet(
    folder: Path,
    unet: Part,
    vae: tuple[Latent, list[Path]],
    given: Given,
    adapter: tuple[str, Config],
    names: list[str],
    tables: Mapping[str, Tensor],
) -> Converted:
    """Convert a U-Net with the tables of its prompts; ``adapter`` is its name and settings."""
    schedule, file = _schedule(folder)
    (made, more), (name, settings) = vae, adapter
    state = {**_below("unet", unet.state), **_stored(tables)}
    net = network(name, {"config": unet.config, **settings}, state, folder)
    image = _image(made, _side(unet.number("sample_size"), made, given))
    kind, (classes, null) = _parameterization(schedule, file), _labels(names)
    prior = Prior(
        _vp(schedule, file, scheduler_kind(schedule)),
        net,
        image,
        kind,
        num_classes=classes,
        null_label=null,
        latent=made,
        timestep_scaling=timestep_scaling(schedule, file),
    )
    return Converted(prior, [*unet.files, file, *more], "", {}, names)


def _stored(tables: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tables of prompts under the names of :class:`priors.nets.Contexts`."""
    return {"contexts" if name == "context" else name: table for name, table in tables.items()}


def _stable_diffusion_3(folder: Path, transformer: Part, given: Given) -> Converted:
    names, tables, settings = _transformer_text(transformer, given)
    schedule, file = _schedule(folder)
    made, more = _autoencoder(folder, "vae")
    state = {**_below("transformer", transformer.state), **_stored(tables)}
    if given.controlnet is None:
        net = network("SD3", settings, state, folder)
    else:
        control = _control(given.controlnet, transformer)
        more = [*more, *control.files]
        both = {**state, **_below("controlnet", control.state)}
        net = network(
            "SD3Inpainting",
            {**settings, "control": control.config},
            both,
            f"{folder} with {given.controlnet}",
        )
    patch = transformer.number("patch_size")
    side = _side(transformer.number("sample_size"), made, given, patch)
    if side // patch > (most := transformer.number("pos_embed_max_size")):
        raise ValueError(
            f"--size {given.size}: {folder} reads {most * patch * made.factor} at most"
        )
    classes, null = _labels(names)
    prior = Prior(
        _flow(schedule, file, (side // patch) ** 2),
        net,
        _image(made, side),
        "flow",
        num_classes=classes,
        null_label=null,
        latent=made,
    )
    return Converted(prior, [*transformer.files, file, *more], "", {}, names)


def _flux(folder: Path, transformer: Part, given: Given) -> Converted:
    names, tables, settings = _transformer_text(transformer, given)
    schedule, file = _schedule(folder)
    made, more = _autoencoder(folder, "vae")
    state = {**_below("transformer", transformer.state), **_stored(tables)}
    name = "FluxFill" if _fills(folder, transformer, made) else "Flux"
    net = network(name, settings, state, folder)
    side = _side(FLUX_SIDE, made, given, 2)
    classes, null = _labels(names)
    prior = Prior(
        _flow(schedule, file, (side // 2) ** 2),
        net,
        _image(made, side),
        "flow",
        num_classes=classes,
        null_label=null,
        latent=made,
    )
    return Converted(prior, [*transformer.files, file, *more], "", {}, names)


def _fills(folder: Path, transformer: Part, made: Latent) -> bool:
    """Return whether a FLUX transformer reads image and mask too; refuse other inputs."""
    inputs = transformer.number("in_channels")
    outputs = transformer.config.get("out_channels") or inputs
    plain = 4 * made.channels
    fill = 4 * (2 * made.channels + made.factor**2)
    if inputs not in (plain, fill) or outputs != plain:
        raise ValueError(
            f"{folder} has {inputs} input and {outputs} output channels for patches of {plain}; "
            f"a model for text alone reads {plain}, one that fills {fill}, and both return {plain}"
        )
    return inputs == fill


def _transformer_text(
    transformer: Part, given: Given
) -> tuple[list[str], dict[str, Tensor], dict[str, object]]:
    """Return prompts, their tables, and the settings that SD3 and FLUX adapters take."""
    names, tables = _prompts(given.prompts, ("context", "pooled"))
    context, pooled = tables["context"], tables["pooled"]
    _check_width(given.prompts, context, transformer.number("joint_attention_dim"))
    _check_width(given.prompts, pooled, transformer.number("pooled_projection_dim"))
    settings = {
        "config": transformer.config,
        "contexts": list(context.shape),
        "pooled": pooled.shape[1],
    }
    return names, tables, settings


def _control(folder: Path, transformer: Part) -> Part:
    """Read a ControlNet for inpainting: as wide as the transformer, with one input channel more."""
    part = _part(folder, (".", "controlnet"))
    if part.cls != "SD3ControlNetModel":
        raise ValueError(f"{part.files[0]} is a {part.cls}; give a SD3ControlNetModel")
    entry, channels = (
        part.state.get("pos_embed_input.proj.weight"),
        transformer.number("in_channels"),
    )
    read = 0 if entry is None or entry.ndim != 4 else entry.shape[1]
    if read != channels + 1:
        raise ValueError(
            f"{folder} reads {read} channels and not {channels} + 1: "
            "it was not trained for inpainting"
        )
    for key in ("num_attention_heads", "attention_head_dim"):
        if part.number(key) != transformer.number(key):
            raise ValueError(
                f"{folder} has {key} {part.number(key)}, "
                f"and the transformer {transformer.number(key)}: it belongs to another model"
            )
    # published configurations leave the extra channel out; users pass it when they load
    return replace(part, config={**part.config, "extra_conditioning_channels": 1})


def _conditional_unet(folder: Path, unet: Part, given: Given) -> Converted:
    more = unet.config.get("addition_embed_type")
    return (_stable_diffusion_xl if more else _stable_diffusion)(folder, unet, given)


_FAMILIES: dict[str, Callable[[Path, Part, Given], Converted]] = {
    "UNet2DModel": _unet_2d,
    "UNet2DConditionModel": _conditional_unet,
    "DiTTransformer2DModel": _dit,
    "SD3Transformer2DModel": _stable_diffusion_3,
    "FluxTransformer2DModel": _flux,
}
READ_TEXT = ("UNet2DConditionModel", "SD3Transformer2DModel", "FluxTransformer2DModel")
"""Networks that are told a prompt."""


def _labels(names: list[str]) -> tuple[int, int | None]:
    """Return the number of labels and the null label, which is the empty prompt."""
    return len(names), len(names) or None


def _side(trained: int, made: Latent, given: Given, patch: int = 1) -> int:
    """Return the side of latents: the one trained with, or that of the size that is given."""
    if given.size is None:
        return trained
    if given.size < 1 or given.size % (made.factor * patch):
        raise ValueError(f"--size {given.size} is no multiple of {made.factor * patch} pixels")
    return given.size // made.factor


def _image(made: Latent, size: int) -> tuple[int, int, int]:
    """Return the shape of images whose latents have this side."""
    config = made.settings["config"]
    assert isinstance(config, Mapping)
    return int(config["in_channels"]), size * made.factor, size * made.factor


# -- components ------------------------------------------------------------------------------------


def _part(folder: Path, places: tuple[str, ...]) -> Part:
    """Read the component in the first of ``places`` that has one."""
    # before the weights, which take longer to read
    place, cls, config = _described(folder, places)
    files, state = _weights(place)
    return Part(cls, config, state, [place / "config.json", *files])


def check_settings(folder: Path) -> None:
    """Check the settings of the network in a folder, without its weights.

    Parameters
    ----------
    folder : Path
        A diffusers folder.

    Raises
    ------
    FileNotFoundError
        If the folder has no network.
    ValueError
        If a setting is not supported.
    """
    _described(folder, DENOISERS)


def _described(folder: Path, places: tuple[str, ...]) -> tuple[Path, str, Config]:
    """Return place, class and configuration of the first component in ``places``."""
    place = next(
        (folder / name for name in places if (folder / name / "config.json").is_file()), None
    )
    if place is None:
        raise FileNotFoundError(
            f"{folder} has no config.json in {' or '.join(places)}; give a diffusers folder"
        )
    raw = _json(place / "config.json")
    cls = str(raw.get("_class_name"))
    if cls == "Transformer2DModel" and raw.get("norm_type") == "ada_norm_zero":
        cls = "DiTTransformer2DModel"  # DiT's class before it had one of its own
    if cls == "BrushNetModel":
        raise ValueError(
            f"{place / 'config.json'} is a BrushNetModel, a class that the diffusers library does "
            "not have; prior=sd15_inpainting is made for the same task"
        )
    return place, cls, _config(cls, raw, place)


def _config(cls: str, raw: Config, place: Path) -> Config:
    """Return the arguments of the class; refuse settings that are not supported."""
    if cls not in ANY:
        return raw
    where, known = place / "config.json", defaults(cls)
    standard = defaults(str(raw.get("_class_name")))
    settings = {key: value for key, value in raw.items() if not key.startswith("_")}
    unknown = [
        key
        for key, value in settings.items()
        if key not in known and not is_default(value, standard.get(key))
    ]
    if unknown:
        raise ValueError(f"{where}: {cls} has no setting {', '.join(sorted(unknown))}")
    config = {key: value for key, value in settings.items() if key in known}
    check_network(cls, config, where)
    return config


def _weights(place: Path) -> tuple[list[Path], dict[str, Tensor]]:
    """Return the weight files of a component, and its tensors under diffusers' present names."""
    found = _weight_file(place)
    files = _shards(found) if ".index." in found.name else [found]
    state: dict[str, Tensor] = {}
    for file in files:
        state |= (
            weights_of(read_checkpoint(file), file) if file.suffix == ".bin" else _safetensors(file)
        )
    return files, {_today(name): value for name, value in unwrapped(state, found).items()}


def _weight_file(place: Path) -> Path:
    """Return the file with the weights, or with the list of its shards.

    Safetensors come before ``.bin``, and one file before shards. Variants, whose word stands before
    the ending (``.fp16.safetensors``, ``.safetensors.index.fp16.json``), are taken if there is
    nothing else. ValueError if there are several and none of them is known to be the most precise.
    """
    endings = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json")
    plain = next(
        (place / f"{WEIGHTS}{end}" for end in endings if (place / f"{WEIGHTS}{end}").is_file()),
        None,
    )
    if plain is not None:
        return plain
    for kind in ("safetensors", "bin"):
        pattern = re.compile(rf"{WEIGHTS}(?:\.(\w+)\.{kind}|\.{kind}\.index\.(\w+)\.json)")
        matches = [
            (found, path)
            for path in sorted(place.iterdir())
            if (found := pattern.fullmatch(path.name))
        ]
        variants = {found[1] or found[2]: path for found, path in reversed(matches)}
        word = next((word for word in ("fp32", "fp16", "bf16") if word in variants), None)
        if word is None and len(variants) > 1:
            raise ValueError(
                f"{place} has the variants {', '.join(sorted(variants))}; "
                "leave the files of one of them"
            )
        if variants:
            return variants[word or next(iter(variants))]
    raise FileNotFoundError(
        f"{place} has neither {WEIGHTS}.safetensors nor {WEIGHTS}.bin, "
        "whole or in shards, and no variant of them; download the folder again"
    )


def _shards(index: Path) -> list[Path]:
    """Return the files that an index lists; each must exist, inside the folder."""
    listed = _json(index).get("weight_map")
    names = sorted({str(name) for name in listed.values()}) if isinstance(listed, dict) else []
    if not names:
        raise ValueError(f"{index} lists no files; download it again")
    if any(Path(name).name != name for name in names):
        raise ValueError(f"{index}: a shard lies outside the folder")
    if wrong := [name for name in names if not name.endswith((".safetensors", ".bin"))]:
        raise ValueError(f"{index}: the shard {wrong[0]} is neither a .safetensors nor a .bin file")
    if missing := [name for name in names if not (index.parent / name).is_file()]:
        raise FileNotFoundError(
            f"{index} lists {missing[0]}, which is not there ({len(missing)} of {len(names)}); "
            "download the folder again"
        )
    return [index.parent / name for name in names]


def _safetensors(file: Path) -> dict[str, Tensor]:
    refuse_pointer(file)
    try:
        return load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file} is not a safetensors file ({error}); copy it again") from None


def _today(name: str) -> str:
    """Return the present name of a tensor that diffusers before 0.13 named otherwise."""
    return re.sub(
        r"(attentions\.\d+)\.(query|key|value|proj_attn)\.",
        lambda found: f"{found[1]}.{_OLD_NAMES[found[2]]}.",
        name,
    )


def _below(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": value for name, value in state.items()}


def _autoencoder(folder: Path, name: str) -> tuple[Latent, list[Path]]:
    """Return the autoencoder of a folder, with its scale, and its files.

    The scale of a ``VQModel`` is 1 whatever its file says: the library fills in, and saves,
    0.18215, which is wrong.
    """
    part = _part(folder, (name,))
    kind = {"AutoencoderKL": "KL", "VQModel": "VQ"}.get(part.cls)
    if kind is None:
        raise ValueError(
            f"{part.files[0]} is a {part.cls}, which is not supported; "
            "valid: AutoencoderKL, VQModel"
        )
    scale = part.config.get("scaling_factor", SD_SCALE) if kind == "KL" else 1.0
    config = {**part.config, "scaling_factor": scale}
    shift, factor = _affine(part, scale)
    return latent(kind, config, part.state, part.files[-1], factor, shift), part.files


def _affine(part: Part, scale: object) -> tuple[float | list[float], float | list[float]]:
    """Return shift and scale of the latents: ``(h - shift) * scale``.

    With ``latents_mean`` and ``latents_std`` both are one number per channel:
    ``(h - mean) / std * scaling_factor``.
    """
    mean, std = part.config.get("latents_mean"), part.config.get("latents_std")
    shift = part.config.get("shift_factor") or 0.0
    if not all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in (scale, shift)
    ):
        raise ValueError(
            f"{part.files[0]}: scaling_factor={scale} and shift_factor={shift} must be numbers"
        )
    assert isinstance(scale, int | float) and isinstance(shift, int | float)
    if mean is None and std is None:
        return float(shift), float(scale)
    channels = part.number("latent_channels")
    if not (_numbers(mean, channels) and _numbers(std, channels)) or shift:
        raise ValueError(
            f"{part.files[0]}: latents_mean={mean} "
            f"with latents_std={std} and shift_factor={shift} is not supported; "
            f"valid: both with {channels} numbers, and no shift_factor"
        )
    assert isinstance(mean, list) and isinstance(std, list)
    return [float(value) for value in mean], [scale / float(value) for value in std]


def _numbers(values: object, count: int) -> bool:
    return (
        isinstance(values, list)
        and len(values) == count
        and all(isinstance(v, int | float) for v in values)
    )


# -- the numbers of a scheduler --------------------------------------------------------------------


def _schedule(folder: Path) -> tuple[Config, Path]:
    for path in (folder / "scheduler" / "scheduler_config.json", folder / "scheduler_config.json"):
        if path.is_file():
            return _json(path), path
    raise FileNotFoundError(
        f"{folder} has no scheduler/scheduler_config.json, which holds the noise schedule"
    )


def _vp(schedule: Config, file: Path, kind: str = "vp") -> Process:
    for key in ("trained_betas", "rescale_betas_zero_snr"):
        if schedule.get(key):
            raise ValueError(f"{file}: {key} is not supported")
    check_scheduler(kind, schedule, file)
    law = SCHEDULES.get(str(schedule.get("beta_schedule")))
    steps = int(str(schedule.get("num_train_timesteps")))
    if law is None:
        raise ValueError(
            f"{file}: unknown beta_schedule '{schedule.get('beta_schedule')}'; "
            f"valid: {', '.join(SCHEDULES)}"
        )
    if law == "cosine":
        return VP.scheduled("cosine", steps=steps)
    return VP.scheduled(
        law, float(str(schedule["beta_start"])), float(str(schedule["beta_end"])), steps
    )


def _flow(schedule: Config, file: Path, patches: int) -> Process:
    """Return the flow of a transformer that reads this number of patches of an image."""
    if "FlowMatch" not in str(schedule.get("_class_name")):
        raise ValueError(f"{file}: {schedule.get('_class_name')} is not the schedule of a flow")
    if schedule.get("num_train_timesteps", 1000) != 1000:
        raise ValueError(
            f"{file}: num_train_timesteps must be 1000, the scale of the network's time"
        )
    check_scheduler("flow", schedule, file)
    shift = _shift(schedule, patches)
    return Flow(shift, u_min=shift / 1000 / (1 + (shift - 1) / 1000))


def _shift(schedule: Config, patches: int) -> float:
    """Return the shift of a flow: fixed, or growing with the number of patches.

    The growing one is a line in the number of patches, by default in the logarithm of the shift.
    """

    def number(key: str, otherwise: float) -> float:
        return float(str(schedule.get(key, otherwise)))

    if not schedule.get("use_dynamic_shifting"):
        return number("shift", 1.0)
    few, many = number("base_image_seq_len", 256), number("max_image_seq_len", 4096)
    low, high = number("base_shift", 0.5), number("max_shift", 1.15)
    line = low + (high - low) * (patches - few) / (many - few)
    linear = schedule.get("time_shift_type", "exponential") == "linear"
    return line if linear else math.exp(line)


def _parameterization(schedule: Config, file: Path) -> str:
    kind = str(schedule.get("prediction_type", "epsilon"))
    if kind not in PARAMETERIZATIONS:
        raise ValueError(
            f"{file}: unknown prediction_type '{kind}'; valid: {', '.join(PARAMETERIZATIONS)}"
        )
    return PARAMETERIZATIONS[kind]


# -- prompts and other files -----------------------------------------------------------------------


def _prompts(path: Path | None, wanted: tuple[str, ...]) -> tuple[list[str], dict[str, Tensor]]:
    """Return the prompts without the empty one, and their tables with the empty one's row last."""
    assert path is not None
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; it should hold the embedded prompts")
    tables = _safetensors(path)
    with safe_open(path, "pt") as file:
        text = (file.metadata() or {}).get("prompts", "null")
    try:
        prompts = json.loads(text)
    except json.JSONDecodeError:
        prompts = None
    if not isinstance(prompts, list) or prompts.count("") != 1:
        raise ValueError(
            f"{path}: the metadata 'prompts' must be a JSON list with the empty prompt once in it"
        )
    if set(tables) != set(wanted) or any(len(table) != len(prompts) for table in tables.values()):
        raise ValueError(
            f"{path} must hold {' and '.join(wanted)} "
            f"with one row for each of {len(prompts)} prompts"
        )
    null = prompts.index("")
    order = [*(i for i in range(len(prompts)) if i != null), null]
    return [str(prompts[i]) for i in order[:-1]], {
        name: table[torch.tensor(order)] for name, table in tables.items()
    }


def _check_width(path: Path | None, table: Tensor, width: int) -> None:
    if table.shape[-1] != width:
        raise ValueError(
            f"{path}: embeddings of width {table.shape[-1]}, and the network wants {width}"
        )


def _json(path: Path) -> dict[str, object]:
    refuse_pointer(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}); download it again") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold one JSON object; download it again")
    return content


def _licence(folder: Path) -> str:
    """Return the licence in the front matter of the folder's README; empty if it names none."""
    readme = folder / "README.md"
    text = readme.read_text(encoding="utf-8", errors="replace") if readme.is_file() else ""
    found = re.search(r"^license(?:_name)?:\s*(\S+)\s*$", text.split("\n---", 1)[0], re.MULTILINE)
    return found[1] if found else ""
