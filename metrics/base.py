"""Define the interface of metrics.

Every metric has a card that says exactly which number it is. There are four kinds. A
:class:`Metric` scores one image. A :class:`DrawMetric` scores all draws of an image together. A
:class:`SetMetric` scores all images of a cell together, from a few numbers that are stored for
every image. A :class:`ValueMetric` reduces the values that another metric gave the draws of an
image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from posterior_bench.metrics.recognition import Listed, Recognised

Region = Literal["whole", "hole", "known"]


class MissingWeights(RuntimeError):
    """The weights or the library of a metric are not on this machine.

    The message names the file and the folder in which it was looked for.
    """


@dataclass(frozen=True)
class MetricCard:
    """Description of a metric: everything one must know to compare its values.

    Parameters
    ----------
    id : str
        Column name in rows and leaderboards. Two metrics that may give different numbers have
        different ids.
    title : str
        Name in reports.
    direction : {'up', 'down', 'none'}
        Better end of the scale; ``none`` if neither end is better.
    unit : str
        Unit of the values; empty if they have none.
    range : str
        Possible values, and the right value where there is one.
    region : {'whole', 'hole', 'known'}, default 'whole'
        Pixels that count: all, the hidden ones, or the observed ones.
    pasted : bool, default False
        True scores images in which observed pixels were put back; False scores the solver's raw
        output.
    backbone : str, default ''
        Name of the feature network.
    weights : str, default ''
        File and hash of the network's weights.
    preprocessing : str, default ''
        Processing of the images before the computation.
    source : str, default ''
        Paper or library that defines the metric.
    tables : str, default ''
        Published tables that print this very metric, and how theirs differs in details.
    level : {'image', 'draws', 'set'}, default 'image'
        What one value is computed from: an image, all draws of an image, or all images of a cell.
    features : str, default ''
        For a set metric whose features other metrics share: the column of the feature vectors.
    resampled : bool, default True
        False if resampling images would shift the value; the value then has no interval.
    small : int, default 0
        Tables warn about ``caution`` if a cell has at most this many images.
    caution : str, default 'biased upward'
        Text of the warning.
    best_of : int, default 0
        For a set metric of one draw per image: how many draws the best one is chosen from.
    chosen_by : str, default ''
        Id of the metric that chooses this draw, with the truth.
    version : int, default 1
        Version of the definition. Values of different versions are different numbers and must not
        be compared.
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
    tables: str = ""
    level: Literal["image", "draws", "set"] = "image"
    features: str = ""
    resampled: bool = True
    small: int = 0
    caution: str = "biased upward"
    best_of: int = 0
    chosen_by: str = ""
    version: int = 1


@dataclass(frozen=True)
class Batch:
    """Images that a metric may look at.

    All images are float32 ``(N, C, H, W)`` in [-1, 1] and, but for ``output``, already rounded to
    8 bits.

    Parameters
    ----------
    raw : Tensor
        Output of the solver.
    pasted : Tensor
        The same, with the observed pixels put back.
    truth : Tensor
        Original images.
    mask : Tensor
        bool ``(N, 1, H, W)``; True = observed. All True if the operator has no mask.
    y : Tensor
        Measurement ``(N, ...)``.
    Ax : Tensor
        Operator applied to the raw output before rounding; shaped like ``y``.
    sigma : float, default 0.0
        Standard deviation of the noise in ``y``, in [-1, 1] units.
    output : Tensor or None, default None
        Output of the solver, neither rounded nor clipped to [-1, 1]. None if only rounded images
        are known; a metric that reads it must set ``unrounded``.
    """

    raw: Tensor
    pasted: Tensor
    truth: Tensor
    mask: Tensor
    y: Tensor
    Ax: Tensor
    sigma: float = 0.0
    output: Tensor | None = None


