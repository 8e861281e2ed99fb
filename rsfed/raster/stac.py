"""STAC items on disk: what JSON describes, and the files of its assets beside or below it. Nothing is ever fetched.

| what | where it is |
|---|---|
| an item that is its folder | `<folder>.json`, or the only JSON in the folder |
| any other item | a JSON, which is the source; of an ItemCollection the source is called `<file>/<id>` |
| a file | the asset's relative `href` if that stays in the JSON's folder; else the file of that name beside the JSON |
| a band | the asset's key, its band's name or common name: `B02`, `B02_10m`, `blue` |
| acquisition | `s2:datatake_id`; the product in `s2:product_uri`; the item's id, as product names have it |
| time | `start_datetime` and `end_datetime`, else `datetime` |
| pass | `sat:orbit_state` |
| radiometry | `rsfed.raster.reflectance` |
| classes | asset `scl`, of Landsat `qa_pixel` |
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from rsfed.errors import RasterRejected
from rsfed.raster import metadata
from rsfed.raster.declared import Reflectance, as_declared
from rsfed.raster.image import Source
from rsfed.raster.item import Declared
from rsfed.raster.limits import IMAGE_SUFFIXES
from rsfed.raster.modality import REFLECTANCES, Modality
from rsfed.raster.product import Classes, OpenBand, Product
from rsfed.raster.reflectance import Radiometry, has_scale, of_stac
from rsfed.raster.stac_documents import Document, ItemCollection, digest_of, is_item, name_of, path_of, read_document
from rsfed.raster.stack import Stack

LAYOUT = "stac"
SUFFIXES = (".json", ".geojson")
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
CLASSES = ("SCL", "QA_PIXEL")
"""What says where clouds are; the first that an item has counts."""
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


@dataclass(frozen=True, slots=True)
class Described:
    """What the STAC documents of a folder describe.

    Attributes:
        items: Its items by the name of the source below the folder; empty where the folder itself is it.
        files: What belongs to them.
        catalogues: Documents that link to others.
        problems: Why others will not do, by their names.
    """

    items: Mapping[str, Product] = field(default_factory=dict)
    files: frozenset[Path] = frozenset()
    catalogues: tuple[Path, ...] = ()
    problems: Mapping[str, str] = field(default_factory=dict)


def described(folder: Path, names: Collection[str], *, whole: bool) -> Described:
    """Return what the documents of a folder describe.

    Args:
        folder: The folder.
        names: The names of what lies in it.
        whole: It may be an item as a whole.

    Raises:
        OSError: one of them cannot be read just now.
    """
    items: dict[str, Product] = {}
    files: set[Path] = set()
    catalogues: list[Path] = []
    problems: dict[str, str] = {}
    main = _main(folder, names) if whole else None
    for name in sorted(filter(_is_document, names)):
        path = folder / name
        found = read_document(path)
        if isinstance(found, ItemCollection):
            items |= {f"{name}/{number}": _product(path / number, item) for number, item in sorted(found.items.items())}
            problems |= {f"{name}/{number}": reason for number, reason in found.problems.items()}
            files.update(*(_named(item, folder) for item in found.items.values()))
        elif found is not None and is_item(found):
            items["" if name == main else name] = _product(path, found)
            files |= _named(found, folder)
        elif found is not None:
            catalogues.append(path)
    return Described(items, frozenset(files), tuple(catalogues), problems)


def folder_item(folder: Path, names: Collection[str]) -> Product | None:
    """Return the item that a folder is as a whole; None for any other folder."""
    main = _main(folder, names)
    return None if main is None else item_at(folder / main)


def item_at(source: Path) -> Product | None:
    """Return the item that a JSON is, or that an ItemCollection lists where the source is `<file>/<id>`; else None."""
    item = _item(source)
    return None if item is None else _product(source, item)


def open_item(source: Path, product: Product, modality: Modality, open_band: OpenBand, declared: Declared) -> Source:
    """Open an item.

    Args:
        source: Its JSON, or its place in an ItemCollection.
        product: The item.
        modality: What its archive holds.
        open_band: Opens one of its files.
        declared: What the operator says of values of which the item does not say it.

    Raises:
        RasterRejected: it is of another level, lacks a band, or does not say its radiometry.
    """
    item = _item(source)
    if item is None:
        raise RasterRejected("its JSON is a STAC item no more; run the ingest again")
    check_level(item, modality)
    found = _files(item, product.folder)
    assets = {
        band: found[name]
        for band in modality.bands
        if (name := next((each for each in names_of(band) if each in found), None))
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


def check_level(item: Document, modality: Modality) -> None:
    """Refuse an item of another processing level than an archive holds."""
    level = _level(item)
    if level and _LEVELS.get(modality.name, level) != level:
        raise RasterRejected(f"it is of level {level.upper()} and the archive holds {modality.name}; take it out")


def names_of(band: str) -> Sequence[str]:
    """Return the names, as `assets_of` gives them, that a modality's band may have; the first that is there counts."""
    return _COLOURS.get(band, (band,))


