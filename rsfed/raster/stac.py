"""STAC items on disk: a folder with the JSON of one item and the files of its assets. Nothing is ever fetched.

| what | where it is |
|---|---|
| the item | `<folder>.json`, or the only JSON in the folder |
| a file | the asset's relative `href` if that stays in the folder; else the file of that name beside the JSON |
| a band | the asset's key, its band's name or common name: `B02`, `B02_10m`, `blue` |
| acquisition | `s2:datatake_id`; the product in `s2:product_uri`; the item's id, as product names have it |
| time | `start_datetime` and `end_datetime`, else `datetime` |
| pass | `sat:orbit_state` |
| radiometry | `rsfed.raster.reflectance` |
| classes | asset `scl`, of Landsat `qa_pixel` |
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from rsfed.errors import RasterRejected
from rsfed.raster import metadata
from rsfed.raster.declared import Reflectance, as_declared
from rsfed.raster.image import Source
from rsfed.raster.item import Declared
from rsfed.raster.limits import IMAGE_SUFFIXES
from rsfed.raster.modality import REFLECTANCES, Modality
from rsfed.raster.product import Classes, OpenBand, Product
from rsfed.raster.reflectance import Radiometry, has_scale, of_stac
from rsfed.raster.small_file import read_small
from rsfed.raster.stack import Stack

LAYOUT = "stac"
_MAX_BYTES = 4 << 20  # of an item
_NAMES = {
    "coastal": "B01",
    "blue": "B02",
    "green": "B03",
    "red": "B04",
    "rededge1": "B05",
    "rededge2": "B06",
    "rededge3": "B07",
    "nir": "B08",
    "nir08": "B8A",
    "nir09": "B09",
    "cirrus": "B10",
    "swir16": "B11",
    "swir22": "B12",
    "vv": "VV",
    "vh": "VH",
    "scl": "SCL",
    "qa_pixel": "QA_PIXEL",
    "qa_pixel.tif": "QA_PIXEL",
}
_CLASSES = ("SCL", "QA_PIXEL")
_COLOURS = {
    "red": ("B04",),
    "green": ("B03",),
    "blue": ("B02",),
    "nir": ("B08", "B8A"),
}  # Landsat's is as narrow as B8A
_SIZE = re.compile(r"_[126]0m$")
_DATATAKE = re.compile(r"G?(S2[A-Z])_(\d{8}T\d{6})_")
_SENTINEL_2 = re.compile(r"sentinel-?2|\bS2[A-Z]_", re.IGNORECASE)
_LEVEL = re.compile(r"(?:S2MSI|(?:MSI|(?<![a-z]))L)(1C|2A)(?![a-z0-9])", re.IGNORECASE)
_LEVELS = {"sentinel-2-l1c": "1c", "sentinel-2-l2a": "2a", "rgbn-reflectance": "2a"}


def product(folder: Path, names: Collection[str]) -> Product | None:
    """Return the item that a folder is; None for any other folder."""
    listed = [name for name in names if name.lower().endswith(".json") and not name.startswith(".")]
    named = f"{folder.name}.json"
    if named not in listed and len(listed) != 1:
        return None
    path = folder / (named if named in listed else listed[0])
    item = _read(path)
    if item is None:
        return None
    files = {band: file for band, (_, file) in _assets(item, folder).items()}
    held = [Classes(kind, files.pop(kind)) for kind in _CLASSES if kind in files]
    classes = held[0] if held else None
    return Product(
        layout=LAYOUT,
        folder=folder,
        bands={band: files[band] for band in sorted(files)},
        tags=partial(_tags, item),
        opens=open_product,
        decides=(path, *((classes.path,) if classes else ())),
        bands_told=False,
        named=False,
        classes=classes,
        problem=None if files else "none of its assets lies beside its JSON; copy them there",
    )


def open_product(product: Product, modality: Modality, open_band: OpenBand, declared: Declared) -> Source:
    """Open an item.

    Args:
        product: The item.
        modality: What its archive holds.
        open_band: Opens one of its files.
        declared: What the operator says of values of which the item does not say it.

    Raises:
        RasterRejected: it is of another level, lacks a band, or does not say its radiometry.
    """
    item = _read(product.decides[0])
    if item is None:
        raise RasterRejected("its JSON is a STAC item no more; run the ingest again")
    level = _level(item)
    if level and _LEVELS.get(modality.name, level) != level:
        raise RasterRejected(f"it is of level {level.upper()} and the archive holds {modality.name}; take it out")
    found = _assets(item, product.folder)
    assets = {
        band: found[name]
        for band in modality.bands
        if (name := next((each for each in _COLOURS.get(band, (band,)) if each in found), None))
    }
    stack = Stack.open(replace(product, bands={band: file for band, (_, file) in assets.items()}), modality, open_band)
    if modality.name not in REFLECTANCES:
        return as_declared(stack, modality, declared)
    try:
        radiometry = _radiometry(item, [assets[band][0] for band in modality.bands], declared)
    except RasterRejected:
        stack.close()
        raise
    return Reflectance.with_radiometry(stack, radiometry)


def _radiometry(item: Mapping[str, Any], assets: Sequence[Mapping[str, Any]], declared: Declared) -> Radiometry:
    """Return how stored values become reflectance; of other satellites only where the item has their scale."""
    told = " ".join(str(each) for each in (item.get("collection"), item.get("id"), _properties(item).get("platform")))
    if not _SENTINEL_2.search(told) and not all(has_scale(asset) for asset in assets):
        raise RasterRejected("it does not say the scale of its values; add raster:scale and raster:offset to its bands")
    return of_stac(_properties(item), assets, declared if isinstance(declared, int) else None)


def _read(path: Path) -> Mapping[str, Any] | None:
    """Return a STAC item; None where a file is none. Raises OSError where it cannot be read just now."""
    try:
        item = json.loads(read_small(path, _MAX_BYTES, "its JSON"))
    except (FileNotFoundError, RasterRejected, ValueError, RecursionError):
        return None
    sound = isinstance(item, dict) and item.get("type") == "Feature" and "stac_version" in item
    return item if sound and isinstance(item.get("assets"), dict) else None


def _properties(item: Mapping[str, Any]) -> Mapping[str, Any]:
    found = item.get("properties")
    return found if isinstance(found, dict) else {}


def _assets(item: Mapping[str, Any], folder: Path) -> dict[str, tuple[Mapping[str, Any], Path]]:
    """Return asset and file of each band that has one; the first asset of a band counts."""
    found: dict[str, tuple[Mapping[str, Any], Path]] = {}
    numbered = _properties(item).get("eo:bands")
    for key, asset in item["assets"].items():
        if not isinstance(asset, dict) or (path := _file(asset.get("href"), folder)) is None:
            continue
        known = (each for each in _called(key, asset, numbered) if each in _NAMES.values())
        if band := next(known, None):
            found.setdefault(band, (asset, path))
    return found


def _called(key: str, asset: Mapping[str, Any], numbered: object) -> Iterator[str]:
    """Yield what an asset may be called, as Sentinel's bands are; before STAC 0.9 it gave a number in `numbered`."""
    yield _canonical(_SIZE.sub("", key))
    for listed in ("eo:bands", "bands"):
        bands = asset.get(listed)
        band = bands[0] if isinstance(bands, list) and len(bands) == 1 else None
        if isinstance(band, int) and isinstance(numbered, list) and 0 <= band < len(numbered):
            band = numbered[band]
        if isinstance(band, dict):
            told = (band.get(name) for name in ("name", "common_name", "eo:common_name"))
            yield from (_canonical(each) for each in told if isinstance(each, str))


