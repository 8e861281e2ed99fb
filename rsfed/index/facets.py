"""What filters know of the items of a segment: acquired interval, footprint, and kind (modality and labels).

Many items share one value: an acquisition has many patches, and a place is seen again and again. So each facet keeps
its distinct values once, the value of each item as a number, and the items of each value as an inverted list. Values
lie in an order in which neighbours are alike, with a hull around every 64, so a filter looks at few of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsfed.index.jit import kernel
from rsfed.index.sorting import Rows, group, sort_words
from rsfed.index.words import Words
from rsfed.wire import DEGREE, NO_FOOTPRINT, NO_TIME

BLOCK = 64  # values within one hull
TURN = 360 * DEGREE
_SIGN_32, _SIGN_64 = np.uint32(1 << 31), np.uint64(1 << 63)
_NAMES = ("times", "boxes", "kinds")


@dataclass(frozen=True, slots=True)
class Columns:
    """What filters know of some items.

    Attributes:
        times: Start and end of the acquired interval in milliseconds since 1970, int64, shape (n, 2); both `NO_TIME`
            where unknown.
        boxes: West, south, east, north of the footprint in 1e-7 degree, int32, shape (n, 4); all `NO_FOOTPRINT` where
            unknown, west > east where it crosses the antimeridian.
        kinds: For each item a place in `kind_values`, uint32, shape (n,).
        kind_values: Modality and then labels of each kind.
    """

    times: NDArray[np.int64]
    boxes: NDArray[np.int32]
    kinds: Rows
    kind_values: tuple[tuple[str, ...], ...]

    @classmethod
    def unknown(cls, items: int) -> Columns:
        """Return the columns of items of which nothing is known."""
        return cls(
            np.full((items, 2), NO_TIME, np.int64),
            np.full((items, 4), NO_FOOTPRINT, np.int32),
            np.zeros(items, np.uint32),
            (("",),),
        )

    def take(self, places: NDArray[np.integer]) -> Columns:
        """Return the columns of the items at these places."""
        return Columns(self.times[places], self.boxes[places], self.kinds[places], self.kind_values)

    @classmethod
    def joined(cls, parts: list[Columns]) -> Columns:
        """Return the columns of the items of all parts, one after the other."""
        values = sorted({value for part in parts for value in part.kind_values})
        number = {value: place for place, value in enumerate(values)}
        kinds = [np.array([number[value] for value in part.kind_values], np.uint32)[part.kinds] for part in parts]
        return cls(
            np.concatenate([part.times for part in parts]),
            np.concatenate([part.boxes for part in parts]),
            np.concatenate(kinds),
            tuple(values),
        )


@dataclass(frozen=True, slots=True)
class Facet:
    """One column of the items, by its distinct values.

    Attributes:
        values: Distinct values, shape (v, columns).
        hulls: For each block of values the least and the largest of each column, int64, shape (blocks, 2, columns);
            an east beyond the antimeridian is 360 degrees more.
        codes: For each item the row of its value, uint32, shape (items,); empty where all have the same value.
        order: Places of the items by their value, uint32, shape (items,); empty as `codes` is.
        starts: Where the items of each value start in `order`, uint32, shape (v + 1,).
    """

    values: NDArray[Any]
    hulls: NDArray[np.int64]
    codes: Rows
    order: Rows
    starts: Rows

    def column(self) -> NDArray[Any]:
        """Return the value of every item."""
        if len(self.codes):
            return self.values[self.codes]
        return np.repeat(self.values, int(self.starts[-1]), axis=0)

    def count(self, rows: NDArray[np.int64]) -> int:
        """Return how many items have one of these values."""
        return int((self.starts[rows + 1].astype(np.int64) - self.starts[rows]).sum())


_FIELDS = tuple(field.name for field in fields(Facet))


@dataclass(frozen=True, slots=True)
class Facets:
    """The facets of the items of a segment, in the order of their places.

    Attributes:
        times: Acquired intervals, values as in `Columns`.
        boxes: Footprints.
        kinds: Kinds; the values are places in `kind_values`.
        kind_values: Modality and then labels of each kind.
    """

    times: Facet
    boxes: Facet
    kinds: Facet
    kind_values: tuple[tuple[str, ...], ...]

    @classmethod
    def unknown(cls, items: int) -> Facets:
        """Return the facets of items of which nothing is known."""
        nothing = Columns.unknown(min(items, 1))
        values = (nothing.times, nothing.boxes, nothing.kinds[:, None])
        times, boxes, kinds = (_constant(each, items) for each in values)
        return cls(times, boxes, kinds, nothing.kind_values)

    @classmethod
    def build(cls, columns: Columns, order: Rows) -> Facets:
        """Build the facets of items, which are to lie in this order."""
        return cls(
            _facet(columns.times, order, _time_words),
            _facet(columns.boxes, order, _box_words),
            _facet(columns.kinds[:, None], order, _kind_words),
            columns.kind_values,
        )

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, NDArray[Any]], kind_values: tuple[tuple[str, ...], ...]) -> Facets:
        """Take the facets out of the named arrays of a segment."""
        times, boxes, kinds = (Facet(*(arrays[f"{name}.{field}"] for field in _FIELDS)) for name in _NAMES)
        return cls(times, boxes, kinds, kind_values)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays by their names."""
        return {f"{name}.{field}": getattr(getattr(self, name), field) for name in _NAMES for field in _FIELDS}

    def columns(self) -> Columns:
        """Return what is known of every item."""
        return Columns(self.times.column(), self.boxes.column(), self.kinds.column()[:, 0], self.kind_values)


