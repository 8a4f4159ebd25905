"""How a network is run: precision, memory layout, compilation, and what is kept for gradients;
imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

PRECISIONS = ("fp32", "tf32", "bf16")
CHECKPOINTING = ("none", "call")


@dataclass(frozen=True)
class Execution:
    """Ways to run one and the same network; whatever is not the default may change a result's
    digits.

    Parameters
    ----------
    precision : str, default 'fp32'
        ``fp32``; ``tf32``, products of a GPU in TensorFloat-32 while a solver works, those of
        autoencoders too: their gradients are taken long after the call, and the switch is one
        for the process; ``bf16``, autocast around the denoising network alone, whose output is
        float32 again, as are autoencoders and losses. Schedules stay in float64, and no score
        is computed in less than float32.
    channels_last : bool, default False
        Weights and inputs of the denoising network with the channels innermost in memory.
    compile : bool, default False
        Run the denoising network through ``torch.compile``.
    checkpointing : str, default 'none'
        ``call`` keeps the input of every call of the network and the autoencoder, and computes
        the rest again for the gradient (Chen et al. 2016); gradients are the same to the last
        bit. Raises ValueError for an unknown value.
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
        """What a configuration says; the default for keys it lacks. ValueError for an unknown
        value.
        """
        return cls(**{f.name: config[f.name] for f in fields(cls) if f.name in config})  # type: ignore[arg-type]

    @property
    def changed(self) -> dict[str, object]:
        """What is not the default."""
        return {
            f.name: value for f in fields(self) if (value := getattr(self, f.name)) != f.default
        }

    @property
    def label(self) -> str:
        """The column ``precision`` of the rows: ``float32``, ``bf16 channels_last
        checkpointing=call`` and the like.
        """
        words = ["float32" if self.precision == "fp32" else self.precision]
        words += [key for key in ("channels_last", "compile") if getattr(self, key)]
        return " ".join(
            words + [f"checkpointing={self.checkpointing}"] * (self.checkpointing != "none")
        )
