"""Tests that are skipped where they should run: with ``--skips-fail`` the run fails; ``.ci/run``
gives it.

A skipped test says nothing, and nobody reads that it was skipped. Every reason for which a test may
be skipped all the same is listed here, with why.
"""

from __future__ import annotations

import os
import re

import pytest

ALLOWED: dict[str, str] = {
    "without a null condition there is no "
    "guidance": "not all combinations of a table of networks exist",
    "deepinv": "an extra that is not in requirements.lock",
    "opencv": "an extra that is not in requirements.lock",
    "No module named 'cv2'": "the extra 'opencv', which is not in requirements.lock",
    "No module named 'dicebear'": "the extra 'faces', which is not in requirements.lock",
    "No module named 'lmdb'": "the extra 'lsun', which is not in requirements.lock",
    "No module named 'transformers'": "the extra 'text', which is not in requirements.lock",
    "LaTeX is not installed": "several hundred megabytes for three tests; `bench table` needs none",
    "Slurm's daemons are started as root": "a user of a shared machine cannot start them",
    "network namespaces need root": "a user of a shared machine cannot make them",
    "this machine does not allow network "
    "namespaces": "containers often forbid them, and no package helps",
}
"""What the reason of a skip contains, and why the test may be skipped."""

_HEADING = (
    "skipped, but --skips-fail says that nothing may be skipped for this reason (tests/skips.py)"
)
_seen = pytest.StashKey[list[tuple[str, str]]]()


def refused(reason: str) -> bool:
    """Whether a test must not be skipped for this reason."""
    return not any(known in reason for known in ALLOWED)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--skips-fail",
        action="store_true",
        default=os.environ.get("CI") == "true",
        help="fail where a test is skipped for a reason that tests/skips.py does not list; CI=true "
        "does the same",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_seen] = []
    config.pluginmanager.register(_Recorder(config.stash[_seen]), "skips")


class _Recorder:
    """Keeps where tests and whole files were skipped, and why."""

    def __init__(self, seen: list[tuple[str, str]]):
        self.seen = seen

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._keep(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._keep(report)

    def _keep(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        # an expected failure counts as skipped too, but has no place and reason
        if report.skipped and isinstance(report.longrepr, tuple):
            reason = re.sub(r"^Skipped: ", "", str(report.longrepr[2]))
            if refused(reason):
                self.seen.append((report.nodeid, reason))


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if (
        session.config.getoption("--skips-fail")
        and session.config.stash[_seen]
        and not session.exitstatus
    ):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if config.getoption("--skips-fail") and config.stash[_seen]:
        terminalreporter.section(_HEADING, red=True)
        for place, reason in config.stash[_seen]:
            terminalreporter.line(f"{place}: {reason}")
