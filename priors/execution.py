"""How a network is run: precision, memory layout, compilation and checkpointing.

This module imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

PRECISIONS = ("fp32", "tf32", "bf16")
CHECKPOINTING = ("none", "call")


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
          for the process, so it holds for autoencoders too.
        - ``bf16``: autocast around the denoising network alone. Its output is float32 again, as are
          autoencoders and losses.
    channels_last : bool, default False
        Keep weights and inputs of the denoising network with the channels innermost in memory.
    compile : bool, default False
        Run the denoising network through ``torch.compile``.
    checkpointing : str, default 'none'
        ``call`` keeps only the input of every call of network and autoencoder, and computes the
        rest again for the gradient (Chen et al. 2016). Gradients are the same to the last bit.

    Raises
    ------
    ValueError
        If ``precision`` or ``checkpointing`` is unknown.
    """

    precision: str = "fp32"
    channels_last: bool = False
    compile: bool = False
    checkpointing: str = "none"

    def __post_init__(self) -> None:
        for key, valid in (("precision", PRECISIONS), ("checkpointing", CHECKPOINTING)):
            if (value := getattr(self, key)) not in valid:
                raise ValueError(f"{key}={value}: valid are {', '.join(valid)}")

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
    def changed(self) -> dict[str, object]:
        """The settings that differ from the default, by name."""
        return {
            f.name: value for f in fields(self) if (value := getattr(self, f.name)) != f.default
        }

    @property
    def label(self) -> str:
        """The column ``precision`` of the rows, such as ``float32`` or ``bf16 channels_last``."""
        words = ["float32" if self.precision == "fp32" else self.precision]
        words += [key for key in ("channels_last", "compile") if getattr(self, key)]
        return " ".join(
            words + [f"checkpointing={self.checkpointing}"] * (self.checkpointing != "none")
        )
