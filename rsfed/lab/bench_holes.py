"""The part of `make bench-hashing` about holes: how far the code of a patch moves when pixels of it have no data.

Images of EuroSAT are written once more with transparent pixels and hashed on the way of any patch: pixels without data
are filled from around, after normalisation, and take no part in their neighbours' values. The encoder is the
default objective on the frozen trunk, trained on the training part; the images are held out.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rsfed.codes import Codes, hamming
from rsfed.config_objectives import DEFAULT_OBJECTIVE
from rsfed.hashing.trunk import Trunk, Vector
from rsfed.lab.bench_images import TRUNK
from rsfed.lab.evaluate.data import ImageSet
from rsfed.lab.evaluate.methods import HASHES, Task
from rsfed.lab.wide_table import WideTable
from rsfed.raster.reader import read_image

IMAGES, BITS, SEED = 150, 32, 0
SHARES = (0.05, 0.1)  # of the pixels, at most; 10 % is what a patch that is searched may lack
_UNLIKE = 1_000  # pairs of images that stand beside

Holes = NDArray[np.bool_]
"""Pixels without data, shape (height, width)."""


def edge(side: int, count: int, rng: np.random.Generator) -> Holes:
    """Return pixels along one edge, as at the end of a swath."""
    found = np.arange(side * side).reshape(side, side) < count
    return np.rot90(found, int(rng.integers(4)))


def block(side: int, count: int, rng: np.random.Generator) -> Holes:
    """Return one square, as a cloud that was cut out."""
    found, width = np.zeros((side, side), np.bool_), int(np.sqrt(count))
    row, col = rng.integers(0, side - width + 1, 2)
    found[row : row + width, col : col + width] = True
    return found


def scattered(side: int, count: int, rng: np.random.Generator) -> Holes:
    """Return single pixels, as a sensor drops them."""
    return (rng.permutation(side * side) < count).reshape(side, side)


SHAPES: Mapping[str, Callable[[int, int, np.random.Generator], Holes]] = {
    "edge": edge,
    "block": block,
    "scattered": scattered,
}


def holes(data: Path, images: ImageSet, epochs: int) -> dict[str, Any]:
    """Return the figures.

    Args:
        data: Folder of the real data.
        images: EuroSAT as features of the trunk, with the roles of its split file.
        epochs: Passes over the training part.
    """
    rng = np.random.default_rng(SEED)
    roles = np.array([entry.role for entry in images.entries])
    chosen = rng.permutation(np.flatnonzero(roles == "query"))[:IMAGES]
    kinds = [(name, share) for share in SHARES for name in SHAPES]
    with tempfile.TemporaryDirectory() as folder:
        copies = [
            _written(Path(folder), number, images.entries[place].path, kinds, rng)
            for number, place in enumerate(chosen)
        ]
        features = _features(data, images, [path for each in copies for path in each])
    codes = _hashed(images, np.flatnonzero(roles == "train"), features, epochs)
    codes = codes.reshape(len(chosen), 1 + len(kinds), -1)
    moved = np.array([hamming(each[:1], each[1:])[0] for each in codes])
    told: dict[str, dict[str, Any]] = {name: {} for name in SHAPES}
    for column, (name, share) in enumerate(kinds):
        told[name][str(round(100 * share))] = _spread(moved[:, column])
    return {**told, **_beside(codes[:, 0], images.labels[chosen], rng), "bits": BITS, "images": len(chosen)}


def table(found: Mapping[str, Any]) -> WideTable:
    """Return the figures as a table."""
    rows = [
        (f"{name}, {share} %", *(f"{figures[each]:.2f}" for each in ("mean", "p95", "unchanged")))
        for name in SHAPES
        for share, figures in found[name].items()
    ]
    rows += [(name.replace("_", " "), f"{found[name]:.2f}", "", "") for name in ("same_class", "other_class")]
    return WideTable(("without data", "bits, mean", "bits, 95 %", "share unchanged"), rows)


def _written(
    folder: Path, number: int, image: Path, kinds: Sequence[tuple[str, float]], rng: np.random.Generator
) -> list[Path]:
    """Write an image as it is and with holes of each kind; returns the files."""
    with Image.open(image) as file:
        pixels = np.asarray(file.convert("RGB"))
    side = len(pixels)
    masks = [np.zeros((side, side), np.bool_)]
    masks += [SHAPES[name](side, int(share * side * side), rng) for name, share in kinds]
    paths = [folder / f"{number}-{kind}.png" for kind in range(len(masks))]
    for path, mask in zip(paths, masks, strict=True):
        opaque = np.where(mask, 0, 255).astype(np.uint8)[..., None]
        Image.fromarray(np.concatenate([pixels, opaque], axis=-1)).save(path)
    return paths


def _features(data: Path, images: ImageSet, paths: Sequence[Path]) -> list[Vector]:
    assert images.trunk is not None  # noqa: S101 - for the type
    trunk = Trunk(data / TRUNK, images.trunk)
    (group,) = images.spec.groups
    read = (next(read_image(path, images.listing.modality, images.spec)[1])[group.name] for path in paths)
    return trunk.features(read)


def _hashed(images: ImageSet, train: NDArray[np.int64], made: Sequence[Vector], epochs: int) -> Codes:
    """Return the codes of images that are not in the set, by their features."""
    patches = (*(images.patches[place] for place in train), *((vector,) for vector in made))
    unknown = np.zeros((len(made), len(images.classes)), np.bool_)
    both = replace(images, patches=patches, labels=np.concatenate([images.labels[train], unknown]))
    task = Task(both, np.empty((0, 0), np.float32), np.arange(len(train)), BITS, SEED, epochs)
    return HASHES[DEFAULT_OBJECTIVE.name](task)(np.arange(len(train), len(patches)))


def _spread(distances: NDArray[np.integer]) -> dict[str, float]:
    return {
        "mean": round(float(distances.mean()), 2),
        "p95": round(float(np.percentile(distances, 95)), 2),
        "unchanged": round(float((distances == 0).mean()), 3),
    }


def _beside(codes: Codes, labels: NDArray[np.bool_], rng: np.random.Generator) -> dict[str, float]:
    """Return the mean distance of different images of one class, and of two."""
    one, other = rng.integers(0, len(codes), (2, 100 * _UNLIKE))
    alike = (labels[one] & labels[other]).any(axis=1)
    told = {}
    for name, which in (("same_class", alike & (one != other)), ("other_class", ~alike)):
        pairs = np.flatnonzero(which)[:_UNLIKE]
        distances = [hamming(codes[one[each]][None], codes[other[each]][None]).item() for each in pairs]
        told[name] = round(float(np.mean(distances)), 2)
    return told