def _canonical(name: str) -> str:
    return _NAMES.get(name.lower(), name.upper())


def _file(href: object, folder: Path) -> Path | None:
    """Return the image that an asset is, in the item's own folder or below; None where it is not there."""
    try:
        parts = urlsplit(href) if isinstance(href, str) else None
    except ValueError:
        return None
    if parts is None or "\0" in (told := unquote(parts.path)):
        return None
    path = PurePosixPath(told)
    inside = not parts.scheme and not parts.netloc and not path.is_absolute() and ".." not in path.parts
    for each in (folder / path if inside else None, folder / path.name):
        if each is not None and each.suffix.lower() in IMAGE_SUFFIXES and each.is_file():
            return each
    return None


def _level(item: Mapping[str, Any]) -> str | None:
    properties = _properties(item)
    told = (
        *(properties.get(key) for key in ("s2:product_type", "processing:level", "s2:product_uri")),
        item.get("collection"),
        item.get("id"),
    )
    match = next((found for each in told if isinstance(each, str) and (found := _LEVEL.search(each))), None)
    return match[1].lower() if match else None


def _tags(item: Mapping[str, Any]) -> Mapping[str, str]:
    def text(key: str) -> str:
        told = _properties(item).get(key)
        return told if isinstance(told, str) else ""

    start, end = (text(f"{edge}_datetime") or text("datetime") for edge in ("start", "end"))
    take = _DATATAKE.match(text("s2:datatake_id"))
    names = (text("s2:product_uri").removesuffix(".SAFE"), str(item.get("id", "")))
    overpass = f"{take[1]}:{take[2]}" if take else None
    overpass = overpass or next((found for name in names if (found := metadata.acquisition({}, name))), None)
    told = {"ACQUISITION": overpass, "ACQUIRED": f"{start}/{end}" if start else None, "PASS": text("sat:orbit_state")}
    return {key: value for key, value in told.items() if value}
