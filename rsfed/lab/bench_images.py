"""Real images of the benchmarks: found through RSFED_TEST_DATA, unpacked once into a folder of their own."""

from __future__ import annotations

import csv
import os
import shutil
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from rsfed.errors import UsageError
from rsfed.lab.evaluate.data import ImageSet, Listing, read

CACHE = Path(os.environ.get("RSFED_BENCH_CACHE", "bench"))  # where images are unpacked and features kept
TRUNK = "mobilenet_v2_imagenet_features.onnx"
UCM, EUROSAT = "ucmerced_jpeg", "eurosat_rgb"
TEXTS = "labels_captions_splits.zip"
_MULTI_LABELS = "ucm_multilabel/LandUse_Multilabeled.txt"


def data_folder() -> Path:
    """Return the folder of the real data.

    Raises:
        UsageError: it is not there.
    """
    data = Path(os.environ.get("RSFED_TEST_DATA", "../shared/data"))
    if not (data / TEXTS).exists():
        raise UsageError(
            f"the benchmark needs real images; set RSFED_TEST_DATA to the folder with {TEXTS}, {UCM}*.zip, "
            f"{EUROSAT}*.zip and {TRUNK}",
            detail=f"not in {data.absolute()}",
        )
    return data


def unpacked(data: Path, name: str) -> Path:
    """Return the folder of a data set's images, unpacked at its first use.

    Raises:
        UsageError: the data set is not there.
    """
    folder = CACHE / name
    if not folder.is_dir():
        part = CACHE / f"{name}.part"  # so that a broken run leaves no folder that looks whole
        shutil.rmtree(part, ignore_errors=True)
        with zipfile.ZipFile(_archive(data, name)) as file:
            file.extractall(part)
        (part / name).rename(folder)
        part.rmdir()
    return folder


def official_splits(data: Path, name: str) -> Path:
    """Return the split file of a data set."""
    with zipfile.ZipFile(data / TEXTS) as file:
        return Path(file.extract(f"splits/{_archive(data, name).stem}.csv", CACHE))


def featured(data: Path, listing: Listing) -> ImageSet:
    """Return images as their features of the frozen trunk, averaged over turns; made once."""
    return read(listing, data / TRUNK, CACHE, turns=True)


def multi_labels(data: Path, folder: Path) -> str:
    """Write the labels of UC Merced's images (17 in all, several for each) as a label file beside them.

    Returns:
        Its name, as `rsfed.lab.evaluate.data.find` takes it.
    """
    with zipfile.ZipFile(data / TEXTS) as file:
        table = file.read(_MULTI_LABELS).decode()
    images = [path.relative_to(folder).as_posix() for path in folder.rglob("*.*") if path.suffix != ".csv"]
    name = "multilabels.csv"
    with (folder / name).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("path", "label"), *label_rows(table.splitlines(), images)])
    return name


def label_rows(table: Sequence[str], images: Iterable[str]) -> list[tuple[str, str]]:
    """Return path and labels, separated by semicolons, of every image that a table of 0 and 1 names.

    Args:
        table: Lines with tabs: first the names of the labels, then for each image its name, with or without an ending,
            and one number for each label.
        images: Paths of the images; no two have the same name.

    Raises:
        UsageError: the table names an image that is not there.
    """
    paths = {Path(path).stem: path for path in images}
    names = table[0].split("\t")[1:]
    rows = []
    for line in filter(str.strip, table[1:]):
        image, *marks = line.split("\t")
        if (path := paths.get(Path(image).stem)) is None:
            raise UsageError("the label table names an image that is not there; unpack the images again", detail=image)
        rows.append((path, ";".join(name for name, mark in zip(names, marks, strict=True) if mark.strip() == "1")))
    return rows


def _archive(data: Path, name: str) -> Path:
    found = sorted(data.glob(f"{name}*.zip"))
    if not found:
        raise UsageError(f"the images {name} are not in the folder that RSFED_TEST_DATA names", detail=str(data))
    return found[0]
