"""The preset that a search ends with, and its place in the YAML file of the solver."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import yaml

from posterior_bench.bench.config.catalog import option
from posterior_bench.bench.config.class_source import class_defaults
from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.config.presets import LATENT, is_latent, prior_name, settings
from posterior_bench.bench.core.environment import environment
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.engine.job import job_of
from posterior_bench.bench.store.atomic import write_atomic
from posterior_bench.bench.tuning.search import ALIKE, Search, standard_error

_WIDTH = 100
BASE = "fast"
"""Presets that are chosen here are called so, with the case behind it where there is one."""


@dataclass(frozen=True)
class TunedPreset:
    """A preset as the YAML file of the solver is to hold it.

    Parameters
    ----------
    name : str
        Its name.
    content : Mapping of str to Any
        What it says of itself, its settings, and how it was chosen.
    """

    name: str
    content: Mapping[str, Any]

    @classmethod
    def of(cls, found: Search, seed: int, name: str | None = None) -> TunedPreset:
        """Return the preset of the best trial of a search.

        It lists what differs from the defaults of the class. ``for`` names the priors of the
        problems. The name of the first prior is put behind the name if another preset of that name
        serves other priors too, or is the first, which priors without a preset run with.

        Raises
        ------
        UserError
            If no trial has a value for every row.
        """
        if not found.ranked:
            raise UserError(
                f"no trial of {found.solver} has a value for every row, so there is nothing to "
                "choose from; look at the messages in its rows, and change `space` in its YAML file"
            )
        config = job_of(found.problems[0].cfg)
        shipped, best = option("solver", found.solver).content, found.ranked[0]
        base, usual = shipped["presets"][found.preset], class_defaults(shipped["_target_"])
        chosen = {**settings(base), **best.setting, **best.work}
        own = {key: value for key, value in chosen.items() if value != usual.get(key)}
        priors = list(
            dict.fromkeys(prior_name(job_of(problem.cfg).prior) for problem in found.problems)
        )
        case = LATENT if is_latent(config.prior) else config.data.get("preset")
        known = shipped["presets"]
        name = name or _free_name(f"{BASE}_{case}" if case else BASE, known, priors)
        usual_one = BASE if BASE in known else next(iter(known))
        instead = {"instead_of": usual_one, "when": case} if case else {}
        said = {
            **instead,
            "for": priors,
            "from": "tuned",
            "tuned": _provenance(found, seed, config),
        }
        return cls(name, {**said, **own})

    def text(self) -> str:
        """Return the lines of the preset, indented as in the file of a solver."""
        return "".join(
            f"  {line}\n" for line in [f"{self.name}:", *map("  {}".format, self._lines())]
        )

    def _lines(self) -> list[str]:
        lines = []
        for key, value in self.content.items():
            if isinstance(value, Mapping):
                lines += [
                    f"{key}:",
                    *(f"  {inner}: {_flow(part)}" for inner, part in value.items()),
                ]
            else:
                lines.append(f"{key}: {_flow(value)}")
        return lines

    def write(self, solver: str) -> Path:
        """Put the preset into the YAML file of the solver; see :meth:`put_into`.

        Raises
        ------
        UserError
            If the file cannot be written, or is not laid out as those of the product.
        """
        path = option("solver", solver).path
        text = self.put_into(path.read_text(encoding="utf-8"), path)
        try:
            write_atomic(path, text.encode())
        except OSError as error:
            raise UserError(
                f"cannot write {path}: {error.strerror}; the preset is in the study, too"
            ) from None
        return path

    def put_into(self, text: str, path: Path) -> str:
        """Return the text of a solver's file with this preset, in place of one of the same name.

        The priors of this preset are taken out of the other presets that were chosen here, so that
        ``preset=auto`` finds this one. Comments and other presets stay as they are.

        Parameters
        ----------
        text : str
            The text of the file.
        path : Path
            The file, for errors.

        Raises
        ------
        UserError
            If the file is not laid out as those of the product.
        """
        before = yaml.safe_load(text)
        after = _replaced(text, self.name, self.text())
        after = _without_priors(after, self, before["presets"])
        _demand_kept(before, yaml.safe_load(after), self, path)
        return after


def _free_name(name: str, known: Mapping[str, Any], priors: Sequence[str]) -> str:
    """Return the name, or one with the prior behind it if the name serves other priors too."""
    others = {*map(str, known.get(name, {}).get("for") or ())} - {*priors}
    return f"{name}_{priors[0]}" if others or name == next(iter(known)) else name


def _provenance(found: Search, seed: int, config: JobConfig) -> dict[str, Any]:
    """Return how the best trial was found."""
    best, *others = found.ranked
    said: dict[str, Any] = {
        "data": list(dict.fromkeys(problem.data for problem in found.problems)),
        "tasks": list(dict.fromkeys(problem.task for problem in found.problems)),
        "problems": len(found.problems),
        "objective": found.objective,
        "value": _short(best.value),
    }
    first = found.trials[0]
    if first.good:
        said["before"] = _short(first.value)
        said["gain_se"] = _short(standard_error(first, best))
    said |= {
        "trials": len(found.trials),
        "rows": best.rows,
        "passes": round(sum(trial.passes for trial in found.trials)),
        "seed": seed,
        "date": date.today().isoformat(),
        "commit": _commit(),
        **config.execution.changed,
    }
    if others:
        said["runner_up"] = {**others[0].setting, found.objective: _short(others[0].value)}
    said["flat"] = f"{found.alike} of {len(found.trials)} trials within {ALIKE:g} standard errors"
    return said


def _commit() -> str:
    origin = environment()
    return f"{str(origin['commit'])[:8]}{'+dirty' if origin['dirty'] else ''}"


def _short(value: float) -> float:
    return float(f"{value:.4g}")


def _flow(value: Any) -> str:
    """Return a value in one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...").strip()


