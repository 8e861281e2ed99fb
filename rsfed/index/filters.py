"""Filters: which items count, by acquisition time, place, modality and labels. Exact, whatever share of items passes.

A filter is decided once for each distinct value of a facet (`Screen`). Items are then tested one by one where buckets
are near and many pass, or taken from the shortest inverted list where few pass; `rsfed.index.search` chooses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rsfed.errors import UsageError
from rsfed.index.facets import BLOCK, TURN, Facet, unwrapped
from rsfed.index.jit import frozen, kernel
from rsfed.index.segment import Segment
from rsfed.index.sorting import Rows
from rsfed.wire import DEGREE, NO_FOOTPRINT, NO_TIME

_EMPTY_ROWS = frozen(np.empty(0, np.uint32))
_EMPTY_OK = frozen(np.empty(0, np.uint8))


@dataclass(frozen=True, slots=True)
class Filter:
    """What items have to be to count; None asks for nothing.

    Attributes:
        after: The acquired interval ends at this moment or later, milliseconds since 1970.
        before: The acquired interval starts at this moment or earlier, milliseconds since 1970.
        box: The footprint touches this box: west, south, east, north in 1e-7 degree; west > east where the box
            crosses the antimeridian.
        modality: The modality.
        labels: At least one of these labels is among the item's.
    """

    after: int | None = None
    before: int | None = None
    box: tuple[int, int, int, int] | None = None
    modality: str | None = None
    labels: frozenset[str] | None = None

    def __post_init__(self) -> None:
        if self.after is not None and self.before is not None and self.after > self.before:
            raise UsageError("the time range ends before it starts; swap --after and --before", reason="FILTER")
        if self.box is not None and not _is_box(*self.box):
            raise UsageError("a box is west, south, east, north in degrees, south not above north", reason="FILTER")


class Tests(NamedTuple):
    """What is tested of each item: its value of a facet and whether that passes; no values, no test.

    Attributes:
        time_codes, box_codes, kind_codes: The value of each item, uint32, shape (items,).
        time_ok, box_ok, kind_ok: For each value 1 where it passes, uint8.
    """

    time_codes: Rows
    time_ok: NDArray[np.uint8]
    box_codes: Rows
    box_ok: NDArray[np.uint8]
    kind_codes: Rows
    kind_ok: NDArray[np.uint8]


NO_TESTS = Tests(_EMPTY_ROWS, _EMPTY_OK, _EMPTY_ROWS, _EMPTY_OK, _EMPTY_ROWS, _EMPTY_OK)


@dataclass(frozen=True, slots=True)
class Screen:
    """A filter as it applies to one segment.

    Attributes:
        tests: What is tested of each item.
        facet: The facet whose inverted lists hold the fewest items that can pass; None where all items pass.
        rows: Values of that facet that pass, int64, rising.
        most: How many items are in those lists: no more can pass.
        share: Share of the items that pass if facets are independent; only to choose a way.
    """

    tests: Tests
    facet: Facet | None
    rows: NDArray[np.int64]
    most: int
    share: float

    @classmethod
    def of(cls, segment: Segment, filtered: Filter) -> Screen:
        """Decide a filter for every distinct value of a segment."""
        facets = segment.facets
        decided = [
            (facets.times, _times(facets.times, filtered)),
            (facets.boxes, _boxes(facets.boxes, filtered)),
            (facets.kinds, _kinds(facets.kinds, facets.kind_values, filtered)),
        ]
        columns: list[NDArray[Any]] = []
        facet, chosen, most, share = None, _EMPTY_ROWS.astype(np.int64), len(segment), 1.0
        for one, rows in decided:
            count = len(segment) if rows is None else one.count(rows)
            if rows is None or count == len(segment):
                columns += [_EMPTY_ROWS, _EMPTY_OK]
                continue
            share *= count / len(segment)
            columns += [one.codes, _marked(rows, len(one.values))] if len(one.codes) else [_EMPTY_ROWS, _EMPTY_OK]
            if facet is None or count < most:
                facet, chosen, most = one, rows, count
        return cls(Tests(*columns), facet, chosen, most, share)

    def places(self, segment: Segment) -> Rows:
        """Return the places of all items that pass, uint32, rising."""
        if self.facet is None:
            return np.arange(len(segment), dtype=np.uint32)
        if not self.most:
            return np.empty(0, np.uint32)
        return np.sort(_listed(self.facet.order, self.facet.starts, self.rows, self.most, self.tests))


def _is_box(west: int, south: int, east: int, north: int) -> bool:
    longitudes = all(-180 * DEGREE <= edge <= 180 * DEGREE for edge in (west, east))
    return longitudes and -90 * DEGREE <= south <= north <= 90 * DEGREE


def _times(facet: Facet, filtered: Filter) -> NDArray[np.int64] | None:
    if filtered.after is None and filtered.before is None:
        return None
    after = NO_TIME if filtered.after is None else filtered.after
    before = -(NO_TIME + 1) if filtered.before is None else filtered.before
    low, high = facet.hulls[:, 0], facet.hulls[:, 1]
    near = (low[:, 0] <= before) & (high[:, 1] >= after)
    rows = _rows_of(near, len(facet.values))
    starts, ends = facet.values[rows].T
    touching: NDArray[np.int64] = rows[(starts <= before) & (ends >= after) & (starts != NO_TIME)]
    return touching


def _boxes(facet: Facet, filtered: Filter) -> NDArray[np.int64] | None:
    if filtered.box is None:
        return None
    west, south, east, north = filtered.box
    low, high = facet.hulls[:, 0], facet.hulls[:, 1]
    near = (low[:, 1] <= north) & (high[:, 3] >= south) & _longitudes_touch(low[:, 0], high[:, 2], west, east)
    rows = _rows_of(near, len(facet.values))
    boxes = facet.values[rows].astype(np.int64)
    touch = (boxes[:, 1] <= north) & (boxes[:, 3] >= south) & (boxes[:, 0] != NO_FOOTPRINT)
    touch &= _longitudes_touch(boxes[:, 0], unwrapped(boxes[:, 0], boxes[:, 2]), west, east)
    touching: NDArray[np.int64] = rows[touch]
    return touching


def _longitudes_touch(wests: NDArray[np.int64], easts: NDArray[np.int64], west: int, east: int) -> NDArray[np.bool_]:
    """Return which unwrapped longitudes [west, east] touch the wanted ones; west > east goes round the back."""
    east = east + TURN if west > east else east
    touch = np.zeros(len(wests), np.bool_)
    for turn in (-TURN, 0, TURN):
        touch |= (wests <= east + turn) & (easts >= west + turn)
    return touch


def _kinds(facet: Facet, names: tuple[tuple[str, ...], ...], filtered: Filter) -> NDArray[np.int64] | None:
    if filtered.modality is None and filtered.labels is None:
        return None
    passes = [
        (filtered.modality is None or kind[0] == filtered.modality)
        and (filtered.labels is None or not filtered.labels.isdisjoint(kind[1:]))
        for kind in names
    ]
    return np.flatnonzero(np.array(passes, np.bool_)[facet.values[:, 0]])


def _rows_of(blocks: NDArray[np.bool_], values: int) -> NDArray[np.int64]:
    """Return the values of the chosen blocks."""
    rows = (np.flatnonzero(blocks)[:, None] * BLOCK + np.arange(BLOCK)).reshape(-1)
    return rows[: np.searchsorted(rows, values)]


def _marked(rows: NDArray[np.int64], values: int) -> NDArray[np.uint8]:
    marks = np.zeros(values, np.uint8)
    marks[rows] = 1
    return frozen(marks)


@kernel
def passes(tests: Tests, place: int) -> bool:
    """Return whether the item at a place passes."""
    if len(tests.time_ok) and not tests.time_ok[tests.time_codes[place]]:
        return False
    if len(tests.kind_ok) and not tests.kind_ok[tests.kind_codes[place]]:
        return False
    return len(tests.box_ok) == 0 or tests.box_ok[tests.box_codes[place]] != 0


@kernel
def _listed(order: Rows, starts: Rows, rows: NDArray[np.int64], most: int, tests: Tests) -> Rows:
    """Return the items in the inverted lists of some values that pass all tests."""
    places = np.empty(most, np.uint32)
    found = 0
    for row in rows:
        for number in range(starts[row], starts[row + 1]):
            if passes(tests, order[number]):
                places[found] = order[number]
                found += 1
    return places[:found]
