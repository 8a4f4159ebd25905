"""Compute feature vectors of images, and define the base class of the metrics that compare them."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from posterior_bench.metrics.base import (
    DrawSet,
    MissingWeights,
    SetMetric,
    expect,
    from_uint8,
    reference_draws,
    to_uint8,
)
from posterior_bench.metrics.feature_networks import DINOv2, TorchvisionInception
from posterior_bench.metrics.perceptual import as_rgb
from posterior_bench.metrics.stlpips import SHA256, STLPIPS
from posterior_bench.metrics.weights import WeightFile, demand_library

Array = NDArray[np.float64]
Setting = str | bool

NETWORKS = ("stlpips", "inception", "torchscript", "torchvision", "dinov2")
TRUTH = "_truth"
"""Ending of the name of the column with the features of the original images."""

INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION = WeightFile(
    INCEPTION_FILE,
    f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION_FILE}",
    "0.1 GB",
    "6726825d",
)

PATCH = 256
"""Side in pixels of the patches of :class:`InceptionPatches`."""

RANGES = ("signed", "unit", "levels")


class FeatureNetwork(Protocol):
    """Interface of a network that maps an image to a feature vector.

    Attributes
    ----------
    device : torch.device
        Device of the network.
    width : float or None
        Typical squared distance of two vectors. None if their scale is that of Inception, or
        unknown.
    length : int
        Numbers of a vector; a guess if it depends on the file or the size of the image.
    """

    device: torch.device
    width: ClassVar[float | None]
    length: ClassVar[int]

    @property
    def column(self) -> str:
        """Return the column of the rows that holds the vectors.

        It is the same only for the same network and weights.
        """

    @property
    def title(self) -> str:
        """Return the name of the network in reports."""

    @property
    def weights(self) -> str:
        """Return the file and the hash of the weights."""

    @property
    def preprocessing(self) -> str:
        """Return the processing of images before the network, in words."""

    @property
    def pinned(self) -> Mapping[str, str]:
        """Return settings to record with a cell, such as the hash of the weights."""

    def check(self, metric: str) -> None:
        """Check that the features can be computed.

        Parameters
        ----------
        metric : str
            Id of the metric that needs them, for the message.

        Raises
        ------
        MissingWeights
            If a library or the weights are missing.
        RuntimeError
            If the network cannot be used.
        """

    def __call__(self, image: Tensor) -> Tensor:
        """Compute the feature vector of an image.

        Parameters
        ----------
        image : Tensor
            ``(1, 1 or 3, H, W)`` in [-1, 1], rounded to 8 bits.

        Returns
        -------
        Tensor
            ``(1, F)``.
        """


@dataclass
class STLPIPSTrunk:
    """Deepest layer of the AlexNet of ST-LPIPS, averaged over positions: 256 numbers."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    column: ClassVar[str] = "features_stlpips"
    title: ClassVar[str] = "ST-LPIPS trunk"
    weights: ClassVar[str] = f"alex_shift_tolerant.pth of stlpips-pytorch 0.0.2, sha256 {SHA256}"
    preprocessing: ClassVar[str] = (
        "8-bit images at native size; not comparable with any Inception value"
    )
    pinned: ClassVar[Mapping[str, str]] = {}
    # the median over all pairs of the 512 embedded images of Fashion-MNIST; a test recomputes it
    width: ClassVar[float | None] = 0.0048415
    length: ClassVar[int] = 256

    def check(self, metric: str) -> None:
        """Check the weights of ST-LPIPS, see :meth:`FeatureNetwork.check`."""
        STLPIPS().check()

    def __call__(self, image: Tensor) -> Tensor:
        """Compute the feature vector of an image, see :meth:`FeatureNetwork.__call__`."""
        return _trunk(self.device).trunk(image)


