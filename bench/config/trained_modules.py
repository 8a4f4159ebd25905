"""Modules trained for a solver on one prior: their folder, their identity, reading and writing.

The setting ``modules`` of a solver names a folder with one folder per prior, which holds
``modules.json`` and ``modules.safetensors``. A folder whose name ends in ``_one`` is for one module
of each prior, that of the middle block, and not for all. ``modules.json`` records the fingerprint
of the prior that the modules were trained for; with another prior they are refused. Torch is
imported only where weights are read or written.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from posterior_bench.bench.config.build import arguments
from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.core.errors import UserError
from posterior_bench.bench.store.atomic import write_atomic
from posterior_bench.priors.fingerprint import ROOT, fingerprint, sha256

if TYPE_CHECKING:
    from torch import nn

FORMAT = 1
SPEC, WEIGHTS = "modules.json", "modules.safetensors"


@dataclass(frozen=True)
class ModulesFolder:
    """The folder of one solver's modules for one prior.

    Parameters
    ----------
    solver, prior : str
        Their names.
    path : Path
        The folder.
    fingerprint : str
        That of the prior.
    settings : str, default ''
        What the command that trains the modules says beside solver and prior.
    """

    solver: str
    prior: str
    path: Path
    fingerprint: str
    settings: str = ""

    @classmethod
    def of(cls, config: JobConfig) -> ModulesFolder | None:
        """Return the folder that a configuration names.

        None if its solver asks for no modules, or its prior does not lie in files.
        """
        setting, prior = arguments(config.solver).get("modules"), config.prior.get("path")
        if setting is None or prior is None:
            return None
        try:
            of_prior = fingerprint(prior)
        except (OSError, ValueError) as error:
            raise UserError(str(error)) from None
        root, name = Path(setting).expanduser(), Path(prior).name
        solver = config.solver["_target_"].split(".")[-2]
        usual = Path(setting) == Path("solvers", "assets", solver)
        words = ["" if usual else f" solver.modules={shlex.quote(str(setting))}"]
        words += ["" if "train" in config.prior else " data=NAME data.root=DIR"]
        return cls(solver, name, ROOT / root / name, of_prior, "".join(words))

    @property
    def single(self) -> bool:
        """Whether the folder is for one module, that of the middle block."""
        return self.path.parent.name.endswith("_one")

    @property
    def how(self) -> str:
        """The command that makes this folder."""
        command = f"python -m bench train solver={self.solver} prior={self.prior}{self.settings}"
        return f"make them with `{command}`"

    def spec(self) -> dict[str, Any]:
        """Read and check ``modules.json``.

        Raises
        ------
        UserError
            If files are missing, changed, or made for another prior.
        """
        path, weights = self.path / SPEC, self.path / WEIGHTS
        missing = next((file for file in (path, weights) if not file.is_file()), None)
        if missing is not None:
            raise UserError(
                f"there are no modules of {self.solver} for this prior ({missing} is missing); "
                f"{self.how}"
            )
        try:
            spec: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            channels, trained, recorded = spec["channels"], spec["prior"], spec["sha256"]
            usable = spec["format"] == FORMAT and all(
                type(count) is int and count > 0 for count in channels.values()
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            usable = False
        if not usable:
            raise UserError(f"{path} is not what this version writes; {self.how}")
        if trained != self.fingerprint:
            raise UserError(
                f"the modules in {self.path} were trained for a prior with fingerprint {trained}, "
                f"this one has {self.fingerprint}; {self.how}"
            )
        if sha256(weights) != recorded:
            raise UserError(
                f"{weights} is not the file {SPEC} was written for (its sha256 differs); {self.how}"
            )
        return spec

    def load(self) -> nn.ModuleDict:
        """Load the modules, frozen, on the CPU.

        Raises
        ------
        UserError
            As :meth:`spec`, and if weights and description differ.
        """
        # only here: a plan reads no weights and does without torch
        import torch
        from safetensors.torch import load_file

        from posterior_bench.solvers.latentpaint.propagation import propagation_modules

        with torch.device("meta"):
            modules = propagation_modules(self.spec()["channels"])
        try:
            modules.load_state_dict(load_file(self.path / WEIGHTS), assign=True)
        except Exception as error:
            raise UserError(
                f"cannot read {self.path / WEIGHTS} ({str(error).splitlines()[0]}); {self.how}"
            ) from None
        return modules.eval().requires_grad_(False)

    def save(
        self, modules: nn.ModuleDict, channels: Mapping[str, int], training: Mapping[str, Any]
    ) -> None:
        """Write the modules; the description last, so that half a save never looks whole."""
        # only here: it imports torch
        from safetensors.torch import save as to_bytes

        self.path.mkdir(parents=True, exist_ok=True)
        state = {
            name: value.detach().cpu().contiguous() for name, value in modules.state_dict().items()
        }
        write_atomic(self.path / WEIGHTS, to_bytes(state))
        spec = {
            "format": FORMAT,
            "solver": self.solver,
            "prior": self.fingerprint,
            "prior_name": self.prior,
            "channels": dict(channels),
            "training": dict(training),
            "sha256": sha256(self.path / WEIGHTS),
        }
        write_atomic(self.path / SPEC, (json.dumps(spec, indent=2) + "\n").encode())


def load_modules(config: JobConfig, device: str) -> dict[str, nn.Module] | None:
    """Return the modules of a cell's solver on a device; None if it asks for none."""
    folder = ModulesFolder.of(config)
    return None if folder is None else dict(folder.load().to(device).items())


def modules_identity(config: JobConfig) -> dict[str, str]:
    """Return the content of a solver's modules, which enters the hash of a cell."""
    folder = ModulesFolder.of(config)
    return {} if folder is None else {"modules": folder.spec()["sha256"]}
