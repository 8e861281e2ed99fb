"""BigEarthNet v2 on disk: one folder for each patch with a file for each of the 12 bands of Sentinel-2.

`<root>/BigEarthNet-S2/<tile>/<patch>/<patch>_B02.tif` and so on, each band at its native size (120, 60 or 20 pixels),
and `<root>/metadata.parquet` or `<root>/metadata.csv` with the columns patch_id, labels and split.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rsfed.errors import ArchiveError, RasterRejected, UsageError
from rsfed.hashing.dataset import Patch
from rsfed.raster.bigearthnet_records import read_rows, split_labels
from rsfed.raster.input_spec import InputSpec, branched_spec
from rsfed.raster.modality import MODALITIES
from rsfed.raster.reader import read_image

SPLITS = ("train", "validation", "test")
SIZE = 120  # pixels of a band at 10 m
SENTINEL_2 = MODALITIES["sentinel-2-l2a"]
SPEC: InputSpec = branched_spec(SENTINEL_2, SIZE)
_COLUMNS = ("patch_id", "labels", "split")


@dataclass(frozen=True, slots=True)
class Record:
    """What the metadata say of a patch.

    Attributes:
        name: Its id, the name of its folder.
        labels: Its classes, at least one.
    """

    name: str
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """Patches of one split that could be read.

    Attributes:
        patches: Their bands: for each group of `SPEC` float16, shape (bands, size, size).
        records: What the metadata say of each.
        missing: Patches that were drawn and whose folder is not there.
        damaged: Patches that were drawn and lack a band, or have one that cannot be read.
    """

    patches: tuple[Patch, ...]
    records: tuple[Record, ...]
    missing: int
    damaged: int


def read_metadata(root: Path) -> dict[str, list[Record]]:
    """Return the labelled patches of each split.

    Raises:
        UsageError: there is no such folder, it has no metadata, or they will not do.
        ConfigError: EXTRA_MISSING, they are in Parquet alone and pyarrow is not installed.
    """
    if not root.is_dir():
        raise UsageError("there is no such folder; give the one that holds BigEarthNet-S2", detail=str(root))
    rows = read_table(root, _COLUMNS)
    found: dict[str, list[Record]] = defaultdict(list)
    for row in rows:
        name, split, labels = str(row["patch_id"]), row["split"], split_labels(row["labels"])
        if split not in SPLITS:
            raise UsageError(
                f"the metadata give a patch the split {split!r}; use one of {', '.join(SPLITS)}", detail=name
            )
        if Path(name).name != name:
            raise UsageError("the metadata name a patch that is no folder name; correct patch_id", detail=name)
        if labels:
            found[split].append(Record(name, labels))
    if short := [split for split in SPLITS if not found[split]]:
        raise UsageError(f"the metadata have no labelled patch of the split {short[0]}", detail=str(root))
    return found


def read_table(root: Path, columns: Sequence[str]) -> Sequence[Mapping[str, Any]]:
    """Return columns of the metadata in a folder, `metadata.csv` or `metadata.parquet`.

    Raises:
        UsageError: there are none, or they will not do.
        ConfigError: EXTRA_MISSING, they are in Parquet alone and pyarrow is not installed.
    """
    try:
        told = read_rows(root, "metadata", columns)
    except ArchiveError as error:
        raise UsageError(error.public, detail=error.detail) from error
    if told is None:
        raise UsageError("the folder holds neither metadata.parquet nor metadata.csv", detail=str(root))
    rows = list(told)
    if not rows or not set(columns) <= rows[0].keys():
        raise UsageError(f"the metadata need rows with the columns {', '.join(columns)}", detail=str(root))
    return rows


def read_part(root: Path, records: Iterable[Record], limit: int, seed: int = 0) -> Part:
    """Read patches in an order drawn by a seed, until there are as many as wanted.

    Args:
        root: The folder of the data set.
        records: The patches of a split.
        limit: How many are wanted at most.
        seed: Seed of the order.

    Raises:
        UsageError: none can be read.
    """
    known = list(records)
    patches: list[Patch] = []
    kept: list[Record] = []
    missing = damaged = 0
    for place in np.random.default_rng(seed).permutation(len(known)):
        record = known[place]
        if len(kept) == limit:
            break
        if not (folder := patch_folder(root, record.name)).is_dir():
            missing += 1
            continue
        try:
            patches.append(read_patch(folder))
        except RasterRejected:
            damaged += 1
            continue
        kept.append(record)
    if not kept:
        raise UsageError(
            f"none of the {len(known):,} patches of a split can be read ({missing:,} are not there, {damaged:,} are "
            "damaged); unpack BigEarthNet-S2 here",
            detail=str(root),
        )
    return Part(tuple(patches), tuple(kept), missing, damaged)


def patch_folder(root: Path, name: str) -> Path:
    """Return where a patch lies: in the folder of its tile, which is its name without the last two numbers."""
    return root / "BigEarthNet-S2" / name.rsplit("_", 2)[0] / name


def read_patch(folder: Path) -> Patch:
    """Return the bands of a patch as a K-branch network takes them: for each group float16, shape (bands, size, size).

    Raises:
        RasterRejected: a band is missing or cannot be read, or the files are no bands of Sentinel-2.
    """
    _, contents = read_image(folder, SENTINEL_2, SPEC)
    content = next(contents)
    return tuple(content[group.name].astype(np.float16) for group in SPEC.groups)
