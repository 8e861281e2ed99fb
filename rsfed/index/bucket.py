"""One bucket of an answer: its items by rank, whatever segments they lie in and whatever filter applies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rsfed.codes import Ids
from rsfed.index.filters import NO_TESTS, Tests
from rsfed.index.order import keyed, ranks_of
from rsfed.index.picking import first_passing, passing, places_at
from rsfed.index.segment import Part

Numbers = NDArray[np.int64]
Seed = NDArray[np.uint64]
_STEP = 64  # looking at so many items one after the other costs as much as one step of the keyed order


@dataclass(frozen=True, slots=True)
class Piece:
    """The items of a bucket in one segment.

    Attributes:
        part: The segment.
        row: Row of the bucket's code in it.
        tests: What an item has to pass; `NO_TESTS` where there is no filter.
        listed: Places of the items that pass, int64, rising; None where they are not known.
    """

    part: Part
    row: int
    tests: Tests = NO_TESTS
    listed: Numbers | None = None

    @property
    def span(self) -> tuple[int, int]:
        """Places of the first item of the code and behind the last one."""
        starts = self.part.segment.starts
        return int(starts[self.row]), int(starts[self.row + 1])

    @property
    def live(self) -> int:
        """How many items count, whether they pass or not."""
        first, last = self.span
        return last - first - int(np.diff(np.searchsorted(self.part.gone, np.array([first, last]))).item())

    def at(self, ranks: Numbers) -> Numbers:
        """Return the places of the items with these ranks by id among those that count."""
        return places_at(self.part.segment.starts, self.part.gone, np.full(len(ranks), self.row), ranks)

    def ids(self, places: Numbers) -> Ids:
        """Return the ids of the items at these places."""
        return self.part.segment.ids[places]

    def before(self, ids: Ids) -> Numbers:
        """Return how many items that count have a smaller id, for each id."""
        first, last = self.span
        places = first + np.searchsorted(self.part.segment.ids[first:last], ids)
        gone = np.searchsorted(self.part.gone, places) - np.searchsorted(self.part.gone, first)
        return places - first - gone

    @property
    def listed_ids(self) -> Ids:
        """Ids of the items that are known to pass."""
        return self.ids(self.passing(0) if self.listed is None else self.listed)

    def passing(self, most: int) -> Numbers:
        """Return the places of the first items that pass by rising id, up to `most`."""
        if self.listed is not None:
            return self.listed[:most]
        starts, row = self.part.segment.starts, np.array([self.row])
        places, _ = first_passing(starts, self.part.gone, self.tests, row, np.array([most]))
        return places


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket of an answer.

    Attributes:
        pieces: Its items in each segment that has some, so that ranks do not depend on how they are divided.
        filtered: Whether items have to pass a filter.
    """

    pieces: Sequence[Piece]
    filtered: bool

    @property
    def live(self) -> int:
        """How many items count, whether they pass or not."""
        return sum(piece.live for piece in self.pieces)

    def by_item_id(self, offset: int, count: int) -> Ids:
        """Return `count` items that pass by rising id, after the first `offset` of them."""
        ids = np.concatenate([piece.ids(piece.passing(offset + count)) for piece in self.pieces])
        return np.sort(ids)[offset : offset + count]

    def keyed(self, seed: Seed, offset: int, count: int) -> Ids:
        """Return `count` items that pass in keyed order, after the first `offset` of them; seed has shape (4,)."""
        live = self.live
        if not self.filtered:
            return self._at(seed, live, np.arange(min(offset, live), min(offset + count, live)))[0]
        listed = all(piece.listed is not None for piece in self.pieces)
        found = None if listed else self._walked(seed, live, offset + count)
        return (self._sorted(seed, live) if found is None else found)[offset : offset + count]

    def _walked(self, seed: Seed, live: int, wanted: int) -> Ids | None:
        """Walk the keyed order until enough items passed; None where that takes longer than to look at all items."""
        found: list[Ids] = [np.empty(0, np.int64)]
        number, start, step = 0, 0, 2 * wanted + 16
        longest = live // _STEP + step
        while number < wanted and start < live:
            if start > longest:
                return None
            ids, passed = self._at(seed, live, np.arange(start, min(start + step, live)))
            found.append(ids[passed])
            number, start, step = number + int(passed.sum()), start + step, 2 * step
        return np.concatenate(found)

    def _sorted(self, seed: Seed, live: int) -> Ids:
        """Sort all items that pass by their rank in the keyed order."""
        ids = np.sort(np.concatenate([piece.ids(piece.passing(live)) for piece in self.pieces]))
        positions = np.sum([piece.before(ids) for piece in self.pieces], axis=0)
        return ids[np.argsort(ranks_of(seed, live, positions))]

    def _at(self, seed: Seed, live: int, ranks: Numbers) -> tuple[Ids, NDArray[np.bool_]]:
        """Return the items of these ranks of the keyed order, and which of them pass."""
        positions = keyed(np.broadcast_to(seed, (len(ranks), 4)).copy(), np.full(len(ranks), live), ranks)
        ids, passed = np.empty(len(ranks), np.int64), np.ones(len(ranks), np.bool_)
        owners, own_ranks = self._owners(positions)
        for number, piece in enumerate(self.pieces):
            own = owners == number
            places = piece.at(own_ranks[own])
            ids[own] = piece.ids(places)
            if self.filtered:
                passed[own] = (
                    False if piece.listed is not None and not len(piece.listed) else passing(piece.tests, places)
                )
        return ids, passed

    def _owners(self, positions: Numbers) -> tuple[Numbers, Numbers]:
        """Return for positions by id in the whole bucket the piece of each, and its position in that piece."""
        if len(self.pieces) == 1:
            return np.zeros(len(positions), np.int64), positions
        low = np.full(len(positions), min(int(piece.ids(np.array(piece.span[0]))) for piece in self.pieces))
        high = np.full(len(positions), max(int(piece.ids(np.array(piece.span[1] - 1))) for piece in self.pieces))
        while (low < high).any():  # the smallest id up to which enough items lie
            middle = low + (high - low) // 2
            enough = np.sum([piece.before(middle + 1) for piece in self.pieces], axis=0) > positions
            low, high = np.where(enough, low, middle + 1), np.where(enough, middle, high)
        owners, ranks = np.zeros(len(positions), np.int64), np.zeros(len(positions), np.int64)
        for number, piece in enumerate(self.pieces):
            before = piece.before(low)
            own = piece.before(low + 1) > before
            owners[own], ranks[own] = number, before[own]
        return owners, ranks
