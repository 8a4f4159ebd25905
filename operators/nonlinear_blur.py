"""Nonlinear blur: a network blurs the image, as real cameras do and no convolution can."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from posterior_bench.operators.base import Operator


@dataclass(frozen=True)
class NonlinearBlur(Operator):
    """``A x = clip(2 G((x + 1) / 2, k) - 1)`` with a blur network ``G`` and one latent kernel ``k =
    scale N(0, I)``.

    The network is that of Tran et al. (CVPR 2021, "Explore image deblurring via encoded blur kernel
    space"), exported to TorchScript as ``G(image, kernel)`` with images ``(N, C, H, W)`` in [0, 1];
    its weights come from its authors. DPS (Chung et al., ICLR 2023) draws a new kernel at every
    call, so that the residual of the truth is not zero; here, as in ReSample and DAPS, the kernel
    is drawn once from ``seed`` and shared by all images.

    Parameters
    ----------
    path : str
        The TorchScript file.
    trust_file : bool, default False
        Must be true, because a TorchScript file is a program.
    sha256 : str | None, default None
        Content of the file; the plan fills it in.
    kernel : tuple[int, ...], default (512, 2, 2)
        Shape of the latent kernel without its first axis; (512, 2, 2) is that of 256 pixels.
    scale : float, default 1.2
        Its standard deviation.
    seed : int, default 0
        Of the kernel.
    sigma : float, default 0.0
        Noise level, in [-1, 1] units.

    Notes
    -----
    Raises ValueError for a file that is not trusted, cannot be read, is no TorchScript or another
    than ``sha256`` says, and for a negative ``sigma``.
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
                f"a TorchScript file is a program, and loading {self.path} can run any code in it; "
                f"if you trust "
                "whoever made it, set operator.trust_file=true"
            )
        self.check_sigma()
        if self.sha256 not in (None, self.content):
            raise ValueError(
                f"{self.path} is not the file it was: its sha256 is {self.content}, not "
                f"{self.sha256}"
            )
        out = self.A(torch.zeros(1, *self.shape))
        if out.shape != (1, *self.shape):
            raise ValueError(
                f"{self.path} makes {tuple(out.shape)} of an image {self.shape}; it must keep the "
                f"size"
            )

    @property
    def content(self) -> str:
        """The sha256 of the file."""
        return sha256(_bytes(self.path)).hexdigest()

    def A(self, x: Tensor) -> Tensor:
        network, kernel = (
            _network(self.path, self.sha256 or self.content, x.device),
            self._latent_kernel(x),
        )
        try:
            blurred: Tensor = network((x + 1) / 2, kernel.expand(len(x), *self.kernel))
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise ValueError(
                f"{self.path} does not work on images {self.shape} and kernels {self.kernel}: "
                f"{reason}"
            ) from None
        return (2 * blurred - 1).clamp(-1, 1)

    def first_guess(self, y: Tensor) -> Tensor:
        """The blurred image itself."""
        return y.clamp(-1, 1)

    def _latent_kernel(self, like: Tensor) -> Tensor:
        # drawn on the CPU: other devices have other random numbers
        generator = torch.Generator().manual_seed(self.seed)
        return (self.scale * torch.randn(1, *self.kernel, generator=generator)).to(like)


def _bytes(path: str) -> bytes:
    try:
        return Path(path).expanduser().read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None


@cache
def _network(path: str, content: str, device: torch.device) -> torch.jit.ScriptModule:
    """The network of a file with this content on a device, loaded once and frozen."""
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
