"""How a network is run: precision, memory layout, compilation and checkpointing.

This module imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

PRECISIONS = ("fp32", "tf32", "bf16", "bf16+tf32")
CHECKPOINTING = ("none", "call", "block")
SMALLEST_TILE = 8
"""Positions of a latent; a tile smaller than this sees nearly nothing of its image."""


@dataclass(frozen=True)
class Execution:
    """How to run a network; every value but the default may change the last digits of a result.

    Parameters
    ----------
    precision : str, default 'fp32'
        Precision of the networks; schedules stay in float64, and no score is computed in less than
        float32.

        - ``fp32``: float32.
        - ``tf32``: a GPU forms products in TensorFloat-32 while a solver works. The switch is one
          for the process, so it holds for autoencoders too. The search of a VQ autoencoder for its
          nearest codes stays in float32, because it would find other codes.
        - ``bf16``: autocast around the denoising network alone. Its output is float32 again, as are
          autoencoders and losses. The weights of its products are held in bf16.
        - ``bf16+tf32``: ``bf16`` for the denoising network, ``tf32`` for all else.
    channels_last : bool, default False
        Keep weights and inputs of the denoising network with the channels innermost in memory.
    compile : bool, default False
        Run the repeated blocks of the denoising network through ``torch.compile``. On a GPU, a call
        without a gradient is one CUDA graph.
    checkpointing : str, default 'none'
        ``call`` keeps only the input of every call of network and autoencoder, and computes the
        rest again for the gradient (Chen et al. 2016). Gradients are the same to the last bit.
        ``block`` keeps the input of every repeated block of network and autoencoder
        (:mod:`priors.block_checkpointing`).
    frozen_convolutions : bool, default False
        Do not keep the inputs of convolutions for a gradient (:mod:`priors.frozen_convolution`).
    tile : int, default 0
        Run the autoencoder on tiles of so many latent positions in height and width
        (:mod:`priors.tiling`); 0 runs it on the whole image. Tiles change the image.

    Raises
    ------
    ValueError
        If a value is unknown, or two settings do not go together.
    """

    precision: str = "fp32"
    channels_last: bool = False
    compile: bool = False
    checkpointing: str = "none"
    frozen_convolutions: bool = False
    tile: int = 0

    def __post_init__(self) -> None:
        for key, valid in (("precision", PRECISIONS), ("checkpointing", CHECKPOINTING)):
            if (value := getattr(self, key)) not in valid:
                raise ValueError(f"{key}={value}: valid are {', '.join(valid)}")
        if self.tile and self.tile < SMALLEST_TILE:
            raise ValueError(f"tile={self.tile}: give 0 (no tiles), or at least {SMALLEST_TILE}")
        if self.compile and self.checkpointing == "block":
            raise ValueError(
                "compile=true checkpointing=block: blocks are compiled whole; use "
                "checkpointing=call, or compile=false"
            )

    @classmethod
    def of(cls, config: Mapping[str, object]) -> Execution:
        """Read the settings from a configuration.

        Parameters
        ----------
        config : Mapping[str, object]
            A mapping with some of the keys; other keys are ignored, and missing ones take the
            default.

        Returns
        -------
        Execution
            The settings.

        Raises
        ------
        ValueError
            If a value is unknown.
        """
        return cls(**{f.name: config[f.name] for f in fields(cls) if f.name in config})  # type: ignore[arg-type]

    @property
    def bf16(self) -> bool:
        """Whether the denoising network runs in bf16."""
        return self.precision.startswith("bf16")

    @property
    def tf32(self) -> bool:
        """Whether products of a GPU are formed in TensorFloat-32 while a solver works."""
        return self.precision.endswith("tf32")

    @property
    def changed(self) -> dict[str, object]:
        """The settings that differ from the default, by name; ``compile`` says what is compiled."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        changed = {f.name: values[f.name] for f in fields(self) if values[f.name] != f.default}
        return {**changed, "compile": "blocks"} if self.compile else changed

    @property
    def label(self) -> str:
        """The column ``precision`` of the rows, such as ``float32`` or ``bf16 channels_last``."""
        words = ["float32" if self.precision == "fp32" else self.precision]
        words += ["channels_last"] * self.channels_last + ["compile=blocks"] * self.compile
        words += ["frozen_convolutions"] * self.frozen_convolutions
        words += [f"checkpointing={self.checkpointing}"] * (self.checkpointing != "none")
        return " ".join(words + [f"tile={self.tile}"] * (self.tile > 0))
