"""Where a source lies: pixel size in metres and footprints in WGS 84."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import copy
from functools import lru_cache
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from rasterio import Affine
from rasterio.crs import CRS
from rasterio.transform import from_gcps
from rasterio.warp import transform

from rsfed.errors import RasterRejected
from rsfed.raster.control_points import Grid
from rsfed.raster.geometry import Lattice, Resolution, lattice
from rsfed.raster.item import Footprint, Window

_METRES_PER_DEGREE = 111_320.0  # along a meridian and the equator, to 0.6 %
_FINEST, _COARSEST = 1e-4, 1e6  # metres; a pixel beyond is a mistake of the file
_EDGE = np.linspace(0, 1, 5)  # points along each edge of a window: its edges are curves in degrees
_AROUND = (
    np.concatenate([_EDGE, np.ones(5), _EDGE, np.zeros(5)]),
    np.concatenate([np.zeros(5), _EDGE, np.ones(5), _EDGE]),
)


class _Facts(NamedTuple):
    """Name of a reference system, whether it is in degrees, and its unit in metres; None where it is not projected."""

    name: str
    geographic: bool
    metres: float | None


class Location:
    """Where the pixels of a source lie.

    Args:
        crs: The coordinate reference system, a rasterio CRS; None where there is none.
        affine: From pixels to coordinates.
        height: Height of the source in pixels.
        fitted: Whether `affine` is a fit to ground control points.
        grid: These points, where they are a grid; footprints are then exact between them.

    Attributes:
        crs: The coordinate reference system as text, for example "EPSG:32633"; None where the file has no sound one.
        system: The same as a rasterio CRS.
        affine: From pixels to coordinates.
        fitted: Whether `affine` is a fit to ground control points.
        grid: These points, where they are a grid.
        resolution: Ground sampling distance across and down in metres; None where it is not known.
    """

    def __init__(
        self,
        crs: Any,  # noqa: ANN401 - rasterio has no types
        affine: Affine,
        height: int,
        *,
        fitted: bool = False,
        grid: Grid | None = None,
    ) -> None:
        self.affine, self.fitted = affine, fitted
        self.grid = grid
        facts = _facts(crs.wkt) if crs else None
        self.resolution = _resolution(facts, affine, height / 2) if facts else None
        self.system = crs if self.resolution else None
        self.crs = facts.name if facts and self.resolution else None

    @classmethod
    def in_metres(cls, code: int, affine: Affine) -> Self:
        """Return where pixels lie in a projected reference system of this code that is known to be in metres.

        `affine` is finite and not rotated, and its pixels are as `is_sound` says.
        """
        place = cls.__new__(cls)
        place.affine, place.fitted, place.grid = affine, False, None
        place.resolution = (affine.a, -affine.e)
        place.system, place.crs = _of_code(code), f"EPSG:{code}"
        return place

    @classmethod
    def of(cls, dataset: Any, height: int) -> Self:  # noqa: ANN401 - rasterio has no types
        """Return where a source lies; where it has only ground control points, by a fit to them.

        Args:
            dataset: An open rasterio dataset with the georeference of full resolution.
            height: Height in pixels at full resolution.
        """
        if dataset.crs:
            return cls(dataset.crs, dataset.transform, height)
        points, crs = dataset.gcps
        if crs and len(points) >= 3:
            grid = Grid.of([(point.col, point.row, point.x, point.y) for point in points], around=crs.is_geographic)
            return cls(crs, from_gcps(points), height, fitted=True, grid=grid)
        return cls(None, dataset.transform, height)

    def with_resolution(self, resolution: Resolution) -> Self:
        """Return the same location with the pixel size that is known otherwise."""
        known = copy(self)
        known.resolution = resolution
        return known

    def fixed_grid(self, stride: float) -> Lattice:
        """Return the grid of a stride in metres that is fixed in the projection.

        Raises:
            RasterRejected: the pixels do not lie along the axes of a projection.
        """
        across, down = self.affine.a, -self.affine.e
        straight = self.affine.b == self.affine.d == 0 and across > 0 and down > 0 and not self.fitted
        if self.system is None or self.resolution is None or not self.system.is_projected or not straight:
            raise RasterRejected(
                "its pixels do not lie along the axes of a projection, so the grid of [archive] stride does not fit; "
                "warp it to one, or take out stride"
            )
        west, north = self.affine.c * self.resolution[0] / across, self.affine.f * self.resolution[1] / down
        return lattice(west, north, self.resolution, stride)

    def footprints(self, windows: Sequence[Window]) -> list[Footprint | None]:
        """Return the bounding box of each window; None for all where the file does not say."""
        if self.system is None:
            return [None] * len(windows)
        cols, rows = _outline(windows)
        if self.grid is not None:
            x, y = self.grid.at(cols, rows)
        else:
            a, b, c, d, e, f = self.affine[:6]
            x, y = a * cols + b * rows + c, d * cols + e * rows + f
        try:
            lon, lat = transform(self.system, _wgs84(), x.ravel(), y.ravel())
        except Exception:  # noqa: BLE001 - rasterio's own errors are private; a corner may lie off the earth
            return [None] * len(windows)
        points = np.reshape((lon, lat), (2, *x.shape))
        if self.grid is not None:
            points[0] = (points[0] + 180) % 360 - 180  # a grid that crosses the antimeridian goes on beyond 180
        return _boxes(points)


def _resolution(facts: _Facts, affine: Affine, middle_row: float) -> Resolution | None:
    if not all(math.isfinite(value) for value in affine[:6]) or affine.is_identity:
        return None
    if facts.geographic:
        latitude = affine.f + affine.e * middle_row
        parallel = math.cos(math.radians(min(abs(latitude), 89.0)))
        across, down = (
            math.hypot(east * parallel, north) * _METRES_PER_DEGREE
            for east, north in ((affine.a, affine.d), (affine.b, affine.e))
        )
    elif facts.metres is not None:
        metres = facts.metres
        across, down = (math.hypot(*side) * metres for side in ((affine.a, affine.d), (affine.b, affine.e)))
    else:
        return None
    return (across, down) if is_sound(across, down) else None


def is_sound(across: float, down: float) -> bool:
    """Return whether a pixel of this width and height in metres may be meant so."""
    return _FINEST < across < _COARSEST and _FINEST < down < _COARSEST


def _outline(windows: Sequence[Window]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return pixel coordinates of points along the outlines, each of shape (windows, points)."""
    across, down = _AROUND
    corners = np.array([(w.col, w.row, w.width, w.height) for w in windows], float)
    return corners[:, :1] + corners[:, 2:3] * across, corners[:, 1:2] + corners[:, 3:4] * down


