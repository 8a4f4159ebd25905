"""What a draw costs the network: passes, forward and backward, and the limit that ``budget=`` puts
on them.

``passes`` is ``nfe + nge`` and is formed where a table is built; rows hold the two counts it is
made of.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from posterior_bench.bench.core.errors import UserError

NOTE = (
    "passes: forward + backward network evaluations per draw (nfe + nge of the CSV), a fit shared "
    "by the draws; an "
    "autoencoder's are not among them."
)
"""What must be said below a table that shows passes."""


@dataclass(frozen=True)
class Budget:
    """What ``budget=UNIT:AMOUNT`` allows a draw; ``unit`` is one of a meter's
    (:class:`priors.base.Meter`).
    """

    unit: str
    amount: int

    @classmethod
    def of(cls, text: str) -> Self:
        """Raises UserError for anything but ``nfe:N`` and ``passes:N``."""
        found = re.fullmatch(r"(nfe|passes):(\d+)", str(text), re.ASCII)
        if found is None or int(found[2]) == 0:
            raise UserError(
                f"budget={text}: write budget=passes:N (forward + backward) or budget=nfe:N "
                f"(forward alone) with a "
                "positive whole N"
            )
        return cls(found[1], int(found[2]))
