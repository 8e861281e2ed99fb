"""The grid on which a guarded node tells, and lets be asked, where and when: a tile and a period of a tier.

Tier 0 has tiles of one degree and months, tier 1 tiles of ten degrees and years, tier 2 tells neither. What is not
known, or does not lie in one period, has none. Filters are snapped outward to the tiles and months of tier 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rsfed.index.filters import Filter
from rsfed.privacy.detail import Detail
from rsfed.wire import DEGREE, EARLIEST, LATEST, NO_FOOTPRINT, NO_TIME

if TYPE_CHECKING:
    from rsfed.privacy.countries import Countries

TIERS = 3
ASKED = Detail("100km", "month")
"""How filters are snapped: to the tiles and months of tier 0."""

NONE = -1  # in place of a tile or a period
_DEGREES = (1, 10)  # of a tile
_MONTHS = (1, 12)  # of a period
_TURN = 360
_FIRST = -1969 * 12  # month of year 1, counted from 1970

Places = NDArray[np.int32]
"""A tile, country or period of each item, int32; NONE where none is told."""


def places(boxes: NDArray[np.int32], countries: Countries | None) -> tuple[Places, ...]:
    """Return the tile, or the country, of each footprint at every tier.

    Args:
        boxes: West, south, east, north in 1e-7 degree, shape (n, 4).
        countries: Told in place of tiles; None where tiles are.
    """
    if countries is None:
        return tuple(tiles(boxes, tier) for tier in range(TIERS))
    found = countries.holding(boxes)
    return (found,) * len(_DEGREES) + (np.full_like(found, NONE),)


def told(places: Places, tiers: NDArray[np.uint8], countries: Countries | None) -> NDArray[np.int32]:
    """Return the footprint of each tile, or country, int32, shape (n, 4), as the wire has it."""
    return boxes_of(places, tiers) if countries is None else countries.boxes_of(places)


def tiles(boxes: NDArray[np.int32], tier: int) -> Places:
    """Return the tile that the middle of each footprint lies in.

    Args:
        boxes: West, south, east, north in 1e-7 degree, shape (n, 4).
        tier: The tier.
    """
    if tier >= len(_DEGREES):
        return np.full(len(boxes), NONE, np.int32)
    size = _DEGREES[tier] * DEGREE
    west, south, east, north = boxes.astype(np.int64).T
    east = np.where(east < west, east + _TURN * DEGREE, east)  # crosses the antimeridian
    column = ((west + east) // 2 + 180 * DEGREE) % (_TURN * DEGREE) // size
    row = np.minimum(((south + north) // 2 + 90 * DEGREE) // size, 180 // _DEGREES[tier] - 1)
    return np.where(boxes[:, 0] == NO_FOOTPRINT, NONE, row * (_TURN // _DEGREES[tier]) + column).astype(np.int32)


def periods(times: NDArray[np.int64], tier: int) -> Places:
    """Return the period that each acquired interval lies in, counted from year 1.

    Args:
        times: Start and end in milliseconds since 1970, shape (n, 2).
        tier: The tier.
    """
    if tier >= len(_MONTHS):
        return np.full(len(times), NONE, np.int32)
    known: NDArray[np.bool_] = (times[:, 0] >= EARLIEST) & (times[:, 1] <= LATEST)
    months = np.where(known[:, None], times, 0).astype("datetime64[ms]").astype("datetime64[M]").astype(np.int64)
    first, last = ((months - _FIRST) // _MONTHS[tier]).T
    return np.where(known & (first == last), first, NONE).astype(np.int32)


def boxes_of(places: Places, tiers: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Return the footprint of each tile, int32, shape (n, 4), as the wire has it."""
    boxes = np.full((len(places), 4), NO_FOOTPRINT, np.int32)
    for tier, degrees in enumerate(_DEGREES):
        own = (tiers == tier) & (places != NONE)
        row, column = np.divmod(places[own].astype(np.int64), _TURN // degrees)
        west, south = column * degrees - 180, row * degrees - 90
        boxes[own] = np.stack([west, south, west + degrees, south + degrees], axis=1) * DEGREE
    return boxes


def times_of(places: Places, tiers: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the first and last millisecond of each period, int64, shape (n, 2), as the wire has it."""
    times = np.full((len(places), 2), NO_TIME, np.int64)
    for tier, months in enumerate(_MONTHS):
        own = (tiers == tier) & (places != NONE)
        first = places[own].astype(np.int64) * months + _FIRST
        times[own] = np.stack([_start_of(first), _start_of(first + months) - 1], axis=1)
    return times


def passes(where: Filter, places: Places, times: Places, tiers: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return which of these tiles and periods may hold, as far as is told, what a snapped filter wants.

    Args:
        where: A snapped filter.
        places: Tiles.
        times: Periods.
        tiers: Tier of each.
    """
    good = np.ones(len(places), np.bool_)
    if where.after is not None or where.before is not None:
        starts, ends = times_of(times, tiers).T
        good &= times != NONE
        good &= ends >= (EARLIEST if where.after is None else where.after)
        good &= starts <= (LATEST if where.before is None else where.before)
    if where.box is not None:
        west, south, east, north = where.box
        boxes = boxes_of(places, tiers).astype(np.int64)
        good &= (places != NONE) & (boxes[:, 1] < max(north, south + 1)) & (boxes[:, 3] > south)
        turned = east + _TURN * DEGREE if west > east else east
        across = [
            (boxes[:, 0] < max(turned, west + 1) + turn) & (boxes[:, 2] > west + turn)
            for turn in (-_TURN * DEGREE, 0, _TURN * DEGREE)
        ]
        good &= np.any(across, axis=0)
    return good


def _start_of(months: NDArray[np.int64]) -> NDArray[np.int64]:
    return months.astype("datetime64[M]").astype("datetime64[ms]").astype(np.int64)