def _boxes(points: NDArray[np.float64]) -> list[Footprint | None]:
    """Return the bounding boxes of outlines.

    Args:
        points: Longitude and latitude in degrees, shape (2, windows, points).
    """
    (west, south), (east, north) = points.min(axis=2), points.max(axis=2)
    known = (west >= -180) & (east <= 180) & (south >= -90) & (north <= 90)  # which is false of what is no number
    crossing = known & (west < east - 180)  # no patch spans half the earth: it crosses the antimeridian
    if crossing.any():
        lon = points[0, crossing]
        west[crossing] = np.where(lon >= 0, lon, 180).min(axis=1)
        east[crossing] = np.where(lon < 0, lon, -180).max(axis=1)
    boxes = zip(west.tolist(), south.tolist(), east.tolist(), north.tolist(), strict=True)
    return [box if sound else None for box, sound in zip(boxes, known.tolist(), strict=True)]


@lru_cache(maxsize=64)
def _facts(wkt: str) -> _Facts:
    crs = CRS.from_wkt(wkt)
    metres = crs.linear_units_factor[1] if crs.is_projected else None
    return _Facts(str(crs.to_string()), bool(crs.is_geographic), metres)


@lru_cache(maxsize=256)
def _of_code(code: int) -> Any:  # noqa: ANN401 - rasterio has no types
    return CRS.from_epsg(code)


@lru_cache(maxsize=1)
def _wgs84() -> Any:  # noqa: ANN401 - rasterio has no types
    return CRS.from_epsg(4326)
