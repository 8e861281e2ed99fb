"""The images of an evaluation: what a folder holds, read once into memory."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rsfed.errors import ArchiveError, RasterRejected, TrainingError, UsageError
from rsfed.hashing.dataset import Patch, PatchSet, patch_bytes
from rsfed.hashing.trunk import Trunk, inspect_trunk
from rsfed.lab.demo_data import encoder_size, kind_of
from rsfed.lab.evaluate.feature_file import FeatureFile
from rsfed.raster.input_spec import InputSpec, default_spec
from rsfed.raster.inspect import SourceInfo
from rsfed.raster.item import Footprint
from rsfed.raster.layout import NOT_THERE, Candidate, Skipped, walk
from rsfed.raster.modality import Modality
from rsfed.raster.reader import read_image
from rsfed.trust.manifest import FrozenTrunk

ROLES = ("train", "val", "query")  # what a split file may call an image
TRUNK_SIZE = 224  # pixels that a trunk takes where its file leaves that open
_MOST_NAMES = 20  # of damaged images that are told
_MOST_BYTES = 4 << 30  # of pixels held in memory
_LARGEST = float(np.finfo(np.float16).max)
Pixels = Iterator[NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Entry:
    """One labelled image that may be evaluated.

    Attributes:
        path: Where it lies.
        name: Its path below the folder, with forward slashes.
        labels: Its classes, at least one.
        role: What the split file calls it; None without a split file.
    """

    path: Path
    name: str
    labels: tuple[str, ...]
    role: str | None = None


Taken = tuple[Entry, SourceInfo, Patch]
"""An image, what is known of it, and what networks take of it."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What a folder holds, before any pixel is read.

    Attributes:
        root: The folder.
        entries: Its labelled images in the order of their names.
        modality: What they are.
        size: Width and height in pixels that suit a network for their pixels.
        unlabelled: Number of images that are left out because they have no label, or are not in the split file.
        notes: What its owner should know of it, a line each.
    """

    root: Path
    entries: tuple[Entry, ...]
    modality: Modality
    size: int
    unlabelled: int
    notes: tuple[str, ...] = ()

    @property
    def counts(self) -> dict[str, int]:
        """Number of images of each class, by name."""
        return dict(sorted(Counter(label for entry in self.entries for label in entry.labels).items()))

    @property
    def multi_label(self) -> bool:
        """Whether some image has several classes."""
        return any(len(entry.labels) > 1 for entry in self.entries)


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Where and when an image was taken, each None where the file does not say."""

    place: str | None
    footprint: Footprint | None
    acquisition: str | None


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Images that could be read.

    Attributes:
        listing: What they are.
        entries: Those that could be read.
        whereabouts: Where and when each was taken.
        classes: Names of all classes, sorted.
        labels: bool, shape (images, classes).
        patches: What networks take of each: its pixels, or its features of the frozen trunk.
        spec: How the images were read.
        trunk: The frozen trunk; None where networks take pixels.
        skipped: Number of damaged images that were left out.
    """

    listing: Listing
    entries: tuple[Entry, ...]
    whereabouts: tuple[Whereabouts, ...]
    classes: tuple[str, ...]
    labels: NDArray[np.bool_]
    patches: tuple[Patch, ...]
    spec: InputSpec
    trunk: FrozenTrunk | None
    skipped: int

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def multi_label(self) -> bool:
        """Whether some image has several classes."""
        return bool((self.labels.sum(axis=1) > 1).any())

    @property
    def damaged(self) -> list[str]:
        """What to tell of the images that were left out because they could not be read, a line each."""
        sound = {entry.name for entry in self.entries}
        names = [entry.name for entry in self.listing.entries if entry.name not in sound]
        more = [f"and {len(names) - _MOST_NAMES:,} more damaged images are left out"] * (len(names) > _MOST_NAMES)
        return [f"{name} is damaged and left out" for name in names[:_MOST_NAMES]] + more

    def subset(self, positions: NDArray[np.int64]) -> PatchSet:
        """Return some of the images as what networks are trained on."""
        chosen = tuple(self.patches[position] for position in positions)
        return PatchSet(chosen, self.labels[positions], len(chosen), augmentable=self.trunk is None)


def find(root: Path, labels: str = "folders", splits: Path | None = None) -> Listing:
    """List the labelled images of a folder.

    Args:
        root: The folder.
        labels: `folders`, or the name of a CSV file in the folder with the columns path and label.
        splits: A CSV file with the columns path, label and split; only images in it are taken, and a label in it goes
            before that of its folder.

    Raises:
        UsageError: the folder, its label file or the split file will not do, both files give labels, there are not two
            classes, or the images are of no known kind.
    """
    found = _candidates(root, labels)
    listed = _read_splits(splits, {entry.name for entry in found}) if splits else {}
    if labels not in {"folders", "none"} and any(label for label, _ in listed.values()):
        raise UsageError(
            "the split file gives labels and so does --labels; leave --labels out, or the label column of the split "
            "file empty",
            detail=str(splits),
        )
    entries, other = [], 0
    for entry in found:
        label, role = listed.get(entry.name, ((), None))
        own = label or entry.own_labels
        if own and (role or not splits):
            entries.append(Entry(entry.path, entry.name, own, role))
            other += bool(label and entry.own_labels and label != entry.own_labels)
    counts = {label for entry in entries for label in entry.labels}
    if len(counts) < 2:
        raise UsageError(
            f"there {'is one class' if counts else 'are no classes'} in the folder; an evaluation needs at least two: "
            "put the images into a sub-folder for each class, or name a label file by --labels"
        )
    kind, info = kind_of([Candidate(entry.path, entry.name, entry.labels) for entry in entries])
    unlisted = sum(entry.name not in listed for entry in found) if splits else 0
    unlabelled = len(found) - len(entries)
    told = {
        "images have another label in the split file than their folder; that of the split file counts": other,
        "images are not in the split file and left out": unlisted,
        "images have no label and are left out": unlabelled - unlisted,
    }
    notes = tuple(f"{count:,} {what}" for what, count in told.items() if count)
    return Listing(root.resolve(), tuple(entries), kind, encoder_size(info), unlabelled, notes)


def _candidates(root: Path, labels: str) -> list[Candidate]:
    """Return what looks like an image."""
    try:
        known = list(walk(root, labels))
    except ArchiveError as error:
        raise UsageError(error.public, detail=error.detail) from error
    found = [entry for entry in known if isinstance(entry, Candidate)]
    if not found:
        raise UsageError("the folder holds no images; give one with a sub-folder of images for each class")
    missing = [entry for entry in known if isinstance(entry, Skipped) and entry.reason == NOT_THERE]
    if missing and not any(entry.own_labels for entry in found):
        raise UsageError(
            f"the label file gives no image a label, and none of {len(missing):,} paths in it exists; paths are "
            "relative to the folder, correct the file",
            detail=f"first {missing[0].name}",
        )
    return found


def read(
    listing: Listing,
    trunk: Path | None = None,
    cache: Path | None = None,
    *,
    turns: bool = False,
    spec: InputSpec | None = None,
) -> ImageSet:
    """Read all images; damaged ones are left out and counted.

    Args:
        listing: The images.
        trunk: A frozen trunk (ONNX), whose features stand in for the pixels.
        cache: Folder in which features are kept for the next time.
        turns: Whether features are averaged over the eight positions of a square.
        spec: How networks take the pixels of an image; None for what suits the listing.

    Raises:
        ConfigError: onnxruntime is not installed.
        UsageError: TRUNK_UNFIT; the images take too much memory or do not fit the trunk, or fewer than two classes are
            left.
    """
    known = None if trunk is None else _fitting_trunk(trunk, listing, turns)
    if trunk is None or known is None:
        spec = spec or default_spec(listing.modality, listing.size)
        _check_memory(listing, spec)
        kept = list(_each(listing, spec, lambda _info, pixels: (_compact(next(pixels)),)))
    else:
        spec = default_spec(listing.modality, known.size, "resize")
        kept = list(_featured(listing, spec, Trunk(trunk, known), FeatureFile(cache, known, spec)))
    entries = tuple(entry for entry, _, _ in kept)
    classes = tuple(sorted({label for entry in entries for label in entry.labels}))
    if len(classes) < 2:
        raise UsageError("fewer than two classes have images that can be read; look at the images")
    return ImageSet(
        listing=listing,
        entries=entries,
        whereabouts=tuple(Whereabouts(info.place, info.footprint, info.acquisition) for _, info, _ in kept),
        classes=classes,
        labels=np.array([[name in entry.labels for name in classes] for entry in entries], bool),
        patches=tuple(patch for _, _, patch in kept),
        spec=spec,
        trunk=known,
        skipped=len(listing.entries) - len(entries),
    )


def _fitting_trunk(path: Path, listing: Listing, turns: bool) -> FrozenTrunk:
    try:
        known = inspect_trunk(path, TRUNK_SIZE, turns=turns)
    except TrainingError as error:
        raise UsageError(
            f"--trunk: {error.public}; give the ONNX file of a feature extractor, exported anew if it may be damaged",
            reason=error.reason,
            detail=str(path),
        ) from error
    if known.bands != len(listing.modality.bands):
        raise UsageError(
            f"the trunk takes {known.bands} bands and the images have {len(listing.modality.bands)}; "
            "choose a trunk for images like these"
        )
    return known


def _featured(listing: Listing, spec: InputSpec, model: Trunk, known: FeatureFile) -> Iterator[Taken]:
    """Yield each image with its features; those that were made now are kept, also when the work breaks off."""

    def take(info: SourceInfo, pixels: Pixels) -> Patch:
        return (known.get(info.windows[0].digest, lambda: model.features([next(pixels)])[0]),)

    with known.kept():
        yield from _each(listing, spec, take)


def _each(listing: Listing, spec: InputSpec, take: Callable[[SourceInfo, Pixels], Patch]) -> Iterator[Taken]:
    """Yield each image with what is known of it and what is taken of its pixels; one that will not do is passed over.

    Of an image that gives several patches the first stands for all.
    """
    name = spec.groups[0].name

    def one(entry: Entry) -> Taken | None:
        try:
            info, contents = read_image(entry.path, listing.modality, spec)
            return entry, info, take(info, (content[name] for content in contents))
        except RasterRejected:
            return None

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # reading and trunks leave the interpreter free
        yield from filter(None, pool.map(one, listing.entries))


def _compact(pixels: NDArray[np.float32]) -> NDArray[np.float16]:
    return np.clip(pixels, -_LARGEST, _LARGEST).astype(np.float16)


def _check_memory(listing: Listing, spec: InputSpec) -> None:
    needed = len(listing.entries) * patch_bytes(spec)
    if needed > _MOST_BYTES:
        raise UsageError(
            f"the images take {needed / 1e9:.1f} GB of memory and {_MOST_BYTES / 1e9:.1f} GB is the limit; "
            "evaluate a part of them, for example by --splits, or use --trunk"
        )


def _read_splits(path: Path, known: set[str]) -> dict[str, tuple[tuple[str, ...], str]]:
    """Return labels and role of each image that a split file names."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError("the split file cannot be read; it must be a CSV file in UTF-8", detail=str(path)) from error
    if not rows or not {"path", "label", "split"} <= rows[0].keys():
        raise UsageError("the split file needs the columns path, label and split, and rows", detail=str(path))
    listed: dict[str, tuple[tuple[str, ...], str]] = {}
    for row in rows:
        given, role = (row["path"] or "").removeprefix("./"), (row["split"] or "").strip()
        name = given if given in known else given.strip().removeprefix("./")  # a name may begin with a blank
        if role not in ROLES:
            raise UsageError(f"the split file calls an image {role!r}; use one of {', '.join(ROLES)}", detail=name)
        labels = tuple(filter(None, (part.strip() for part in (row["label"] or "").split(";"))))
        if listed.setdefault(name, (labels, role)) != (labels, role):
            raise UsageError(
                f"the split file names an image twice, as {listed[name][1]} and as {role}, or with other labels; keep "
                "one of its lines",
                detail=name,
            )
    missing = sorted(listed.keys() - known)
    if missing:
        raise UsageError(
            f"the split file names {len(missing)} images that are not in the folder; "
            "paths are relative to the folder, correct the file",
            detail=f"first {missing[0]}",
        )
    for needed in ("train", "query"):
        if needed not in {role for _, role in listed.values()}:
            raise UsageError(
                f"the split file calls no image {needed}; some must be called train and some query", detail=str(path)
            )
    return listed
