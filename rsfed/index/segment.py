"""One immutable part of an index: the distinct codes of some items, and what finds items and filters them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rsfed.codes import Codes, Ids, check_bits
from rsfed.errors import CodeError
from rsfed.index.facets import Columns, Facets
from rsfed.index.jit import frozen, kernel
from rsfed.index.nearest import below
from rsfed.index.order import mix
from rsfed.index.sorting import Rows, group, sort_words
from rsfed.index.tables import Tables
from rsfed.index.words import Words, to_words

NONE_GONE: Rows = frozen(np.empty(0, np.uint32))
MAX_ITEMS = 2**32 - 2
_MARKS = 2**24  # bits that say where wanted ids are: they stay in the cache


@dataclass(frozen=True, slots=True)
class Segment:
    """Items grouped by their codes; never changes, so that threads and processes share it without a lock.

    Attributes:
        bits: Width of the codes.
        words: Distinct codes in order, uint64, shape (n, words).
        starts: Where the items of each code start in `ids`, with the end of the last one, uint32, shape (n + 1,).
        ids: Item ids, code by code, rising within a code, int64; the index of an item here is its place.
        sums: Lowest 32 bits of the sum of the scattered ids of each code, uint32, shape (n,): differs where the items
            differ.
        tables: Hash tables over the codes.
        facets: What filters know of the items.
    """

    bits: int
    words: Words
    starts: Rows
    ids: Ids
    sums: Rows
    tables: Tables
    facets: Facets

    @classmethod
    def build(cls, bits: int, ids: Ids, codes: Codes, columns: Columns | None = None) -> Segment:
        """Group items by code.

        Args:
            bits: Width of the codes.
            ids: Item ids, each once, int64, shape (n,).
            codes: Packed codes of the items, uint8, shape (n, bits // 8).
            columns: What filters know of the items; nothing when left out.

        Raises:
            CodeError: the codes have another width or number than the items, an item comes twice, or there are more
                than 4 billion items.
        """
        ids, words = np.asarray(ids, np.int64), to_words(codes, check_bits(bits))
        if len(words) != len(ids):
            raise CodeError(f"{len(ids)} items need as many codes; got {len(words)}")
        if columns is not None and len(columns.kinds) != len(ids):
            raise CodeError(f"{len(ids)} items need as many rows of what filters know; got {len(columns.kinds)}")
        if len(ids) > MAX_ITEMS:
            raise CodeError(f"a segment holds up to {MAX_ITEMS} items; got {len(ids)}")
        return cls.of_words(bits, ids, words, columns)

    @classmethod
    def of_words(cls, bits: int, ids: Ids, words: Words, columns: Columns | None) -> Segment:
        """Group items by code; as `build`, with the codes as words."""
        steps = np.diff(ids)
        if (steps <= 0).any():
            by_id = np.argsort(ids)
            ids, words, columns = ids[by_id], words[by_id], columns and columns.take(by_id)
            if (np.diff(ids) == 0).any():
                raise CodeError("an item has one code in an index, not two")
        order = sort_words(words)
        distinct, starts = group(words, order)
        ids = ids.take(order)
        facets = Facets.unknown(len(ids)) if columns is None else Facets.build(columns, order)
        segment = cls(bits, distinct, starts, ids, _sums(ids, starts), Tables.build(distinct, bits), facets)
        return cls.of_arrays(bits, segment.arrays(), facets.kind_values)

    @classmethod
    def of_arrays(cls, bits: int, arrays: Mapping[str, NDArray[Any]], kinds: tuple[tuple[str, ...], ...]) -> Segment:
        """Put a segment together from its named arrays."""
        own = {name: frozen(array) for name, array in arrays.items()}
        words, starts, ids, sums = (own[name] for name in ("words", "starts", "ids", "sums"))
        return cls(bits, words, starts, ids, sums, Tables.of_arrays(own), Facets.of_arrays(own, kinds))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return all arrays by their names: what a file of the segment holds."""
        plain: dict[str, NDArray[Any]] = {
            "words": self.words,
            "starts": self.starts,
            "ids": self.ids,
            "sums": self.sums,
        }
        return plain | self.tables.arrays() | self.facets.arrays()

    def __len__(self) -> int:
        return len(self.ids)

    def item_words(self) -> Words:
        """Return the code of every item, in the order of `ids`."""
        sizes = self.starts[1:] - self.starts[:-1]
        words: Words = np.repeat(self.words, sizes, axis=0)
        return words

    def places_of(self, ids: Ids) -> Rows:
        """Return the places of those of these items that are here, uint32, rising."""
        return _places_of(self.ids, np.sort(np.asarray(ids, np.int64)))


@dataclass(frozen=True, slots=True)
class Part:
    """One segment of an index, and what is gone from it.

    Attributes:
        segment: The segment.
        gone: Places of the items that were removed, uint32, rising.
    """

    segment: Segment
    gone: Rows

    def __post_init__(self) -> None:
        object.__setattr__(self, "gone", frozen(self.gone))

    @property
    def live(self) -> int:
        """How many items are left."""
        return len(self.segment) - len(self.gone)

    @property
    def ids(self) -> Ids:
        """Ids of the items that are left, in the order of their places."""
        return np.delete(self.segment.ids, self.gone)

    def sums(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the sum of the scattered ids that are left of each code, modulo 2**32, int64."""
        return _sums_left(self.segment.starts, self.segment.ids, self.segment.sums, self.gone, rows)


@kernel
def _sums(ids: Ids, starts: Rows) -> Rows:
    sums = np.empty(len(starts) - 1, np.uint32)
    for row in range(len(sums)):
        total = np.uint64(0)
        for place in range(starts[row], starts[row + 1]):
            total += mix(np.uint64(ids[place]))
        sums[row] = total & np.uint64(0xFFFFFFFF)
    return sums


@kernel
def _sums_left(starts: Rows, ids: Ids, sums: Rows, gone: Rows, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    left = np.empty(len(rows), np.int64)
    for number in range(len(rows)):
        total = np.uint64(sums[rows[number]])
        for skip in range(below(gone, starts[rows[number]]), below(gone, starts[rows[number] + 1])):
            total -= mix(np.uint64(ids[gone[skip]]))
        left[number] = np.int64(total & np.uint64(0xFFFFFFFF))
    return left


@kernel
def _places_of(ids: Ids, wanted: Ids) -> Rows:
    """Find rising wanted ids by one walk over all: marks of where some are pass over most, a search does the rest."""
    places = np.empty(min(len(wanted), len(ids)), np.uint32)
    if not len(wanted):
        return places
    low = np.uint64(wanted[0])
    span, shift = np.uint64(wanted[-1]) - low, np.uint64(0)
    while span >> shift >= np.uint64(_MARKS):
        shift += np.uint64(1)
    marks = np.zeros(np.int64(span >> shift) // 8 + 1, np.uint8)
    for one in wanted:
        mark = (np.uint64(one) - low) >> shift
        marks[mark >> np.uint64(3)] |= np.uint8(1 << (mark & np.uint64(7)))
    found = 0
    for place in range(len(ids)):
        above = np.uint64(ids[place]) - low  # of an id below `low` more than any span
        mark = above >> shift
        if above > span or not marks[mark >> np.uint64(3)] >> (mark & np.uint64(7)) & np.uint64(1):
            continue
        at = 0 if shift == 0 else below(wanted, ids[place])
        if shift == 0 or (at < len(wanted) and wanted[at] == ids[place]):
            places[found] = place
            found += 1
    return places[:found]
