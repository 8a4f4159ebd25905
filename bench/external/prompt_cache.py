"""Embed each prompt of a run once, and keep the embedding in the user's cache folder.

An embedding is kept under a hash of the prompt and of the files of the text encoder.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.external.text_encoders import (
    Tables,
    context_width,
    family_of,
    forces_zeros,
    stable_diffusion_3,
    stable_diffusion_xl,
    write_tables,
)
from posterior_bench.bench.external.users_cache import users_cache

_VERSION = 1
"""Of the way prompts are embedded; another one makes kept embeddings worthless."""


def encoder_hash(folder: Path) -> str:
    """Return 16 hexadecimal digits that hash the text encoders in a pipeline's folder.

    Their tokenizers count too.

    Raises
    ------
    UserError
        If the folder holds none that can be used.
    """
    # loads torch or safetensors: only a cell with prompts needs it
    from posterior_bench.priors.fingerprint import sha256

    family = family_of(folder)
    parts = [
        part
        for part in sorted(folder.iterdir())
        if part.name.startswith(("text_encoder", "tokenizer"))
    ]
    files = [file for part in parts for file in sorted(part.rglob("*")) if file.is_file()]
    content = [[file.relative_to(folder).as_posix(), sha256(file)] for file in files]
    # without T5 the width of the transformer says how many zeros stand in its place
    more = context_width(folder) if family is stable_diffusion_3 else 0
    if family is stable_diffusion_xl:  # the empty prompt depends on it
        more = int(forces_zeros(folder))
    return short_hash(json.dumps([_VERSION, family.__name__, more, content]))


def embeddings_of(prompts: Sequence[str], encoder: str, folder: Path | None) -> dict[str, Tables]:
    """Return the embeddings of prompts, from the cache or by the encoder in ``folder``.

    Parameters
    ----------
    prompts : sequence of str
        The prompts.
    encoder : str
        The :func:`encoder_hash` of the encoder.
    folder : Path, optional
        The folder of the pipeline; needed where an embedding is not in the cache.

    Returns
    -------
    dict of str to Tables
        The tables of each prompt, one row each.

    Raises
    ------
    UserError
        If an encoder is needed and is missing, or is another one.
    """
    places = {
        prompt: _cache() / f"{short_hash(json.dumps([encoder, prompt]))}.safetensors"
        for prompt in prompts
    }
    found = {
        prompt: tables
        for prompt, place in places.items()
        if (tables := _kept(place, prompt)) is not None
    }
    missing = [prompt for prompt in places if prompt not in found]
    if missing:
        if folder is None or not folder.is_dir() or encoder_hash(folder) != encoder:
            raise UserError(
                f"the text encoder {encoder} is not in {folder}; set data.text_encoder=FOLDER to "
                "the folder that holds it"
            )
        # one at a time: the last bits of an embedding must not depend on which others are computed
        # with it
        tables = family_of(folder)(folder, missing, at_once=1)
        for i, prompt in enumerate(missing):
            found[prompt] = {name: table[i : i + 1].contiguous() for name, table in tables.items()}
            with suppress(
                OSError
            ):  # a convenience: where nothing can be kept, it is computed again
                write_tables(places[prompt], found[prompt], [prompt])
    return found


def _kept(place: Path, prompt: str) -> Tables | None:
    # loads torch or safetensors: only a cell with prompts needs it
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(place, "pt") as file:
            if (file.metadata() or {}).get("prompts") == json.dumps([prompt], ensure_ascii=False):
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
    except (OSError, SafetensorError):
        pass
    return None


def _cache() -> Path:
    """Return the folder that embeddings are kept in; nothing can be kept without a home."""
    return (users_cache() or Path(os.devnull)) / "prompts"


def short_hash(text: str) -> str:
    """Return 16 hexadecimal digits that hash a text."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
