"""Convert each folder of diffusers once, and keep the result in the user's cache folder.

A conversion lies under a hash of the files that are read and of the code that converts. Its name
and facts come from these files too: the same model gives the same prior wherever its folder lies.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from posterior_bench.bench.core.environment import ROOT
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.external.diffusers_layout import _DENOISERS, _name, takes_prompts
from posterior_bench.bench.external.users_cache import users_cache
from posterior_bench.priors.fingerprint import read_spec, sha256, weight_hashes

_PLACES = (*_DENOISERS, "vae", "vqvae", "scheduler")


_TEXT_PLACES = tuple(
    f"{kind}{end}" for kind in ("text_encoder", "tokenizer") for end in ("", "_2", "_3")
)


_WEIGHTS = "diffusion_pytorch_model"


_ABANDONED = 6 * 3600
"""Seconds after which an unfinished conversion is nobody's."""


def cache_folder() -> Path:
    """Return the folder that conversions are kept in."""
    return (users_cache() or Path(tempfile.gettempdir()) / "posterior-bench") / "models"


def converted_once(folder: Path, quiet: bool) -> Path:
    """Return the folder of the converted model; convert it if that was not done before."""
    key = _key(folder)
    place = cache_folder() / key
    if _is_whole(place):
        return place
    start = time.monotonic()
    try:
        with written_beside(place) as part:
            _convert(folder, part)
    except OSError as error:
        raise UserError(
            f"the conversion of {folder} cannot be written to {place.parent}: "
            f"{error.strerror or error}; set XDG_CACHE_HOME to a folder with room, or choose one "
            f"yourself: `python -m bench convert {shlex.quote(str(folder))} --as diffusers --to "
            "DIR`, then prior=DIR"
        ) from None
    if not quiet:
        # rich is heavy, and a name is looked up without a word
        from posterior_bench.bench.core.terminal import err

        words = (
            f"bench: converted {folder} into {place} (hash {key[:8]}, "
            f"{time.monotonic() - start:.0f} s)"
        )
        err.print(words, markup=False, highlight=False, soft_wrap=True)
    return place


def _key(folder: Path) -> str:
    """Return 16 digits that hash the files a conversion reads and the code that converts."""
    places = _PLACES + (_TEXT_PLACES if takes_prompts(folder) else ())
    files = [file for place in places for file in sorted((folder / place).glob("[!.]*"))]
    files += [file for file in sorted(folder.glob("*")) if _counts(file)]
    listed = [
        [file.relative_to(folder).as_posix(), sha256(file)] for file in files if file.is_file()
    ]
    return hashlib.sha256(json.dumps([_code(), listed]).encode()).hexdigest()[:16]


def _counts(file: Path) -> bool:
    """Return whether a file beside the components is read; hubs store other formats there."""
    return file.suffix == ".json" or file.name == "README.md" or file.name.startswith(_WEIGHTS)


@cache
def _code() -> str:
    """Return a hash of the converters: a conversion by another version of them is made again."""
    root = ROOT / "priors"
    whole = hashlib.sha256()
    ours = Path(__file__), Path(__file__).with_name("diffusers_layout.py")
    for file in [*sorted((root / "convert").glob("*.py")), *ours]:
        whole.update(file.read_bytes())
    return whole.hexdigest()


def _is_whole(place: Path) -> bool:
    """Return whether a conversion is complete, with the weights that it was written with."""
    try:
        recorded = weight_hashes(place, read_spec(place))
        return all(sha256(place / name) == wanted for name, wanted in recorded.items())
    except (OSError, ValueError):
        return False


@contextmanager
def written_beside(place: Path) -> Iterator[Path]:
    """Yield a folder to write to, which becomes ``place`` at the end, or is removed on failure.

    Of two processes that write the same at once, the first to end is kept.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    _sweep(place.parent)
    part = Path(
        tempfile.mkdtemp(
            prefix=f".{place.name}.{socket.gethostname()}.{os.getpid()}.", dir=place.parent
        )
    )
    try:
        yield part
        part.chmod(0o777 & ~_umask())  # temporary folders are for their owner alone
        if place.exists() and not _is_whole(place):
            shutil.rmtree(place, ignore_errors=True)
        try:
            part.rename(place)
        except OSError:
            if not _is_whole(place):
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sweep(folder: Path) -> None:
    """Remove conversions that processes of this machine left unfinished hours ago.

    Not at once: a container may share the folder and the name of the machine, and have processes of
    its own.
    """
    for part in folder.glob(f".*.{socket.gethostname()}.*.*"):
        number = part.name.removesuffix(part.suffix).rpartition(".")[2]
        if (
            number.isdigit()
            and not _runs(int(number))
            and time.time() - part.stat().st_mtime > _ABANDONED
        ):
            shutil.rmtree(part, ignore_errors=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _convert(folder: Path, target: Path) -> None:
    # loads torch: only a conversion needs it
    import torch

    from posterior_bench.bench.external.conversion import conversion_facts
    from posterior_bench.priors.convert import hub
    from posterior_bench.priors.convert.trial import call_once
    from posterior_bench.priors.load import save

    try:
        hub.check_settings(folder)
        with tempfile.TemporaryDirectory() as room, torch.random.fork_rng(devices=[]):
            prompts = _empty_prompt(folder, Path(room)) if takes_prompts(folder) else None
            converted = hub.convert_diffusers(folder, prompts)
            call_once(converted.prior, folder)
            meta = conversion_facts(
                converted, folder, _name(folder), "a folder of diffusers", "--as diffusers"
            )
    except (ValueError, FileNotFoundError) as error:
        raise UserError(str(error)) from None
    except OSError as error:
        raise UserError(
            f"{error.filename or folder} cannot be read: {error.strerror or error}"
        ) from None
    save(target, converted.prior, meta, torch.float32)


def _empty_prompt(folder: Path, room: Path) -> Path:
    """Return the file with the empty prompt, embedded by the text encoders of the folder.

    Raises
    ------
    UserError
        If the prompt cannot be embedded here.
    """
    # loads torch: only a conversion needs it
    from posterior_bench.bench.external.text_encoders import embed_prompts

    text, target = room / "prompts.txt", room / "prompts.safetensors"
    text.write_text("\n", encoding="utf-8")
    try:
        return embed_prompts(folder, text, target)
    except UserError as error:
        where = shlex.quote(str(folder))
        raise UserError(
            f"{folder} takes prompts, and the empty prompt cannot be embedded here: {error}. "
            f"Elsewhere: `python -m bench embed-prompts {where} --prompts FILE --to "
            f"P.safetensors`; then `python -m bench convert {where} --as diffusers --prompts "
            "P.safetensors --to DIR` and prior=DIR"
        ) from None
