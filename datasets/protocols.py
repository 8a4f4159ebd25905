"""List the images that published papers used, and state which details the papers leave open.

A protocol is a slice of the ordered ids, or one image per class. If the authors published a list,
give it as ``data.id_list`` beside the protocol. No list and no image is shipped. docs/data.md
describes the protocols.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Protocol:
    """Choice of images in a published paper.

    Parameters
    ----------
    data : str
        Kind of the image set (``imagenet``, ``lsun``, ...), or ``any``.
    first : int
        Index of the first image.
    last : int
        Index after the last image.
    known : str
        Details that the paper or its code states.
    unknown : str
        Details that neither states.
    one_per_class : bool, default False
        Keep the first image of every class, sorted by class, before slicing.
    text_order : bool, default False
        Sort numbers as text (10 before 2) before slicing.
    """

    data: str
    first: int
    last: int
    known: str
    unknown: str
    one_per_class: bool = False
    text_order: bool = False


def choose(protocol: str, ids: Sequence[str], label: Callable[[str], int] | None) -> list[str]:
    """Choose the images of a protocol.

    Parameters
    ----------
    protocol : str
        Name of a protocol, one of :data:`PROTOCOLS`.
    ids : Sequence[str]
        Ids of all images in order.
    label : Callable[[str], int] or None
        Function that returns the class of an image; None if there are no labels.

    Returns
    -------
    list[str]
        The chosen ids.

    Raises
    ------
    ValueError
        If there are too few images, or no labels although the protocol needs them.
    """
    wanted = PROTOCOLS[protocol]
    if wanted.text_order:
        ids = sorted(ids, key=lambda image: str(int(image)))
    if wanted.one_per_class:
        if label is None:
            raise ValueError(
                f"protocol={protocol} takes one image per class, but these images have no labels"
            )
        ids = _one_per_class(ids, label)
    if len(ids) < wanted.last:
        raise ValueError(
            f"protocol={protocol} takes images {wanted.first} to {wanted.last - 1} of a list, but "
            f"there are only {len(ids)}; known of it: {wanted.known}"
        )
    return list(ids[wanted.first : wanted.last])


def _one_per_class(ids: Sequence[str], label: Callable[[str], int]) -> list[str]:
    """Return the first id of every class, sorted by class."""
    found: dict[int, str] = {}
    for image in ids:
        found.setdefault(label(image), image)
    return [found[k] for k in sorted(found)]


def _vipaint(first: int, last: int, note: str = "") -> Protocol:
    return Protocol(
        "imagenet",
        first,
        last,
        f"released code: rows {first} to {last - 1} of one NPZ file of 500 validation "
        f"images{note}; 10 draws each",
        "which 500 images: the file is not published, so this is a slice of data.root or "
        "data.id_list; for ImageNet-64, neither split nor images are stated",
    )


def _vipaint_lsun(first: int, last: int) -> Protocol:
    return Protocol(
        "lsun",
        first,
        last,
        f"released code: entries {first} to {last - 1} of a reordering of church_outdoor_val.txt, "
        "the validation list of latent diffusion, which is not LSUN's own",
        "the reordering: it is not published, so this is a slice of data.id_list as it stands",
    )


PROTOCOLS: dict[str, Protocol] = {
    "vipaint_validation": _vipaint(0, 50, "; the paper says settings were found on 20"),
    "vipaint_deblur": _vipaint(0, 100, "; these contain vipaint_validation"),
    "vipaint_sr": _vipaint(100, 200),
    "vipaint_rotated": _vipaint(200, 300),
    "vipaint_box": _vipaint(300, 350),
    "vipaint_random": _vipaint(400, 500, "; 350 to 449 in the first release"),
    "vipaint_lsun_random": _vipaint_lsun(0, 100),
    "vipaint_lsun_rotated": _vipaint_lsun(100, 200),
    "vipaint_lsun_validation": _vipaint_lsun(200, 300),
    "dgp_top1k": Protocol(
        "imagenet",
        0,
        1000,
        "the list of RED-diff (Mardani et al. 2023), first used by DGP: of each class the "
        "validation image with the lowest number",
        "the order of the list, which matters for its first 10 and 100 lines (dgp_top10, "
        "dgp_top100): by class here",
        one_per_class=True,
    ),
    "daps100": Protocol(
        "any",
        0,
        100,
        "DAPS (Zhang et al. 2024): the first 100 files by name of its own download",
        "how these were chosen",
    ),
    "latentpaint": Protocol(
        "celebahq",
        0,
        2000,
        "LatentPaint (Corneanu et al. 2024): 2000 images of CelebA-HQ at 256 pixels",
        "which: the 2000 of LaMa's val_shuffled.flist are likely; give that file as data.id_list",
    ),
    "repaint100": Protocol(
        "celebahq",
        0,
        100,
        "RePaint (Lugmayr et al. 2022): 100 of LaMa's test images, the names in val_shuffled.flist",
        "their order; here the first 100 of that file as data.id_list",
    ),
    "copaint100": Protocol(
        "celebahq",
        0,
        100,
        "CoPaint (Zhang et al. 2023): the first 100 of LaMa's test images, "
        "val_shuffled.flist, by file name as text",
        "nothing, given that file as data.id_list; its images were squashed to size, which differs "
        "where they are no squares",
        text_order=True,
    ),
    "ffhq1k": Protocol(
        "ffhq",
        0,
        1000,
        "DPS (Chung et al. 2023): 1000 images of FFHQ at 256 pixels, by sorted name",
        "the split behind them: that of the pretrained prior is not stated; here "
        "the first 1000 of data.root",
    ),
}
