"""The circuit breaker: a cell whose first rows all fail alike is stopped.

One mistake then does not become many rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from posterior_bench.bench.engine.plan import CellPlan, Chunk

FIRST_CHUNKS, FIRST_ROWS = 2, 8
"""How much must have failed before a cell is stopped: both, so that one bad image or one small
chunk is not enough."""


class Breaker:
    """Watches the chunks of one cell as they are stored.

    Rows count as alike when their messages are, numbers apart. One row that is ``ok`` or of an
    accepted status, or two different messages, and the cell is never stopped.
    """

    def __init__(self, plan: CellPlan, accept: Sequence[str]):
        self.plan, self.good = plan, {"ok", *accept}
        self._failed: list[Chunk] | None = []

    def after(self, chunk: Chunk, counts: Mapping[str, int]) -> str:
        """Return the message of all rows so far, if the cell must be stopped; else nothing."""
        if self._failed is None:
            return ""
        if self.good & counts.keys():
            self._failed = None
            return ""
        self._failed.append(chunk)
        images = {image for failed in self._failed for image in failed.images}
        if len(self._failed) < FIRST_CHUNKS or self.plan.rows(self._failed) < FIRST_ROWS:
            return ""
        rows = self.plan.store.read(["message"])
        messages = rows.loc[rows["image_id"].isin(images), "message"]
        if messages.map(_without_numbers).nunique() == 1:
            return str(messages.iloc[0])
        self._failed = None
        return ""

    def before(self, missing: Sequence[Chunk]) -> str:
        """Return the same for the chunks that an earlier run has stored, all but ``missing``."""
        left = {chunk.name for chunk in missing}
        for chunk in (chunk for chunk in self.plan.chunks if chunk.name not in left):
            statuses = self.plan.store.stored(chunk.name)[1]["status"]
            if message := self.after(chunk, dict.fromkeys(statuses, 1)):
                return message
            if self._failed is None:  # of thousands of shards, the first few settle it
                return ""
        return ""


def _without_numbers(message: str) -> str:
    return re.sub(r"\d+", "0", message)
