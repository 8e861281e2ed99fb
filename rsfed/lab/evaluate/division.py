"""Splitting the images of an evaluation: which train, which are searched, which search. Pure, repeatable by a seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from rsfed.errors import UsageError
from rsfed.lab.evaluate.data import ImageSet, Listing, Whereabouts
from rsfed.raster.item import Footprint

TRAIN_SHARE = 0.6  # of each class, as MiLaN's protocol has it
_SHARES = (TRAIN_SHARE, (1 - TRAIN_SHARE) / 2, (1 - TRAIN_SHARE) / 2)  # of train, gallery and queries, by group
PARTS = len(_SHARES)
_DRAWS = 100  # tries to find a training part of two classes
_SAME_PLACE = 0.2  # least share of the smaller footprint that two images of one place have in common


class Split(StrEnum):
    """How images are split."""

    RANDOM = "random"
    OFFICIAL = "official"
    BY_PLACE = "by-place"
    BY_ACQUISITION = "by-acquisition"


WORDS = {
    Split.RANDOM: "60 % of each class, drawn by the seed, train; the rest are both queries and gallery, and a query is "
    "never in its own gallery. Neighbours of a query may be in the gallery and in the training part",
    Split.OFFICIAL: "as the split file says: train is trained on and searched, query asks, val is not touched",
    Split.BY_PLACE: "60 % train; of the rest one half is searched and the other asks, whole places at a time, so no "
    "place is in two parts",
    Split.BY_ACQUISITION: "60 % train; of the rest one half is searched and the other asks, whole acquisitions at a "
    "time, so none is in two parts",
}


@dataclass(frozen=True, slots=True)
class Division:
    """Positions of images, each int64.

    Attributes:
        train: What methods learn from.
        gallery: What is searched.
        queries: What is searched by.
        own: Position in `gallery` of each query, -1 where it is not in it, shape (queries,).
    """

    train: NDArray[np.int64]
    gallery: NDArray[np.int64]
    queries: NDArray[np.int64]
    own: NDArray[np.int64]


def default_split(images: ImageSet) -> Split:
    """Return the split for images without a split file: by place wherever some image says where it lies, if it can."""
    groups = places(images.whereabouts)
    return Split.BY_PLACE if any(groups) and _number(groups) >= PARTS else Split.RANDOM


def check_listing(listing: Listing, split: Split | None) -> None:
    """Find out before any image is read what can be told of a split; None: it is not known yet, and not the official.

    Raises:
        UsageError: the images do not allow it.
    """
    if split is not Split.OFFICIAL and not listing.multi_label:
        _check_counts(listing.counts)


def divide(images: ImageSet, split: Split, seed: int) -> Division:
    """Split images.

    Raises:
        UsageError: the images do not allow this split, with what to do.
    """
    division = _divide(images, split, seed)
    if np.count_nonzero(images.labels[division.train].any(axis=0)) < 2:
        raise UsageError(
            "the part of the images to learn from has one class: call images of two classes train in the split file, "
            "add images, or use --split random"
        )
    return division


def _divide(images: ImageSet, split: Split, seed: int) -> Division:
    if split is Split.OFFICIAL:
        return _official(images)
    _check_classes(images)
    if split is Split.RANDOM:
        return _random(images, seed)
    if split is Split.BY_PLACE:
        groups = places(images.whereabouts)
        _check_groups(groups, "place", "give them footprints or a PLACE tag")
    else:
        groups = [each.acquisition for each in images.whereabouts]
        _check_groups(groups, "acquisition", "give them an ACQUISITION tag or their product's name")
    return _by_group(images, groups, seed)


def places(whereabouts: Sequence[Whereabouts]) -> list[str | None]:
    """Return an id of the place of each image; None where nothing is known.

    Images are of one place when their files say so, or when one covers a fifth of the footprint of the other; tiles
    side by side are not, though boxes in degrees overlap a little. What is one place with a third is one place.
    """
    parents = list(range(len(whereabouts)))

    def root(position: int) -> int:
        while parents[position] != position:
            parents[position] = parents[parents[position]]
            position = parents[position]
        return position

    first: dict[str, int] = {}
    for position, each in enumerate(whereabouts):
        if each.place is not None:
            parents[root(position)] = root(first.setdefault(each.place, position))
    for one, other in _overlaps([each.footprint for each in whereabouts]):
        parents[root(one)] = root(other)
    return [
        None if each.place is None and each.footprint is None else f"place {root(position)}"
        for position, each in enumerate(whereabouts)
    ]


def _overlaps(footprints: Sequence[Footprint | None]) -> Iterator[tuple[int, int]]:
    """Yield positions of footprints that share enough, found by a sweep from west to east."""
    boxes = [(box, position) for position, each in enumerate(footprints) if each is not None for box in _unrolled(each)]
    active: list[tuple[Footprint, int]] = []
    for box, position in sorted(boxes):
        west, south, _, north = box
        active = [each for each in active if each[0][2] > west]
        for other, behind in active:
            if other[1] < north and other[3] > south and _common(box, other) >= _SAME_PLACE:
                yield position, behind
        active.append((box, position))


def _unrolled(footprint: Footprint) -> Iterator[Footprint]:
    """Yield a footprint with west less than east: one across the antimeridian twice, once for each side."""
    west, south, east, north = footprint
    if west <= east:
        yield footprint
    else:
        yield west, south, east + 360, north
        yield west - 360, south, east, north


def _common(one: Footprint, other: Footprint) -> float:
    """Return the shared area of two boxes as a share of the smaller one."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return width * height / smaller if min(width, height, smaller) > 0 else 0.0


