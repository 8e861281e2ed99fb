"""Which country an item lies in, by borders that the operator names; the only caller of shapely.

What is told of an item's place is the bounding box of the country that holds the middle of its footprint, and nothing
where no country does. So it depends on the country alone: a footprint that reaches over a border does not say so.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, Self

import numpy as np
import shapely
from numpy.typing import NDArray

from rsfed.errors import ConfigError
from rsfed.wire import DEGREE, NO_FOOTPRINT

NONE = -1
"""In place of the number of a country."""

_TURN = 360.0  # degrees
_HALF_TURN, _QUARTER_TURN = 180.0, 90.0
_POLYGONS = ("Polygon", "MultiPolygon")


@dataclass(frozen=True, slots=True)
class Countries:
    """The features of a file of borders, numbered in its order.

    Attributes:
        boxes: Bounding box of each: west, south, east, north in 1e-7 degree, int32, shape (n, 4); west lies beyond east
            where it crosses the antimeridian.
        digest: SHA-256 of the file in hexadecimal digits: numbers mean the same as long as it is the same.
    """

    boxes: NDArray[np.int32]
    digest: str
    _parts: Any  # polygons, object, shape (p,)
    _owners: NDArray[np.int64]  # country of each part
    _tree: Any  # over the parts
    _one_at_a_time: Lock = field(default_factory=Lock)  # what is prepared of a polygon is made when it is first asked

    @classmethod
    def read(cls, data: bytes, name: str) -> Self:
        """Read a GeoJSON FeatureCollection of Polygons and MultiPolygons, in degrees of WGS 84 as RFC 7946 has them.

        Args:
            data: The file.
            name: What errors call it.

        Raises:
            ConfigError: it is no such collection, or a feature of it is no valid area in degrees.
        """
        geometries = np.array([_geometry(each, f"{name}: feature {n}") for n, each in _features(data, name)], object)
        parts, owners = shapely.get_parts(geometries, return_index=True)
        parts, owners = parts[~shapely.is_empty(parts)], owners[~shapely.is_empty(parts)]
        boxes = [_box(shapely.bounds(parts[owners == number])) for number in range(len(geometries))]
        shapely.prepare(parts)
        digest = hashlib.sha256(data).hexdigest()
        return cls(np.array(boxes, np.int32), digest, parts, owners, shapely.STRtree(parts))

    def holding(self, boxes: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the number of the country that holds the middle of each footprint, the first of several; else NONE.

        Args:
            boxes: West, south, east, north in 1e-7 degree, int32, shape (n, 4); NO_FOOTPRINT lies nowhere.

        Returns:
            int32, shape (n,).
        """
        known = np.flatnonzero(boxes[:, 0] != NO_FOOTPRINT)
        x, y = _middles(boxes[known].astype(np.int64))
        asked, near = self._tree.query(shapely.points(x, y))
        with self._one_at_a_time:
            inside = shapely.intersects_xy(self._parts[near], x[asked], y[asked])
        found = np.full(len(boxes), len(self.boxes), np.int32)
        np.minimum.at(found, known[asked[inside]], self._owners[near[inside]].astype(np.int32))
        return np.where(found == len(self.boxes), NONE, found).astype(np.int32)

    def boxes_of(self, numbers: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the bounding box of each of these countries, int32, shape (n, 4); NO_FOOTPRINT where there is none."""
        told: NDArray[np.int32] = np.where(numbers[:, None] == NONE, np.int32(NO_FOOTPRINT), self.boxes[numbers])
        return told


def _features(data: bytes, name: str) -> enumerate[Any]:
    """Return the features of a collection, numbered from 1."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{name} is no JSON that can be read, it may be cut off; export or copy it again") from error
    collection = isinstance(found, dict) and found.get("type") == "FeatureCollection"
    features = found.get("features") if collection else None
    if not isinstance(features, list) or not features:
        raise ConfigError(f"{name} is no GeoJSON FeatureCollection with features; export the borders as one (RFC 7946)")
    return enumerate(features, 1)


def _geometry(feature: Any, what: str) -> Any:  # noqa: ANN401 - whatever the file holds
    """Return the geometry of a feature, checked."""
    geometry = feature.get("geometry") if isinstance(feature, dict) else None
    if not isinstance(geometry, dict) or geometry.get("type") not in _POLYGONS:
        raise ConfigError(f"{what} is no Polygon or MultiPolygon; take it out of the file")
    try:
        found = shapely.force_2d(shapely.from_geojson(json.dumps(geometry)))
    except (shapely.errors.ShapelyError, RecursionError) as error:
        raise ConfigError(f"{what} has coordinates that make no polygon; export the file again") from error
    if found.is_empty:
        raise ConfigError(f"{what} has no coordinates; take it out of the file")
    _check_degrees(found, what)
    if not shapely.is_valid(found):
        raise ConfigError(
            f"{what} is no valid polygon ({shapely.is_valid_reason(found)}); mend it, for example by "
            "`ogr2ogr -makevalid NEW.geojson OLD.geojson`"
        )
    return found


def _check_degrees(geometry: Any, what: str) -> None:  # noqa: ANN401 - shapely has no types
    """Check that an area lies on the Earth, and does not run across the antimeridian as if around all of it."""
    xy, rings = shapely.get_coordinates(shapely.get_rings(shapely.get_parts(geometry)), return_index=True)
    if not (np.abs(xy) <= (_HALF_TURN, _QUARTER_TURN)).all():
        raise ConfigError(
            f"{what} has coordinates beyond 180 or 90 degrees; write longitude before latitude, in WGS 84 (EPSG:4326)"
        )
    at_a_pole = np.abs(xy[:, 1]) == _QUARTER_TURN  # along which the edge of Antarctica runs
    jumps = (np.abs(np.diff(xy[:, 0])) > _HALF_TURN) & (np.diff(rings) == 0) & ~(at_a_pole[1:] & at_a_pole[:-1])
    if jumps.any():
        raise ConfigError(f"{what} crosses the antimeridian; cut it into two polygons there (RFC 7946, 3.1.9)")


def _box(bounds: NDArray[np.float64]) -> tuple[int, int, int, int]:
    """Return the smallest box of some parts in 1e-7 degree, widened to whole units; shape (p, 4) in degrees.

    The box goes around the side of the Earth where the parts lie: it leaves out the widest gap between them.
    """
    ordered = bounds[np.argsort(bounds[:, 0])]
    reached = np.maximum.accumulate(ordered[:, 2])
    gaps = ordered[1:, 0] - reached[:-1]
    west, east = ordered[0, 0], reached[-1]
    if len(gaps) and gaps.max() > west + _TURN - east:
        widest = int(gaps.argmax())
        west, east = ordered[widest + 1, 0], reached[widest]
    low = np.floor(np.array([west, bounds[:, 1].min()]) * DEGREE)
    high = np.ceil(np.array([east, bounds[:, 3].max()]) * DEGREE)
    return int(low[0]), int(low[1]), int(high[0]), int(high[1])


def _middles(boxes: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return longitude and latitude in degrees of the middle of each box."""
    west, south, east, north = boxes.T
    east = np.where(east < west, east + round(_TURN * DEGREE), east)  # crosses the antimeridian
    across = (west + east) / (2 * DEGREE)
    return np.where(across > _HALF_TURN, across - _TURN, across), (south + north) / (2 * DEGREE)
