"""Places: patches of two sensors that show the same ground within a few days. Pure: footprints in, ids out."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta

from rsfed.raster.item import Footprint, Interval

LEAST_OVERLAP = 0.9  # intersection over union
_Cell = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Look:
    """One patch as pairing sees it.

    Attributes:
        digest: Content digest; names places, so that they stay the same however an archive is listed.
        footprint: Where it lies.
        acquired: When it was taken.
    """

    digest: str
    footprint: Footprint
    acquired: Interval


def place_ids(radar: Sequence[Look], optical: Sequence[Look], *, within: timedelta) -> dict[str, str]:
    """Return the place of each patch that has a partner of the other sensor.

    Two patches are partners where their footprints overlap enough and no more than so much time lies between them. All
    that are linked by partners, also through a third, are one place: whoever splits by place keeps pairs together.

    Args:
        radar: Patches of Sentinel-1.
        optical: Patches of Sentinel-2.
        within: Longest time between the two, from the end of one to the start of the other.

    Returns:
        By content digest; patches without a partner are not in it.
    """
    cells: dict[_Cell, list[Look]] = defaultdict(list)
    for look in radar:
        cells[_cell(look.footprint)].append(look)
    groups = _Groups()
    for look in optical:
        for cell in _cells_near(look.footprint):
            for other in cells.get(cell, ()):
                if (
                    _apart(look.acquired, other.acquired) <= within
                    and iou(look.footprint, other.footprint) >= LEAST_OVERLAP
                ):
                    groups.join(look.digest, other.digest)
    return groups.names()


def iou(first: Footprint, second: Footprint) -> float:
    """Return intersection over union of two footprints, as they are in degrees: they lie side by side or not at all."""
    one, other = _box(first), _box(second)
    shift = 360.0 * round((one[0] - other[0]) / 360.0)
    west, east = max(one[0], other[0] + shift), min(one[2], other[2] + shift)
    south, north = max(one[1], other[1]), min(one[3], other[3])
    common = max(0.0, east - west) * max(0.0, north - south)
    union = _area(one) + _area(other) - common
    return common / union if union > 0 else 0.0


def _apart(first: Interval, second: Interval) -> timedelta:
    return max(first[0] - second[1], second[0] - first[1], timedelta(0))


def _box(footprint: Footprint) -> Footprint:
    """Return a footprint with west < east also where it crosses the antimeridian."""
    west, south, east, north = footprint
    return west, south, east + 360.0 if east < west else east, north


def _area(box: Footprint) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _cell(footprint: Footprint) -> _Cell:
    """Return the cell of a footprint's centre in a grid as coarse as the footprint."""
    west, south, east, north = _box(footprint)
    across, down = _level(east - west), _level(north - south)
    return across, down, _step(_wrapped((west + east) / 2), across), _step((south + north) / 2, down)


def _cells_near(footprint: Footprint) -> Iterator[_Cell]:
    """Yield every cell that a footprint may be in which overlaps this one enough.

    Its sides are then at most that much longer or shorter, so of two levels, and its centre lies no further away than
    what it may miss of them, which is less than a cell.
    """
    west, south, east, north = _box(footprint)
    width, height = (east - west) / LEAST_OVERLAP, (north - south) / LEAST_OVERLAP
    x, y = (west + east) / 2, (south + north) / 2
    shifts = (LEAST_OVERLAP - 1, 0.0, 1 - LEAST_OVERLAP)
    for across in {_level(width), _level(width * LEAST_OVERLAP**2)}:
        steps = {_step(_wrapped(x + shift * width), across) for shift in shifts}
        for down in {_level(height), _level(height * LEAST_OVERLAP**2)}:
            rows = {_step(y + shift * height, down) for shift in shifts}
            yield from ((across, down, step, row) for step in steps for row in rows)


def _level(length: float) -> int:
    """Return the power of two that a length in degrees is at least; a point counts as a millionth of a degree."""
    return math.floor(math.log2(max(length, 1e-6)))


def _step(place: float, level: int) -> int:
    return math.floor(place / 2.0**level)


def _wrapped(longitude: float) -> float:
    return (longitude + 180.0) % 360.0 - 180.0


class _Groups:
    """Which patches are one place: a forest in which each points to another of its group, or to itself."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def join(self, first: str, second: str) -> None:
        """Make the groups of two patches one; its root is the patch whose digest comes first."""
        low, high = sorted((self._root(first), self._root(second)))
        self._parent[high] = low

    def names(self) -> dict[str, str]:
        """Return the name of each patch's group, which no digest can be read from."""
        roots = {each: self._root(each) for each in self._parent}
        return {each: f"pair:{hashlib.sha256(root.encode()).hexdigest()[:32]}" for each, root in roots.items()}

    def _root(self, each: str) -> str:
        self._parent.setdefault(each, each)
        while self._parent[each] != each:
            self._parent[each] = each = self._parent[self._parent[each]]
        return each
