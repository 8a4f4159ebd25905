"""Models as people have them: a folder of the benchmark's own format, or one of diffusers, which is
converted once.

Conversions are kept in the user's cache folder (``$XDG_CACHE_HOME``, else ``~/.cache``, below
``posterior-bench``), under a hash of the files that are read. The name and the facts that a
conversion records come from these files too: the same model gives the same prior wherever its
folder lies and whatever that is called. No torch is imported here until something is converted.
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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

from posterior_bench.bench.config.prior_paths import LOADER
from posterior_bench.bench.core.environment import ROOT
from posterior_bench.bench.core.errors import UserError
from posterior_bench.priors.fingerprint import read_spec, resolve, sha256, weight_hashes

_DENOISERS = ("unet", "transformer")
_TEXT = ("UNet2DConditionModel", "SD3Transformer2DModel")
"""Networks that are told a prompt."""

_PLACES = (*_DENOISERS, "vae", "vqvae", "scheduler")
_TEXT_PLACES = tuple(
    f"{kind}{end}" for kind in ("text_encoder", "tokenizer") for end in ("", "_2", "_3")
)
_WEIGHTS = "diffusion_pytorch_model"
_ABANDONED = 6 * 3600
"""Seconds after which an unfinished conversion is nobody's."""


def served(path: str | Path, quiet: bool = False) -> Path:
    """The folder with the ``prior.json`` of the model at ``path``; a folder of diffusers is
    converted on first use.

    ``path`` may also name a file that only such a folder has (``prior.json``,
    ``model_index.json``), the network in a folder of diffusers (``unet``), or a folder of the hub's
    cache with one snapshot. A conversion is said in one line on stderr unless ``quiet``. Raises
    UserError, one line, where nothing at ``path`` can be read as a model.
    """
    given = Path(path).expanduser()
    try:
        found = _own(given)
        if found is not None:
            return found
        folder = diffusers_folder(given)
        if folder is None:
            raise UserError(_stranger(given))
        return _converted(folder, quiet)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{given} cannot be read: {reason}") from None


def with_served(node: Mapping[str, Any], quiet: bool = False) -> dict[str, Any]:
    """The node of a prior with the folder that is read in place of one of diffusers; any other node
    as it is.
    """
    path = node.get("path")
    if node.get("_target_") != LOADER or not isinstance(path, str):
        return dict(node)
    given = Path(path).expanduser()
    try:
        known = _own(given) is not None or diffusers_folder(given) is None
    except (OSError, ValueError):
        known = True
    return dict(node) if known else {**node, "path": str(served(given, quiet))}


def absent_model(node: Mapping[str, Any]) -> str:
    """Why nothing can be loaded where the node of a prior says it lies; empty where it can, or no
    file is needed.
    """
    path = node.get("path")
    if not isinstance(path, str) or path == "???":
        return ""
    try:
        resolve(path)
    except FileNotFoundError as error:
        given = Path(path).expanduser()
        return "" if diffusers_folder(given) is not None else str(error)
    except (OSError, ValueError) as error:
        return f"{path} cannot be read: {getattr(error, 'strerror', None) or error}"
    return ""


def users_cache() -> Path | None:
    """The user's cache folder of this product; None for a user without a home."""
    base = os.environ.get("XDG_CACHE_HOME") or ""
    with suppress(RuntimeError):
        return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "posterior-bench"
    return None


def cache_folder() -> Path:
    """Where conversions are kept."""
    return (users_cache() or Path(tempfile.gettempdir()) / "posterior-bench") / "models"


def diffusers_folder(path: Path) -> Path | None:
    """The folder of diffusers that ``path`` means; None where there is none."""
    if path.name == "model_index.json" and path.is_file():
        return path.parent
    if _is_pipeline(path):
        return path
    if (path / "config.json").is_file() and "_class_name" in _json(path / "config.json"):
        # the network of a folder; the schedule, without which it says nothing, lies beside it
        beside = path.name in _DENOISERS and not _has_schedule(path) and _is_pipeline(path.parent)
        return path.parent if beside else path
    snapshots = [found for found in path.glob("snapshots/*") if _is_pipeline(found)]
    return snapshots[0] if len(snapshots) == 1 else None


def _own(path: Path) -> Path | None:
    """The folder of a prior in the benchmark's own format."""
    folder = path.parent if path.name == "prior.json" and path.is_file() else path
    try:
        return resolve(folder)
    except FileNotFoundError:
        return None


def _is_pipeline(folder: Path) -> bool:
    if (folder / "model_index.json").is_file():
        return True
    return _has_schedule(folder) and any(
        (folder / name / "config.json").is_file() for name in _DENOISERS
    )


def _has_schedule(folder: Path) -> bool:
    return any((folder / name / "scheduler_config.json").is_file() for name in ("scheduler", "."))


