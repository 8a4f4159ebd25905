"""The cost of a draw in network passes, and the limit that ``budget=`` sets.

``passes`` is ``nfe + nge``: forward plus backward evaluations. Rows hold the two counts; tables add
them up with :func:`total_passes`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Self

from posterior_bench.bench.core.errors import UserError

NOTE = (
    "passes: forward + backward network evaluations per draw (nfe + nge of the CSV), a fit shared "
    "by the draws; an autoencoder's are not among them."
)
"""What must be said below a table that shows passes."""


def total_passes(nfe: Any, nge: Any) -> Any:
    """Return forward plus backward network evaluations, of numbers or columns of rows."""
    return nfe + nge


@dataclass(frozen=True)
class Budget:
    """The limit that ``budget=UNIT:AMOUNT`` sets for a draw.

    Parameters
    ----------
    unit : str
        ``nfe`` or ``passes``, as in :class:`priors.base.Meter`.
    amount : int
        The largest count allowed.
    """

    unit: str
    amount: int

    @classmethod
    def of(cls, text: str) -> Self:
        """Read ``nfe:N`` or ``passes:N``.

        Raises
        ------
        UserError
            For any other text.
        """
        found = re.fullmatch(r"(nfe|passes):(\d+)", str(text), re.ASCII)
        if found is None or int(found[2]) == 0:
            raise UserError(
                f"budget={text}: write budget=passes:N (forward + backward) or budget=nfe:N "
                "(forward alone) with a positive whole N"
            )
        return cls(found[1], int(found[2]))
