"""The checks of images, masks and metrics."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from posterior_bench.bench.config.build import target
from posterior_bench.bench.config.job import JobConfig
from posterior_bench.bench.config.masks import build_masks, is_shared
from posterior_bench.bench.engine.arena import PriorDraws, build_images
from posterior_bench.bench.engine.cache import shared
from posterior_bench.bench.estimate.attempt import attempt
from posterior_bench.bench.estimate.finding import Finding
from posterior_bench.bench.external.content import hidden_share, mask_content
from posterior_bench.datasets.base import ImageSet
from posterior_bench.masks.base import MaskGenerator
from posterior_bench.priors.base import Prior


def check_images(config: JobConfig, prior: Prior | None) -> tuple[ImageSet | None, list[Finding]]:
    """Return the images, None if they are missing, and the findings.

    Every image of the run is read once.

    Parameters
    ----------
    config : JobConfig
        The configuration of the cell.
    prior : Prior or None
        The prior, from which some data sets draw their images.
    """
    node, count = config.data, config.images
    if prior is None and target(node) is PriorDraws:
        found = "the images are drawn from the prior, which is missing"
        return None, [Finding("data", "warning", found)]
    images, problem = attempt(lambda: build_images(node, prior, config.seed))
    if problem:
        remedy = "data.root=FOLDER; docs/data.md says what must lie there"
        return None, [Finding("data", "missing", problem, remedy)]
    if count > len(images):
        found = f"data.images={count}, but there are only {len(images)} images"
        return images, [Finding("data", "missing", found, f"data.images={len(images)} or less")]
    damaged = images.check(list(images.ids)[:count])
    result = f"{len(damaged)} are damaged" if damaged else "all can be read"
    found = (
        f"{images.name}: {len(images)} images of {' x '.join(map(str, images.shape))}; of the "
        f"{count} of this run {result}"
    )
    return images, [
        Finding("data", "ok", found),
        *(Finding("data", "warning", line) for line in images.notes()),
        *(Finding("damaged images", "missing", line, "restore the file") for line in damaged),
    ]


def check_mask(
    config: JobConfig, images: ImageSet | None
) -> tuple[MaskGenerator | None, list[Finding]]:
    """Return the mask, None if it is missing, and the findings.

    Masks from files are all read.

    Parameters
    ----------
    config : JobConfig
        The configuration of the cell.
    images : ImageSet or None
        The images, for which there must be masks.
    """
    mask, problem = attempt(lambda: build_masks(config.mask))
    if mask is not None and images is not None:
        problem = attempt(lambda: mask_content(config, mask, images))[1]
    path = config.mask.get("path")
    if not problem and path and not Path(path).expanduser().exists():
        problem = f"{path} does not exist"
    if problem:
        remedy = "mask.path=PATH; docs/masks.md says what may lie there" if path else ""
        return None, [Finding("mask", "missing", problem, remedy)]
    return mask, [Finding("mask", "ok", _on_masks(config, mask, images))]


def _on_masks(config: JobConfig, mask: MaskGenerator, images: ImageSet | None) -> str:
    path = config.mask.get("path") or config.mask.get("part")
    if not path:
        which = "one for all images, " if is_shared(config.mask) else ""
        return f"{which}drawn from the seed"
    if images is None:
        if not config.mask.get("path"):
            return "a mask for every image; they can only be checked when the images are there"
        return f"{path} exists; its masks can only be checked when the images are there"
    return f"{path}: a mask for every image: {hidden_share(config, mask, images)}"


def check_metrics(config: JobConfig) -> Iterator[Finding]:
    """Yield what the metrics lack, and those whose weights and reference values are right.

    Parameters
    ----------
    config : JobConfig
        The configuration of the cell.
    """
    good = []
    for name, node in config.metrics.items():
        problem = attempt(lambda node=node: shared("metric", node, "cpu").check())[1]  # type: ignore[misc]
        if problem:
            yield Finding(f"metric {name}", "missing", problem)
        else:
            good.append(name)
    if good:
        yield Finding("metrics", "ok", f"weights and reference values are right: {', '.join(good)}")