@dataclass(frozen=True)
class Draws:
    """Draws of one image as vectors of ``d = C H W`` values.

    All tensors are on the CPU, and floating-point tensors are float64. A draw metric scores one
    such object.

    Parameters
    ----------
    x : Tensor
        ``(D, d)``: the draws.
    truth : Tensor
        ``(d,)``: the original image.
    hidden : Tensor
        bool ``(d,)``: values that were not observed directly.
    guess : Tensor
        ``(d,)``: the measurement, with each hidden pixel filled from the nearest observed one.
    reference : Tensor or None, default None
        ``(R, d)``: independent draws of the exact posterior, where it is known.
    mode_weights : Tensor or None, default None
        ``(K,)``: weights of the modes of the exact posterior.
    assign : Callable or None, default None
        Function that returns ``responsibilities``.
    mean : Tensor or None, default None
        ``(d,)``: the mean of the exact posterior.
    log_densities : Callable or None, default None
        Function that returns the log density of the exact posterior at the truth, then at the
        draws, ``(1 + D,)``, up to a number that they share.
    scores : Callable or None, default None
        Function that returns the gradient of the log density at the draws, ``(D, d)``.
    recognise : Callable or None, default None
        Function that returns ``recognised``.
    """

    x: Tensor
    truth: Tensor
    hidden: Tensor
    guess: Tensor
    reference: Tensor | None = None
    mode_weights: Tensor | None = None
    assign: Callable[[], Tensor] | None = None
    mean: Tensor | None = None
    log_densities: Callable[[], Tensor] | None = None
    scores: Callable[[], Tensor] | None = None
    recognise: Callable[[], Recognised] | None = None

    @property
    def exact(self) -> Tensor:
        """Return the draws of the exact posterior, ``(R, d)``.

        Raises
        ------
        ValueError
            If the exact posterior is not known.
        """
        if self.reference is None:
            raise ValueError("this metric compares with exact posterior draws, and there are none")
        return self.reference

    @cached_property
    def gram(self) -> Tensor:
        """Return inner products of the draws, then the exact draws, ``(D + R, D + R)``.

        The mean of the exact draws is subtracted first.
        """
        both = torch.cat([self.x, self.exact]) - self.exact.mean(0)
        return both @ both.T

    @cached_property
    def distances(self) -> Tensor:
        """Return Euclidean distances in the order of ``gram``, with zeros on the diagonal."""
        squares = self.gram.diagonal()
        return (squares[:, None] + squares - 2 * self.gram).clamp_min(0).sqrt().fill_diagonal_(0)

    @cached_property
    def responsibilities(self) -> Tensor | None:
        """Return the probability that each draw came from each mode, ``(D, K)``, or None."""
        return None if self.assign is None else self.assign()

    @cached_property
    def recognised(self) -> Recognised:
        """Return what the draws show, component by component.

        Raises
        ------
        ValueError
            If it is not known what the image may show.
        """
        if self.recognise is None:
            raise ValueError(
                "this metric compares with all possible images, and they are not known; choose "
                "data=faces"
            )
        return self.recognise()


