"""The images of an evaluation: what a folder holds, read once into memory."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rsfed.errors import RasterRejected, UsageError
from rsfed.lab.demo_data import encoder_size, kind_of
from rsfed.raster.input_spec import InputSpec, default_spec
from rsfed.raster.inspect import SourceInfo
from rsfed.raster.item import Footprint
from rsfed.raster.layout import Candidate, walk
from rsfed.raster.modality import Modality
from rsfed.raster.reader import Content, read_image

ROLES = ("train", "val", "query")  # what a split file may call an image
_MOST_BYTES = 4 << 30  # of pixels held in memory


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


@dataclass(frozen=True, slots=True)
class Listing:
    """What a folder holds, before any pixel is read.

    Attributes:
        root: The folder.
        entries: Its labelled images in the order of their names.
        modality: What they are.
        size: Width and height in pixels that suit an encoder of them.
        unlabelled: Number of images that are left out because they have no label, or are not in the split file.
    """

    root: Path
    entries: tuple[Entry, ...]
    modality: Modality
    size: int
    unlabelled: int

    @property
    def spec(self) -> InputSpec:
        """Input of a network that is trained on the pixels."""
        return default_spec(self.modality, self.size)


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
        patches: For each image float16, shape (bands, size, size), normalised as the listing's spec says.
        skipped: Number of damaged images that were left out.
    """

    listing: Listing
    entries: tuple[Entry, ...]
    whereabouts: tuple[Whereabouts, ...]
    classes: tuple[str, ...]
    labels: NDArray[np.bool_]
    patches: tuple[NDArray[np.float16], ...]
    skipped: int

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def multi_label(self) -> bool:
        """Whether some image has several classes."""
        return bool((self.labels.sum(axis=1) > 1).any())


def find(root: Path, labels: str = "folders", splits: Path | None = None) -> Listing:
    """List the labelled images of a folder.

    Args:
        root: The folder.
        labels: `folders`, or the name of a CSV file in the folder with the columns path and label.
        splits: A CSV file with the columns path, label and split; only images in it are taken, and a label in it goes
            before any other.

    Raises:
        ArchiveError: the folder or its label file cannot be read.
        UsageError: the split file will not do, there are not two classes, or the images are of no known kind.
    """
    found = [entry for entry in walk(root, labels) if isinstance(entry, Candidate)]
    if not found:
        raise UsageError("the folder holds no images; give one with a sub-folder of images for each class")
    listed = _read_splits(splits, {entry.name for entry in found}) if splits else {}
    entries = []
    for entry in found:
        label, role = listed.get(entry.name, ((), None))
        own = label or entry.own_labels
        if own and (role or not splits):
            entries.append(Entry(entry.path, entry.name, own, role))
    counts = Counter(label for entry in entries for label in entry.labels)
    if len(counts) < 2:
        raise UsageError(
            f"there {'is one class' if counts else 'are no classes'} in the folder; an evaluation needs at least two: "
            "put the images into a sub-folder for each class, or name a label file by --labels"
        )
    kind, info = kind_of([Candidate(entry.path, entry.name, entry.labels) for entry in entries])
    return Listing(root.resolve(), tuple(entries), kind, encoder_size(info), len(found) - len(entries))


def read(listing: Listing) -> ImageSet:
    """Read all images; damaged ones are left out and counted.

    Raises:
        UsageError: they take too much memory, or fewer than two classes are left.
    """
    spec = listing.spec
    group = spec.groups[0]
    needed = len(listing.entries) * len(group.bands) * group.size**2 * np.dtype(np.float16).itemsize
    if needed > _MOST_BYTES:
        raise UsageError(
            f"the images take {needed / 1e9:.1f} GB of memory and {_MOST_BYTES / 1e9:.1f} GB is the limit; "
            "evaluate a part of them, for example by --splits"
        )
    entries, whereabouts, patches = [], [], []
    largest = float(np.finfo(np.float16).max)
    for entry, info, content in contents(listing.entries, listing.modality, spec):
        entries.append(entry)
        whereabouts.append(Whereabouts(info.place, info.footprint, info.acquisition))
        patches.append(np.clip(content[group.name], -largest, largest).astype(np.float16))
    classes = sorted({label for entry in entries for label in entry.labels})
    if len(classes) < 2:
        raise UsageError("fewer than two classes have images that can be read; look at the images")
    labels = np.array([[name in entry.labels for name in classes] for entry in entries], bool)
    skipped = len(listing.entries) - len(entries)
    return ImageSet(listing, tuple(entries), tuple(whereabouts), tuple(classes), labels, tuple(patches), skipped)


def contents(
    entries: Sequence[Entry], kind: Modality, spec: InputSpec
) -> Iterator[tuple[Entry, SourceInfo, Content]]:
    """Yield each image with what is known of it and its first patch; one that cannot be read is passed over."""
    for entry in entries:
        try:
            info, patches = read_image(entry.path, kind, spec)
            content = next(patches)
        except RasterRejected:
            continue
        yield entry, info, content


def _read_splits(path: Path, known: set[str]) -> dict[str, tuple[tuple[str, ...], str]]:
    """Return labels and role of each image that a split file names."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UsageError("the split file cannot be read; it must be a CSV file in UTF-8", detail=str(path)) from error
    if not rows or not {"path", "label", "split"} <= rows[0].keys():
        raise UsageError("the split file needs the columns path, label and split, and rows", detail=str(path))
    listed = {}
    for row in rows:
        name, role = (row["path"] or "").strip().removeprefix("./"), (row["split"] or "").strip()
        if role not in ROLES:
            raise UsageError(f"the split file calls an image {role!r}; use one of {', '.join(ROLES)}", detail=name)
        labels = tuple(filter(None, (part.strip() for part in (row["label"] or "").split(";"))))
        listed[name] = labels, role
    missing = sorted(listed.keys() - known)
    if missing:
        raise UsageError(
            f"the split file names {len(missing)} images that are not in the folder; "
            "paths are relative to the folder, correct the file",
            detail=f"first {missing[0]}",
        )
    return listed
