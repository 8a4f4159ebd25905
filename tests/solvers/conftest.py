"""Exact references for solvers: Gaussian priors whose denoiser, and so a whole gradient-free run,
is affine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from posterior_bench.bench.config.class_source import class_defaults
from posterior_bench.bench.config.presets import settings
from posterior_bench.bench.core.streams import Key
from posterior_bench.bench.core.streams import Noise as SeededNoise
from posterior_bench.operators.inpainting import Inpainting
from posterior_bench.priors.base import Condition, Prior
from posterior_bench.priors.latents import KL, Latent
from posterior_bench.priors.mixture import MixturePrior
from posterior_bench.priors.nets import UNet2D
from posterior_bench.priors.process import VE, VP, Level, Process
from posterior_bench.solvers.base import Observation, Sampler, Solver

CONF = Path(__file__).parents[2] / "conf" / "solver"


class BasisNoise:
    """Row 0 gets no noise; every further row gets one unit of one noise scalar, each scalar
    once."""

    def __init__(self, rows: int):
        self.rows, self.used = rows, 0

    def normal(self, shape: Sequence[int]) -> Tensor:
        out = torch.zeros(self.rows, *shape, dtype=torch.float64)
        size = out[0].numel()
        if self.rows > 1:
            out.flatten(1)[1 + self.used : 1 + self.used + size] = torch.eye(
                size, dtype=torch.float64
            )
        self.used += size
        return out

    def uniform(self, shape: Sequence[int]) -> Tensor:
        """The middle, whatever the row: what is chosen at random does not keep a run from being
        affine."""
        return torch.full((self.rows, *shape), 0.5)

    host_uniform = uniform


class DoubleNoise:
    """Seeded noise in float64, so that round-off cannot hide or fake a difference."""

    def __init__(self, rows: int):
        self.base = SeededNoise([Key(0, "test", str(i)) for i in range(rows)], "solver")

    def normal(self, shape: Sequence[int]) -> Tensor:
        return self.base.normal(shape).double()

    def uniform(self, shape: Sequence[int]) -> Tensor:
        return self.base.uniform(shape)

    host_uniform = uniform


def _process(kind: str) -> Process:
    return VE() if kind == "ve" else VP.scheduled("linear", 1e-4, 0.02)


def _gaussian(kind: str, covariance: Tensor, shape: tuple[int, int, int]) -> MixturePrior:
    d = len(covariance)
    return MixturePrior(_process(kind), torch.ones(1), torch.zeros(1, d), covariance[None], shape)


@pytest.fixture
def g2() -> Callable[[str], MixturePrior]:
    """``g2("ve" | "vp")``: two pixels with unit variance and correlation 0.9, exact denoiser."""
    return lambda kind: _gaussian(kind, torch.tensor([[1.0, 0.9], [0.9, 1.0]]), (1, 1, 2))


class Linear(Latent):
    """A linear autoencoder of flattened images, in whatever precision it is given: ``x = z D'``,
    ``z = x E'``."""

    def __init__(self, decoder: Tensor, encoder: Tensor):
        super().__init__({}, 0.0, 1.0)
        self.decoder, self.encoder = decoder.double(), encoder.double()

    def encode(self, x: Tensor, noise: Tensor | None = None) -> Tensor:
        return (x.flatten(1) @ self.encoder.T.to(x.dtype)).view_as(x)

    def decode(self, z: Tensor) -> Tensor:
        return (z.flatten(1) @ self.decoder.T.to(z.dtype)).view_as(z)


@pytest.fixture
def latent_g2(g2: Callable[[str], MixturePrior]) -> Callable[..., MixturePrior]:
    """``latent_g2(kind, decoder, encoder)``: ``g2`` as the law of latents; without matrices those
    are the images.

    Without an encoder it is the decoder's inverse.
    """

    def build(
        kind: str, decoder: Tensor | None = None, encoder: Tensor | None = None
    ) -> MixturePrior:
        decoder = torch.eye(2) if decoder is None else decoder
        prior = g2(kind)
        prior.latent = Linear(
            decoder, torch.linalg.inv(decoder.double()) if encoder is None else encoder
        )
        return prior

    return build


class TurnedNoise:
    """Seeded noise in float64 whose states of two numbers are multiplied by ``turn``."""

    def __init__(self, base: SeededNoise, turn: Tensor):
        self.base, self.turn = base, turn

    def normal(self, shape: Sequence[int]) -> Tensor:
        return self.base.normal(shape).double() @ self.turn.T

    def uniform(self, shape: Sequence[int]) -> Tensor:
        return self.base.uniform(shape).double()

    host_uniform = uniform

    def draws(self, draws: Sequence[int]) -> TurnedNoise:
        return TurnedNoise(self.base.draws(draws), self.turn)


@pytest.fixture
def isometry(
    latent_g2: Callable[..., MixturePrior],
) -> Callable[[str, Tensor, int], list[tuple[Prior, TurnedNoise]]]:
    """``isometry(kind, turn, rows)``: a latent prior whose decoder multiplies by the orthogonal
    ``turn``, and the pixel prior with the law of its images; each with noise for ``rows`` images,
    the same in its own coordinates."""

    def build(kind: str, turn: Tensor, rows: int) -> list[tuple[Prior, TurnedNoise]]:
        latent, keys = latent_g2(kind, turn), [Key(0, "test", str(i)) for i in range(rows)]
        law = latent.weights, latent.means @ turn.T, turn @ latent.covariances @ turn.T
        pixel = MixturePrior(latent.process, *law, latent.image_shape)
        turns = torch.eye(2, dtype=torch.float64), turn
        noises = [TurnedNoise(SeededNoise(keys, "solver"), t) for t in turns]
        return list(zip((latent, pixel), noises, strict=True))

    return build


