"""The verdict on a bundle: what was checked, what was found, and how sure it makes a reader."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

BITWISE, CLOSE, TABLES, REFUSED = "bitwise", "tolerance", "tables", "refused"
LEVELS = {
    BITWISE: "accepted: rows were computed again, bit for bit",
    CLOSE: "accepted: rows were computed again, within the tolerance",
    TABLES: "accepted in part: the tables follow from the rows; no row was computed again",
    REFUSED: "refused",
}
"""What each level of a verdict says."""

_OK, _BAD, _OPEN = "ok", "no", "--"


@dataclass
class Verdict:
    """What was found about a bundle.

    Parameters
    ----------
    bundle : str
        The name of its file.
    sha256 : str
        Its checksum; of a folder that of its list of checksums.
    findings : list of (state, check, text)
        ``ok``, ``no`` (a reason to refuse it) or ``--`` (not checked, and why).
    level : str
        One of :data:`LEVELS`.
    """

    bundle: str
    sha256: str = ""
    findings: list[tuple[str, str, str]] = field(default_factory=list)
    level: str = TABLES

    @property
    def accepted(self) -> bool:
        """Whether there is no reason to refuse the bundle."""
        return self.level != REFUSED

    @property
    def reasons(self) -> list[str]:
        """The reasons to refuse it."""
        return [f"{check}: {text}" for state, check, text in self.findings if state == _BAD]

    def ok(self, check: str, text: str) -> None:
        """Note that a check found nothing wrong."""
        self.findings.append((_OK, check, text))

    def refuse(self, check: str, text: str) -> None:
        """Note a reason to refuse the bundle."""
        self.findings.append((_BAD, check, text))
        self.level = REFUSED

    def leave(self, check: str, text: str) -> None:
        """Note what could not be checked here, and why."""
        self.findings.append((_OPEN, check, text))

    def text(self) -> str:
        """Return the verdict for a terminal."""
        width = max((len(check) for _, check, _ in self.findings), default=0)
        lines = [f"  {s}  {check:<{width}}  {text}" for s, check, text in self.findings]
        return "\n".join([f"{self.bundle}: {LEVELS[self.level]}", *lines])

    def record(self, by: Mapping[str, Any]) -> dict[str, Any]:
        """Return the verdict in types of JSON, ``by`` the software that made it."""
        return {
            "bundle_sha256": self.sha256,
            "level": self.level,
            "means": LEVELS[self.level],
            "findings": [list(finding) for finding in self.findings],
            "verified_with": dict(by),
        }
