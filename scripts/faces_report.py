"""Write the page of a prior for the cartoon faces, with numbers and pictures.

    python -m scripts.faces_report [prior.path] [--root DIR]

The features are those of the offline metrics (the trunk of ST-LPIPS). 512 samples have the labels
of the 512 test images. The style of an image is that of the nearest training image, found among
all of them; so are copies. This uses 64 samples, the ones shown. The script writes
``docs/priors/<name>.md`` and its pictures, and needs the packages of the extra ``faces`` or a
folder of drawn images. It takes a quarter of an hour on one core.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from scripts.prior_report import draw, frechet
from torch import Tensor

from posterior_bench.bench.training.pictures import samples_by_class, sheet
from posterior_bench.datasets.faces import Faces
from posterior_bench.metrics.base import from_uint8, to_uint8
from posterior_bench.metrics.features import STLPIPSTrunk
from posterior_bench.priors.base import Prior
from posterior_bench.priors.fingerprint import ROOT, fingerprint, read_spec, resolve
from posterior_bench.priors.latents import KL
from posterior_bench.priors.load import load
from posterior_bench.priors.train import reconstruction_errors

SHOWN = 8
BLOCK = 1000

PAGE = """\
# Prior `{name}`

{source}. Licence of the weights: {licence}.

- {parameters:,} parameters, {parameterization} parameterisation over a {process} process, \
images 3 x 64 x 64
- denoising loss on the {validation} validation images: {loss:.4f}
{latent}- fingerprint `{mark}`

| | samples | test images |
| --- | --- | --- |
| Fréchet distance to the validation images | {distance[0]:.2e} | {distance[1]:.2e} |
| nearest training image has the style asked for | {right[0]} of {shown} | {right[1]} of {shown} |
| distance to it, median | {near[0]:.3f} | {near[1]:.3f} |
| distance to it, smallest | {least[0]:.3f} | {least[1]:.3f} |

Fréchet distance: {count} samples of {steps} steps of Heun's method ({evaluations} network \
evaluations), without
guidance, clipped to [-1, 1], one for the label of each test image; there are as many test and as \
many validation
images. Features are those of the offline metrics, so the distance compares with its reference \
and with nothing else.
Nearest images: the {shown} samples shown below, and the first {shown} test images, among all \
{training:,} training
images. This distance is the root mean square over pixels, whose range is 2. Made by
`python -m scripts.faces_report`.

{remarks}

Eight samples of each style, one style a row, in alphabetical order, not selected:

![samples]({name}_samples.png)

The first sample of every style, and below it its nearest training image:

![nearest training images]({name}_nearest.png)
{reconstructions}"""

RECONSTRUCTIONS = """
The first sixteen test images, and below them what comes back through the autoencoder:

![reconstructions]({name}_reconstructions.png)
"""


REMARKS = {
    "faces": """\
What the pictures show: the style is clear at a glance, and heads, hair and clothes have clean
outlines. Eyes, mouths and glasses are garbled in places, most often in adventurer, open-peeps and
personas. Some backgrounds are not quite flat, or not one of the six colours of the data. No sample
shown is a copy of a training image.

The recipe of `conf/prior/faces.yaml` shows the network as many images as the shipped weights saw,
in one stage. It has not been run to its end. It needs a GPU: on one core of a busy machine, two
steps took more than nine minutes.""",
    "faces_latent": """\
What the pictures show: the style is clear at a glance, and backgrounds are flat. Eyes, mouths and
glasses are garbled in places, and fine lines are softer than in the pixel prior. The autoencoder
keeps outlines and colours, and blurs the smallest details.