def _official(images: ImageSet) -> Division:
    roles = np.array([entry.role or "" for entry in images.entries])
    train, queries = np.flatnonzero(roles == "train"), np.flatnonzero(roles == "query")
    if not len(train) or not len(queries):
        raise UsageError(
            "none of the images that the split file calls query can be used, or none that it calls train: they have "
            "no label or cannot be read; look at the images"
        )
    return Division(train, train, queries, np.full(len(queries), -1))


def _random(images: ImageSet, seed: int) -> Division:
    """Permute each class in turn and cut it; images of several classes are permuted all together."""
    rng = np.random.default_rng(seed)
    together = np.ones((1, len(images)), bool)
    members = [np.flatnonzero(column) for column in (together if images.multi_label else images.labels.T)]
    train, rest = [], []
    for each in members:
        drawn = rng.permutation(each)
        cut = min(max(1, round(TRAIN_SHARE * len(each))), len(each) - 1)
        train.append(drawn[:cut])
        rest.append(drawn[cut:])
    held_out = np.sort(np.concatenate(rest))
    return Division(np.sort(np.concatenate(train)), held_out, held_out, np.arange(len(held_out)))


def _by_group(images: ImageSet, groups: Sequence[str | None], seed: int) -> Division:
    """Give every image to one part, whole groups at a time; an image without a group is one of its own."""
    part = deal(groups, images.labels, seed)
    train, gallery, queries = (np.flatnonzero(part == each) for each in range(PARTS))
    return Division(train, gallery, queries, np.full(len(queries), -1))


def deal(groups: Sequence[str | None], labels: NDArray[np.bool_], seed: int) -> NDArray[np.int64]:
    """Return the part of each image, int64, shape (images,), by the shares 60, 20 and 20 %: 0 to learn from, 1 or 2.

    Args:
        groups: What each image stays together with, at least three different ones; None for an image of its own.
        labels: bool, shape (images, classes). The first part has two classes where that can be found.
        seed: Draws the order of groups of one size.
    """
    own: dict[str | int, int] = {}
    group = np.array([own.setdefault(name or position, len(own)) for position, name in enumerate(groups)])
    counted = np.column_stack([np.ones(len(group), np.int64), labels])
    holds = np.zeros((len(own), counted.shape[1]), np.int64)
    np.add.at(holds, group, counted)
    wanted = min(2, int(np.count_nonzero(labels.any(axis=0))))
    rng = np.random.default_rng(seed)
    for _ in range(_DRAWS):
        part = _deal(holds, rng)
        if np.count_nonzero(holds[part == 0, 1:].any(axis=0)) >= wanted:
            break
    found: NDArray[np.int64] = part[group]
    return found


def _deal(holds: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the part of each group, int64, shape (groups,); every part gets one.

    The largest group goes first, those of one size in an order by chance, each to the part where it does most against
    the squared distance of all counts from their shares.

    Args:
        holds: Images of each group, then those of each class, shape (groups, 1 + classes); at least as many groups as
            parts.
        rng: Draws the order.
    """
    lacks = np.outer(_SHARES, holds.sum(axis=0))
    part = np.zeros(len(holds), np.int64)
    empty = set(range(PARTS))
    order = rng.permutation(len(holds))
    order = order[np.argsort(-holds[order, 0], kind="stable")]
    for left, each in zip(range(len(order), 0, -1), order, strict=True):
        open_parts = sorted(empty) if left == len(empty) else range(PARTS)
        part[each] = max(open_parts, key=lambda one: float(lacks[one] @ holds[each]))
        lacks[part[each]] -= holds[each]
        empty.discard(int(part[each]))
    return part


def _check_classes(images: ImageSet) -> None:
    if not images.multi_label:
        _check_counts(dict(zip(images.classes, images.labels.sum(axis=0).tolist(), strict=True)))


def _check_counts(counts: Mapping[str, int]) -> None:
    name = min(counts, key=lambda each: counts[each])
    if counts[name] < 2:
        raise UsageError(
            f"class {name} has one image, which cannot both be asked for and be found; add images of it, or take the "
            "class out"
        )


def _check_groups(groups: Sequence[str | None], what: str, remedy: str) -> None:
    if not any(groups):
        raise UsageError(f"no image tells its {what}: {remedy}, or use --split random")
    if _number(groups) < PARTS:
        raise UsageError(f"all images are of {_number(groups)} {what}s, too few to split by; use --split random")


def _number(groups: Sequence[str | None]) -> int:
    """Return the number of groups; an image without one is one of its own."""
    return len(set(filter(None, groups))) + groups.count(None)
