"""Read the development kit of ILSVRC 2012, which holds the labels of the validation images."""

from __future__ import annotations

import io
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import scipy.io

from posterior_bench.datasets.limits import demand_text
from posterior_bench.datasets.text import decoded

_NAMES = ("ILSVRC2012_devkit_t12", "devkit", "ILSVRC2012_devkit_t12.tar.gz")
_TRUTH = "data/ILSVRC2012_validation_ground_truth.txt"
_META = "data/meta.mat"
CLASSES = 1000


@dataclass(frozen=True)
class Devkit:
    """Development kit ``ILSVRC2012_devkit_t12``, unpacked or as tar.gz.

    Its labels are ILSVRC ids from 1 to 1000. Their order is neither the order of the sorted wnids
    nor that of the classes of any network.

    Parameters
    ----------
    path : Path
        The folder or the tar.gz file.
    """

    path: Path

    @classmethod
    def find(cls, path: str | None, root: Path) -> Devkit:
        """Find the kit at ``path``, or otherwise in or beside ``root``.

        Raises
        ------
        ValueError
            If there is no kit.
        """
        near = [folder / name for folder in (root, root.absolute().parent) for name in _NAMES]
        places = [Path(path).expanduser()] if path is not None else near
        found = next((place for place in places if place.exists()), None)
        if found is None:
            looked = path if path is not None else f"{', '.join(_NAMES)} in '{root}' and beside it"
            raise ValueError(
                f"the labels of these images are in the ILSVRC 2012 devkit; looked for {looked}; "
                "set data.devkit, or use data=folder without labels"
            )
        return cls(found)

    def ground_truth(self) -> list[int]:
        """Return the ILSVRC id of every validation image, in the order of the image numbers.

        Raises
        ------
        ValueError
            If the file is missing or holds anything but ILSVRC ids.
        """
        try:
            truth = [int(line) for line in decoded(self._read(_TRUTH)).split()]
        except ValueError as error:
            raise ValueError(
                f"{_TRUTH} in {self.path} holds something other than numbers: {error}"
            ) from None
        if not truth or not (min(truth) >= 1 and max(truth) <= CLASSES):
            raise ValueError(f"{_TRUTH} in {self.path} must hold ILSVRC ids from 1 to {CLASSES}")
        return truth

    def wnids(self) -> list[str]:
        """Return the wnids of the ILSVRC ids 1 to 1000.

        Raises
        ------
        ValueError
            If the file is missing or does not name these classes.
        """
        content = self._read(_META)
        try:
            table = scipy.io.loadmat(io.BytesIO(content), squeeze_me=True)["synsets"]
            # inner nodes of the hierarchy have children, and numbers above 1000
            leaves = {
                int(row["ILSVRC2012_ID"]): str(row["WNID"])
                for row in table
                if int(row["num_children"]) == 0
            }
            return [leaves[k] for k in range(1, CLASSES + 1)]
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            raise ValueError(
                f"{_META} in {self.path} does not name the {CLASSES} classes of ILSVRC 2012"
            ) from error

    def _read(self, name: str) -> bytes:
        try:
            if self.path.is_dir():
                return (self.path / name).read_bytes()
            with tarfile.open(self.path) as tar:
                member = next((m for m in tar if m.name.endswith(name)), None)
                demand_text(member.size if member else 0, name)
                file = tar.extractfile(member) if member else None
                if file is None:
                    raise FileNotFoundError(name)
                return file.read()
        except (OSError, ValueError, tarfile.TarError, EOFError, zlib.error) as error:
            raise ValueError(
                f"{self.path} is not ILSVRC2012_devkit_t12: cannot read {name} in it ({error})"
            ) from None
