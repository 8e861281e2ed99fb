"""One patch as a file of its own: its bands in the units of its modality, and where they lie. Nothing else of it."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import rasterio
from rasterio import Affine
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile

from rsfed.raster.digest import check_unchanged
from rsfed.raster.image import Source
from rsfed.raster.item import Item
from rsfed.raster.modality import Modality, modality
from rsfed.raster.pixels import Strip, joined, strips
from rsfed.raster.source import opened

_PICTURE_BANDS = (1, 3)


def crop_bytes(item: Item) -> int:
    """Return how many bytes the pixels of a patch take before they are packed.

    Raises:
        RasterRejected: the source is gone or damaged.
    """
    with opened(item.path, modality(item.modality), radiometry=item.radiometry) as source:
        sample: int = np.dtype(source.dtype).itemsize
        return item.window.width * item.window.height * len(source.nodata) * sample


def crop(item: Item) -> tuple[str, bytes]:
    """Return a patch as a file.

    Returns:
        Driver and content: "PNG" for 8-bit pictures of one or three bands that lie nowhere and have no holes, else
        "GTiff", in which pixels without data have a nodata value that no other has, or a mask where none is left.

    Raises:
        RasterRejected: the source is gone, damaged, or changed since it was ingested.
    """
    known = modality(item.modality)
    with opened(item.path, known, radiometry=item.radiometry) as source:
        check_unchanged(item, source)
        pixels = joined(list(strips(source, item.window)))
        profile, own = _place(source, item), source.nodata[0]
    if pixels.valid is not None and pixels.valid.all():
        pixels = replace(pixels, valid=None)
    flat = not profile and pixels.valid is None and pixels.values.dtype == np.uint8
    picture = flat and len(pixels.values) in _PICTURE_BANDS
    driver = "PNG" if picture else "GTiff"
    return driver, _written(driver, pixels, profile, own, known)


def _place(source: Source, item: Item) -> dict[str, Any]:
    """Return where the pixels lie, as far as the source says so."""
    window, location = item.window, source.location
    if location.system is None or location.fitted:
        return {}
    return {"crs": location.system, "transform": location.affine @ Affine.translation(window.col, window.row)}


def _meaningless(pixels: Strip, own: float | None) -> float | None:
    """Return a value that means no data and that no pixel with data has; None where every value is taken.

    That is the source's own if it can be: in another band, or after an offset, it may be a value like any other.
    """
    values = pixels.values if pixels.valid is None else pixels.values[:, pixels.valid]
    kind = values.dtype
    if own is not None and not (values == kind.type(own)).any():
        return own
    if kind.kind == "f":
        return math.nan
    low, high = np.iinfo(kind).min, np.iinfo(kind).max
    taken = np.bincount(values.ravel().astype(np.int64) - low, minlength=high - low + 1)
    free = np.flatnonzero(taken == 0)
    return float(free[0] + low) if free.size else None


def _written(driver: str, pixels: Strip, profile: dict[str, Any], own: float | None, known: Modality) -> bytes:
    values, valid = pixels.values, pixels.valid
    bands, height, width = values.shape
    nodata = None if valid is None and own is None else _meaningless(pixels, own)
    if valid is not None and nodata is not None:
        values = np.where(valid, values, values.dtype.type(nodata))
    form = {"count": bands, "height": height, "width": width, "dtype": values.dtype.name, "nodata": nodata, **profile}
    if driver != "PNG":
        form["compress"] = "deflate"
    options = {"GDAL_PAM_ENABLED": False, "GDAL_TIFF_INTERNAL_MASK": True}
    with rasterio.Env(**options), MemoryFile() as file, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # photographs lie nowhere
        with file.open(driver=driver, **form) as dataset:
            dataset.write(values)
            if valid is not None and nodata is None:
                dataset.write_mask(valid)
            if driver != "PNG":
                dataset.descriptions = known.bands
        return bytes(file.getbuffer())
