"""Fréchet inception distance of the best draw of every image, chosen with the truth."""

from __future__ import annotations

from dataclasses import replace

from posterior_bench.metrics.features import Setting
from posterior_bench.metrics.fid import FID


class OracleFID(FID):
    """FID of one draw per image: the best of the first N by another metric.

    The draw is chosen with the truth, which no method can do, so the value is an oracle's. It is
    what DAPS prints for phase retrieval, where N is 4 and the other metric is PSNR. The value is
    NaN if an image has fewer than N draws.

    Parameters
    ----------
    network : str, default 'stlpips'
        Feature network, see :class:`metrics.fid.FID`.
    best_of : int, default 4
        Number N of draws, at least 2.
    chosen_by : str, default 'psnr'
        Id of the metric that decides. It must be computed too.
    **settings : str or bool
        Settings of the network.

    Raises
    ------
    ValueError
        If ``best_of`` is no whole number of at least 2.
    """

    def __init__(
        self,
        network: str = "stlpips",
        best_of: int = 4,
        chosen_by: str = "psnr",
        **settings: Setting,
    ) -> None:
        super().__init__(network, **settings)
        if not isinstance(best_of, int) or best_of < 2:
            raise ValueError(f"best_of={best_of!r} is a whole number of draws, 2 or more")
        self.card = replace(
            self.card,
            id=f"{self.card.id}_oracle{best_of}",
            title=f"{self.card.title}, oracle@{best_of}: the draw with the best {chosen_by}, "
            "chosen with the truth",
            preprocessing=f"{self.network.preprocessing}; of every image the draw with the best "
            f"{chosen_by} of {best_of}",
            source=f"{self.card.source}; best of four draws as in Zhang et al., Improving "
            "Diffusion Inverse Problem Solving with Decoupled Noise Annealing, CVPR 2025",
            best_of=best_of,
            chosen_by=chosen_by,
        )
