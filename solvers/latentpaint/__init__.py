"""LatentPaint: features of the noised observation are mixed into the denoising network.

Read :mod:`~solvers.latentpaint.solver` first. It uses:

- :mod:`~solvers.latentpaint.hooks`: the places of features in a U-Net, and hooks that mix them;
- :mod:`~solvers.latentpaint.propagation`: the trained modules of Explicit Propagation.
"""

from __future__ import annotations

from posterior_bench.solvers.latentpaint.solver import LatentPaint

__all__ = ["LatentPaint"]
