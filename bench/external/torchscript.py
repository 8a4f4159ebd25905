"""Feed-forward inpainting networks from TorchScript files."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.core.streams import Key, Noise
from posterior_bench.operators.inpainting import Inpainting
from posterior_bench.priors.base import Prior, Shape
from posterior_bench.priors.process import VE
from posterior_bench.solvers.base import Card, Observation, Sampler
from posterior_bench.solvers.base import Noise as AnyNoise

CHOICES = {
    "call": ("separate", "concatenated"),
    "mask_one": ("hole", "observed"),
    "input_range": ("signed", "unit"),
    "output_range": ("signed", "unit"),
}
_TRIAL = Noise([Key(0, "trial", "0")], "solver")


@dataclass(frozen=True)
class TorchScript(Sampler):
    """Run a network ``(image, mask) -> image`` once per image.

    All draws of an image are equal unless the network takes noise.

    Parameters
    ----------
    path : str
        The TorchScript file.
    trust_file : bool, default False
        Must be true, because a TorchScript file is a program.
    label : str | None, default None
        Name of the row in the leaderboard; null = torchscript.
    sha256 : str | None, default None
        Content of the file; the plan fills it in, and refuses another file where it is given.
    call : str, default 'separate'
        ``separate`` calls network(image, mask), ``concatenated`` network(cat) with the channels
        of the image, then the mask.
    mask_one : str, default 'hole'
        Meaning of the value 1 in the float mask ``(N, 1, H, W)``, ``hole`` or ``observed``.
    input_range : str, default 'signed'
        Range of the image, ``signed`` [-1, 1] or ``unit`` [0, 1].
    fill : float, default 0.0
        Value of the image where nothing was observed, in that range.
    output_range : str, default 'signed'
        As input_range.
    multiple : int, default 1
        Heights and widths that the network can take; images are reflected at the right and bottom
        up to the next multiple, and cropped again.
    noise : int, default 0
        Length of a standard normal vector ``(N, noise)`` that is the last argument; 0 = none.

    Raises
    ------
    ValueError
        If the file is not trusted, and for unknown settings.

    Notes
    -----
    A network may draw no random numbers of its own, because the run could not be repeated.
    """

    card: ClassVar[Card] = Card(
        title="TorchScript network",
        paper="That of the network; give its name with solver.label",
        equations="x = network(image, mask)",
        deviations=(
            "The network is not told the noise of the measurement.",
            "Its passes are not counted: network evaluations are those of the prior, here 0.",
        ),
    )
    needs: ClassVar[frozenset[str]] = frozenset({"mask"})
    version: ClassVar[int] = 1

    path: str
    trust_file: bool = False
    label: str | None = None
    sha256: str | None = None
    call: str = "separate"
    mask_one: str = "hole"
    input_range: str = "signed"
    fill: float = 0.0
    output_range: str = "signed"
    multiple: int = 1
    noise: int = 0

    def __post_init__(self) -> None:
        if self.trust_file is not True:
            raise ValueError(
                f"a TorchScript file is a program, and loading {self.path} can run any code in it; "
                "if you trust whoever made it, set solver.trust_file=true"
            )
        for name, valid in CHOICES.items():
            if getattr(self, name) not in valid:
                raise ValueError(
                    f"unknown {name} '{getattr(self, name)}'; valid: {', '.join(valid)}"
                )
        if self.multiple < 1 or self.noise < 0:
            raise ValueError(
                f"multiple={self.multiple}, noise={self.noise}: multiple must be at "
                "least 1, noise at least 0"
            )

    def checked(self, shape: Shape) -> str:
        """Return the sha256 of the file, after one pass over an image ``shape`` of zeros.

        Raises
        ------
        UserError
            If the pass fails.
        """
        content = sha256(_bytes(self.path)).hexdigest()
        mask = torch.zeros(1, 1, *shape[1:], dtype=torch.bool)
        mask[..., : shape[2] // 2] = True
        obs = Observation(torch.zeros(1, *shape), Inpainting(mask))
        try:
            replace(self, sha256=self.sha256 or content).draw(obs, Prior(VE(), None, shape), _TRIAL)
        except (RuntimeError, ValueError) as error:
            reason = str(error).strip().splitlines()[-1]
            raise UserError(
                f"{self.path} does not work on an image {shape} as it is called here: {reason}"
            ) from None
        return content

    @override
    @torch.no_grad()
    def draw(self, obs: Observation, prior: Prior, noise: AnyNoise) -> Tensor:
        assert obs.operator.mask is not None
        mask, (height, width) = obs.operator.mask, obs.y.shape[-2:]
        image = (obs.y + 1) / 2 if self.input_range == "unit" else obs.y
        image = torch.where(mask, image, self.fill)
        flag = (mask if self.mask_one == "observed" else ~mask).to(image)
        pad = [0, -width % self.multiple, 0, -height % self.multiple]
        arguments = [F.pad(x, pad, mode="reflect") for x in (image, flag)]
        if self.call == "concatenated":
            arguments = [torch.cat(arguments, 1)]
        if self.noise:
            arguments.append(noise.normal((self.noise,)))
        x = self._run(arguments, obs.y.shape[1])[..., :height, :width]
        return 2 * x - 1 if self.output_range == "unit" else x

    def _run(self, arguments: list[Tensor], channels: int) -> Tensor:
        """Return the network's output, float32 ``(N, channels, H, W)``."""
        n, _, height, width = arguments[0].shape
        wanted = (n, channels, height, width)
        device = arguments[0].device
        network = _network(self.path, self.sha256, device)
        before = _generators(device)
        x = network(*arguments)
        if any(not torch.equal(a, b) for a, b in zip(before, _generators(device), strict=True)):
            raise ValueError(
                "the network draws random numbers of its own; give it its noise as an argument "
                "(solver.noise=SIZE), or score images it made elsewhere (solver=folder)"
            )
        if not isinstance(x, Tensor) or x.shape != wanted:
            found = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(
                f"the network returned {found}, not {wanted}; wrap the network so that it does"
            )
        return x.float()


@cache
def _network(path: str, content: str | None, device: torch.device) -> torch.jit.ScriptModule:
    """Return the network of a file on a device, loaded once.

    Raises
    ------
    UserError
        If the file has changed, or is no TorchScript.
    """
    data = _bytes(path)
    found = sha256(data).hexdigest()
    if content not in (None, found):
        raise UserError(f"{path} has sha256 {found}, not {content}: it has changed since")
    try:
        network: torch.jit.ScriptModule = torch.jit.load(io.BytesIO(data), map_location=device)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0].split(". ")[0]
        raise UserError(
            f"{path} cannot be loaded as TorchScript ({reason}); write it with torch.jit.save"
        ) from None
    return network.eval()


def _bytes(path: str) -> bytes:
    try:
        return Path(path).expanduser().read_bytes()
    except OSError as error:
        raise UserError(f"solver.path={path} cannot be read: {error.strerror}") from None


def _generators(device: torch.device) -> list[Tensor]:
    """Return the states of the global generators that a network could use."""
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states