@dataclass
class Inception:
    """Layer ``pool_3`` of Inception v3 as torch-fidelity computes it: 2048 numbers.

    The library is imported at first use. Weights are never downloaded.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    column: ClassVar[str] = "features_inception"
    title: ClassVar[str] = "Inception v3"
    weights: ClassVar[str] = f"{INCEPTION_FILE}, torch-fidelity"
    preprocessing: ClassVar[str] = (
        "8-bit images, bilinear to 299 px as in TensorFlow 1 (no antialiasing), torch-fidelity"
    )
    pinned: ClassVar[Mapping[str, str]] = {}
    width: ClassVar[float | None] = None
    length: ClassVar[int] = 2048

    def check(self, metric: str) -> None:
        """Check library and weights, see :meth:`FeatureNetwork.check`."""
        demand_library(metric, "torch_fidelity", "metrics")
        INCEPTION.checked(metric)

    def __call__(self, image: Tensor) -> Tensor:
        """Compute the feature vector of an image, see :meth:`FeatureNetwork.__call__`."""
        levels = to_uint8(as_rgb(image, 1)).to(self.device)
        vectors: Tensor = _inception(self.device)(levels)[0]
        return vectors


@dataclass
class InceptionPatches(Inception):
    """Vectors of :class:`Inception` of all patches of 256 px, one after the other.

    Patches lie side by side from the top left corner; what is left at the right and at the bottom
    is not used.
    """

    column: ClassVar[str] = f"features_inception_patches{PATCH}"
    title: ClassVar[str] = f"Inception v3, patches of {PATCH} px"
    preprocessing: ClassVar[str] = (
        f"8-bit images cut into patches of {PATCH} px side by side from the top left, bilinear to "
        "299 px as in TensorFlow 1 (no antialiasing), torch-fidelity"
    )
    length: ClassVar[int] = 9 * 2048  # at 768 px

    def __call__(self, image: Tensor) -> Tensor:
        """Compute the vectors of the patches of an image, ``(1, patches * 2048)``."""
        return torch.cat([super(InceptionPatches, self).__call__(x) for x in patches(image)], dim=1)


def patches(image: Tensor) -> list[Tensor]:
    """Cut an image ``(1, C, H, W)`` into patches of 256 px, row by row from the top left."""
    rows = (row for row in image.split(PATCH, dim=2) if row.shape[2] == PATCH)
    return [x for row in rows for x in row.split(PATCH, dim=3) if x.shape[3] == PATCH]


@dataclass
class TorchScriptFeatures:
    """Network of the user, as TorchScript.

    It maps RGB images ``(N, 3, H, W)`` to vectors ``(N, F)``, and resizes and normalises images
    itself.

    Parameters
    ----------
    path : str, default ''
        The TorchScript file.
    trust_file : bool, default False
        Must be true, because a TorchScript file is a program that is run.
    sha256 : str, default ''
        Hash of the file. It is recorded with a cell; another file is then refused.
    input_range : str, default 'signed'
        Range of the float32 images that the network takes: ``signed`` [-1, 1], ``unit`` [0, 1] or
        ``levels`` 0 to 255.
    device : torch.device, default cpu
        Device of the network; :meth:`FeatureMetric.to` sets it.

    Raises
    ------
    ValueError
        For an unknown range and a file that cannot be read.
    """

    path: str = ""
    trust_file: bool = False
    sha256: str = ""
    input_range: str = "signed"
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    title: ClassVar[str] = "TorchScript network"
    width: ClassVar[float | None] = None
    length: ClassVar[int] = 2048

    def __post_init__(self) -> None:
        if self.input_range not in RANGES:
            raise ValueError(
                f"unknown input_range '{self.input_range}'; valid: {', '.join(RANGES)}"
            )
        if self.path and not self.sha256:
            self.sha256 = hashlib.sha256(_bytes(self.path)).hexdigest()

    @property
    def column(self) -> str:
        """Return the column of the vectors, which names the file's hash and the input range."""
        return f"features_torchscript_{self.sha256[:8] or 'none'}_{self.input_range}"

    @property
    def weights(self) -> str:
        """Return the hash of the file."""
        return f"sha256 {self.sha256}" if self.sha256 else "the user's file"

    @property
    def preprocessing(self) -> str:
        """Return the processing of images before the network, in words."""
        return (
            f"8-bit images at native size, grey repeated to RGB, float32, range: {self.input_range}"
        )

    @property
    def pinned(self) -> Mapping[str, str]:
        """Return the hash of the file, to record it with a cell."""
        return {"sha256": self.sha256}

    def check(self, metric: str) -> None:
        """Load the file and run it on one image, see :meth:`FeatureNetwork.check`."""
        if not self.path:
            raise MissingWeights(
                f"metric '{metric}' needs a TorchScript file; set metrics.{metric}.path=FILE"
            )
        if self.trust_file is not True:
            raise RuntimeError(
                f"a TorchScript file is a program, and loading {self.path} can run any code in it; "
                f"if you trust whoever made it, set metrics.{metric}.trust_file=true"
            )
        shape = tuple(self(torch.zeros(1, 3, 64, 64)).shape)
        if len(shape) != 2 or shape[0] != 1:
            raise RuntimeError(
                f"{self.path} gives {shape} for one image of 64 px, not (1, features)"
            )

    def __call__(self, image: Tensor) -> Tensor:
        """Compute the feature vector of an image, see :meth:`FeatureNetwork.__call__`."""
        image = as_rgb(image, 1).float().to(self.device)
        scaled = {"signed": image, "unit": (image + 1) / 2, "levels": to_uint8(image).float()}
        network = _script(self.path, self.sha256, self.device)
        vectors: Tensor = network(scaled[self.input_range])
        return vectors


