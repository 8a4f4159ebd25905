"""Where settings may be tuned: ``conf/tuning.yaml``, by the name of the data.

It says which settings lead to images that no published table scores, and what is optimised there.
A plugin may bring such a file for its own data. No torch is imported here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch

from posterior_bench.bench.config.option_files import CONF, whole_file
from posterior_bench.bench.config.plugins import installed


@dataclass(frozen=True)
class TuningData:
    """How settings are tuned on some data.

    Parameters
    ----------
    settings : sequence of str
        Settings of a run that choose the images, and the seed of masks and noise.
    metrics : sequence of str
        The metrics to compute.
    objective : str
        The column that is optimised.
    """

    settings: Sequence[str]
    metrics: Sequence[str]
    objective: str


def tuning_data(name: str) -> TuningData | None:
    """Return how settings are tuned on the data of that name; None if no file says so."""
    files = [CONF / "tuning.yaml"]
    files += [plugin.conf / "tuning.yaml" for plugin in installed().values()]
    for path in files:
        for pattern, node in whole_file(path).items() if path.exists() else ():
            if fnmatch(name, pattern):
                return TuningData(**node)
    return None