def _block(text: str, name: str) -> tuple[int, int] | None:
    """Return where the lines of a preset begin and end, its own comment included."""
    found = re.search(
        rf"^((?:  #[^\n]*\n)*)  {re.escape(name)}:[^\n]*\n(?:(?:    [^\n]*|)\n)*", text, re.M
    )
    return found.span() if found else None


def _replaced(text: str, name: str, block: str) -> str:
    """Return the text with the preset in its place.

    A new one comes second: the first is that of priors which no preset names.
    """
    if (place := _block(text, name)) is not None:
        return text[: place[0]] + block + text[place[1] :]
    first = re.search(r"^presets:[^\n]*\n(?:  #[^\n]*\n)*  (\w+):", text, re.M)
    place = _block(text, first[1]) if first else None
    end = place[1] if place else len(text)
    return text[:end] + block + text[end:]


def _without_priors(text: str, preset: TunedPreset, presets: Mapping[str, Any]) -> str:
    """Take the priors of a preset out of ``for`` of the others that were chosen here.

    A preset that is for no prior any more gets a note which says what it is for.
    """
    mine = {*preset.content["for"]}
    for name, other in presets.items():
        own = list(map(str, other.get("for") or ()))
        place = _block(text, name)
        if name == preset.name or other.get("from") != "tuned" or not mine & {*own} or not place:
            continue
        left = ", ".join(prior for prior in own if prior not in mine)
        says = f"for: [{left}]"
        if not left and "note" not in other:
            first = name == next(iter(presets))
            use = "for priors that no other preset names" if first else f"replaced by {preset.name}"
            says = f"note: {use}"
        block = text[place[0] : place[1]]
        block = re.sub(r"^    for: \[[^\]]*\]", f"    {says}", block, count=1, flags=re.M)
        text = text[: place[0]] + block + text[place[1] :]
    return text


def _demand_kept(
    before: Mapping[str, Any], after: Mapping[str, Any], preset: TunedPreset, path: Path
) -> None:
    """Refuse a text that says anything else, but for the new preset, ``for`` and ``note``."""

    def rest(content: Mapping[str, Any]) -> Any:
        presets = {
            name: {key: value for key, value in node.items() if key not in ("for", "note")}
            for name, node in content["presets"].items()
            if name != preset.name
        }
        return {**content, "presets": presets}

    if rest(before) != rest(after) or after["presets"].get(preset.name) != dict(preset.content):
        raise UserError(
            f"{path} is not laid out as the files of the product (presets indented by two spaces); "
            "copy the preset by hand"
        )


def best_line(found: Search) -> str:
    """Return the result of a search in one line."""
    best, first = found.ranked[0], found.trials[0]
    if best is first:
        return f"{found.solver}: the preset {found.preset} stays the best, {best.value:.4g}"
    was = f"{first.value:.4g}" if first.good else "failed rows"
    return f"{found.solver}: {found.objective} {was} -> {best.value:.4g}, {best.words}"
