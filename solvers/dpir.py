"""DPIR: a plain denoiser, DRUNet, and a proximal step in turns; no diffusion prior is used."""

from __future__ import annotations

import io
import math
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from posterior_bench.priors.base import Prior
from posterior_bench.solvers.base import Card, Observation
from posterior_bench.solvers.shared.estimate import Estimator


@dataclass(frozen=True)
class DPIR(Estimator):
    """Deep plug-and-play image restoration, Zhang et al. (2021), with the DRUNet of deepinv.

    Parameters
    ----------
    path : str
        File with the weights of a DRUNet, as deepinv and the authors publish them.
    sha256 : str | None, default None
        Content of the file; the plan fills it in, and refuses another file where it is given.
    steps : int, default 8
        Number of steps, at least 1; each calls the DRUNet once.
    lam : float, default 0.23
        Weight of the denoised image against the measurement, positive.
    sigma_start : float, default 0.384
        Noise level that the first step removes, positive, in [-1, 1] units: 49 of 255 grey values.
    sigma_floor : float, default 0.002
        Lower bound on the noise level assumed for the measurement, positive, in [-1, 1] units.

    Raises
    ------
    ImportError
        If deepinv is not installed.
    ValueError
        If a number is not positive, and while it runs, if the file is no DRUNet for the images.
    """

    card: ClassVar[Card] = Card(
        title="DPIR",
        paper="Zhang et al., Plug-and-Play Image Restoration with Deep Denoiser Prior, TPAMI 2021",
        equations="Eq. 6, half-quadratic splitting, with alpha_k = lam sigma^2 / sigma_k^2 and "
        "levels sigma_k evenly in their logarithm (Section 4.2)",
        deviations=(
            "The prior is not used, and all draws of an image are equal. Calls of the DRUNet are "
            "not counted: network evaluations are those of the prior, here 0.",
            "The network is deepinv's, which may have been trained further than the authors'. It "
            "reads images in [0, 1]; noise levels are halved on the way in.",
            "The start is the operator's first guess for every problem. In a hole it is grey, and "
            "the first noise level is low for a large hole: DPIR was not made for those.",
            "It does not turn and flip images between steps, as the released code does.",
        ),
    )
    needs: ClassVar[frozenset[str]] = frozenset({"prox"})
    version: ClassVar[int] = 1
    work: ClassVar[tuple[str, ...]] = ()  # no passes of the prior's network

    path: str
    sha256: str | None = None
    steps: int = 8
    lam: float = 0.23
    sigma_start: float = 0.384
    sigma_floor: float = 0.002

    def __post_init__(self) -> None:
        for name in ("steps", "lam", "sigma_start", "sigma_floor"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        try:
            import deepinv  # noqa: F401  # an optional package
        except ImportError as error:
            raise ImportError(
                f'deepinv cannot be imported ({error}); pip install "posterior-bench[deepinv]"'
            ) from None

    def checked(self, shape: tuple[int, int, int]) -> str:
        """Return the sha256 of the file, after it was read as a network for images ``shape``.

        Raises
        ------
        ValueError
            If it cannot be.
        """
        content = sha256(_bytes(self.path)).hexdigest()
        _network(self.path, self.sha256 or content, shape[0], torch.device("cpu"))
        return content

    @override
    def estimate(self, obs: Observation, prior: Prior) -> Tensor:
        sigma_n = max(self.sigma_floor, obs.operator.sigma)
        x = obs.operator.first_guess(obs.y)
        denoise = _network(self.path, self.sha256, x.shape[1], x.device)
        for sigma in self.levels(sigma_n):
            # Pull the image to the measurement, less so at noisier levels.
            x = obs.operator.prox(x, obs.y, self.lam * (sigma_n / sigma) ** 2)
            # Remove noise of this level.
            x = 2 * denoise((x + 1) / 2, sigma / 2) - 1
        return x

    def levels(self, sigma_n: float) -> list[float]:
        """Return the noise levels of the steps, from the first one down to ``sigma_n``."""
        first, last = math.log(max(self.sigma_start, sigma_n)), math.log(sigma_n)
        parts = (k / max(self.steps - 1, 1) for k in range(self.steps))
        return [math.exp(first + part * (last - first)) for part in parts]


@cache
def _network(path: str, content: str | None, channels: int, device: torch.device) -> nn.Module:
    """Return the DRUNet of a file, loaded once; its sizes are those of the weights.

    Raises
    ------
    ValueError
        If the file has changed, is no DRUNet, or is one for images with other channels.
    """
    from deepinv.models import DRUNet  # an optional package

    data = _bytes(path)
    found = sha256(data).hexdigest()
    if content not in (None, found):
        raise ValueError(f"{path} has sha256 {found}, not {content}: it has changed since")
    try:
        weights = torch.load(io.BytesIO(data), map_location=device, weights_only=True)
        widths, blocks, reads = _sizes(weights)
        # On this device nothing is initialised, so no random number is drawn.
        with torch.device("meta"):
            network = DRUNet(reads, reads, nc=widths, nb=blocks, pretrained=None)
        network.load_state_dict(weights, assign=True)
    except (pickle.UnpicklingError, RuntimeError, KeyError, AttributeError, TypeError, EOFError):
        raise ValueError(
            f"{path} is no file of a DRUNet's weights; take drunet_deepinv_color_finetune_22k.pth "
            "or drunet_deepinv_gray_finetune_26k.pth of huggingface.co/deepinv/drunet"
        ) from None
    if reads != channels:
        raise ValueError(f"{path} denoises images of {reads} channels, and these have {channels}")
    return network.eval().requires_grad_(False)


def _sizes(weights: Mapping[str, Tensor]) -> tuple[tuple[int, ...], int, int]:
    """Return channels of the four scales, blocks of a scale, and channels of an image."""
    parts = ("m_down1", "m_down2", "m_down3", "m_body")
    widths = tuple(weights[f"{part}.0.res.0.weight"].shape[0] for part in parts)
    blocks = {name.split(".")[1] for name in weights if name.startswith("m_body.")}
    return widths, len(blocks), weights["m_tail.weight"].shape[0]


def _bytes(path: str) -> bytes:
    try:
        return Path(path).expanduser().read_bytes()
    except OSError as error:
        raise ValueError(f"solver.path={path} cannot be read: {error.strerror}") from None
