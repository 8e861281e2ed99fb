"""One patch as a file of its own: its bands in the units of its modality, and where they lie. Nothing else of it."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio import Affine
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import MemoryFile

from rsfed.raster.digest import check_unchanged
from rsfed.raster.image import Source
from rsfed.raster.item import Item
from rsfed.raster.modality import Modality, modality
from rsfed.raster.pixels import strips
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
        Driver and content: "PNG" for 8-bit pictures of one or three bands that lie nowhere, else "GTiff".

    Raises:
        RasterRejected: the source is gone, damaged, or changed since it was ingested.
    """
    known = modality(item.modality)
    with opened(item.path, known, radiometry=item.radiometry) as source:
        check_unchanged(item, source)
        values = np.concatenate([part.values for part in strips(source, item.window)], axis=1)
        profile = _profile(source, item)
    picture = "crs" not in profile and values.dtype == np.uint8 and len(values) in _PICTURE_BANDS
    driver = "PNG" if picture else "GTiff"
    return driver, _written(driver, values, profile, known)


def _profile(source: Source, item: Item) -> dict[str, Any]:
    """Return where the pixels lie and which value means nothing, as far as the source says so."""
    window, location, profile = item.window, source.location, {}
    if location.system is not None and not location.fitted:
        corner = location.affine @ Affine.translation(window.col, window.row)
        profile = {"crs": location.system, "transform": corner}
    if (nodata := source.nodata[0]) is not None:
        profile["nodata"] = nodata
    return profile


def _written(driver: str, values: NDArray[Any], profile: dict[str, Any], known: Modality) -> bytes:
    bands, height, width = values.shape
    size = {"count": bands, "height": height, "width": width, "dtype": values.dtype.name}
    packing = {} if driver == "PNG" else {"compress": "deflate"}
    with rasterio.Env(GDAL_PAM_ENABLED=False), MemoryFile() as file, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)  # photographs lie nowhere
        with file.open(driver=driver, **size, **profile, **packing) as dataset:
            dataset.write(values)
            if driver != "PNG":
                dataset.descriptions = known.bands
        return bytes(file.getbuffer())
