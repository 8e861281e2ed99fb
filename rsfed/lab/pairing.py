"""The images of two folders of two modalities, and a split of their pairs: what `rsfed pairs` reads and writes."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rsfed.errors import RasterRejected, UsageError
from rsfed.lab.demo_data import encoder_size, kind_of
from rsfed.lab.evaluate.data import ROLES, Whereabouts
from rsfed.lab.evaluate.division import PARTS, deal, places
from rsfed.raster.input_spec import InputSpec, default_spec
from rsfed.raster.inspect import SourceInfo
from rsfed.raster.layout import Candidate, Skipped, walk
from rsfed.raster.modality import Modality
from rsfed.raster.pairs import Pair, Seen
from rsfed.raster.reader import read_image

_COLUMNS = ("path", "label", "split", "partner", "iou", "days")
_SEED = 0
_DAY_SECONDS = 86_400


@dataclass(frozen=True, slots=True)
class Folder:
    """What lies in a folder, before it is read.

    Attributes:
        root: The folder.
        images: Its images.
        passed_over: What is no image or will not do.
        modality: What the images are.
        spec: How networks take them.
    """

    root: Path
    images: tuple[Candidate, ...]
    passed_over: tuple[Skipped, ...]
    modality: Modality
    spec: InputSpec

    def split_file(self, out: Path) -> Path:
        """Return where its split file is written to."""
        return out / f"{self.modality.name}.csv"


@dataclass(frozen=True, slots=True)
class Side:
    """The images of one modality.

    Attributes:
        folder: Where they lie.
        known: What is known of each that can be read, by its path below the folder.
        labels: Classes of each of these.
        unreadable: Number of images that cannot be read.
        problems: How often something is left out for a reason, and an example of it.
    """

    folder: Folder
    known: dict[str, SourceInfo]
    labels: dict[str, tuple[str, ...]]
    unreadable: int
    problems: dict[str, tuple[int, str]]

    @property
    def seen(self) -> dict[str, Seen]:
        """Where and when each image that can be read was taken."""
        return {name: Seen(info.footprint, info.acquired) for name, info in self.known.items()}


def look(root: Path) -> Folder:
    """List the images of a folder and find out what they are.

    Raises:
        UsageError: it holds no images, or none of a known kind.
        ArchiveError: it cannot be listed.
    """
    entries = list(walk(root))
    images = tuple(entry for entry in entries if isinstance(entry, Candidate))
    if not images:
        raise UsageError("the folder holds no images; name the folder that they lie in or below", detail=str(root))
    modality, info = kind_of(images)
    passed_over = tuple(entry for entry in entries if isinstance(entry, Skipped))
    return Folder(root, images, passed_over, modality, default_spec(modality, encoder_size(info)))


def read(folder: Folder, progressed: Callable[[int], None]) -> Side:
    """Look at every image as `rsfed evaluate` does; those that cannot be read are counted.

    Args:
        folder: The images.
        progressed: Called with the number of images that were looked at.
    """

    def one(entry: Candidate) -> SourceInfo | RasterRejected:
        try:
            return read_image(entry.path, folder.modality, folder.spec)[0]
        except RasterRejected as error:
            return error

    known, problems = {}, [(each.reason, each.name) for each in folder.passed_over]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # reading leaves the interpreter free
        for number, (entry, found) in enumerate(zip(folder.images, pool.map(one, folder.images), strict=True)):
            if isinstance(found, RasterRejected):
                problems.append((found.public, entry.name))
            else:
                known[entry.name] = found
            progressed(number + 1)
    labels = {entry.name: entry.own_labels for entry in folder.images if entry.name in known}
    examples = dict(reversed(problems))
    counts = Counter(reason for reason, _ in problems)
    told = {reason: (count, examples[reason]) for reason, count in counts.most_common()}
    return Side(folder, known, labels, len(folder.images) - len(known), told)


def split(pairs: Sequence[Pair], one: Side, other: Side) -> list[str]:
    """Return what each pair is for: train, val or query, 60, 20 and 20 %, so that no place is in two parts.

    A place is what it is for `rsfed evaluate --split by-place`, over the images of both modalities: those that share a
    tag PLACE, or a fifth of the smaller footprint. So both images of a pair are of one place.

    Raises:
        UsageError: the pairs lie at too few places.
    """
    infos = [one.known[pair.one] for pair in pairs] + [other.known[pair.other] for pair in pairs]
    groups = places([Whereabouts(info.place, info.footprint, info.acquisition) for info in infos])[: len(pairs)]
    if len(set(groups)) < PARTS:
        raise UsageError(
            f"the pairs lie at {len(set(groups))} places and a split needs {PARTS}; see above why others are in none, "
            "mend that, raise --days or add images, or leave --splits out"
        )
    own = [{*one.labels[pair.one], *other.labels[pair.other]} for pair in pairs]
    classes = sorted(set().union(*own))
    labels = np.array([[name in each for name in classes] for each in own], bool)
    return [ROLES[part] for part in deal(groups, labels, _SEED)]


def write(files: Mapping[Path, Sequence[Pair]], roles: Sequence[str]) -> None:
    """Write split files as `rsfed evaluate --splits` reads them: all of them whole, or none.

    Args:
        files: The pairs by the file of a modality, which must not be there yet, each with its image first.
        roles: What each pair is for.

    Raises:
        OSError: one cannot be written.
    """
    with ExitStack() as undo:
        for path, pairs in files.items():
            with path.open("x", newline="", encoding="utf-8") as file:
                undo.callback(path.unlink)
                rows = csv.writer(file, lineterminator="\n")
                rows.writerow(_COLUMNS)
                rows.writerows(_row(pair, role) for pair, role in zip(pairs, roles, strict=True))
        undo.pop_all()


def _row(pair: Pair, role: str) -> tuple[str, ...]:
    days = pair.apart.total_seconds() / _DAY_SECONDS
    return pair.one, "", role, pair.other, f"{pair.shared:.4f}", f"{days:.4f}"