@dataclass(frozen=True)
class DrawSet:
    """All draws of every image of a batch.

    Draws that are not finite must be removed before.

    Parameters
    ----------
    x : Tensor
        float32 ``(N, D, C, H, W)``: raw draws, neither rounded nor clipped.
    truth : Tensor
        ``(N, C, H, W)``: original images in [-1, 1].
    mask : Tensor or None
        bool ``(N, 1, H, W)``; True = observed. None if the operator observes no pixel directly; all
        pixels then count as hidden.
    y : Tensor
        ``(N, ...)``: the measurement. If its shape differs from the images, a first guess of the
        image made from it.
    reference : Tensor or None, default None
        ``(N, R, C, H, W)``: independent draws of the exact posterior, where it is known.
    mode_weights : Tensor or None, default None
        ``(N, K)``: weights of the components of the exact posterior.
    assign : Callable or None, default None
        Function that maps images ``(M, C, H, W)`` to the probability ``(M, K)`` that each came from
        each component.
    reference_mean : Tensor or None, default None
        ``(N, C, H, W)``: the mean of the exact posterior.
    log_density : Callable or None, default None
        Function that maps images ``(N, M, C, H, W)`` to their log density under the exact
        posterior, ``(N, M)``, up to a number per row.
    score : Callable or None, default None
        Function that returns the gradient of ``log_density``, shaped like the images.
    recognise : sequence of Callable, or None, default None
        For every image, a function that finds what draws ``(D, d)`` of it show, if all that may be
        hidden can be enumerated.
    """

    x: Tensor
    truth: Tensor
    mask: Tensor | None
    y: Tensor
    reference: Tensor | None = None
    mode_weights: Tensor | None = None
    assign: Callable[[Tensor], Tensor] | None = None
    reference_mean: Tensor | None = None
    log_density: Callable[[Tensor], Tensor] | None = None
    score: Callable[[Tensor], Tensor] | None = None
    recognise: Sequence[Callable[[Tensor], Recognised]] | None = None

    @cached_property
    def _densities(self) -> Tensor:
        assert self.log_density is not None
        both = torch.cat([self.truth[:, None], self.x], dim=1)
        return self.log_density(both).double().cpu()

    @cached_property
    def _scores(self) -> Tensor:
        assert self.score is not None
        return _vectors(self.score(self.x), 2)

    @cached_property
    def images(self) -> list[Draws]:
        """Return the draws of each image, as one object per image.

        Metrics score images one by one, because a score must not depend on the other images. They
        share the objects, so that distances and inner products are computed once.
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
            mean=None if self.reference_mean is None else _vectors(self.reference_mean[i], 0),
            log_densities=None if self.log_density is None else lambda: self._densities[i],
            scores=None if self.score is None else lambda: self._scores[i],
            recognise=None if self.recognise is None else lambda: self._recognised(i),
        )

    def _recognised(self, i: int) -> Recognised:
        assert self.recognise is not None
        return self.recognise[i](_vectors(self.x[i], 1))


def _guess(y: Tensor, observed: Tensor) -> Tensor:
    """Fill each hidden pixel with the value of the nearest observed one; return ``(C, H, W)``.

    A measurement without observed pixels but of the image's shape is returned as it is. A
    measurement of another shape gives zeros.
    """
    from scipy.ndimage import distance_transform_edt  # only metrics of draws need scipy

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
    """Common base class of all metrics.

    A metric derives from :class:`Metric`, :class:`DrawMetric`, :class:`SetMetric` or
    :class:`ValueMetric`, sets ``card`` and writes the method that computes its value.

    Attributes
    ----------
    card : MetricCard
        Description of the metric.
    needs : frozenset[str]
        Capabilities of prior and operator (``exact``, ``linear``) without which there is nothing to
        compare with; ``reference`` means that a solver can make reference draws of the posterior.
        A cell that lacks one is refused before any work.
    unrounded : bool
        True if the metric uses information that 8-bit images do not hold, so that it cannot be
        computed from stored images.
    unclamped : bool
        True if values outside [-1, 1] count, so that images made elsewhere cannot be scored.
    """

    card: MetricCard
    needs: ClassVar[frozenset[str]] = frozenset()
    unrounded: ClassVar[bool] = False
    unclamped: ClassVar[bool] = False

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the columns of the rows that hold the values or features."""
        return (self.card.id,)

    @property
    def pinned(self) -> Mapping[str, str]:
        """Return settings to record with a cell, such as the hash of a file.

        A later run with the same settings then computes the same number.
        """
        return {}

    def admit(self, shape: tuple[int, int, int]) -> None:
        """Check whether images of this shape can be scored.

        Parameters
        ----------
        shape : tuple[int, int, int]
            ``(C, H, W)``.

        Raises
        ------
        ValueError
            If they cannot, in one line. The default accepts every shape.
        """

    def check(self) -> None:
        """Compute a reference value to test the installed libraries and weights.

        Raises
        ------
        RuntimeError
            If this installation gives another number.
        MissingWeights
            If weights are missing or damaged.
        """

    def to(self, device: torch.device | str) -> Measure:
        """Move feature networks to a device; metrics without a network return themselves."""
        return self