def feature_network(network: str, settings: Mapping[str, Setting]) -> FeatureNetwork:
    """Build a feature network by name.

    Parameters
    ----------
    network : str
        One of :data:`NETWORKS`.
    settings : Mapping[str, str or bool]
        Settings of :class:`TorchScriptFeatures`, or ``sha256`` of DINOv2; the other networks have
        none.

    Returns
    -------
    FeatureNetwork
        The network; it loads its weights at first use.

    Raises
    ------
    ValueError
        For an unknown network or setting.
    """
    if network not in NETWORKS:
        raise ValueError(f"unknown feature network '{network}'; valid: {', '.join(NETWORKS)}")
    if network in ("torchscript", "dinov2"):
        kind = TorchScriptFeatures if network == "torchscript" else DINOv2
        # a wrong name raises a TypeError, which the user sees
        return kind(**settings)  # type: ignore[arg-type]
    if settings:
        raise ValueError(f"the feature network '{network}' has no setting {', '.join(settings)}")
    if network == "torchvision":
        return TorchvisionInception()
    return STLPIPSTrunk() if network == "stlpips" else Inception()


class FeatureMetric(SetMetric):
    """Base class of metrics that compare two sets of feature vectors.

    Draw ``j`` of every image is compared with the originals, and the values are averaged over
    ``j``. Vectors are computed from 8-bit images one at a time, stored as float32, and shared by
    all metrics of one network. Half precision would round away the difference between good solvers
    and save little space beside the image.

    Parameters
    ----------
    network : str or FeatureNetwork
        One of :data:`NETWORKS`, or a network that only this metric uses.
    settings : Mapping[str, str or bool]
        Settings of a network given by name, see :func:`feature_network`.
    """

    unrounded: ClassVar[bool] = False

    def __init__(self, network: str | FeatureNetwork, settings: Mapping[str, Setting]) -> None:
        self.network = feature_network(network, settings) if isinstance(network, str) else network

    @property
    @override
    def columns(self) -> tuple[str, ...]:
        return (self.network.column, self.network.column + TRUTH)

    @property
    @override
    def pinned(self) -> Mapping[str, str]:
        return self.network.pinned

    @override
    def to(self, device: torch.device | str) -> FeatureMetric:
        self.network.device = torch.device(device)
        return self

    @override
    def admit(self, shape: tuple[int, int, int]) -> None:
        if shape[0] not in (1, 3):
            raise ValueError(
                f"metric '{self.card.id}' takes grey or RGB images, and these "
                f"have {shape[0]} channels"
            )

    def features(self, draws: DrawSet) -> Tensor:
        """Compute the vectors of the original and of every draw, ``(N, 1 + D, F)``."""
        images = torch.cat([draws.truth[:, None].to(draws.x), draws.x], dim=1)
        # one image at a time: the last bits of a convolution depend on the batch
        flat = from_uint8(to_uint8(images)).flatten(0, 1).split(1)
        with torch.no_grad():
            vectors = torch.cat([self.network(image).float().cpu() for image in flat])
        return vectors.unflatten(0, images.shape[:2])

    def check(self) -> None:
        """Check the network, and the value for closed-form feature vectors."""
        self.network.check(self.card.id)
        expect(
            self.card.id,
            float(self.reduce(self.known_features(), np.ones((1, 6)))[0]),
            self.expected,
        )

    def known_features(self) -> Array:
        """Return the closed-form vectors for which ``expected`` is the value."""
        return reference_features()

    @property
    def expected(self) -> float:
        """Return the value for ``known_features()``, computed with another implementation."""
        return self.reference


def reference_features() -> Array:
    """Make closed-form feature vectors, ``(6, 1 + 8, 6)``.

    They are the images of ``reference_draws()`` and its draws with twice the spread.
    """
    draws = reference_draws()
    return torch.cat([draws.truth[:, None], 2 * draws.x], dim=1).flatten(2).double().numpy()


def identified(name: str, network: str) -> str:
    """Build the id of a card from the names of the metric and the network."""
    return f"{name}_{network}"


@cache
def _trunk(device: torch.device) -> STLPIPS:
    network = STLPIPS()
    network.to(device)
    return network


@cache
def _inception(device: torch.device) -> torch.nn.Module:
    # an optional library
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    path = str(INCEPTION.path)
    network: torch.nn.Module = FeatureExtractorInceptionV3(
        "inception", ["2048"], feature_extractor_weights_path=path
    )
    return network.to(device).eval()


@lru_cache(maxsize=4)  # no more, as they take memory of a GPU
def _script(path: str, content: str, device: torch.device) -> torch.jit.ScriptModule:
    """Load a TorchScript file once; RuntimeError if it has changed or is no TorchScript."""
    data = _bytes(path)
    digest = hashlib.sha256(data).hexdigest()
    if digest != content:
        raise RuntimeError(f"{path} has sha256 {digest}, not {content}: it has changed since")
    try:
        network: torch.jit.ScriptModule = torch.jit.load(io.BytesIO(data), map_location=device)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0].split(". ")[0]
        raise RuntimeError(
            f"{path} cannot be loaded as TorchScript ({reason}); write it with torch.jit.save"
        ) from None
    return network.eval()


def _bytes(path: str) -> bytes:
    try:
        return Path(path).expanduser().read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
