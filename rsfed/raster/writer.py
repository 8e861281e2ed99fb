"""Writing GeoTIFF and JPEG 2000, for data that rsfed itself makes, and reading by rasterio alone, to compare."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import rasterio
from numpy.typing import NDArray
from rasterio import Affine
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window as RasterioWindow

from rsfed.raster import limits
from rsfed.raster.item import Window


class Grid(NamedTuple):
    """Where the pixels of a file lie.

    Attributes:
        epsg: Code of a projected reference system in metres.
        west: Easting of the left edge in metres.
        north: Northing of the upper edge in metres.
        gsd: Pixel size in metres.
    """

    epsg: int
    west: float
    north: float
    gsd: float


def write_geotiff(
    path: Path, values: NDArray[Any], grid: Grid, tags: Mapping[str, str], *, tile: int | None = None
) -> None:
    """Write a GeoTIFF.

    Args:
        path: The file.
        values: Samples, shape (bands, height, width).
        grid: Where they lie.
        tags: Metadata of the file.
        tile: Width and height of its blocks, which are deflated; None for plain strips.
    """
    bands, height, width = values.shape
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "count": bands,
        "height": height,
        "width": width,
        "dtype": values.dtype.name,
    }
    if tile is not None:
        profile |= {"tiled": True, "blockxsize": tile, "blockysize": tile, "compress": "deflate", "predictor": 2}
    where = {"crs": _crs(grid.epsg), "transform": Affine(grid.gsd, 0, grid.west, 0, -grid.gsd, grid.north)}
    with rasterio.Env(GDAL_PAM_ENABLED=False), rasterio.open(path, "w", **profile, **where) as dataset:
        dataset.write(values)
        if tags:
            dataset.update_tags(**tags)


def read_plainly(path: Path, window: Window | None = None) -> NDArray[Any]:
    """Return samples of a file or of a window of it, shape (bands, height, width), as rasterio alone reads them."""
    area = window and RasterioWindow(window.col, window.row, window.width, window.height)
    with rasterio.open(path) as dataset:
        values: NDArray[Any] = dataset.read(window=area)
    return values


def write_jpeg2000(path: Path, values: NDArray[Any], *, quality: float, levels: int) -> None:
    """Write a JPEG 2000 image that lies nowhere, without loss at a quality of 100.

    Args:
        path: The file.
        values: Samples, shape (bands, height, width).
        quality: Bytes of the file in per cent of those of the samples.
        levels: Resolution levels, at least 1; each but the first halves width and height.
    """
    bands, height, width = values.shape
    profile = {"driver": limits.JPEG_2000, "count": bands, "height": height, "width": width, "dtype": values.dtype.name}
    options = {"QUALITY": quality, "REVERSIBLE": quality == 100, "RESOLUTIONS": levels}
    with warnings.catch_warnings(), rasterio.Env(GDAL_PAM_ENABLED=False):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", **profile, **options) as dataset:
            dataset.write(values)


@lru_cache(maxsize=16)
def _crs(epsg: int) -> Any:  # noqa: ANN401 - rasterio has no types
    return CRS.from_epsg(epsg)