class Metric(Measure):
    """Base class of metrics with one value per image and draw.

    Examples
    --------
    The largest error of any pixel:

    >>> class LargestError(Metric):
    ...     card = MetricCard(
    ...         id="largest_error",
    ...         title="Largest error",
    ...         direction="down",
    ...         unit="[-1, 1] units",
    ...         range="[0, 2]",
    ...     )
    ...
    ...     def __call__(self, batch):
    ...         return (batch.raw - batch.truth).abs().flatten(1).amax(1)
    >>> x, truth, mask = reference_images()
    >>> batch = Batch(raw=x, pasted=x, truth=truth, mask=mask, y=x, Ax=x)
    >>> LargestError()(batch).shape
    torch.Size([1])
    """

    def __call__(self, batch: Batch) -> Tensor:
        """Score images.

        Parameters
        ----------
        batch : Batch
            ``N`` images.

        Returns
        -------
        Tensor
            float ``(N,)``; NaN where the metric is undefined, for example for an empty region.
        """
        raise NotImplementedError


class DrawMetric(Measure):
    """Base class of metrics with one value per image, computed from all its draws together.

    A subclass writes :meth:`score` and sets ``reference``. Every row of the image holds the value.

    Attributes
    ----------
    reference : float
        Value for the first image of ``reference_draws()``, computed with another implementation.
        :meth:`check` compares with it.
    """

    unrounded: ClassVar[bool] = True
    reference: ClassVar[float] = float("nan")
    """The value for the first image of ``reference_draws()``, from another implementation than
    ours."""

    def score(self, draws: Draws) -> float:
        """Score the draws of one image.

        Parameters
        ----------
        draws : Draws
            All draws of the image.

        Returns
        -------
        float
            NaN where the metric is undefined, for example for too few draws or no hidden pixel.
        """
        raise NotImplementedError

    def __call__(self, draws: DrawSet) -> Tensor:
        """Score the draws of every image.

        Parameters
        ----------
        draws : DrawSet
            All draws of ``N`` images.

        Returns
        -------
        Tensor
            float64 ``(N,)``; NaN where the metric is undefined.
        """
        return torch.tensor([self.score(image) for image in draws.images], dtype=torch.float64)

    @override
    def check(self) -> None:
        expect(self.card.id, self.score(reference_draws().images[0]), self.reference)


