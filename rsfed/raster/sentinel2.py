"""Sentinel-2 products in the SAFE layout, L1C and L2A: which files their bands are, when, and with which radiometry.

| what | where it is |
|---|---|
| bands | `GRANULE/*/IMG_DATA`, also in `R10m`, `R20m`, `R60m`: files whose names end on `_B02.jp2` or `_B02_10m.jp2`, at the band's native pixel size |
| acquisition | `SPACECRAFT_NAME` and `DATATAKE_SENSING_START`, else the first two parts of the datatake's identifier |
| time | `PRODUCT_START_TIME` and `PRODUCT_STOP_TIME` |
| radiometry | `rsfed.raster.reflectance` |
| classes | `SCL` of L2A, at 20 m, else at 60 m; without it `GRANULE/*/QI_DATA/MSK_CLASSI_B00.jp2` |

Folder and files may have been renamed: the XML is found by its own name, and bands by the end of theirs.
"""  # noqa: E501 - a table

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path

from rsfed.errors import RasterRejected
from rsfed.raster.declared import Reflectance
from rsfed.raster.image import Source
from rsfed.raster.item import Declared
from rsfed.raster.listing import listed
from rsfed.raster.modality import Modality
from rsfed.raster.product import Classes, OpenBand, Product
from rsfed.raster.reflectance import of_product
from rsfed.raster.stack import Stack
from rsfed.raster.xml_document import Document, read_document

LAYOUT = "sentinel-2"
_SAFE = ".safe"
_XML = {"L1C": "MTD_MSIL1C.xml", "L2A": "MTD_MSIL2A.xml"}
_LEVELS = {"sentinel-2-l1c": "L1C", "sentinel-2-l2a": "L2A", "rgbn-reflectance": "L2A"}
_COLOURS = {"red": "B04", "green": "B03", "blue": "B02", "nir": "B08"}
_NATIVE = {
    **dict.fromkeys(("B01", "B09", "B10"), 60),
    **dict.fromkeys(("B02", "B03", "B04", "B08"), 10),
    **dict.fromkeys(("B05", "B06", "B07", "B8A", "B11", "B12", "SCL"), 20),
}
_SIZES = ("R10m", "R20m", "R60m")
_FILE = re.compile(r"(?:^|_)(B\d\d|B8A|SCL)(?:_([126]0)m)?\.jp2", re.IGNORECASE)
_DATATAKE = re.compile(r"G?(S2[A-Z])_(\d{8}T\d{6})_")
_SPACECRAFT = re.compile(r"Sentinel-2([A-Z])")


def product(folder: Path, names: Collection[str]) -> Product | None:
    """Return the product that a folder is, as far as its names tell; None for any other folder."""
    documents = tuple(folder / name for name in _XML.values() if name in names)
    if "GRANULE" not in names or not (documents or "manifest.safe" in names or folder.suffix.lower() == _SAFE):
        return None
    found = _files(folder)
    native = {band: _at_native_size(found[band], size) for band, size in _NATIVE.items() if band in found}
    scl = native.pop("SCL", None)
    return Product(
        layout=LAYOUT,
        folder=folder,
        bands={band: native[band] for band in sorted(native)},
        tags=partial(_tags, folder),
        opens=open_product,
        decides=(*documents, *((scl,) if scl else ())),
        bands_told=False,
        name=folder.name if folder.suffix.lower() == _SAFE else None,
        classes=Classes("SCL", scl) if scl else _mask(folder),
        problem=_problem(folder, found) if documents else "its product XML is missing; copy the product again",
    )


