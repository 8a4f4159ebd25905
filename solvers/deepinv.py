"""Samplers of the deepinv library: our prior is their denoiser, our operator their physics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import signature
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from posterior_bench.operators.base import Operator
from posterior_bench.priors.base import Condition, Prior
from posterior_bench.solvers.base import Card, Noise, Observation, Sampler, lacking

SAMPLERS = ("DDRM", "DiffPIR", "DPS")
NEEDS = {"DDRM": frozenset({"svd"}), "DiffPIR": frozenset({"prox"}), "DPS": frozenset[str]()}
"""What a sampler needs of the operator besides that it is linear."""
_BITS = 24  # of a float32 uniform


@dataclass(frozen=True)
class Deepinv(Sampler):
    """A sampler of ``deepinv.sampling`` (Tachella et al. 2025), as that library implements it.

    It runs on one image at a time.

    Parameters
    ----------
    sampler : str, default 'DDRM'
        Name of the sampler in deepinv: ``DDRM``, ``DiffPIR`` or ``DPS``.
    steps : int, default 100
        Number of steps, one network call each.
    sigma_floor : float, default 0.01
        Lower bound on the noise level that the sampler is told, 0 or more, in [-1, 1] units.
        DiffPIR divides by it.
    guidance : float, default 1.0
        Classifier-free guidance weight; 1 means no guidance.
    options : Mapping[str, Any], default {}
        Further arguments of the sampler's constructor, by their names in deepinv.

    Raises
    ------
    ImportError
        If deepinv is not installed.
    ValueError
        If the sampler or an option is unknown, or ``sigma_floor`` is negative.
    """

    card: ClassVar[Card] = Card(
        title="deepinv sampler",
        paper="Tachella et al., DeepInverse: A Python package for solving imaging inverse problems "
        "with deep learning, JOSS 2025; and the paper of the sampler that is named",
        equations="As released in deepinv 0.5; the loop is theirs",
        deviations=(
            "deepinv works on images in [0, 1]: noise levels are halved on the way in and doubled "
            "on the way out.",
            "Each sample has a random generator of its own, which replaces torch's global one.",
            "A mask is deepinv's Inpainting; any other linear operator is ours, with its adjoint, "
            "singular values and proximal step, under deepinv's names.",
            "Samples are computed one by one, so none depends on its neighbours and large batches "
            "bring no speed.",
            "DDRM runs on deepinv's default levels, `steps` of them evenly from 1 to 0 in its "
            "units, and starts from black, not from grey. deepinv divides its noise by sqrt(2), so "
            "samples vary less than those of our DDRM.",
            "DPS asks for levels above the noisiest of the prior; there the state is shrunk to "
            "that level.",
        ),
    )
    needs: ClassVar[frozenset[str]] = frozenset({"linear", "pixel", "grad"})
    version: ClassVar[int] = 1

    sampler: str = "DDRM"
    steps: int = 100
    sigma_floor: float = 0.01
    guidance: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise ValueError(f"unknown sampler '{self.sampler}'; valid: {', '.join(SAMPLERS)}")
        if not self.sigma_floor >= 0:
            raise ValueError(
                f"sigma_floor {self.sigma_floor} is not a noise level; give 0 or more, in "
                "[-1, 1] units"
            )
        try:
            import deepinv  # an optional package
        except ImportError as error:
            raise ImportError(
                f'deepinv cannot be imported ({error}); pip install "posterior-bench[deepinv]"'
            ) from None
        valid = signature(getattr(deepinv.sampling, self.sampler)).parameters
        unknown = sorted(self.options.keys() - valid)
        if unknown:
            raise ValueError(
                f"deepinv's {self.sampler} has no option '{unknown[0]}'; valid: {', '.join(valid)}"
            )

    @override
    def lacks(self, has: frozenset[str], sigma: float) -> frozenset[str]:
        return lacking(self.needs | NEEDS[self.sampler], has)

    @override
    def draw(self, obs: Observation, prior: Prior, noise: Noise) -> Tensor:
        return torch.cat([self._row(obs, i, prior, seed) for i, seed in enumerate(seeds(noise))])

    @torch.no_grad()
    def _row(self, obs: Observation, i: int, prior: Prior, seed: int) -> Tensor:
        """Return sample ``i``, ``(1, C, H, W)`` in [-1, 1]."""
        import deepinv  # an optional package

        y, mask = obs.y[i : i + 1], obs.operator.mask
        told = deepinv.physics.GaussianNoise(max(obs.operator.sigma, self.sigma_floor) / 2)
        # Observe the image in [0, 1].
        if mask is not None:
            mask = mask[i : i + 1].expand_as(y)
            y01 = torch.where(mask, (y + 1) / 2, 0)  # a hidden pixel is 0 there too
            physics = deepinv.physics.Inpainting(
                tuple(y.shape[1:]), mask.to(y), device=y.device, noise_model=told
            )
        else:
            white = torch.ones(1, *prior.image_shape, dtype=y.dtype, device=y.device)
            row = i if obs.operator.takes_mask else 0  # without masks all rows are measured alike
            physics = _physics(obs.operator, white, told, row, obs.n)
            y01 = (y + physics.A(white)) / 2
        # Run the sampler on our denoiser, its noise drawn from a generator of this sample.
        cond = None if obs.cond is None else obs.cond.map(lambda value: value[i : i + 1])
        sampler = self._sampler(_Denoiser(prior, cond, self.guidance), y.device)
        with Seeded(torch.Generator(y.device).manual_seed(seed)):
            x01 = sampler(y01, physics)
        return 2 * x01.to(y) - 1

    def _sampler(self, denoiser: nn.Module, device: torch.device) -> Callable[..., Tensor]:
        from deepinv import optim, sampling  # an optional package

        own: dict[str, Any] = {"device": device}
        if self.sampler == "DDRM":
            own = {"sigmas": np.linspace(1, 0, self.steps)}
        elif self.sampler == "DiffPIR":
            own |= {"max_iter": self.steps, "data_fidelity": optim.data_fidelity.L2()}
        else:
            own |= {"num_steps": self.steps + 1}  # n + 1 times make n steps
        make = getattr(sampling, self.sampler)
        sampler: Callable[..., Tensor] = make(denoiser, **{**own, **self.options})
        return sampler


class _Denoiser(nn.Module):
    """The prior as deepinv's denoiser: images in [0, 1] with Gaussian noise of deviation sigma."""

    def __init__(self, prior: Prior, cond: Condition | None, guidance: float):
        super().__init__()
        self.prior, self.cond, self.guidance = prior.view("ve"), cond, guidance

    @override
    def forward(self, x: Tensor, sigma: float | Tensor, **_: object) -> Tensor:
        ratio = 2 * float(torch.as_tensor(sigma).flatten()[0])
        level = self.prior.level(ratio)
        z = (2 * x - 1) * min(1.0, float(level.ratio) / ratio if ratio else 1.0)
        return (self.prior.denoise(z, level, self.cond, self.guidance) + 1) / 2


