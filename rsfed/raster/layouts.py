"""The layouts of products: which folder, or item of a STAC document, is one source, and which files are its bands.

A layout is one function from a folder and the names in it to the product that it is; STAC documents may describe
several (`rsfed.raster.stac`). Walking an archive, reading a patch and hashing it all ask here, so they agree on what
belongs to it.
"""

from __future__ import annotations

import os
import stat as modes
from collections.abc import Callable, Collection
from pathlib import Path

from rsfed.errors import RasterRejected
from rsfed.raster import bigearthnet, sentinel1, sentinel2, stac
from rsfed.raster.product import Product

_LAYOUTS: tuple[Callable[[Path, Collection[str]], Product | None], ...] = (
    bigearthnet.product,
    sentinel2.product,
    sentinel1.product,
)


def product_of(folder: Path, names: Collection[str]) -> Product | None:
    """Return the product that a folder with all that lies in it and below is; None for any other folder.

    Args:
        folder: The folder.
        names: The names of what lies in it.
    """
    return next((found for layout in _LAYOUTS if (found := layout(folder, names))), None)


def product_at(source: Path) -> Product | None:
    """Return the product that a source is; None for a file that may be an image by itself.

    Raises:
        RasterRejected: it is none.
        OSError: it cannot be looked at.
    """
    try:
        mode = source.stat().st_mode
    except NotADirectoryError:
        found, otherwise = stac.item_at(source), "the document that listed it lists it no more; run the ingest again"
    else:
        if not modes.S_ISDIR(mode):
            found, otherwise = stac.item_at(source) if source.suffix.lower() in stac.SUFFIXES else None, ""
        else:
            with os.scandir(source) as entries:
                names = {entry.name for entry in entries}
            found = product_of(source, names) or stac.folder_item(source, names)
            otherwise = "it is not a regular file but a folder of no known layout; give the images in it"
    if found is None and otherwise:
        raise RasterRejected(otherwise)
    if found is not None and found.problem:
        raise RasterRejected(found.problem)
    return found