def assets_of(item: Document) -> Iterator[tuple[str, Document]]:
    """Yield the assets of an item that are bands or classes, by the band's name."""
    numbered = item["properties"].get("eo:bands")
    for key, asset in item["assets"].items():
        if band := next((each for each in _called(key, asset, numbered) if each in _NAMES.values()), None):
            yield band, asset


def _is_document(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def _main(folder: Path, names: Collection[str]) -> str | None:
    """Return the JSON that speaks of a folder as a whole."""
    listed = [name for name in names if name.lower().endswith(".json") and not name.startswith(".")]
    named = f"{folder.name}.json"
    return named if named in listed else listed[0] if len(listed) == 1 else None


def _collection(source: Path) -> Path | None:
    """Return the ItemCollection that a source is in."""
    parent = source.parent
    return parent if parent.suffix.lower() in SUFFIXES and parent.is_file() else None


def _item(source: Path) -> Document | None:
    if collection := _collection(source):
        listed = read_document(collection)
        return listed.items.get(source.name) if isinstance(listed, ItemCollection) else None
    found = read_document(source)
    return None if found is None or isinstance(found, ItemCollection) or not is_item(found) else found


def _product(source: Path, item: Document) -> Product:
    collection = _collection(source)
    folder = (collection or source).parent
    files = {band: file for band, (_, file) in _files(item, folder).items()}
    held = [Classes(kind, files.pop(kind)) for kind in CLASSES if kind in files]
    classes = held[0] if held else None
    return Product(
        layout=LAYOUT,
        folder=folder,
        bands={band: files[band] for band in sorted(files)},
        tags=partial(_tags, item),
        opens=partial(open_item, source),
        decides=(*(() if collection else (source,)), *((classes.path,) if classes else ())),
        says=digest_of(item) if collection else b"",  # what else the file lists has nothing to do with it
        bands_told=False,
        name=name_of(item),
        classes=classes,
        problem=None if files else "none of its assets lies beside its JSON; copy them there",
    )


def _radiometry(item: Document, assets: Sequence[Document], declared: Declared) -> Radiometry:
    """Return how stored values become reflectance; of other satellites only where the item has their scale."""
    told = " ".join(str(each) for each in (item.get("collection"), item.get("id"), item["properties"].get("platform")))
    if not _SENTINEL_2.search(told) and not all(has_scale(asset) for asset in assets):
        raise RasterRejected("it does not say the scale of its values; add raster:scale and raster:offset to its bands")
    return of_stac(item["properties"], assets, declared if isinstance(declared, int) else None)


def _files(item: Document, folder: Path) -> dict[str, tuple[Document, Path]]:
    """Return asset and file of each band that has one; the first asset of a band counts."""
    found: dict[str, tuple[Document, Path]] = {}
    for band, asset in assets_of(item):
        if band not in found and (path := _file(asset.get("href"), folder)):
            found[band] = asset, path
    return found


def _named(item: Document, folder: Path) -> set[Path]:
    """Return where the assets of an item may lie, whatever they are."""
    return {place for asset in item["assets"].values() for place in _places(asset.get("href"), folder)}


def _called(key: str, asset: Document, numbered: object) -> Iterator[str]:
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
    """Return the image that an asset is; None where it is not there."""
    places = (each for each in _places(href, folder) if each.suffix.lower() in IMAGE_SUFFIXES)
    return next((each for each in places if each.is_file()), None)


def _places(href: object, folder: Path) -> Iterator[Path]:
    """Yield where the file of an asset may lie, in the folder of its item or below."""
    if (told := path_of(href)) is None:
        return
    path, relative = told
    if relative and ".." not in path.parts:
        yield folder / path
    yield folder / path.name


def _level(item: Document) -> str | None:
    properties = item["properties"]
    told = (
        *(properties.get(key) for key in ("s2:product_type", "processing:level", "s2:product_uri")),
        item.get("collection"),
        item.get("id"),
    )
    match = next((found for each in told if isinstance(each, str) and (found := _LEVEL.search(each))), None)
    return match[1].lower() if match else None


def _tags(item: Document) -> Mapping[str, str]:
    def text(key: str) -> str:
        told = item["properties"].get(key)
        return told if isinstance(told, str) else ""

    start, end = (text(f"{edge}_datetime") or text("datetime") for edge in ("start", "end"))
    take = _DATATAKE.match(text("s2:datatake_id"))
    names = (text("s2:product_uri").removesuffix(".SAFE"), str(item.get("id", "")))
    overpass = f"{take[1]}:{take[2]}" if take else None
    overpass = overpass or next((found for name in names if (found := metadata.acquisition({}, name))), None)
    told = {"ACQUISITION": overpass, "ACQUIRED": f"{start}/{end}" if start else None, "PASS": text("sat:orbit_state")}
    return {key: value for key, value in told.items() if value}
