"""Fit the mixture behind ``prior=fashion_mixture``: one Gaussian per class of Fashion-MNIST.

    python -m scripts.fit_mixture [FOLDER]

Every component is a probabilistic principal component analyser in its maximum-likelihood form
(Tipping and Bishop, "Mixtures of Probabilistic Principal Component Analysers", Neural Computation
1999): the leading eigenvectors of the class covariance, and the mean of the other eigenvalues as
the variance of all other directions, which keeps the covariance well conditioned. It is fitted to
the rows that trained the embedded prior; validation, tuning and test images are not used. The
parameters are rounded to half precision, and the rounded mixture is the prior: nothing is
approximated later.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from posterior_bench.datasets.fashion import Fashion
from posterior_bench.priors.fingerprint import ROOT, sha256
from posterior_bench.priors.mixtures import MIXTURE_FILE

FOLDER = ROOT / "priors" / "assets" / "fashion_mixture"
RANK = 96


def component(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Fit one class.

    Parameters
    ----------
    images : Tensor
        float64 ``(n, d)``.

    Returns
    -------
    mean : Tensor
        ``(d,)``.
    factor : Tensor
        ``(d, RANK)``.
    floor : Tensor
        Variance of all other directions, a scalar.
    """
    mean = images.mean(0)
    values, vectors = torch.linalg.eigh((images - mean).T @ (images - mean) / len(images))
    floor = values[:-RANK].mean()
    return mean, vectors[:, -RANK:] * (values[-RANK:] - floor).sqrt(), floor


def main(folder: Path) -> None:
    """Fit all classes and write ``prior.json`` and the parameters to ``folder``."""
    data = Fashion("train")
    images, labels = data.images(data.ids).flatten(1).double(), data.labels(data.ids)
    classes = [images[labels == label] for label in range(data.num_classes)]
    means, factors, floors = (
        torch.stack(part) for part in zip(*map(component, classes), strict=True)
    )
    tensors = {
        "weights": torch.tensor([len(rows) / len(images) for rows in classes]),
        "means": means.half(),
        "factors": factors.half(),
        "floor": floors.float(),
    }
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / MIXTURE_FILE)
    text = json.dumps(specification(data, folder), indent=2) + "\n"
    (folder / "prior.json").write_text(text, encoding="utf-8")
    deviations = ", ".join(f"{value:.3f}" for value in floors.sqrt().tolist())
    print(f"{folder}: standard deviation outside the {RANK} leading directions: {deviations}")


def specification(data: Fashion, folder: Path) -> dict[str, object]:
    """Return the content of ``prior.json``; the parameters must have been written."""
    return {
        "format": 1,
        "name": "fashion_mixture",
        "kind": "mixture of probabilistic principal component analysers",
        "shape": list(data.shape),
        "class_names": list(data.class_names),
        "source": "fitted by `python -m scripts.fit_mixture` to rows 0 to 57999 of the "
        "Fashion-MNIST training images",
        "licence": "MIT",
        "sha256": {MIXTURE_FILE: sha256(folder / MIXTURE_FILE)},
    }


def read_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER, help="folder to write")
    return parser.parse_args()


if __name__ == "__main__":
    main(read_arguments().folder)
