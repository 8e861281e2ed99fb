"""What BigEarthNet's own files say of its patches: labels, and which ones clouds, shadow or snow cover.

| version | labels | covered patches |
|---|---|---|
| 1 | `<patch>_labels_metadata.json` beside the bands: 43 classes | `patches_with_cloud_and_shadow.csv`, `patches_with_seasonal_snow.csv` |
| 2 | `metadata.parquet` or `metadata.csv`: 19 classes | its columns `contains_...`, and every patch of `metadata_for_patches_with_snow_cloud_or_shadow.parquet` or `.csv` |
"""  # noqa: E501 - a table

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rsfed.errors import ArchiveError, ConfigError, RasterRejected
from rsfed.raster.bigearthnet import read_label_file
from rsfed.raster.product import Product

NOMENCLATURES = ("bigearthnet-19", "bigearthnet-43")
TABLES = ("metadata", "metadata_for_patches_with_snow_cloud_or_shadow")
LISTS = ("patches_with_cloud_and_shadow.csv", "patches_with_seasonal_snow.csv")
FILES = frozenset({*(f"{table}{suffix}" for table in TABLES for suffix in (".parquet", ".csv")), *LISTS})
"""Files at the top of an archive that are no images and known."""

_FLAGS = ("contains_seasonal_snow", "contains_cloud_or_shadow")
_QUOTED = re.compile(r"'([^']*)'|\"([^\"]*)\"")

# The published nomenclature of 19 classes, and the CORINE classes (level 3) that each is made of.
_MEMBERS = {
    "Urban fabric": ("Continuous urban fabric", "Discontinuous urban fabric"),
    "Industrial or commercial units": ("Industrial or commercial units",),
    "Arable land": ("Non-irrigated arable land", "Permanently irrigated land", "Rice fields"),
    "Permanent crops": (
        "Vineyards",
        "Fruit trees and berry plantations",
        "Olive groves",
        "Annual crops associated with permanent crops",
    ),
    "Pastures": ("Pastures",),
    "Complex cultivation patterns": ("Complex cultivation patterns",),
    "Land principally occupied by agriculture, with significant areas of natural vegetation": (
        "Land principally occupied by agriculture, with significant areas of natural vegetation",
    ),
    "Agro-forestry areas": ("Agro-forestry areas",),
    "Broad-leaved forest": ("Broad-leaved forest",),
    "Coniferous forest": ("Coniferous forest",),
    "Mixed forest": ("Mixed forest",),
    "Natural grassland and sparsely vegetated areas": ("Natural grassland", "Sparsely vegetated areas"),
    "Moors, heathland and sclerophyllous vegetation": ("Moors and heathland", "Sclerophyllous vegetation"),
    "Transitional woodland, shrub": ("Transitional woodland/shrub",),
    "Beaches, dunes, sands": ("Beaches, dunes, sands",),
    "Inland wetlands": ("Inland marshes", "Peatbogs"),
    "Coastal wetlands": ("Salt marshes", "Salines"),
    "Inland waters": ("Water courses", "Water bodies"),
    "Marine waters": ("Coastal lagoons", "Estuaries", "Sea and ocean"),
}
CLASSES_19 = tuple(_MEMBERS)
WITHOUT_CLASS = (
    *("Road and rail networks and associated land", "Port areas", "Airports", "Mineral extraction sites"),
    *("Dump sites", "Construction sites", "Green urban areas", "Sport and leisure facilities"),
    *("Bare rock", "Burnt areas", "Intertidal flats"),
)
"""Classes of the 43 that belong to none of the 19."""
CLASS_OF: Mapping[str, str] = {old: new for new, members in _MEMBERS.items() for old in members}
"""Of the other 32 of the 43 classes the one of the 19 that each belongs to."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What the tables say of a patch.

    Attributes:
        labels: Its classes.
        covered: Clouds, shadow or snow cover it.
    """

    labels: tuple[str, ...]
    covered: bool


