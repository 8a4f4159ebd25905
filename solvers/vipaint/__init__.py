"""VIPaint: a variational posterior at a few noise levels, and guided draws from it.

Read :mod:`~solvers.vipaint.solver` first. It uses:

- :mod:`~solvers.vipaint.intervals`: the noise levels above the top keypoint;
- :mod:`~solvers.vipaint.chain`: the variational posterior and its KL terms;
- :mod:`~solvers.vipaint.refinement`: draws from the fitted posterior, refined to images;
- :mod:`~solvers.vipaint.released`: the differences of the released code, as switches.
"""

from __future__ import annotations

from posterior_bench.solvers.vipaint.solver import VIPaint

__all__ = ["VIPaint"]