def open_product(product: Product, modality: Modality, open_band: OpenBand, declared: Declared) -> Source:
    """Open a product.

    Args:
        product: The product.
        modality: What its archive holds.
        open_band: Opens one of its files.
        declared: What the operator says of values whose product does not say it.

    Raises:
        RasterRejected: it is of another level, lacks a band, has two files for one, or its XML will not do.
    """
    level = _level(product.folder)
    if _LEVELS.get(modality.name) != level:
        raise RasterRejected(
            f"it is a Sentinel-2 product of level {level[1:]} and the archive holds {modality.name}; "
            f"move it to an archive of modality sentinel-2-{level.lower()}"
        )
    names = {band: _COLOURS.get(band, band) for band in modality.bands}
    document = _document(product.folder)
    radiometry = of_product(document, level, list(names.values()), declared if isinstance(declared, int) else None)
    files = {band: product.bands[name] for band, name in names.items() if name in product.bands}
    return Reflectance.with_radiometry(Stack.open(replace(product, bands=files), modality, open_band), radiometry)


def acquisition(document: Document) -> str | None:
    """Return the id of the overpass by the product XML: the same across tiles, levels and baselines."""
    satellite = _SPACECRAFT.fullmatch(document.text("SPACECRAFT_NAME") or "")
    start = _compact(document.text("DATATAKE_SENSING_START"))
    if satellite and start:
        return f"S2{satellite[1]}:{start}"
    takes = (element.get("datatakeIdentifier", "") for element in document.elements("Datatake"))
    match = next((found for take in takes if (found := _DATATAKE.match(take))), None)
    return f"{match[1]}:{match[2]}" if match else None


def _level(folder: Path) -> str:
    return next(level for level, name in _XML.items() if (folder / name).is_file())


def _document(folder: Path) -> Document:
    return read_document(folder / _XML[_level(folder)], "product XML")


def _tags(folder: Path) -> Mapping[str, str]:
    document = _document(folder)
    start, stop = (document.text(f"PRODUCT_{edge}_TIME") for edge in ("START", "STOP"))
    told = {"ACQUISITION": acquisition(document), "ACQUIRED": f"{start}/{stop or start}" if start else None}
    return {key: value for key, value in told.items() if value}


def _compact(text: str | None) -> str | None:
    """Return a moment as names have it, `20240531T103021`."""
    try:
        return datetime.fromisoformat(text).strftime("%Y%m%dT%H%M%S") if text else None
    except ValueError:
        return None


def _files(folder: Path) -> dict[str, dict[int, list[Path]]]:
    """Return the image files by band and by pixel size in metres, 0 where their names do not say it.

    Raises:
        OSError: a folder of the product cannot be listed just now.
    """
    found: dict[str, dict[int, list[Path]]] = {}
    for images in _tiles(folder):
        held = listed(images)
        below = (path for each in held if each.name in _SIZES for path in listed(each))
        for path in (*held, *below):
            if (match := _FILE.search(path.name)) and match.end() == len(path.name):
                found.setdefault(match[1].upper(), {}).setdefault(int(match[2] or 0), []).append(path)
    return found


def _mask(folder: Path) -> Classes | None:
    """Return the classification mask of a product that has no scene classification."""
    masks = (granule / "QI_DATA" / "MSK_CLASSI_B00.jp2" for granule in listed(folder / "GRANULE"))
    return next((Classes("MSK_CLASSI", path) for path in masks if path.is_file()), None)


def _tiles(folder: Path) -> list[Path]:
    """Return the folder of images of each tile."""
    return [images for granule in listed(folder / "GRANULE") if (images := granule / "IMG_DATA").is_dir()]


def _problem(folder: Path, found: Mapping[str, Mapping[int, list[Path]]]) -> str | None:
    """Return what is wrong with the files of a product; None where nothing is."""
    tiles = len(_tiles(folder))
    if tiles > 1:
        return f"it holds {tiles} tiles, not one; get it in the format of one tile for each product"
    twice = (band for band, sizes in found.items() if any(len(paths) > 1 for paths in sizes.values()))
    if band := next(twice, None):
        return f"it has two files of band {band}; remove the one that is not of the product"
    return None if found else "it has no image files; copy the product again from its origin"


def _at_native_size(sizes: Mapping[int, list[Path]], native: int) -> Path:
    """Return a band's file at its native pixel size, else at the next coarser one, else at the coarsest."""
    best = min(sizes, key=lambda size: (size not in (native, 0), size < native, size if size > native else -size))
    return sizes[best][0]