@pytest.fixture
def ar64() -> Callable[[str], MixturePrior]:
    """``ar64("ve" | "vp")``: 64 pixels in 8 rows with covariance ``0.95^|i-j|``, exact denoiser."""
    lag = (torch.arange(64)[:, None] - torch.arange(64)).abs()
    return lambda kind: _gaussian(kind, 0.95**lag, (1, 8, 8))


@pytest.fixture
def observe() -> Callable[..., Observation]:
    """``observe(mask, y=1.0, rows=1)``: two-pixel rows, the first ``y`` and the second ``y``,
    hidden where not mask."""

    def build(mask: tuple[bool, bool], y: float | Tensor = 1.0, rows: int = 1) -> Observation:
        m = torch.tensor(mask).view(1, 1, 1, 2).expand(rows, 1, 1, 2)
        values = (
            torch.as_tensor(y, dtype=torch.float64)
            .expand(rows)
            .view(rows, 1, 1, 1)
            .expand(rows, 1, 1, 2)
        )
        return Observation(torch.where(m, values, 0.0), Inpainting(m))

    return build


@pytest.fixture
def double_noise() -> Callable[[int], DoubleNoise]:
    return DoubleNoise


@pytest.fixture
def seeded_noise() -> Callable[..., SeededNoise]:
    """``seeded_noise(range(3))``: the harness's own noise, one row per image number."""
    return lambda images: SeededNoise([Key(0, "test", str(i)) for i in images], "solver")


@pytest.fixture
def law(observe: Callable[..., Observation]) -> Callable[..., tuple[Tensor, Tensor]]:
    """``law(sampler, prior, mask, y)``: the exact mean ``(2,)`` and covariance ``(2, 2)`` of the
    sampler's output.

    With a Gaussian prior and no clipping a run is an affine map of its noise. The run itself is
    made once per noise scalar; the differences from the noise-free row are the columns of that map.
    """

    def measure(
        sampler: Sampler,
        prior: MixturePrior,
        mask: tuple[bool, bool] = (True, False),
        y: float = 1.0,
    ) -> tuple[Tensor, Tensor]:
        count = BasisNoise(1)
        sampler.draw(observe(mask, y), prior, count)
        rows = 1 + count.used
        x = sampler.draw(observe(mask, y, rows), prior, BasisNoise(rows)).flatten(1)
        columns = x[1:] - x[0]
        return x[0], columns.T @ columns

    return measure


@pytest.fixture
def asked(
    g2: Callable[[str], MixturePrior],
    observe: Callable[..., Observation],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[Sampler], tuple[Condition, list[tuple[Condition | None, float]]]]:
    """``asked(sampler)``: the condition of an observation, and what the prior was asked for at each
    call."""

    def run(sampler: Sampler) -> tuple[Condition, list[tuple[Condition | None, float]]]:
        prior, seen = g2("ve"), []
        denoise = prior.denoise

        def spy(
            z: Tensor, level: Level, cond: Condition | None = None, guidance: float = 1.0
        ) -> Tensor:
            seen.append((cond, guidance))
            return denoise(z, level)

        monkeypatch.setattr(prior, "denoise", spy)
        obs = replace(observe((True, False)), cond=Condition({"label": torch.tensor([3])}))
        sampler.draw(obs, prior, DoubleNoise(1))
        return obs.cond, seen

    return run


@pytest.fixture
def presets() -> Callable[[str], dict[str, Solver]]:
    """``presets("dps")``: the solver built from every preset of its shipped configuration."""

    def build(name: str) -> dict[str, Solver]:
        config = OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))
        module, _, cls = config.pop("_target_").rpartition(".")
        solver = getattr(import_module(f"posterior_bench.{module}"), cls)
        for key in ("train", "space"):
            config.pop(key, None)
        shipped, chosen = config.pop("presets"), config.pop("preset")
        shipped = {name: settings(values) for name, values in shipped.items()}
        assert chosen in ("auto", *shipped)
        assert config == dict.fromkeys(field.name for field in fields(solver)), (
            "the yaml must list every field as null"
        )
        defaults = class_defaults(f"{module}.{cls}")
        for values in shipped.values():
            assert values.keys() <= config.keys()
            repeated = [k for k, v in values.items() if repr(v) == repr(defaults[k])]
            assert not repeated, "a preset must list only what differs from the class"
        return {preset: solver(**values) for preset, values in shipped.items()}

    return build


UNET = {
    "sample_size": 8,
    "block_out_channels": [8, 16],
    "layers_per_block": 2,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "num_class_embeds": 4,
    "norm_num_groups": 4,
    "attention_head_dim": 8,
}


@pytest.fixture
def unet_prior() -> Callable[..., Prior]:
    """``unet_prior(latent=False)``: an untrained U-Net over 16 x 16 grey images, or over latents of
    factor 2."""

    def build(latent: bool = False) -> Prior:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            config = {
                "in_channels": 1,
                "out_channels": 1,
                "latent_channels": 2,
                "block_out_channels": [8, 8],
            }
            config |= {"norm_num_groups": 4, "down_block_types": ["DownEncoderBlock2D"] * 2}
            autoencoder = (
                KL({**config, "up_block_types": ["UpDecoderBlock2D"] * 2}) if latent else None
            )
            channels = 2 if latent else 4
            net = UNet2D(
                {**UNET, "in_channels": channels, "out_channels": channels}, 1 if latent else 2
            )
        process = VP.scheduled("linear", 1e-4, 0.02) if latent else VE()
        return Prior(process, net, (1, 16, 16), num_classes=3, null_label=3, latent=autoencoder)

    return build
