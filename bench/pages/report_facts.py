"""The facts in a report: failures, cards, provenance, and commands that run a cell again."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from posterior_bench.bench.config.build import arguments, target
from posterior_bench.bench.config.catalog import options
from posterior_bench.bench.config.settings import SETTINGS
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.pages.report_data import CellFile, ReportData

_WORDS = re.compile(r" (?=[\w.]+=)")


# words
def failures(study: ReportData) -> list[dict[str, object]]:
    """Return rows that are not ok, joined if solver, status and message are the same."""
    labels = {cell.name: (cell.label, group.name) for group in study.groups for cell in group.cells}
    failed = study.rows[study.rows["status"] != "ok"].fillna({"message": ""})
    return [
        {
            "solver": labels[str(cell)][0],
            "scene": labels[str(cell)][1],
            "status": status,
            "message": message or "(no message)",
            "count": len(part),
            "example": f"{part['image_id'].iloc[0]}, draw {part['draw'].iloc[0] + 1}",
        }
        for (cell, status, message), part in failed.groupby(
            ["cell", "status", "message"], sort=False
        )
        if cell in labels
    ]


def metric_cards(cells: Sequence[CellFile]) -> list[dict[str, str]]:
    """Return the cards of all metrics; empty entries are left out."""
    cards: dict[str, dict[str, str]] = {}
    for cell in cells:
        for name, card in cell.cards.items():
            cards.setdefault(
                name, {"id": name, **{k: str(v) for k, v in card.items() if v not in ("", None, 0)}}
            )
    return list(cards.values())


def solver_cards(cells: Sequence[CellFile]) -> list[dict[str, Any]]:
    """Return the cards of all solvers with the settings of their first cell.

    A solver whose code is gone has settings only.
    """
    cards: dict[str, dict[str, Any]] = {}
    for cell in cells:
        name = str(cell.identity["solver"])
        if name in cards or cell.config is None:
            continue
        node = cell.config.solver
        try:
            card = target(node).card
        except (UserError, AttributeError):
            card = None
        said = {
            key: getattr(card, key, None)
            for key in ("title", "paper", "equations", "deviations", "compat")
        }
        cards[name] = {
            "name": name,
            **said,
            "settings": {k: str(v) for k, v in arguments(node).items()},
        }
    return list(cards.values())


def provenance(study: ReportData) -> dict[str, Any]:
    """Return the provenance of the numbers, label by label, and the versions of packages."""
    path = study.folder / "environment.json"
    environment = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    board = study.board
    commits = sorted(
        {
            c + (" (dirty)" if d is True else "")
            for c, d in zip(board["commit"], board["dirty"], strict=True)
        }
    )
    ran = study.rows["device"].dropna()
    devices = sorted({*ran[ran != ""]}) or environment.get("devices", [])
    facts = {
        "Commit": ", ".join(filter(None, commits)) or "unknown",
        "Sweep": _sweep(study.folder),
        "Versions of tasks": " | ".join(sorted(board["task_version"].unique())),
        "Studies": ", ".join(filter(None, sorted(board["study_version"].unique()))),
        "Seeds": ", ".join(map(str, sorted(board["seed"].unique()))),
        "Priors": ", ".join(sorted(board["prior"].astype(str).unique())),
        "Hardware": ", ".join([*devices, *filter(None, [environment.get("processor")])]),
        "Threads": str(environment.get("threads", "")),
        "Platform": environment.get("platform", ""),
        "Python": environment.get("python", ""),
        # torch has a version of CUDA on machines without a GPU too
        "CUDA": str(environment.get("cuda") or "") if {*devices} - {"cpu"} else "",
        "Lock file": f"sha256 {environment['lock_sha256']}"
        if environment.get("lock_sha256")
        else "",
    }
    packages = {
        name: version for name, version in environment.get("packages", {}).items() if version
    }
    return {"facts": {k: v for k, v in facts.items() if v}, "packages": packages}


def _sweep(study: Path) -> str:
    """Return the command of a sweep, from its launcher's record; empty for single runs."""
    path = study / "launcher" / "multirun.yaml"
    if not path.exists():
        return ""
    task = yaml.safe_load(path.read_text(encoding="utf-8"))["hydra"]["overrides"]["task"]
    return shlex.join(["python", "-m", "bench", "-m", *map(str, task)])


def rerun_command(identity: Mapping[str, Any]) -> str:
    """Return the command that runs a cell again, from its names.

    ``mask`` says ``comod low=0.3`` for ``mask=comod mask.low=0.3``.
    """
    words = []
    variant = _WORDS.split(str(identity.get("variant") or ""))
    preset, *changed = variant if "=" not in variant[0] else ["", *variant]
    words.append(f"solver={identity['solver']}")
    words += [f"solver.preset={preset}"] if preset else []
    words += [word if word.partition("=")[0] in SETTINGS else f"solver.{word}" for word in changed]
    for group in ("data", "mask", "operator", "prior"):
        name, *settings = _WORDS.split(str(identity[group]).partition(" [")[0])
        settings = [
            word for word in settings if word.partition("=")[0] not in ("fingerprint", "class")
        ]
        # a network of the reader's own is where they put it
        known = group != "prior" or name in options("prior")
        words += [
            f"{group}={name}" if known else "prior.path=FOLDER",
            *(f"{group}.{word}" for word in settings),
        ]
    words += [
        f"data.images={identity['images']}",
        f"draws={identity['draws']}",
        f"seed={identity['seed']}",
    ]
    return shlex.join(["python", "-m", "bench", *words])
