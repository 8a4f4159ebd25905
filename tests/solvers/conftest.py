"""Exact references for solvers: Gaussian priors whose denoiser, and so a whole gradient-free run, is affine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor

from bench.streams import Key
from bench.streams import Noise as SeededNoise
from operators.inpainting import Inpainting
from priors.base import Condition
from priors.mixture import MixturePrior
from priors.process import VE, VP, Level, Process
from solvers.base import Observation, Sampler, Solver

CONF = Path(__file__).parents[2] / "conf" / "solver"


class BasisNoise:
    """Row 0 gets no noise; every further row gets one unit of one noise scalar, each scalar once."""

    def __init__(self, rows: int):
        self.rows, self.used = rows, 0

    def normal(self, shape: Sequence[int]) -> Tensor:
        out = torch.zeros(self.rows, *shape, dtype=torch.float64)
        size = out[0].numel()
        if self.rows > 1:
            out.flatten(1)[1 + self.used : 1 + self.used + size] = torch.eye(size, dtype=torch.float64)
        self.used += size
        return out


class DoubleNoise:
    """Seeded noise in float64, so that round-off cannot hide or fake a difference."""

    def __init__(self, rows: int):
        self.base = SeededNoise([Key(0, "test", str(i)) for i in range(rows)], "solver")

    def normal(self, shape: Sequence[int]) -> Tensor:
        return self.base.normal(shape).double()


def _process(kind: str) -> Process:
    return VE() if kind == "ve" else VP.scheduled("linear", 1e-4, 0.02)


def _gaussian(kind: str, covariance: Tensor, shape: tuple[int, int, int]) -> MixturePrior:
    d = len(covariance)
    return MixturePrior(_process(kind), torch.ones(1), torch.zeros(1, d), covariance[None], shape)


@pytest.fixture
def g2() -> Callable[[str], MixturePrior]:
    """``g2("ve" | "vp")``: two pixels with unit variance and correlation 0.9, exact denoiser."""
    return lambda kind: _gaussian(kind, torch.tensor([[1.0, 0.9], [0.9, 1.0]]), (1, 1, 2))


@pytest.fixture
def ar64() -> Callable[[str], MixturePrior]:
    """``ar64("ve" | "vp")``: 64 pixels in 8 rows with covariance ``0.95^|i-j|``, exact denoiser."""
    lag = (torch.arange(64)[:, None] - torch.arange(64)).abs()
    return lambda kind: _gaussian(kind, 0.95**lag, (1, 8, 8))


@pytest.fixture
def observe() -> Callable[..., Observation]:
    """``observe(mask, y=1.0, rows=1)``: two-pixel rows, the first ``y`` and the second ``y``, hidden where not mask."""

    def build(mask: tuple[bool, bool], y: float | Tensor = 1.0, rows: int = 1) -> Observation:
        m = torch.tensor(mask).view(1, 1, 1, 2).expand(rows, 1, 1, 2)
        values = torch.as_tensor(y, dtype=torch.float64).expand(rows).view(rows, 1, 1, 1).expand(rows, 1, 1, 2)
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
    """``law(sampler, prior, mask, y)``: the exact mean ``(2,)`` and covariance ``(2, 2)`` of the sampler's output.

    With a Gaussian prior and no clipping a run is an affine map of its noise. The run itself is made once per noise
    scalar; the differences from the noise-free row are the columns of that map.
    """

    def measure(
        sampler: Sampler, prior: MixturePrior, mask: tuple[bool, bool] = (True, False), y: float = 1.0
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
    g2: Callable[[str], MixturePrior], observe: Callable[..., Observation], monkeypatch: pytest.MonkeyPatch
) -> Callable[[Sampler], tuple[Condition, list[tuple[Condition | None, float]]]]:
    """``asked(sampler)``: the condition of an observation, and what the prior was asked for at each call."""

    def run(sampler: Sampler) -> tuple[Condition, list[tuple[Condition | None, float]]]:
        prior, seen = g2("ve"), []
        denoise = prior.denoise

        def spy(z: Tensor, level: Level, cond: Condition | None = None, guidance: float = 1.0) -> Tensor:
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
        solver, shipped, chosen = getattr(import_module(module), cls), config.pop("presets"), config.pop("preset")
        assert chosen in shipped
        assert config == dict.fromkeys(field.name for field in fields(solver)), "the yaml must list every field as null"
        for values in shipped.values():
            assert values.keys() == config.keys(), "a preset must set every field"
        return {preset: solver(**values) for preset, values in shipped.items()}

    return build
