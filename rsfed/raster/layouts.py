"""The layouts of products: which folder is one source, and which of its files are its bands.

A layout is one function from a folder and the names in it to the product that it is. Walking an archive, reading a
patch and hashing it all ask here, so they agree on what belongs to it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from pathlib import Path

from rsfed.errors import RasterRejected
from rsfed.raster import bigearthnet, sentinel1, sentinel2, stac
from rsfed.raster.product import Product

_LAYOUTS: tuple[Callable[[Path, Collection[str]], Product | None], ...] = (
    bigearthnet.product,
    sentinel2.product,
    sentinel1.product,
    stac.product,
)


def product_of(folder: Path, names: Collection[str]) -> Product | None:
    """Return the product that a folder is; None for any other folder.

    Args:
        folder: The folder.
        names: The names of what lies in it.
    """
    return next((found for layout in _LAYOUTS if (found := layout(folder, names))), None)


def product_at(folder: Path) -> Product:
    """Return the product that a folder is.

    Raises:
        RasterRejected: it is none.
        OSError: it cannot be listed.
    """
    with os.scandir(folder) as entries:
        found = product_of(folder, {entry.name for entry in entries})
    if found is None:
        raise RasterRejected("it is not a regular file but a folder of no known layout; give the images in it")
    if found.problem:
        raise RasterRejected(found.problem)
    return found
