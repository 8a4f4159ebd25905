"""Nonlinear blur: a network blurs the image; no convolution does the same."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from posterior_bench.operators.base import Operator


@dataclass(frozen=True)
class NonlinearBlur(Operator):
    """Blur images with a network: ``A x = clip(2 G((x + 1) / 2, k) - 1)``.

    ``G`` is the network of Tran et al. (CVPR 2021, "Explore image deblurring via encoded blur
    kernel space"), exported to TorchScript as ``G(image, kernel)`` with images ``(N, C, H, W)`` in
    [0, 1]; its weights come from its authors. The latent kernel ``k = scale N(0, I)`` is drawn once
    from ``seed``, and all images share it.

    Parameters
    ----------
    shape : tuple[int, int, int]
        Shape ``(C, H, W)`` of an image; the benchmark fills it in.
    path : str
        The TorchScript file.
    trust_file : bool, default False
        Must be true, because a TorchScript file is a program.
    sha256 : str | None, default None
        Hash of the file's content; the plan fills it in.
    kernel : tuple[int, ...], default (512, 2, 2)
        Shape of the latent kernel without its first axis; (512, 2, 2) is the shape for images of
        256 pixels.
    scale : float, default 1.2
        Standard deviation of the latent kernel.
    seed : int, default 0
        Seed of the latent kernel.
    sigma : float, default 0.0
        Standard deviation of the noise, in [-1, 1] units.

    Raises
    ------
    ValueError
        If ``trust_file`` is not true, the file cannot be read, is not TorchScript or does not match
        ``sha256``, if the network rejects images of this shape or changes their size, or if
        ``sigma`` is negative.

    Notes
    -----
    DPS (Chung et al., ICLR 2023) draws a new kernel at every call, so that even the true image has
    a residual. ReSample and DAPS draw it once, as is done here: from numpy, after
    ``numpy.random.seed(0)``, which is ``seed`` 0.
    """

    caps: ClassVar[frozenset[str]] = frozenset({"nonlinear"})
    takes_shape: ClassVar[bool] = True

    shape: tuple[int, int, int]
    path: str
    trust_file: bool = False
    sha256: str | None = None
    kernel: tuple[int, ...] = (512, 2, 2)
    scale: float = 1.2
    seed: int = 0
    sigma: float = 0.0

    def __post_init__(self) -> None:
        if self.trust_file is not True:
            raise ValueError(
                f"a TorchScript file is a program, and loading {self.path} can run any code in "
                "it; if you trust whoever made it, set operator.trust_file=true"
            )
        self.check_sigma()
        if self.sha256 not in (None, self.content):
            raise ValueError(
                f"{self.path} has changed: its sha256 is {self.content}, not {self.sha256}; "
                "restore the file, or leave operator.sha256 out"
            )
        out = self.A(torch.zeros(1, *self.shape))
        if out.shape != (1, *self.shape):
            raise ValueError(
                f"{self.path} turns an image {self.shape} into {tuple(out.shape)}; "
                "it must keep the size"
            )

    @property
    def content(self) -> str:
        """The sha256 of the file."""
        return sha256(_bytes(self.path)).hexdigest()

    @override
    def A(self, x: Tensor) -> Tensor:
        network = _network(self.path, self.sha256 or self.content, x.device)
        kernel = self._latent_kernel(x)
        try:
            blurred: Tensor = network((x + 1) / 2, kernel.expand(len(x), *self.kernel))
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise ValueError(
                f"{self.path} does not "
                f"work on images {self.shape} and kernels {self.kernel}: {reason}"
            ) from None
        return (2 * blurred - 1).clamp(-1, 1)

    @override
    def first_guess(self, y: Tensor) -> Tensor:
        """Return the blurred image itself."""
        return y.clamp(-1, 1)

    def _latent_kernel(self, like: Tensor) -> Tensor:
        # numpy's old generator, because DAPS and ReSample draw from it
        numbers = np.random.RandomState(self.seed).standard_normal((1, *self.kernel))
        return torch.from_numpy(self.scale * numbers).to(like)


def _bytes(path: str) -> bytes:
    try:
        return Path(path).expanduser().read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None


@cache
def _network(path: str, content: str, device: torch.device) -> torch.jit.ScriptModule:
    """Load the network of a file with this content once per device, and freeze it."""
    try:
        network: torch.jit.ScriptModule = torch.jit.load(
            io.BytesIO(_bytes(path)), map_location=device
        )
    except RuntimeError:
        raise ValueError(
            f"{path} cannot be loaded as TorchScript; write it with torch.jit.save"
        ) from None
    network.eval()
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    return network
