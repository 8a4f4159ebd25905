"""Files that a verb writes beside a study: one line if one cannot be written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from posterior_bench.bench.core.errors import UserError


@contextmanager
def writing(name: str) -> Iterator[None]:
    """Turn what stops a file from being written within the block into one line.

    Parameters
    ----------
    name : str
        The file, or the setting that names it, such as ``out=scores.csv``.

    Raises
    ------
    UserError
        If the file cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise UserError(f"{name} cannot be written: {error.strerror}") from None