def _json(path: Path) -> dict[str, Any]:
    """What a JSON file says; nothing where it is none, and whoever converts it says so."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _stranger(path: Path) -> str:
    """Why nothing at ``path`` is read as a model, and what to do."""
    wanted = "a folder with prior.json, or a folder of diffusers with model_index.json"
    if path.is_file():
        command = f"python -m bench convert {shlex.quote(str(path))} --as edm|adm|compvis --to DIR"
        return (
            f"{path} is a file, and a model is {wanted}; if it is a checkpoint: `{command}`, "
            f"then prior=DIR"
        )
    if not path.is_dir():
        return (
            f"{path} does not exist; give {wanted}, or a name that `python -m bench ls prior` lists"
        )
    listed = sorted(entry.name for entry in path.iterdir())
    holds = ", ".join(listed[:5]) + (", ..." if len(listed) > 5 else "") if listed else "nothing"
    return f"{path} holds neither prior.json nor model_index.json (it holds {holds}); give {wanted}"


# -- converting, once ------------------------------------------------------------------------------


def _converted(folder: Path, quiet: bool) -> Path:
    key = _key(folder)
    place = cache_folder() / key
    if _is_whole(place):
        return place
    start = time.monotonic()
    try:
        with _beside(place) as part:
            _convert(folder, part)
    except OSError as error:
        raise UserError(
            f"the conversion of {folder} cannot be written to {place.parent}: "
            f"{error.strerror or error}; set "
            "XDG_CACHE_HOME to a folder with room, or choose one yourself: `python -m bench "
            "convert "
            f"{shlex.quote(str(folder))} --as diffusers --to DIR`, then prior=DIR"
        ) from None
    if not quiet:
        from posterior_bench.bench.core.terminal import err

        words = (
            f"bench: converted {folder} into {place} (hash {key[:8]}, "
            f"{time.monotonic() - start:.0f} s)"
        )
        err.print(words, markup=False, highlight=False, soft_wrap=True)
    return place


def _key(folder: Path) -> str:
    """16 digits over the files a conversion reads, by their names in the folder, and over the code
    that converts.
    """
    places = _PLACES + (_TEXT_PLACES if _takes_prompts(folder) else ())
    files = [file for place in places for file in sorted((folder / place).glob("[!.]*"))]
    files += [file for file in sorted(folder.glob("*")) if _counts(file)]
    listed = [
        [file.relative_to(folder).as_posix(), sha256(file)] for file in files if file.is_file()
    ]
    return hashlib.sha256(json.dumps([_code(), listed]).encode()).hexdigest()[:16]


def _counts(file: Path) -> bool:
    """Whether a file beside the components is read; folders of the hub hold other formats of the
    weights there.
    """
    return file.suffix == ".json" or file.name == "README.md" or file.name.startswith(_WEIGHTS)


@cache
def _code() -> str:
    """A hash of the converters: what another version of them made is made again."""
    root = ROOT / "priors"
    whole = hashlib.sha256()
    for file in [*sorted((root / "convert").glob("*.py")), Path(__file__)]:
        whole.update(file.read_bytes())
    return whole.hexdigest()


def _is_whole(place: Path) -> bool:
    """Whether a conversion is there, with the weights that it was written with."""
    try:
        recorded = weight_hashes(place, read_spec(place))
        return all(sha256(place / name) == wanted for name, wanted in recorded.items())
    except (OSError, ValueError):
        return False


@contextmanager
def _beside(place: Path) -> Iterator[Path]:
    """A folder to write to, which becomes ``place`` at the end; nothing is left of one that fails.

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
    """Remove what processes of this machine left that ended in the middle of a conversion, hours
    ago.

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
    import torch

    from posterior_bench.bench.external.conversion import facts
    from posterior_bench.priors.convert import hub
    from posterior_bench.priors.convert.trial import call_once
    from posterior_bench.priors.load import save

    try:
        hub.check_settings(folder)
        with tempfile.TemporaryDirectory() as room, torch.random.fork_rng(devices=[]):
            prompts = _empty_prompt(folder, Path(room)) if _takes_prompts(folder) else None
            converted = hub.convert(folder, prompts)
            call_once(converted.prior, folder)
            meta = facts(
                converted, folder, _name(folder), "a folder of diffusers", "--as diffusers"
            )
    except (ValueError, FileNotFoundError) as error:
        raise UserError(str(error)) from None
    except OSError as error:
        raise UserError(
            f"{error.filename or folder} cannot be read: {error.strerror or error}"
        ) from None
    save(target, converted.prior, meta, torch.float32)


def _denoiser(folder: Path) -> dict[str, Any]:
    places = (folder / name / "config.json" for name in (*_DENOISERS, "."))
    return next((_json(place) for place in places if place.is_file()), {})


def _takes_prompts(folder: Path) -> bool:
    return _denoiser(folder).get("_class_name") in _TEXT


def _name(folder: Path) -> str:
    """What the model is called in tables: the class of its pipeline, else of its network."""
    name = str(
        _json(folder / "model_index.json").get("_class_name")
        or _denoiser(folder).get("_class_name")
    )
    return name if name.isidentifier() else "diffusers"


def _empty_prompt(folder: Path, room: Path) -> Path:
    """The empty prompt, embedded by the text encoders of the folder; UserError where that cannot be
    done here.
    """
    from posterior_bench.bench.external.text_encoders import embed_prompts

    text, target = room / "prompts.txt", room / "prompts.safetensors"
    text.write_text("\n", encoding="utf-8")
    try:
        return embed_prompts(folder, text, target)
    except UserError as error:
        where = shlex.quote(str(folder))
        raise UserError(
            f"{folder} is told prompts, and the empty one cannot be embedded here: {error}. "
            f"Elsewhere: `python -m "
            f"bench embed-prompts {where} --prompts FILE --to P.safetensors`; then `python -m "
            f"bench convert {where} "
            "--as diffusers --prompts P.safetensors --to DIR` and prior=DIR"
        ) from None