class Records:
    """What BigEarthNet's own files say; tables are read when the first patch asks for them.

    Args:
        root: The archive; tables and lists lie at its top.
        nomenclature: One of `NOMENCLATURES`; anything else takes labels as they were published.
    """

    def __init__(self, root: Path, nomenclature: str) -> None:
        self._root = root
        self._nomenclature = nomenclature

    def labels(self, product: Product) -> tuple[str, ...]:
        """Return the classes of a patch; none where nothing says them.

        Raises:
            ArchiveError: a table cannot be read, or it has only the 19 classes and the 43 are wanted.
            ConfigError: EXTRA_MISSING, pyarrow is needed and not installed.
        """
        if product.companions:
            told = _told(product)
            if self._nomenclature != "bigearthnet-19":
                return told
            return tuple(dict.fromkeys(CLASS_OF.get(each, each) for each in told if each not in WITHOUT_CLASS))
        entry = self._tables.get(product.folder.name)
        if entry is None:
            return ()
        if self._nomenclature == "bigearthnet-43" and set(entry.labels) - CLASS_OF.keys() - set(WITHOUT_CLASS):
            raise ArchiveError(
                'metadata of BigEarthNet v2 have 19 classes, from which the 43 cannot be told; set [archive] labels = "'
                'bigearthnet-19"'
            )
        return entry.labels

    def covered(self, product: Product) -> bool:
        """Return whether clouds, shadow or snow cover a patch; errors as for `labels`."""
        name = product.folder.name
        if product.companions:
            return name in self._listed
        return name in self._listed or (name in self._tables and self._tables[name].covered)

    @cached_property
    def _tables(self) -> dict[str, Entry]:
        found: dict[str, Entry] = {}
        known: dict[tuple[str, ...], tuple[str, ...]] = {}  # few sets of labels for many patches
        for table in TABLES:
            for row in read_rows(self._root, table, ("patch_id", "labels", "s1_name", *_FLAGS)) or ():
                labels = split_labels(row.get("labels"))
                covered = table != TABLES[0] or any(str(row.get(flag)).lower() in {"true", "1"} for flag in _FLAGS)
                entry = Entry(known.setdefault(labels, labels), covered)
                found[str(row["patch_id"])] = entry
                if radar := row.get("s1_name"):
                    found.setdefault(str(radar), Entry(entry.labels, covered=False))  # radar sees through clouds
        return found

    @cached_property
    def _listed(self) -> frozenset[str]:
        return frozenset(name for each in LISTS for name in _read_list(self._root / each))


def read_rows(folder: Path, table: str, columns: Collection[str]) -> Iterator[Mapping[str, Any]] | None:
    """Return the rows of a table, from CSV where there is such a file, else from Parquet; None where there is neither.

    Args:
        folder: Where it lies.
        table: Name of the file without its suffix.
        columns: Those that are wanted, where they are there; the first one must be.

    Raises:
        ArchiveError: it cannot be read.
        ConfigError: EXTRA_MISSING, it is in Parquet alone and pyarrow is not installed.
    """
    needed = next(iter(columns))
    for suffix, read in ((".csv", _read_csv), (".parquet", _read_parquet)):
        path = folder / f"{table}{suffix}"
        if path.exists():
            held = read(path, columns)
            if needed not in held:
                raise ArchiveError(f"the metadata need the columns {', '.join(columns)}; add them", detail=str(path))
            return (dict(zip(held, row, strict=True)) for row in zip(*held.values(), strict=True))
    return None


def split_labels(told: str | Iterable[str] | None) -> tuple[str, ...]:
    """Return the labels of a patch; a text has them separated by ; or |, or is a list as Python or numpy prints it."""
    if not isinstance(told, str):
        return tuple(told or ())
    if told.startswith("["):
        return tuple(one or other for one, other in _QUOTED.findall(told))
    return tuple(filter(None, map(str.strip, re.split(r"[;|]", told))))


def _told(product: Product) -> tuple[str, ...]:
    try:
        told = read_label_file(product.companions[0]).get("labels")
    except (RasterRejected, OSError):
        return ()  # reading the patch will say so
    return tuple(each for each in told if isinstance(each, str)) if isinstance(told, list) else ()


def _read_list(path: Path) -> list[str]:
    try:
        return [name for line in path.read_text("utf-8-sig").splitlines() if (name := line.split(",")[0].strip())]
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise ArchiveError(
            "a list of covered patches cannot be read; it must be UTF-8 with a patch in each line", detail=str(path)
        ) from error


def _read_csv(path: Path, columns: Collection[str]) -> dict[str, Sequence[Any]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            held: dict[str, list[Any]] = {name: [] for name in columns if name in (reader.fieldnames or ())}
            for row in reader:
                for name, values in held.items():
                    values.append(row[name])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ArchiveError("the metadata cannot be read; they must be a CSV file in UTF-8", detail=str(path)) from error
    return dict(held)


def _read_parquet(path: Path, columns: Collection[str]) -> dict[str, Sequence[Any]]:
    try:
        from pyarrow import parquet  # noqa: PLC0415 - not needed where the metadata are a CSV file
    except ImportError as error:
        raise ConfigError(
            f"{path.name} needs pyarrow, which is not installed: add the extra parquet of rsfed, or write the columns "
            f"{', '.join(columns)} to {path.stem}.csv beside it, labels separated by semicolons",
            reason="EXTRA_MISSING",
            detail=str(path),
        ) from error
    try:
        held = set(parquet.read_schema(path).names)
        table = parquet.read_table(path, columns=[name for name in columns if name in held])
        return dict(table.to_pydict())
    except (OSError, ValueError, KeyError) as error:  # what pyarrow raises is a ValueError, KeyError or OSError
        raise ArchiveError("the metadata cannot be read; download them again", detail=str(path)) from error
