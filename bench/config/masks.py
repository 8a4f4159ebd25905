"""Build the masks of a cell, and say whether its images share one.

``mask.shared`` is a setting of every mask option. The benchmark reads it, not the class of the
masks: with ``shared: true`` one mask, drawn from the study seed alone, is used for every image.
"""

from __future__ import annotations

from posterior_bench.bench.config.build import build
from posterior_bench.bench.config.job import Node
from posterior_bench.bench.core.errors import UserError
from posterior_bench.masks.base import MaskGenerator

NOT_OF_THE_CLASS = ("shared",)
"""Settings of a mask option that its class does not get."""


def is_shared(node: Node) -> bool:
    """Return whether all images have the same mask; False for a node that does not say."""
    return bool(node.get("shared", False))


def build_masks(node: Node) -> MaskGenerator:
    """Build the mask generator of a node.

    Raises
    ------
    UserError
        If the generator cannot be built, and if masks that belong to images are to be shared.
    """
    masks: MaskGenerator = build(node, skip=NOT_OF_THE_CLASS)
    if is_shared(node) and type(masks).for_image is not MaskGenerator.for_image:
        raise UserError(
            f"mask.shared=true: masks of {node['_target_']} belong to single images; leave "
            "mask.shared out (one file as mask.path is used for every image)"
        )
    return masks
