"""Embed prompts as the diffusers pipelines do (``bench embed-prompts``).

Text encoders are needed only here; T5-XXL alone is larger than the network it conditions. They are
read from a local folder: nothing is downloaded, no code of the folder is run, and weights are read
from safetensors only. Prompts of a run (:mod:`bench.config.prompts`) are embedded by the same code.
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.external.diffusers_layout import json_of

if TYPE_CHECKING:
    from torch import Tensor


Tables = dict[str, "Tensor"]


EXTRA = "text"
"""The extra of this package that brings transformers."""


USAGE = "bench embed-prompts FOLDER --prompts FILE --to FILE.safetensors"


T5_TOKENS = 256
"""How long a prompt may be for T5: the default of the pipelines of version 3."""


FLUX_TOKENS = 512
"""The same in the pipelines of FLUX."""


CLIP = ("CLIPTokenizer", "CLIPTextModel")


PROJECTED = ("CLIPTokenizer", "CLIPTextModelWithProjection")


T5 = ("T5TokenizerFast", "T5EncoderModel")
"""Tokenizer and text encoder, by their names in the package transformers."""


_AT_ONCE = 16


def embed_prompts(folder: Path, prompts_file: Path, target: Path) -> Path:
    """Embed prompts with the text encoders of a pipeline and write them to a file.

    The file holds ``context`` ``(K, L, D)``, from version XL on also ``pooled`` ``(K, P)``,
    float32. Its metadata hold ``prompts``, a JSON list of the K prompts in the order of the file;
    the empty prompt is last where it was not in it.

    Parameters
    ----------
    folder : Path
        The folder of the pipeline with its text encoders.
    prompts_file : Path
        A text file, one prompt a line.
    target : Path
        The new file; its name ends in ``.safetensors``.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    UserError
        If a file is missing or is no text encoder, if the target exists, or if the package
        transformers is absent.
    """
    if target.suffix != ".safetensors":
        raise UserError(f"--to {target}: the name must end in .safetensors")
    if target.exists():
        raise UserError(f"{target} is there already; choose another --to, or remove it")
    prompts, embed = read_prompts(prompts_file), family_of(folder)
    return write_tables(target, embed(folder, prompts), prompts)


def read_prompts(path: Path) -> list[str]:
    """Return the prompts in a file, one per line.

    An empty line is the empty prompt; it is added at the end if there is none. A label of the data
    is the number of a prompt, not counting the empty one.

    Raises
    ------
    UserError
        If the file cannot be read, or has two empty lines.
    """
    try:
        prompts = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} cannot be read: {error}; give a text file with one prompt a line"
        ) from None
    if prompts.count("") > 1:
        raise UserError(
            f"{path} has {prompts.count('')} empty lines; one is the empty prompt, more are a "
            "mistake"
        )
    return prompts if "" in prompts else [*prompts, ""]


def family_of(folder: Path) -> Callable[..., Tables]:
    """Return the function that embeds prompts as the pipeline in a folder does.

    Raises
    ------
    UserError
        If the folder holds no pipeline that is supported.
    """
    found = {
        name: (folder / name / "config.json").is_file()
        for name in ("unet", "transformer", "text_encoder_2")
    }
    if not (folder / "text_encoder" / "config.json").is_file() or not (
        found["unet"] or found["transformer"]
    ):
        raise UserError(
            f"{folder} holds no Stable Diffusion pipeline with its text encoders; for example: "
            f"{USAGE}"
        )
    if found["unet"]:
        return stable_diffusion_xl if found["text_encoder_2"] else stable_diffusion
    if found["text_encoder_2"]:
        config = json_of(folder / "transformer" / "config.json")
        return flux if config.get("_class_name") == "FluxTransformer2DModel" else stable_diffusion_3
    raise UserError(
        f"{folder} holds a pipeline that is not supported; supported: Stable Diffusion 1.5, 2, XL, "
        "3 and 3.5, and FLUX"
    )


def stable_diffusion(folder: Path, prompts: Sequence[str], at_once: int = _AT_ONCE) -> Tables:
    """Embed for versions 1.5 and 2: the last hidden state of CLIP, its final norm included."""
    (context,) = _encoded(folder, "", CLIP, prompts, lambda out: [out[0]], at_once=at_once)
    return {"context": context}


def stable_diffusion_xl(folder: Path, prompts: Sequence[str], at_once: int = _AT_ONCE) -> Tables:
    """Embed for version XL: the last hidden states but one of two CLIPs, side by side.

    ``pooled`` holds the projection of the second one. The empty prompt is zeros where
    :func:`forces_zeros` says so.
    """
    # heavy: the command line is checked before
    import torch

    (first,) = _encoded(
        folder, "", CLIP, prompts, lambda out: [out.hidden_states[-2]], at_once=at_once
    )
    second, pooled = _encoded(
        folder, "_2", PROJECTED, prompts, _state_and_projection, at_once=at_once
    )
    context = torch.cat([first, second], -1)
    if forces_zeros(folder):
        empty = [i for i, prompt in enumerate(prompts) if not prompt]
        context[empty], pooled[empty] = 0, 0
    return {"context": context, "pooled": pooled}


def forces_zeros(folder: Path) -> bool:
    """Return whether a pipeline of version XL reads zeros in place of the empty prompt."""
    return bool(json_of(folder / "model_index.json").get("force_zeros_for_empty_prompt", True))


def flux(folder: Path, prompts: Sequence[str], at_once: int = _AT_ONCE) -> Tables:
    """Embed for FLUX: the states of T5, and as ``pooled`` the pooled state of CLIP."""
    (pooled,) = _encoded(
        folder, "", CLIP, prompts, lambda out: [out.pooler_output], at_once=at_once
    )
    (context,) = _encoded(folder, "_2", T5, prompts, lambda out: [out[0]], FLUX_TOKENS, at_once)
    return {"context": context, "pooled": pooled}


def _state_and_projection(out: Any) -> list[Tensor]:
    """Return the last hidden state but one of a CLIP, and its projection."""
    return [out.hidden_states[-2], out[0]]


def stable_diffusion_3(folder: Path, prompts: Sequence[str], at_once: int = _AT_ONCE) -> Tables:
    """Embed for versions 3 and 3.5: two CLIPs and T5.

    The last hidden states but one of the two CLIPs stand side by side, padded with zeros to the
    width of T5's states, which follow them; ``pooled`` holds the two projections. Without T5 zeros
    stand in its place.
    """
    # heavy: the command line is checked before
    import torch
    from torch.nn.functional import pad

    both = _state_and_projection
    first, projected = _encoded(folder, "", PROJECTED, prompts, both, at_once=at_once)
    second, projected_too = _encoded(
        folder, "_2", PROJECTED, prompts, both, first.shape[1], at_once
    )
    clips = torch.cat([first, second], -1)
    if (folder / "text_encoder_3" / "config.json").is_file():
        (words,) = _encoded(folder, "_3", T5, prompts, lambda out: [out[0]], T5_TOKENS, at_once)
    else:
        words = torch.zeros(len(prompts), T5_TOKENS, context_width(folder))
    context = torch.cat([pad(clips, (0, words.shape[-1] - clips.shape[-1])), words], 1)
    return {"context": context, "pooled": torch.cat([projected, projected_too], -1)}


def _encoded(
    folder: Path,
    end: str,
    classes: tuple[str, str],
    prompts: Sequence[str],
    pick: Callable[[Any], list[Tensor]],
    length: int | None = None,
    at_once: int = _AT_ONCE,
) -> list[Tensor]:
    """Return parts of a text encoder's output for every prompt, padded or cut to ``length`` tokens.

    ``end`` is the ending of the folders of encoder and tokenizer, ``classes`` are the classes of
    tokenizer and encoder, and ``pick`` takes the parts. ``length = None`` is the longest that the
    tokenizer knows. The encoder is freed before the next one is loaded.
    """
    # heavy: the command line is checked before
    import torch

    tokenizer, model = _loaded(folder, end, classes)
    length = int(tokenizer.model_max_length) if length is None else length
    masked = bool(getattr(model.config, "use_attention_mask", False))
    parts = []
    for i in range(0, len(prompts), at_once):
        some = list(prompts[i : i + at_once])
        tokens = tokenizer(
            some, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
        )
        mask = tokens.attention_mask if masked and classes is CLIP else None
        with torch.no_grad():
            parts.append(
                pick(model(tokens.input_ids, attention_mask=mask, output_hidden_states=True))
            )
    return [torch.cat(column).float().contiguous() for column in zip(*parts, strict=True)]


def _loaded(folder: Path, end: str, classes: tuple[str, str]) -> tuple[Any, Any]:
    """Return the tokenizer and the text encoder of a folder, from its files alone."""
    places = folder / f"tokenizer{end}", folder / f"text_encoder{end}"
    if missing := [place for place in places if not place.is_dir()]:
        raise UserError(
            f"{missing[0]} does not exist; download the folder again, with its text encoders"
        )
    tokenizer = _pretrained(places[0], classes[0])
    return tokenizer, _pretrained(places[1], classes[1], use_safetensors=True).float().eval()


def _pretrained(place: Path, name: str, **more: Any) -> Any:
    """Load a class of transformers from the files of a folder; no code of the folder is run."""
    made = getattr(_transformers(), name)
    try:
        return made.from_pretrained(place, local_files_only=True, trust_remote_code=False, **more)
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"{place} cannot be read: {reason}") from None


def _transformers() -> Any:
    try:
        return importlib.import_module("transformers")
    except ImportError:
        raise UserError(
            f'text encoders need the package transformers: pip install "posterior-bench[{EXTRA}]"'
        ) from None


def context_width(folder: Path) -> int:
    """Return the width of the contexts that a transformer reads."""
    path = folder / "transformer" / "config.json"
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["joint_attention_dim"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} does not give joint_attention_dim ({error}); download it again"
        ) from None


def longer_than_read(folder: Path, prompts: Sequence[str]) -> list[str]:
    """Return the prompts whose end no text encoder in a folder reads.

    The list is empty if that is unknown here.
    """
    cut = list(prompts)
    for end, classes, length in _READERS[family_of(folder)]:
        if (folder / f"tokenizer{end}").is_dir():
            tokenizer = _pretrained(folder / f"tokenizer{end}", classes[0])
            most = int(tokenizer.model_max_length) if length is None else length
            room = most - int(tokenizer.num_special_tokens_to_add())
            cut = [prompt for prompt in cut if len(tokenizer.tokenize(prompt)) > room]
    return cut


_READERS: dict[Callable[..., Tables], list[tuple[str, tuple[str, str], int | None]]] = {
    stable_diffusion: [("", CLIP, None)],
    stable_diffusion_xl: [("", CLIP, None), ("_2", CLIP, None)],
    stable_diffusion_3: [("", CLIP, None), ("_2", CLIP, None), ("_3", T5, T5_TOKENS)],
    flux: [("", CLIP, None), ("_2", T5, FLUX_TOKENS)],
}
"""What reads a prompt: the ending of the folders, the classes, and the number of tokens."""


def write_tables(target: Path, tables: Mapping[str, Tensor], prompts: Sequence[str]) -> Path:
    """Write to a dot-file beside the target, then rename it."""
    # loads torch: the command line is checked before
    from safetensors.torch import save_file

    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        save_file(dict(tables), part, {"prompts": json.dumps(prompts, ensure_ascii=False)})
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    return target
