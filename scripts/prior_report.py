"""Write the page of a trained prior, with numbers and pictures.

    python -m scripts.prior_report [prior.path]

A small classifier is trained on the training split (the same one in every run on one machine). It
tells whether a sample shows the requested class. Its last hidden layer is the feature space of a
Fréchet distance between samples and held-out images; the distance between training and held-out
images is the lower limit. The script writes ``docs/priors/<name>.md`` and
``docs/priors/<name>_samples.png``. For a latent prior, the page also says how well its autoencoder
reconstructs images, and ``<name>_reconstructions.png`` shows it. Padded images are cropped to 28 x
28 pixels before all measurements. The script takes a few minutes on a CPU and runs in a checkout.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from posterior_bench.bench.core.streams import Key, Noise
from posterior_bench.bench.training.pictures import samples_by_class, sheet
from posterior_bench.datasets.base import ImageSet
from posterior_bench.datasets.fashion import Fashion
from posterior_bench.priors.base import Prior
from posterior_bench.priors.fingerprint import ROOT, fingerprint, read_spec, resolve
from posterior_bench.priors.load import load
from posterior_bench.priors.sample import sample
from posterior_bench.priors.train import TrainConfig, encode_all, validation_loss

FEATURES = 64
Row = tuple[str, ...]


class Classifier(nn.Module):
    """Two convolutions and two linear layers for grey images of 28 x 28 pixels."""

    def __init__(self, classes: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(64 * 7 * 7, FEATURES),
            nn.ReLU(),
        )
        self.head = nn.Linear(FEATURES, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return class scores ``(N, classes)`` of images ``(N, 1, 28, 28)``."""
        return self.head(self.body(x))


def train_classifier(images: Tensor, labels: Tensor, epochs: int, seed: int = 0) -> Classifier:
    """Train with Adam and a one-cycle rate; weights and order of images come from ``seed``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = Classifier(int(labels.max()) + 1)
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(net.parameters())
    blocks = len(images) // 256
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, epochs * blocks)
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=generator)[: blocks * 256]
        for rows in order.view(blocks, 256):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(images[rows]), labels[rows]).backward()
            optimizer.step()
            schedule.step()
    return net.eval().requires_grad_(False)


def frechet(a: Tensor, b: Tensor) -> float:
    """Return the Fréchet distance of two sets of features (Heusel et al., 2017, Eq. 6).

    It is ``|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))``.
    """
    a, b = a.double(), b.double()
    cov_a, cov_b = torch.cov(a.T), torch.cov(b.T)
    values, vectors = torch.linalg.eigh(cov_a)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp_min(0).sqrt().sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross)


def draw(prior: Prior, labels: Tensor, steps: int, batch: int = 100) -> Tensor:
    """Draw one sample per label, clipped to [-1, 1] as images are stored."""
    parts = []
    for start in range(0, len(labels), batch):
        asked = labels[start : start + batch]
        noise = Noise([Key(0, "prior-report", str(start + i)) for i in range(len(asked))], "solver")
        parts.append(sample(prior, prior.grid(steps, "karras"), noise, prior.condition(asked)))
    return torch.cat(parts).clamp(-1, 1)


def cropped(images: Tensor) -> Tensor:
    """Crop the 28 x 28 pixels in the middle."""
    margin = (images.shape[-1] - 28) // 2
    return images[..., margin : margin + 28, margin : margin + 28]


def padding(prior: Prior) -> int:
    """Return the number of black pixels at every border of the prior's images."""
    return (prior.image_shape[-1] - 28) // 2


def accuracy(net: Classifier, images: Tensor, labels: Tensor) -> float:
    """Return the fraction of images that the classifier assigns to their label."""
    return (net(images).argmax(1) == labels).double().mean().item()


def some(images: ImageSet, count: int) -> tuple[Tensor, Tensor]:
    """Return the first images of a set and their labels."""
    labels = images.labels(images.ids[:count])
    assert labels is not None
    return images.images(images.ids[:count]), labels


