"""Write into every wheel the commit that it was built from.

Only a checkout of this repository knows the commit: a repository around it is not asked.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CommitHook(BuildHookInterface):
    """Add ``bench/build.json`` with the keys ``commit`` and ``dirty`` to a wheel.

    The file is written if the folder is the top of a git checkout, and removed after the build.
    """

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write the file before a build; an editable install gets none."""
        root = Path(self.root).resolve()
        top = self._git("rev-parse", "--show-toplevel")
        path = root / "bench" / "build.json"
        if top and Path(top).resolve() == root and version != "editable":
            changed = bool(self._git("status", "--porcelain", "--untracked-files=no"))
            self._written = path
            path.write_text(
                json.dumps({"commit": self._git("rev-parse", "HEAD"), "dirty": changed}),
                encoding="utf-8",
            )
        if path.is_file():  # also in the source distribution that a wheel may be built from
            build_data["artifacts"].append("bench/build.json")

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the file after a build."""
        written = getattr(self, "_written", None)
        if written is not None:
            written.unlink(missing_ok=True)

    def _git(self, *arguments: str) -> str:
        try:
            done = subprocess.run(
                ["git", *arguments], cwd=self.root, capture_output=True, text=True, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return ""
        return done.stdout.strip()