The recipe of `conf/prior/faces_latent.yaml` has the settings of the shipped weights. It has not
been run to its end with the trainer of this package, and it needs a GPU.""",
}
"""What a person sees in the pictures, and what is known of the recipe."""


def features(images: Tensor) -> Tensor:
    """Return the feature vectors ``(N, 256)`` of images, rounded to 8 bits."""
    network = STLPIPSTrunk()
    return torch.cat([network(x[None]) for x in from_uint8(to_uint8(images))])


def nearest(images: Tensor, training: Faces) -> tuple[list[str], Tensor]:
    """Return the nearest training image of every image, and its root mean square distance."""
    best, found = torch.full((len(images),), torch.inf), [""] * len(images)
    for start in range(0, len(training), BLOCK):
        ids = training.ids[start : start + BLOCK]
        distance = torch.cdist(images.flatten(1), training.images(ids).flatten(1))
        closest, row = distance.min(1)
        for i in (closest < best).nonzero().flatten().tolist():
            best[i], found[i] = closest[i], ids[int(row[i])]
    return found, best / images[0].numel() ** 0.5


def neighbours(shown: Tensor, root: str | None) -> dict[str, Any]:
    """Measure how near training images are, for samples in the order of the styles."""
    test, training = Faces(), Faces("train", root)
    ids = test.ids[: len(shown)]
    asked = torch.arange(test.num_classes).repeat_interleave(len(shown) // test.num_classes)
    sets = [(shown, asked), (test.images(ids), test.labels(ids))]
    found = [nearest(images, training) for images, _ in sets]
    right = [
        int((training.labels(close) == labels).sum())
        for (close, _), (_, labels) in zip(found, sets, strict=True)
    ]
    first = range(0, len(shown), len(shown) // test.num_classes)
    return {
        "right": right,
        "near": [distance.median().item() for _, distance in found],
        "least": [distance.min().item() for _, distance in found],
        "training": len(training),
        "shown": len(shown),
        "pairs": torch.cat([shown[first], training.images([found[0][0][i] for i in first])]),
    }


def distances(samples: Tensor, root: str | None) -> list[float]:
    """Return the Fréchet distance of samples and of test images to the validation images."""
    test, validation = Faces(), Faces("validation", root)
    held_out = features(validation.images(validation.ids))
    return [frechet(features(x), held_out) for x in (samples, test.images(test.ids))]


def autoencoder(prior: Prior) -> str:
    """Return the line on the autoencoder; nothing for a pixel prior."""
    if not isinstance(prior.latent, KL):
        return ""
    test = Faces()
    errors = reconstruction_errors(prior.latent, test.images(test.ids))
    psnr = (10 * torch.log10(4 / errors)).mean().item()
    size = sum(p.numel() for p in prior.latent.parameters())
    return (
        f"- in a latent space: KL autoencoder of {size:,} parameters; reconstruction PSNR "
        f"{psnr:.2f} dB on the test images\n"
    )


@torch.no_grad()
def main() -> None:
    """Read the command line, measure the prior, and write its page and pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("path", nargs="?", default="priors/assets/faces", help="prior's folder")
    parser.add_argument("--root", help="folder of drawn images")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "priors", help="folder")
    parser.add_argument("--steps", type=int, default=18, help="steps of Heun's method")
    options = parser.parse_args()
    folder = resolve(options.path)
    prior, spec = load(folder), read_spec(folder)
    name, out = spec["name"], options.out
    test = Faces()
    samples = draw(prior, test.labels(test.ids), options.steps)
    shown = samples_by_class(prior, 0, steps=options.steps).clamp(-1, 1)
    values = neighbours(shown, options.root)
    (out / f"{name}_nearest.png").write_bytes(sheet(values.pop("pairs"), SHOWN, scale=1))
    (out / f"{name}_samples.png").write_bytes(sheet(shown, SHOWN, scale=1))
    if prior.is_latent:
        real = test.images(test.ids[:16])
        pairs = torch.cat([real, prior.decode(prior.encode(real)).clamp(-1, 1)])
        (out / f"{name}_reconstructions.png").write_bytes(sheet(pairs, 16, scale=1))
    text = PAGE.format(
        **values,
        distance=distances(samples, options.root),
        latent=autoencoder(prior),
        **{key: spec[key] for key in ("name", "licence", "parameterization")},
        source=spec["source"][0].upper() + spec["source"][1:],
        parameters=spec["training"]["parameters"],
        process=spec["process"]["kind"].upper(),
        validation=spec["training"]["validation_images"],
        loss=spec["training"]["validation_loss"],
        mark=fingerprint(folder),
        count=len(samples),
        steps=options.steps,
        evaluations=2 * options.steps - 1,
        remarks=REMARKS[name],
        reconstructions=RECONSTRUCTIONS.format(name=name) if prior.is_latent else "",
    )
    (out / f"{name}.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