def alike(images: ImageSet, labels: Tensor) -> Tensor:
    """Return the first images of another set with these labels, in this order.

    With equal class fractions, a distance between the sets does not measure the classes.
    """
    _, available = some(images, len(images))
    queues = {int(k): iter((available == k).nonzero().flatten().tolist()) for k in labels.unique()}
    return images.images([images.ids[next(queues[k])] for k in labels.tolist()])


@torch.no_grad()
def measure(
    prior: Prior, config: TrainConfig, net: Classifier, count: int, steps: int
) -> tuple[list[Row], list[Row]]:
    """Measure a prior. Samples get the labels of held-out images.

    Returns
    -------
    overall : list[Row]
        Rows (quantity, samples, reference) over all classes.
    by_class : list[Row]
        Rows (class, samples, held-out images) with the fraction of recognised images.
    """
    pad = padding(prior)
    real, labels = some(Fashion("validation", pad=pad), count)
    training, samples = alike(Fashion("train", pad=pad), labels), draw(prior, labels, steps)
    states = [x if prior.latent is None else encode_all(prior.latent, x) for x in (real, training)]
    loss = [validation_loss(prior, z, labels, config) for z in states]
    rows = reconstruction(prior, states, (real, training), labels, net)
    samples, real, training = (cropped(x) for x in (samples, real, training))
    features = [net.body(x) for x in (samples, real, training)]
    distance = [frechet(features[0], features[1]), frechet(features[2], features[1])]
    right = [accuracy(net, x, labels) for x in (samples, real)]
    overall: list[Row] = [
        *rows,
        ("denoising loss, held-out images", f"{loss[0]:.4f}", f"{loss[1]:.4f} (training images)"),
        (
            "Fréchet distance to held-out images",
            f"{distance[0]:.2f}",
            f"{distance[1]:.2f} (training images)",
        ),
        (
            "recognised as the class asked for",
            f"{right[0]:.3f}",
            f"{right[1]:.3f} (held-out images)",
        ),
    ]
    return overall, recognised_by_class(net, samples, real, labels)


def recognised_by_class(
    net: Classifier, samples: Tensor, real: Tensor, labels: Tensor
) -> list[Row]:
    """Return the fraction of recognised samples and held-out images of every class."""
    by_class: list[Row] = []
    for k, name in enumerate(Fashion("validation").class_names):
        rows = labels == k
        values = [accuracy(net, x[rows], labels[rows]) for x in (samples, real)]
        by_class.append((name, *(f"{value:.2f}" for value in values)))
    return by_class


def reconstruction(
    prior: Prior,
    states: Sequence[Tensor],
    images: Sequence[Tensor],
    labels: Tensor,
    net: Classifier,
) -> list[Row]:
    """Measure the autoencoder of a latent prior on held-out and training images.

    A pixel prior gives no rows.
    """
    if prior.latent is None:
        return []
    back = [cropped(decoded(prior, z)) for z in states]
    errors = [
        (a - cropped(b)).square().flatten(1).mean(1) for a, b in zip(back, images, strict=True)
    ]
    psnr = [(10 * torch.log10(4 / e)).mean().item() for e in errors]
    features = [net.body(x) for x in (back[0], cropped(images[0]))]
    right = accuracy(net, back[0], labels)
    return [
        (
            "reconstruction PSNR, held-out images",
            f"{psnr[0]:.2f} dB",
            f"{psnr[1]:.2f} dB (training images)",
        ),
        (
            "Fréchet distance of reconstructions",
            f"{frechet(*features):.2f}",
            "0 (the images themselves)",
        ),
        (
            "reconstructions recognised",
            f"{right:.3f}",
            f"{accuracy(net, cropped(images[0]), labels):.3f} (the images)",
        ),
    ]


def decoded(prior: Prior, states: Tensor, batch: int = 100) -> Tensor:
    """Decode latents in batches and clip to [-1, 1]."""
    return torch.cat([prior.decode(z).clamp(-1, 1) for z in states.split(batch)])


