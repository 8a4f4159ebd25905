"""A benchmark of solvers of inverse problems with diffusion priors.

The command line is ``python -m bench``; from Python there are

- :func:`load_images`, images of a data set;
- :func:`load_prior`, a diffusion prior;
- :func:`observe`, images seen through a mask and an operator;
- :func:`solve`, samples of the posterior by one of the solvers;
- :func:`score`, metrics of these samples;
- :class:`Study`, the results of a study folder as DataFrames.

Names are loaded when they are used first, so importing the package is cheap.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if not Path(__file__).with_name("bench").is_dir():
    # a checkout without links, such as Git makes on Windows: the folders lie at its root
    __path__.append(str(Path(__file__).resolve().parents[2]))

from posterior_bench.bench.core.cores import wait_without_spinning

if TYPE_CHECKING:
    from posterior_bench.bench.api.images import Images, load_images
    from posterior_bench.bench.api.priors import load_prior
    from posterior_bench.bench.api.problems import Problem, observe
    from posterior_bench.bench.api.solving import Result, score, solve
    from posterior_bench.bench.api.study import Study

__all__ = [
    "Images",
    "Problem",
    "Result",
    "Study",
    "load_images",
    "load_prior",
    "observe",
    "score",
    "solve",
]

_MODULES = {
    "Images": "images",
    "Problem": "problems",
    "Result": "solving",
    "Study": "study",
    "load_images": "images",
    "load_prior": "priors",
    "observe": "problems",
    "score": "solving",
    "solve": "solving",
}


# whoever imports this package does so before PyTorch: a command, a worker of Ray, a job of Slurm
wait_without_spinning()


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.bench.api.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