def _physics(operator: Operator, like: Tensor, noise: nn.Module, row: int = 0, n: int = 1) -> Any:
    """Return what a linear operator does to one row as physics of deepinv.

    Parameters
    ----------
    operator : Operator
        The operator, for a batch of ``n`` rows.
    like : Tensor
        An image ``(1, C, H, W)``.
    noise : nn.Module
        The noise of the measurement, a noise model of deepinv.
    row : int, default 0
        The row.
    n : int, default 1
        Number of rows.
    """
    import deepinv  # an optional package

    count = n if operator.takes_mask else 1
    spectrum = operator.spectrum(like) if "svd" in operator.caps else None

    def alone(product: Callable[..., Tensor], *rows: Tensor) -> Tensor:
        """Return the row of a product of the whole batch."""
        return product(*(x.expand(count, *x.shape[1:]) for x in rows))[row : row + 1]

    class Physics(deepinv.physics.DecomposablePhysics):  # type: ignore[misc]  # deepinv is untyped
        """Our products and decomposition under deepinv's names."""

        def A(self, x: Tensor, **_: object) -> Tensor:
            return alone(operator.A, x)

        def A_adjoint(self, y: Tensor, **_: object) -> Tensor:
            return alone(operator.At, y)

        def A_adjoint_A(self, x: Tensor, **_: object) -> Tensor:
            return self.A_adjoint(self.A(x))

        def A_dagger(self, y: Tensor, **_: object) -> Tensor:
            if "pinv" in operator.caps:
                return alone(operator.pinv, y)
            solved: Tensor = deepinv.physics.LinearPhysics.A_dagger(self, y)
            return solved

        def prox_l2(self, z: Tensor, y: Tensor, gamma: float | Tensor, **_: object) -> Tensor:
            return alone(lambda z, y: operator.prox(z, y, 1 / float(gamma)), z, y)

        def U_adjoint(self, y: Tensor, **_: object) -> Tensor:
            assert spectrum is not None
            return self.mask * alone(spectrum.solution, y)

        def V(self, x: Tensor, **_: object) -> Tensor:
            assert spectrum is not None
            return alone(spectrum.image, x)

        def V_adjoint(self, x: Tensor) -> Tensor:
            assert spectrum is not None
            return alone(spectrum.coordinates, x)

    if spectrum is None:
        return Physics(device=like.device, noise_model=noise)
    values = spectrum.values.to(like).expand(count, *like.shape[1:])[row : row + 1].contiguous()
    return Physics(mask=values, device=like.device, noise_model=noise)


# -- noise for code that knows torch's global generator only ---------------------------------------


def seeds(noise: Noise) -> list[int]:
    """Return one seed per row, 48 bits of that row's noise."""
    parts = (noise.uniform((2,)).double() * 2**_BITS).long()
    return [(high << _BITS) | low for high, low in parts.tolist()]


class Seeded(TorchFunctionMode):
    """Draw normals from ``generator`` where code would use torch's global generator.

    Within the ``with`` block it covers ``randn``, ``randn_like`` and ``normal_``. The global
    generator is neither read nor moved.

    Parameters
    ----------
    generator : torch.Generator
        The generator, on the device of the tensors.
    """

    def __init__(self, generator: torch.Generator):
        super().__init__()
        self.generator = generator

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        if func == torch.randn_like:
            return torch.empty_like(*args, **named).normal_(generator=self.generator)
        if func in (torch.randn, Tensor.normal_) and named.get("generator") is None:
            named["generator"] = self.generator
        return func(*args, **named)
