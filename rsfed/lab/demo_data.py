"""Images of the demo: what a folder holds, and how it becomes archives and queries."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from rsfed.errors import RasterRejected, UsageError
from rsfed.lab.split import Sample, hold_out, spread
from rsfed.raster.input_spec import default_spec
from rsfed.raster.inspect import SourceInfo, inspect
from rsfed.raster.layout import Candidate, walk
from rsfed.raster.modality import MAX_BANDS, MODALITIES, Modality, modality
from rsfed.raster.reader import read_image

QUERY_SHARE, MOST_QUERIES = 0.15, 200
_SIZE = 64  # pixels that the encoder takes at most
_LEAST_SIZE = 16
_GENERIC_TYPES = ("uint8", "uint16", "int16", "float32")
_PROBED = 5  # images that are looked at to find out what they are


@dataclass(frozen=True, slots=True)
class Images:
    """Labelled images and what they are.

    Attributes:
        root: Folder that they lie in.
        samples: The images.
        modality: Their modality.
        size: Width and height in pixels that suit an encoder of them.
    """

    root: Path
    samples: tuple[Sample, ...]
    modality: Modality
    size: int


@dataclass(frozen=True, slots=True)
class Division:
    """Who gets which images.

    Attributes:
        archives: Images of each node by its name.
        queries: Held-out images that are searched by.
    """

    archives: dict[str, list[Sample]]
    queries: list[Sample]


def find_images(root: Path) -> Images:
    """Find the labelled images of a folder with class sub-folders.

    Raises:
        ArchiveError: there is no such folder.
        UsageError: it has no class folders, or its images are of no kind that the demo knows.
    """
    found = [each for each in walk(root) if isinstance(each, Candidate) and each.own_labels and not each.product]
    if len({entry.own_labels[0] for entry in found}) < 2:
        raise UsageError("--data needs a folder with at least two class sub-folders of images", detail=str(root))
    kind, info = kind_of(found)
    samples = tuple(Sample(entry.path, entry.own_labels[0], _acquisition(entry.path, kind)) for entry in found)
    return Images(root.resolve(), samples, kind, encoder_size(info))


def encoder_size(info: SourceInfo) -> int:
    """Return the width and height in pixels that suit an encoder of images like this one."""
    small = min(info.width, info.height)
    return max(_LEAST_SIZE, min(_SIZE, small - small % 8))


def divide(images: Images, nodes: Sequence[str], *, skew: float, seed: int) -> Division:
    """Hold out queries and give all else to the nodes.

    Raises:
        UsageError: there are too few images for that.
    """
    archive, held_out = hold_out(images.samples, share=QUERY_SHARE, at_most=MOST_QUERIES, seed=seed)
    queries = [sample for sample in held_out if _is_sound(sample.path, images)]
    if not queries:
        raise UsageError("there are too few sound images to hold out a query; add images")
    parts = spread(archive, len(nodes), skew=skew, seed=seed)
    return Division(dict(zip(nodes, parts, strict=True)), queries)


def lay_out(samples: Sequence[Sample], root: Path, folder: Path) -> dict[Path, Sample]:
    """Put images into an archive folder, as links to the same bytes where the file system allows, else as copies.

    Returns:
        The image that each file of the archive is.
    """
    placed = {}
    for sample in samples:
        target = folder / sample.path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(sample.path, target)
        except OSError:
            shutil.copyfile(sample.path, target)
        placed[target] = sample
    return placed


def kind_of(found: Sequence[Candidate]) -> tuple[Modality, SourceInfo]:
    """Return the first modality that takes the first image that any takes: named ones before generic ones.

    Raises:
        UsageError: none takes any of the first images.
    """
    names = [*MODALITIES, *(f"{kind}-{bands}" for kind, bands in product(_GENERIC_TYPES, range(1, MAX_BANDS + 1)))]
    said = set()
    for entry in found[:_PROBED]:
        for known in map(modality, names):
            try:
                return known, inspect(entry.path, root=None, modality=known, spec=default_spec(known, _LEAST_SIZE))
            except RasterRejected as error:
                said.add(error.public)
    if len(said) == 1:  # it is not for their bands or numbers
        raise UsageError(f"none of the first files can be read as an image: {said.pop()}", detail=str(found[0].path))
    raise UsageError(
        "the images are of no kind that is known here: they need 1 to 16 bands of uint8, uint16, int16 or float32, "
        "all images alike",
        detail=str(found[0].path.parent),
    )


def _is_sound(path: Path, images: Images) -> bool:
    try:
        for _ in read_image(path, images.modality, default_spec(images.modality, images.size))[1]:
            pass
    except RasterRejected:
        return False
    return True


def _acquisition(path: Path, kind: Modality) -> str | None:
    """Return the overpass of a GeoTIFF; photographs do not say theirs."""
    if path.suffix.lower() not in {".tif", ".tiff"}:
        return None
    try:
        return inspect(path, root=None, modality=kind, spec=default_spec(kind, _LEAST_SIZE)).acquisition
    except RasterRejected:
        return None
