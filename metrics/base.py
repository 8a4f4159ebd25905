"""Metrics: numbers with a card that says exactly which number each is.

A :class:`Metric` scores one image, a :class:`DrawMetric` all draws of an image together, and a
:class:`SetMetric` all images of a cell together, from a few numbers that every image leaves behind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

Region = Literal["whole", "hole", "known"]


class MissingWeights(RuntimeError):
    """The weights of a metric are not on this machine; the message names the file and where it is
    looked for.
    """


@dataclass(frozen=True)
class MetricCard:
    """What must be known to compare a number. ``id`` is the column name of the rows and of the
    leaderboard.

    ``level`` says what one value is computed from: an image, all draws of an image, or all images
    of a cell. Of a set metric, ``features`` names the column with its feature vectors where other
    metrics share them; ``resampled`` is False where resampling images would shift the value, so
    that it has no interval; with at most ``small`` images a table warns that it is ``caution``.
    ``version`` counts changes of the definition: values of different versions are different numbers
    and must not be compared.
    """

    id: str
    title: str
    direction: Literal["up", "down", "none"]
    unit: str
    range: str
    region: Region = "whole"
    pasted: bool = False
    backbone: str = ""
    weights: str = ""
    preprocessing: str = ""
    source: str = ""
    level: Literal["image", "draws", "set"] = "image"
    features: str = ""
    resampled: bool = True
    small: int = 0
    caution: str = "biased upward"
    version: int = 1


@dataclass(frozen=True)
class Batch:
    """What a metric may look at. All images float32 ``(N, C, H, W)`` in [-1, 1], already rounded to
    8 bits.

    ``raw``: the solver's output; ``pasted``: the same with observed pixels put back; ``truth``;
    ``mask``: bool ``(N, 1, H, W)``, True = observed (all True where the operator has none); ``y``
    and ``Ax``: the measurement and the operator applied to the unrounded raw output; ``sigma``: the
    standard deviation of the noise in ``y``.
    """

    raw: Tensor
    pasted: Tensor
    truth: Tensor
    mask: Tensor
    y: Tensor
    Ax: Tensor
    sigma: float = 0.0


@dataclass(frozen=True)
class Draws:
    """The draws of one image as vectors of ``d = C H W`` values, float64 on the CPU.

    ``x`` ``(D, d)``; ``truth`` ``(d,)``; ``hidden``: bool ``(d,)``, what was not observed directly;
    ``guess``: what the measurement alone suggests, ``(d,)``; ``reference`` ``(R, d)`` and
    ``mode_weights`` ``(K,)``: independent draws and the weights of the modes of the exact
    posterior; ``assign`` gives ``responsibilities`` ``(D, K)``: the probability that a draw came
    from a mode.
    """

    x: Tensor
    truth: Tensor
    hidden: Tensor
    guess: Tensor
    reference: Tensor | None = None
    mode_weights: Tensor | None = None
    assign: Callable[[], Tensor] | None = None

    @property
    def exact(self) -> Tensor:
        """``reference``; ValueError where there is none."""
        if self.reference is None:
            raise ValueError("this metric compares with exact posterior draws, and there are none")
        return self.reference

    @cached_property
    def gram(self) -> Tensor:
        """Inner products of the draws, then the reference, about the reference's mean: ``(D + R, D
        + R)``.
        """
        both = torch.cat([self.x, self.exact]) - self.exact.mean(0)
        return both @ both.T

    @cached_property
    def distances(self) -> Tensor:
        """Euclidean distances in the order of ``gram``, zero on the diagonal."""
        squares = self.gram.diagonal()
        return (squares[:, None] + squares - 2 * self.gram).clamp_min(0).sqrt().fill_diagonal_(0)

    @cached_property
    def responsibilities(self) -> Tensor | None:
        return None if self.assign is None else self.assign()


@dataclass(frozen=True)
class DrawSet:
    """All draws of every image of a batch: what a posterior is judged by.

    ``x`` ``(N, D, C, H, W)`` float32, raw and neither rounded nor clipped; ``truth`` ``(N, C, H,
    W)``; ``mask``: bool ``(N, 1, H, W)``, True = observed, None where the operator observes no
    pixel directly, and then all are hidden; ``y`` ``(N, ...)``, the measurement, or a first guess
    of the image from one of another shape. Where the exact posterior is known: ``reference`` ``(N,
    R, C, H, W)``, independent draws of it; ``mode_weights`` ``(N, K)``, the weights of its
    components; ``assign``, which maps images ``(M, C, H, W)`` to the probability ``(M, K)`` that
    each came from each component. A draw that is not finite must not get here.
    """

    x: Tensor
    truth: Tensor
    mask: Tensor | None
    y: Tensor
    reference: Tensor | None = None
    mode_weights: Tensor | None = None
    assign: Callable[[Tensor], Tensor] | None = None

    @cached_property
    def images(self) -> list[Draws]:
        """One image at a time: a score must not depend on its neighbours. Metrics share what is
        computed once.
        """
        return [self._image(i) for i in range(len(self.x))]

    def _image(self, i: int) -> Draws:
        assign, x = self.assign, self.x[i]
        observed = torch.zeros_like(self.truth[i], dtype=torch.bool)
        if self.mask is not None:
            observed = self.mask[i].expand(self.truth[i].shape)
        return Draws(
            x=_vectors(x, 1),
            truth=_vectors(self.truth[i], 0),
            hidden=~observed.flatten().cpu(),
            guess=_guess(self.y[i], observed).flatten(),
            reference=None if self.reference is None else _vectors(self.reference[i], 1),
            mode_weights=None if self.mode_weights is None else self.mode_weights[i].double().cpu(),
            assign=None if assign is None else lambda: assign(x).double().cpu(),
        )


def _guess(y: Tensor, observed: Tensor) -> Tensor:
    """``(C, H, W)``: each hidden pixel takes the value of the observed one nearest to it; zero
    where there is none.

    A measurement under a mask is filled so, another one of the image's shape is taken as it is.
    """
    from scipy.ndimage import distance_transform_edt

    if y.shape != observed.shape:
        return torch.zeros(observed.shape, dtype=torch.float64)
    if not observed.any():
        return y.double().cpu()
    seen = observed[0].cpu().numpy()
    row, column = distance_transform_edt(~seen, return_distances=False, return_indices=True)
    return y.double().cpu()[:, torch.from_numpy(row).long(), torch.from_numpy(column).long()]


def _vectors(x: Tensor, first: int) -> Tensor:
    return x.flatten(first).double().cpu()


class Measure:
    """What all kinds have in common: a card, a check, and what they need.

    ``needs``: capabilities of the prior and the operator (``exact``, ``linear``) without which
    there is nothing to compare with; a cell that lacks one is refused before any work.
    ``unrounded``: it looks at what 8-bit images do not hold, so it cannot be computed from stored
    ones.
    """

    card: MetricCard
    needs: ClassVar[frozenset[str]] = frozenset()
    unrounded: ClassVar[bool] = False

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the rows that hold its values or features."""
        return (self.card.id,)

    @property
    def pinned(self) -> Mapping[str, str]:
        """Settings to be recorded with a cell so that they mean the same later: the content of a
        file.
        """
        return {}

    def admit(self, shape: tuple[int, int, int]) -> None:
        """Raises ValueError in one line where images of this shape ``(C, H, W)`` cannot be
        scored.
        """

    def check(self) -> None:
        """Compare a reference value; raises RuntimeError where this installation gives another
        number.
        """

    def to(self, device: torch.device | str) -> Measure:
        """Move feature networks; metrics without one return themselves."""
        return self