class SetMetric(Measure):
    """Base class of metrics with one value for all images of a cell.

    A subclass writes :meth:`features`, a few numbers per image that are stored in the rows, and
    :meth:`reduce`, which turns the features of all images into the value. The leaderboard reduces
    the stored features and resamples images for the interval. So images are needed only once, and
    the order of the images does not matter.

    Attributes
    ----------
    reference : float
        Value for ``reference_draws()``, computed with another implementation. :meth:`check`
        compares with it.
    """

    unrounded: ClassVar[bool] = True
    reference: ClassVar[float] = float("nan")
    """The value for ``reference_draws()``, from another implementation than ours."""

    def features(self, draws: DrawSet) -> Tensor:
        """Compute the features of images.

        Parameters
        ----------
        draws : DrawSet
            All draws of ``N`` images.

        Returns
        -------
        Tensor
            float ``(N, F)``, one vector per image, or ``(N, D, F)``, one per draw. Features with a
            NaN are not stored.
        """
        raise NotImplementedError

    def reduce(
        self, features: NDArray[np.float64], weights: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Reduce features to the value.

        Parameters
        ----------
        features : NDArray
            ``(n, F)`` or ``(n, D, F)``, finite.
        weights : NDArray
            ``(B, n)``: how often each image counts. A row of ones gives the value itself; the
            counts of a bootstrap resample give a resampled value; ones with a zero give the value
            without that image.

        Returns
        -------
        NDArray
            ``(B,)``: the value for every row of ``weights``; NaN where it is undefined.
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
    """Base class of metrics that reduce the values of another metric over the draws of an image.

    Every row of the image holds the value.

    Attributes
    ----------
    of : str
        Id of the other metric; the rows must hold its values.
    """

    of: str

    def __call__(self, values: Tensor) -> Tensor:
        """Reduce values over draws.

        Parameters
        ----------
        values : Tensor
            ``(N, D)``: values of the other metric.

        Returns
        -------
        Tensor
            float64 ``(N,)``; NaN where the value is undefined.
        """
        raise NotImplementedError


AnyMetric = Metric | DrawMetric | SetMetric | ValueMetric


class FullReference(Metric):
    """Base class of metrics that compare an image with the truth in one region.

    A subclass writes :meth:`compare`. Images are scored one at a time: sums and convolutions of a
    batch may run in another order, and a score must not depend on the other images.

    Attributes
    ----------
    reference : Mapping[str, float]
        Value for ``reference_images()`` by region, computed with another implementation.
    """

    library_alone: ClassVar[bool] = False
    """Whether :meth:`check` depends on the installed libraries alone, and on no file of weights."""

    reference: ClassVar[Mapping[str, float]] = {}
    """The value for ``reference_images()`` by region, from another implementation than ours."""

    def compare(self, x: Tensor, truth: Tensor, region: Tensor) -> float:
        """Score one image.

        Parameters
        ----------
        x : Tensor
            ``(1, C, H, W)`` in [-1, 1]: raw or pasted image, as the card says.
        truth : Tensor
            ``(1, C, H, W)`` in [-1, 1]: original image.
        region : Tensor
            bool ``(1, 1, H, W)``: pixels that count.

        Returns
        -------
        float
            NaN for an empty region.
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
        if self.card.region not in self.reference:
            raise RuntimeError(
                f"metric '{self.card.id}' has no reference value for region={self.card.region}; "
                f'add reference = {{"{self.card.region}": VALUE}} to its class, with the value '
                "that another implementation gives for metrics.base.reference_images()"
            )
        expect(self.card.id, value, self.reference[self.card.region])


def column_id(name: str, region: Region = "whole", pasted: bool = False) -> str:
    """Build the id of a card: ``psnr``, ``psnr_hole``, ``psnr_pasted`` or ``psnr_hole_pasted``.

    Raises
    ------
    ValueError
        For an unknown region.
    """
    if region not in get_args(Region):
        raise ValueError(
            f"unknown region '{region}' of metric '{name}'; valid: {', '.join(get_args(Region))}"
        )
    return name + ("" if region == "whole" else f"_{region}") + ("_pasted" if pasted else "")


def pixels_of(region: Region, mask: Tensor) -> Tensor:
    """Return the pixels of a region, bool, shaped like ``mask`` (True = observed)."""
    return {"whole": torch.ones_like(mask), "hole": ~mask, "known": mask}[region]


def unit(x: Tensor) -> Tensor:
    """Convert images from [-1, 1] to [0, 1] in float64 on the CPU.

    For metrics whose value depends on the grey level of black.
    """
    return (x.cpu().double() + 1) / 2


def expect(name: str, value: float, expected: float, tolerance: float = 1e-4) -> None:
    """Compare a value with its reference value.

    Raises
    ------
    RuntimeError
        If they differ by more than ``tolerance``.
    """
    if not abs(value - expected) <= tolerance:
        raise RuntimeError(
            f"metric '{name}' gives {value:.6f} for its reference images, {expected:.6f} is right: "
            "the installed libraries compute another number; reinstall the versions "
            "that pyproject.toml names"
        )


def reference_images() -> tuple[Tensor, Tensor, Tensor]:
    """Make 8-bit images from closed formulas.

    ``truth`` holds one tilted wave per channel. ``x`` is the same with a weaker contrast and a
    second wave on top that grows to the right, so the three regions have different scores.

    Returns
    -------
    x : Tensor
        ``(1, 3, 64, 64)`` in [-1, 1].
    truth : Tensor
        ``(1, 3, 64, 64)`` in [-1, 1].
    mask : Tensor
        bool ``(1, 1, 64, 64)``; the left half is observed.
    """
    pixel = torch.arange(64, dtype=torch.float64)
    row, column = torch.meshgrid(pixel, pixel, indexing="ij")
    channel = torch.arange(3).view(-1, 1, 1)
    # float64 and offsets that avoid ties, so that every machine rounds to the same 8 bits
    wave = torch.cos(torch.pi / 32 * ((channel + 1) * row + 2 * column))
    ripple = torch.cos(torch.pi / 32 * (11 * row - 7 * column) + 0.3)
    x, truth = 0.5 * wave + 0.45 * column / 64 * ripple + 0.02, 0.95 * wave + 0.013
    return (
        from_uint8(to_uint8(x))[None],
        from_uint8(to_uint8(truth))[None],
        (column < 32)[None, None],
    )


def reference_draws() -> DrawSet:
    """Make draws from closed formulas.

    Six images of 2 x 3 pixels whose first column is observed, with 8 draws, 12 draws of the exact
    posterior and three modes each. The density of the posterior is stated as that of a Gaussian
    around half of the truth, with variance 1/4. Two components of two variants each are said to
    decide the second column together, and a third one the upper right pixel.
    """

    def wave(*shape: int, pace: float) -> Tensor:
        return torch.cos(pace * torch.arange(1, 1 + torch.Size(shape).numel()).double()).view(shape)

    truth, centres = wave(6, 1, 2, 3, pace=1.9), wave(3, 6, pace=2.3)
    mask = (torch.arange(3) < 1).expand(6, 1, 2, 3)
    weights = wave(6, 3, pace=0.7) + 1.5
    centre = 0.5 * truth[:, None]
    return DrawSet(
        x=(0.4 * truth[:, None] + 0.7 * wave(6, 8, 1, 2, 3, pace=2.71)).float(),
        truth=truth.float(),
        mask=mask,
        y=torch.where(mask, truth, 0.0).float(),
        reference=(0.5 * truth[:, None] + 0.6 * wave(6, 12, 1, 2, 3, pace=3.37)).float(),
        mode_weights=weights / weights.sum(1, keepdim=True),
        assign=lambda x: torch.cdist(x.flatten(1).double(), centres).neg().softmax(1),
        reference_mean=centre[:, 0],
        log_density=lambda x: -2 * (x - centre).double().square().flatten(2).sum(2),
        score=lambda x: -4 * (x - centre).double(),
        recognise=[_reference_faces(one.flatten(), mask[0].flatten()) for one in truth],
    )


def _reference_faces(truth: Tensor, observed: Tensor) -> Listed:
    column = torch.tensor([[0.6, -0.4], [0.1, 0.2], [-0.5, 0.3], [-0.2, -0.7]]).double()
    images = truth.repeat(12, 1)
    images[:, 1], images[:, 4] = column.repeat(3, 1).T
    images[:, 2] = torch.tensor([0.5, 0.0, -0.5]).double().repeat_interleave(4)
    pair = torch.tensor([0.4, 0.1, 0.2, 0.3]).double()
    weights = (torch.tensor([0.5, 0.3, 0.2]).double()[:, None] * pair).flatten()
    names = ("eyes", "mouth", "hair")
    shown = [(str(j // 2 % 2), str(j % 2), str(j // 4)) for j in range(12)]
    return Listed(images, weights, names, shown, ~observed)


def to_uint8(x: Tensor) -> Tensor:
    """Convert images from [-1, 1] to grey levels 0 to 255.

    Values outside are clamped; the others are rounded to the nearest level, ties to even.
    Truncation would darken 95 of the 256 levels of an exact image by one. NaN becomes 0, so that
    the result is defined; search for non-finite values before.

    Parameters
    ----------
    x : Tensor
        Images of any shape.

    Returns
    -------
    Tensor
        uint8, of the same shape.
    """
    x = torch.nan_to_num(x.to(torch.promote_types(x.dtype, torch.float32)), nan=-1.0)
    return ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def from_uint8(x: Tensor) -> Tensor:
    """Convert grey levels 0 to 255 to float32 in [-1, 1].

    ``to_uint8`` returns the same levels.

    Raises
    ------
    ValueError
        If the tensor is not uint8.
    """
    if x.dtype != torch.uint8:
        raise ValueError(
            f"from_uint8 takes uint8 grey levels, got {x.dtype}; use to_uint8 for images in [-1, 1]"
        )
    return x.to(torch.float32) / 127.5 - 1
