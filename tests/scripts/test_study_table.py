"""The Markdown of ``scripts.study_table``: what is averaged over cells is averaged over common
cells."""

from __future__ import annotations

import pandas as pd
from scripts.study_table import ordered

# the solver that needs a mask ran in the two easier cells alone, and is worse in both
TABLE = pd.DataFrame(
    {
        "mask a": {"exact": 1.0, "prior": 2.0, "every": 1.1, "mask only": 1.2},
        "mask b": {"exact": 2.0, "prior": 4.0, "every": 2.4, "mask only": 2.6},
        "projection": {"exact": 1.0, "prior": 3.0, "every": 2.8, "mask only": float("nan")},
    }
)


def test_mean_rank_is_over_common_cells() -> None:
    table = ordered(TABLE, "down")
    assert table["cells"].to_dict() == {"exact": 3, "prior": 3, "every": 3, "mask only": 2}
    assert table["mean rank"].to_dict() == {
        "exact": 1.0,
        "every": 2.0,
        "mask only": 3.0,
        "prior": 4.0,
    }
    assert ordered(TABLE, "up")["mean rank"].to_dict()["prior"] == 1.0
