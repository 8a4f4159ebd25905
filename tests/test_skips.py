"""A run of CI fails where a test is skipped for a reason that nobody has listed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ONE = "import pytest\n\ndef test_x():\n    pytest.skip({!r})\n\ndef test_y():\n    pass\n"
FILE = "import pytest\n\npytest.importorskip('nothing_of_this_name')\n\ndef test_x():\n    pass\n"
EXPECTED = "import pytest\n\n@pytest.mark.xfail\ndef test_x():\n    assert False\n"


@pytest.mark.parametrize(
    ("code", "options", "ci", "status"),
    [
        (ONE.format("no chromium on this machine"), ["--skips-fail"], "", 1),
        (ONE.format("no chromium on this machine"), [], "true", 1),
        (ONE.format("no chromium on this machine"), [], "", 0),
        (ONE.format("could not import 'lmdb': No module named 'lmdb'"), ["--skips-fail"], "", 0),
        (FILE, ["--skips-fail"], "", 1),
        (EXPECTED, ["--skips-fail"], "", 0),
    ],
    ids=["refused", "by CI=true", "not asked for", "listed", "a whole file", "an expected failure"],
)
def test_skips_fail(code: str, options: list[str], ci: str, status: int, tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(code)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CI": ci}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "tests.skips",
        "-p",
        "no:cacheprovider",
        *options,
    ]
    # beside a file that is skipped as a whole: pytest ends with 5 where no test was collected
    (tmp_path / "test_other.py").write_text("def test_z():\n    pass\n")
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == status, done.stdout + done.stderr
    assert ("test_some.py" in done.stdout and "tests/skips.py" in done.stdout) == bool(status)