def _facet(column: NDArray[Any], order: Rows, to_words: Callable[[NDArray[Any]], Words]) -> Facet:
    if not len(column) or (column == column[0]).all():
        return _constant(column[:1], len(column))
    column = column[order]
    words = to_words(column)
    by_value = sort_words(words)
    _, starts = group(words, by_value)
    values = column[by_value[starts[:-1]]]
    return Facet(values, _hulls(values), _spread(by_value, starts), by_value, starts)


def _constant(values: NDArray[Any], items: int) -> Facet:
    """Return the facet of items that all have the one value, or of no items: no lists are needed."""
    none = np.empty(0, np.uint32)
    return Facet(values, _hulls(values), none, none, np.array([0, items][: len(values) + 1], np.uint32))


@kernel
def _spread(order: Rows, starts: Rows) -> Rows:
    codes = np.empty_like(order)
    for row in range(len(starts) - 1):
        for place in range(starts[row], starts[row + 1]):
            codes[order[place]] = row
    return codes


def _hulls(values: NDArray[Any]) -> NDArray[np.int64]:
    wide = values.astype(np.int64)
    if not len(wide):
        return np.empty((0, 2, wide.shape[1]), np.int64)
    if wide.shape[1] == 4:
        wide[:, 2] = unwrapped(wide[:, 0], wide[:, 2])
    blocks = np.arange(0, len(wide), BLOCK)
    return np.stack([np.minimum.reduceat(wide, blocks), np.maximum.reduceat(wide, blocks)], axis=1)


def unwrapped(west: NDArray[np.int64], east: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return easts that are never less than their wests: 360 degrees more beyond the antimeridian."""
    return np.where(west > east, east + TURN, east)


def _kind_words(kinds: NDArray[np.uint32]) -> Words:
    return kinds.astype(np.uint64)


def _time_words(times: NDArray[np.int64]) -> Words:
    """Return intervals as numbers that sort by start, then by end."""
    return times.view(np.uint64) ^ _SIGN_64


def _box_words(boxes: NDArray[np.int32]) -> Words:
    """Return footprints as numbers that sort by the Z-order curve of their corner (Morton, 1966), then by the rest."""
    west, south, east, north = (boxes.view(np.uint32) ^ _SIGN_32).astype(np.uint64).T
    return np.stack([_spaced(west) << np.uint64(1) | _spaced(south), east << np.uint64(32) | north], axis=1)


def _spaced(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return 32-bit numbers with a zero bit before each bit."""
    for shift, mask in (
        (16, 0x0000FFFF0000FFFF),
        (8, 0x00FF00FF00FF00FF),
        (4, 0x0F0F0F0F0F0F0F0F),
        (2, 0x3333333333333333),
        (1, 0x5555555555555555),
    ):
        values = (values | values << np.uint64(shift)) & np.uint64(mask)
    return values