class Metric(Measure):
    """One number per image and draw."""

    def __call__(self, batch: Batch) -> Tensor:
        """float ``(N,)``; NaN where the metric is undefined for that image (an empty region)."""
        raise NotImplementedError


class DrawMetric(Measure):
    """One number per image, from all its draws together. Every row of the image holds it."""

    unrounded: ClassVar[bool] = True
    reference: ClassVar[float] = float("nan")
    """The value for the first image of ``reference_draws()``, from another implementation than
    ours."""

    def score(self, draws: Draws) -> float:
        """The value for one image; NaN where it is undefined (too few draws, no hidden pixel)."""
        raise NotImplementedError

    def __call__(self, draws: DrawSet) -> Tensor:
        """float64 ``(N,)``; NaN where undefined."""
        return torch.tensor([self.score(image) for image in draws.images], dtype=torch.float64)

    @override
    def check(self) -> None:
        expect(self.card.id, self.score(reference_draws().images[0]), self.reference)


class SetMetric(Measure):
    """One number for all images of a cell.

    The rows hold ``features``, a few numbers an image, and the leaderboard reduces them to the
    value and resamples images for its interval; so the value is never computed twice from images,
    and shards can be added in any order.
    """

    unrounded: ClassVar[bool] = True
    reference: ClassVar[float] = float("nan")
    """The value for ``reference_draws()``, from another implementation than ours."""

    def features(self, draws: DrawSet) -> Tensor:
        """float ``(N, F)``, a vector per image, or ``(N, D, F)``, one per draw; a NaN in it:
        nothing is stored.
        """
        raise NotImplementedError

    def reduce(
        self, features: NDArray[np.float64], weights: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """The value ``(B,)`` for every row of ``weights`` ``(B, n)``: how often each of ``n``
        images counts.

        ``features`` ``(n, F)`` or ``(n, D, F)``, finite. Ones give the value itself, the counts of
        a bootstrap resample a resampled value, and ones with a zero the value without that image.
        NaN where undefined.
        """
        raise NotImplementedError

    @override
    def check(self) -> None:
        features = self.features(reference_draws()).double().numpy()
        expect(
            self.card.id,
            float(self.reduce(features, np.ones((1, len(features))))[0]),
            self.reference,
        )


class ValueMetric(Measure):
    """One number per image from the values that another metric gave its draws. Every row of the
    image holds it.

    ``of``: the id of that metric, which the rows must hold.
    """

    of: str

    def __call__(self, values: Tensor) -> Tensor:
        """float64 ``(N,)`` from ``(N, D)``; NaN where undefined."""
        raise NotImplementedError


AnyMetric = Metric | DrawMetric | SetMetric | ValueMetric


class FullReference(Metric):
    """A metric that compares an image with the truth, in one region, one image at a time.

    Images are never batched: the sums and convolutions of a batch may run in another order than
    those of one image, and a score must not depend on its neighbours.
    """

    reference: ClassVar[Mapping[str, float]] = {}
    """The value for ``reference_images()`` by region, from another implementation than ours."""

    def compare(self, x: Tensor, truth: Tensor, region: Tensor) -> float:
        """The value for one image: ``x`` and ``truth`` ``(1, C, H, W)``, ``region`` bool ``(1, 1,
        H, W)``.
        """
        raise NotImplementedError

    @override
    def __call__(self, batch: Batch) -> Tensor:
        x = batch.pasted if self.card.pasted else batch.raw
        region = pixels_of(self.card.region, batch.mask)
        rows = zip(x.split(1), batch.truth.split(1), region.split(1), strict=True)
        return torch.tensor([self.compare(*row) for row in rows], dtype=torch.float64)

    @override
    def check(self) -> None:
        x, truth, mask = reference_images()
        value = self.compare(x, truth, pixels_of(self.card.region, mask))
        expect(self.card.id, value, self.reference[self.card.region])


def column_id(name: str, region: Region = "whole", pasted: bool = False) -> str:
    """The id of a card: ``psnr``, ``psnr_hole``, ``psnr_pasted``, ``psnr_hole_pasted``; ValueError
    otherwise.
    """
    if region not in get_args(Region):
        raise ValueError(
            f"unknown region '{region}' of metric '{name}'; valid: {', '.join(get_args(Region))}"
        )
    return name + ("" if region == "whole" else f"_{region}") + ("_pasted" if pasted else "")


def pixels_of(region: Region, mask: Tensor) -> Tensor:
    """The pixels of a region, bool, shaped like ``mask`` (True = observed)."""
    return {"whole": torch.ones_like(mask), "hole": ~mask, "known": mask}[region]


def unit(x: Tensor) -> Tensor:
    """[-1, 1] to [0, 1] in float64 on the CPU: for metrics that depend on which value is black."""
    return (x.cpu().double() + 1) / 2


def expect(name: str, value: float, expected: float, tolerance: float = 1e-4) -> None:
    """Raises RuntimeError where a reference value is missed by more than ``tolerance``."""
    if not abs(value - expected) <= tolerance:
        raise RuntimeError(
            f"metric '{name}' gives {value:.6f} for its reference images, {expected:.6f} is right: "
            f"the installed "
            "libraries compute another number; reinstall the versions that pyproject.toml names"
        )


def reference_images() -> tuple[Tensor, Tensor, Tensor]:
    """Closed-form 8-bit images: ``x`` and ``truth`` ``(1, 3, 64, 64)``, and a mask with the left
    half known.

    ``truth`` holds one tilted wave per channel, ``x`` the same with a weaker contrast and a second
    wave on top, which grows to the right: the three regions have different scores.
    """
    pixel = torch.arange(64, dtype=torch.float64)
    row, column = torch.meshgrid(pixel, pixel, indexing="ij")
    channel = torch.arange(3).view(-1, 1, 1)
    # float64, and offsets that keep away from ties: the rounding to 8 bits falls the same way on
    # every machine
    wave = torch.cos(torch.pi / 32 * ((channel + 1) * row + 2 * column))
    ripple = torch.cos(torch.pi / 32 * (11 * row - 7 * column) + 0.3)
    x, truth = 0.5 * wave + 0.45 * column / 64 * ripple + 0.02, 0.95 * wave + 0.013
    return (
        from_uint8(to_uint8(x))[None],
        from_uint8(to_uint8(truth))[None],
        (column < 32)[None, None],
    )


def reference_draws() -> DrawSet:
    """Closed-form sets: six images of 2 x 3 pixels, the first column known, 8 draws, 12 exact ones,
    three modes.
    """

    def wave(*shape: int, pace: float) -> Tensor:
        return torch.cos(pace * torch.arange(1, 1 + torch.Size(shape).numel()).double()).view(shape)

    truth, centres = wave(6, 1, 2, 3, pace=1.9), wave(3, 6, pace=2.3)
    mask = (torch.arange(3) < 1).expand(6, 1, 2, 3)
    weights = wave(6, 3, pace=0.7) + 1.5
    return DrawSet(
        x=(0.4 * truth[:, None] + 0.7 * wave(6, 8, 1, 2, 3, pace=2.71)).float(),
        truth=truth.float(),
        mask=mask,
        y=torch.where(mask, truth, 0.0).float(),
        reference=(0.5 * truth[:, None] + 0.6 * wave(6, 12, 1, 2, 3, pace=3.37)).float(),
        mode_weights=weights / weights.sum(1, keepdim=True),
        assign=lambda x: torch.cdist(x.flatten(1).double(), centres).neg().softmax(1),
    )


def to_uint8(x: Tensor) -> Tensor:
    """[-1, 1] to 0..255, shape kept: values outside are clamped, the rest rounded to the nearest,
    ties to even.

    Truncation would darken 95 of the 256 grey levels of an exact image by one. NaN becomes 0, so
    that the result is defined; find non-finite images before.
    """
    x = torch.nan_to_num(x.to(torch.promote_types(x.dtype, torch.float32)), nan=-1.0)
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def from_uint8(x: Tensor) -> Tensor:
    """0..255 to float32 in [-1, 1], shape kept; ``to_uint8`` gives the same levels back. ValueError
    unless uint8.
    """
    if x.dtype != torch.uint8:
        raise ValueError(
            f"from_uint8 takes uint8 grey levels, got {x.dtype}; use to_uint8 for images in [-1, 1]"
        )
    return x.to(torch.float32) / 127.5 - 1
