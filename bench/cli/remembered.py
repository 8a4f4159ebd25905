"""Answers a command at once that ended before, if nothing it read or wrote has changed since.

What a command found is kept in the user's cache folder, with stamps (:mod:`bench.core.stamps`) of
everything that it depends on: our code, data and configurations, the installed packages, the other
modules that were loaded, every file and folder that the configuration names, and the study folder.
If one of them differs, or was changed after the command began, the command is run in full. No torch
is imported here.
"""

from __future__ import annotations

import json
import os
import platform
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from posterior_bench.bench.config.plugins import installed
from posterior_bench.bench.core.environment import ROOT
from posterior_bench.bench.core.stamps import Stamp, packages, stamp
from posterior_bench.bench.external.users_cache import users_cache
from posterior_bench.bench.store.atomic import write_atomic

WINGS = (
    *("bench", "conf", "datasets", "masks", "metrics", "operators", "priors", "solvers"),
    *("pyproject.toml", "requirements.lock"),
)
"""Our files, below the root of the package."""

_GROUPS = ("solver", "data", "mask", "operator", "prior", "metrics")
"""Groups whose settings may name files."""

_KEPT = 200
"""Commands that are remembered."""

_SETTLED_NS = 2_000_000_000
"""How long before the command the last change must lie: clocks of files are coarse, and those of
network folders differ a little from ours."""


@dataclass(frozen=True)
class Command:
    """A command line in a working directory.

    Parameters
    ----------
    verb : str
        The verb.
    words : sequence of str
        Everything that decides on the result.
    began : int
        When it began, in nanoseconds.
    """

    verb: str
    words: Sequence[str]
    began: int

    @classmethod
    def of(cls, verb: str, words: Iterable[str]) -> Command:
        """Return a command that begins now."""
        return cls(verb, list(words), time.time_ns())

    @property
    def place(self) -> Path | None:
        """The file of what is remembered; None for a user without a home."""
        about = [self.verb, *self.words, os.getcwd(), str(ROOT), sys.executable, sys.version]
        machine = [platform.node(), str(os.cpu_count()), os.environ.get("CUDA_VISIBLE_DEVICES", "")]
        key = blake2b(json.dumps([*about, *machine]).encode(), digest_size=16).hexdigest()
        cache = users_cache()
        return cache and cache / "commands" / f"{key}.json"

    def recall(self) -> dict[str, Any] | None:
        """Return what :meth:`remember` kept, if nothing has changed since."""
        if self.place is None:
            return None
        try:
            kept = json.loads(self.place.read_text(encoding="utf-8"))
            inputs, study = stamp(kept["inputs"], packages()), stamp([kept["study"]])
            same = inputs is not None and inputs.digest == kept["inputs_digest"]
            if not same or study is None or study.digest != kept["study_digest"]:
                return None
            return dict(kept["found"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def remember(
        self, found: Mapping[str, Any], study: Path, configs: Iterable[Mapping[str, Any]]
    ) -> None:
        """Keep what the command found; nothing where an input was changed after it began.

        Parameters
        ----------
        found : Mapping
            What :meth:`recall` is to return, in plain types.
        study : Path
            The study folder, as the command leaves it.
        configs : iterable of Mapping
            The configuration of every cell, in plain types.
        """
        paths = sorted({*_ours(), *_modules(), *_named(configs)})
        inputs, left = stamp(paths, packages()), stamp([study.absolute()])
        if self.place is None or inputs is None or left is None:
            return
        if inputs.newest >= self.began - _SETTLED_NS:
            return
        kept = {
            "found": dict(found),
            "inputs": paths,
            "inputs_digest": inputs.digest,
            "study": str(study.absolute()),
            "study_digest": left.digest,
        }
        with suppress(OSError, TypeError):
            self.place.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self.place, json.dumps(kept).encode())
            _forget_oldest(self.place.parent)


def rows_of(study: Path) -> Stamp | None:
    """Return the stamp of all rows and plans of a study folder."""
    return stamp([study.absolute() / "cells"])


def _ours() -> list[str]:
    """Return our files and the folders of plugins, with their options."""
    plugins = [str(plugin.root) for plugin in installed().values()]
    return [*(str(ROOT / wing) for wing in WINGS), *plugins]


def _modules() -> Iterator[str]:
    """Yield the files of loaded modules that neither we nor an installer wrote."""
    known = tuple(f"{Path(base).resolve()}{os.sep}" for base in (ROOT, sys.prefix, sys.base_prefix))
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        if isinstance(file, str) and not str(Path(file).resolve()).startswith(known):
            yield os.path.abspath(file)


def _named(configs: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield every place that a text of a configuration may name, be there something or not."""
    texts = {text for config in configs for text in _texts([config[group] for group in _GROUPS])}
    for text in texts:
        path = os.path.expanduser(text)
        yield from (os.path.abspath(path), str(ROOT / path))


def _texts(value: object) -> Iterator[str]:
    """Yield the texts in a node, but for the names of classes."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key != "_target_":
                yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)
    elif isinstance(value, str) and value:
        yield value


def _forget_oldest(folder: Path) -> None:
    """Remove the records that were written first, beyond :data:`_KEPT`."""
    files = sorted(folder.glob("[!.]*.json"), key=lambda path: path.stat().st_mtime)
    for path in files[:-_KEPT]:
        path.unlink(missing_ok=True)
