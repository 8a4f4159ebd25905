"""Priors and metric networks that the cells of one process share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from posterior_bench.bench.config.build import build
from posterior_bench.priors.fingerprint import fingerprint


@cache
def _shared(kind: str, key: str, device: str, weights: str) -> Any:
    return build(json.loads(key)).to(device)


def shared(kind: str, node: Mapping[str, Any], device: str) -> Any:
    """A prior or metric, loaded once per process and device."""
    key = json.dumps({k: v for k, v in node.items() if k != "train"}, sort_keys=True)
    return _shared(kind, key, device, _weights(node) if kind == "prior" else "")


def _weights(node: Mapping[str, Any]) -> str:
    """The fingerprint of a prior's files: other files at the same place are another prior."""
    try:
        return fingerprint(node["path"]) if "path" in node else ""
    except (OSError, ValueError):
        return ""  # whoever loads it says what is wrong