PAGE = """\
# Prior `{name}`

{source}. Licence of the weights: {licence}.

- {parameters:,} parameters, {parameterization} parameterisation over a {process} process, \
images {shape}
- {steps} steps of {batch} images in {minutes:.0f} minutes
{latent}- fingerprint `{fingerprint}`

| | value | reference |
| --- | --- | --- |
{rows}

{count} samples of {sampler} steps of Heun's method ({evaluations} network evaluations), \
without guidance, clipped to
[-1, 1], one for the label of each of the first {count} held-out images; the training images of \
the Fréchet distance
have the same labels. The classifier and the space of that distance are a small network trained \
on the training
images, so the distance compares with its reference and with nothing else. Made by \
`python -m scripts.prior_report`.

| class | samples recognised | held-out images recognised |
| --- | --- | --- |
{classes}

Eight samples of each class, one class a row, in the order of this table, not selected:

![samples]({name}_samples.png)
{reconstructions}"""

LATENT = """\
- in a latent space: KL autoencoder of {:,} parameters, {:.0f} minutes of training before \
the denoiser
"""

RECONSTRUCTIONS = """
The first sixteen held-out images, and below them what comes back through the autoencoder:

![reconstructions]({name}_reconstructions.png)
"""


def table(rows: Sequence[Row]) -> str:
    """Format rows as lines of a Markdown table."""
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def latent_parts(spec: dict[str, Any]) -> dict[str, str]:
    """Return the parts of the page on the autoencoder; they are empty for a pixel prior."""
    autoencoder = spec["training"].get("autoencoder")
    if autoencoder is None:
        return {"latent": "", "reconstructions": ""}
    return {
        "latent": LATENT.format(autoencoder["parameters"], autoencoder["seconds"] / 60),
        "reconstructions": RECONSTRUCTIONS.format(name=spec["name"]),
    }


def page(
    spec: dict[str, Any], measured: tuple[list[Row], list[Row]], mark: str, count: int, steps: int
) -> str:
    """Fill in the page of a prior."""
    training = spec["training"]
    return PAGE.format(
        **latent_parts(spec),
        **{key: spec[key] for key in ("name", "licence", "parameterization")},
        source=spec["source"][0].upper() + spec["source"][1:],
        parameters=training["parameters"],
        process=spec["process"]["kind"].upper(),
        shape=" x ".join(str(n) for n in spec["shape"]),
        steps=training["settings"]["steps"],
        batch=training["settings"]["batch"],
        minutes=training["seconds"] / 60,
        fingerprint=mark,
        rows=table(measured[0]),
        classes=table(measured[1]),
        count=count,
        sampler=steps,
        evaluations=2 * steps - 1,
    )


def read_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    pages = ROOT / "docs" / "priors"
    parser.add_argument("path", nargs="?", default="priors/assets/fashion", help="prior's folder")
    parser.add_argument("--out", type=Path, default=pages, help="folder of the page")
    parser.add_argument("--samples", type=int, default=1000, help="number of samples")
    parser.add_argument("--steps", type=int, default=18, help="steps of Heun's method")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of the classifier")
    return parser.parse_args()


def main() -> None:
    """Read the command line, measure the prior, and write its page and pictures."""
    options = read_arguments()
    folder = resolve(options.path)
    prior = load(folder)
    spec: dict[str, Any] = read_spec(folder)
    config = TrainConfig(**{**spec["training"]["settings"], "bf16": False})
    net = train_classifier(*some(Fashion("train"), 58_000), options.epochs)
    measured = measure(prior, config, net, options.samples, options.steps)
    for row in [*measured[0], *measured[1]]:
        print("  ".join(row))
    options.out.mkdir(parents=True, exist_ok=True)
    text = page(spec, measured, fingerprint(folder), options.samples, options.steps)
    (options.out / f"{spec['name']}.md").write_text(text, encoding="utf-8")
    samples = sheet(samples_by_class(prior, 0, steps=options.steps), 8)
    (options.out / f"{spec['name']}_samples.png").write_bytes(samples)
    if prior.is_latent:
        with torch.no_grad():
            shown, _ = some(Fashion("validation", pad=padding(prior)), 16)
            pairs = torch.cat([shown, prior.decode(prior.encode(shown))])
        (options.out / f"{spec['name']}_reconstructions.png").write_bytes(sheet(pairs, 16))


if __name__ == "__main__":
    main()
