"""What was found for one query: buckets by distance, and items taken from them in one of the two orders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rsfed.codes import Codes, Ids
from rsfed.index.bucket import Bucket, Piece
from rsfed.index.filters import NO_TESTS, Screen
from rsfed.index.order import Ranks, Seeds
from rsfed.index.picking import closest, count_passing
from rsfed.index.segment import Part
from rsfed.index.words import Words, from_words, marked, row_of

Numbers = NDArray[np.int64]
NO_NUMBERS: Numbers = np.empty(0, np.int64)
_ZERO = np.zeros(1, np.int64)


@dataclass(frozen=True, slots=True)
class Share:
    """What one part holds near a query.

    Attributes:
        part: Where it was found.
        screen: The filter; None where there is none.
        rows: Rows of the codes in the segment, int64, shape (n,).
        distances: Their distances, int64, rising.
        counts: Items of each code that pass, int64; with a filter counted no farther than the search needed, unless
            they are listed.
        places: The items that pass, code after code, int64; None where they were not listed.
        firsts: Where the items of each code start in `places`, int64, shape (n,).
    """

    part: Part
    screen: Screen | None
    rows: Numbers
    distances: Numbers
    counts: Numbers
    places: Numbers | None = None
    firsts: Numbers | None = None

    def sizes(self) -> Numbers:
        """Return how many items of each code pass."""
        if self.screen is None or self.places is not None:
            return self.counts
        segment = self.part.segment
        return count_passing(segment.starts, self.part.gone, self.screen.tests, self.rows)

    def piece(self, number: int) -> Piece:
        """Return the items of one code, a place in `rows`."""
        listed = None
        if self.places is not None and self.firsts is not None:
            listed = self.places[self.firsts[number] : self.firsts[number] + self.counts[number]]
        return Piece(self.part, int(self.rows[number]), NO_TESTS if self.screen is None else self.screen.tests, listed)

    def closest(self, k: int) -> tuple[Ids, Numbers]:
        """Return the k nearest items by distance, then by item id, and their distances."""
        segment = self.part.segment
        if self.places is None:
            tests = NO_TESTS if self.screen is None else self.screen.tests
            found: tuple[Ids, Numbers] = closest(
                segment.starts, self.part.gone, tests, segment.ids, self.rows, self.distances, k
            )
            return found
        ids = np.concatenate([NO_NUMBERS, *(self.piece(number).listed_ids for number in range(len(self.rows)))])
        distances = np.repeat(self.distances, self.counts)
        order = np.lexsort((ids, distances))[:k]
        return ids[order], distances[order]


@dataclass(frozen=True, slots=True)
class Hits:
    """The buckets near one query code, by rising distance, then by rising code.

    A bucket may lie in several segments; each of its pieces is a code of one `Share`.

    Attributes:
        bits: Width of the codes.
        shares: What was found in each part.
        distances: Hamming distance of each bucket, uint16, shape (n,).
        firsts: Where the pieces of each bucket start, int64, shape (n + 1,).
        owners: The share of each piece, int64.
        numbers: The code of each piece, as a place in the rows of its share, int64.
    """

    bits: int
    shares: Sequence[Share]
    distances: NDArray[np.uint16]
    firsts: Numbers
    owners: Numbers
    numbers: Numbers

    @classmethod
    def joined(cls, bits: int, shares: Sequence[Share], k: int) -> Hits:
        """Join what the parts hold up to the distance of the k-th item."""
        if len(shares) == 1:
            pieces = np.arange(len(shares[0].rows) + 1)
            distances = shares[0].distances.astype(np.uint16)
            return cls(bits, shares, distances, pieces, np.zeros(len(distances), np.int64), pieces[:-1])
        distances = np.concatenate([NO_NUMBERS, *(share.distances for share in shares)])
        weights = np.bincount(distances, weights=np.concatenate([NO_NUMBERS, *(share.counts for share in shares)]))
        near = distances <= int(np.searchsorted(np.cumsum(weights), k))
        owners = np.repeat(np.arange(len(shares)), [len(share.rows) for share in shares])[near]
        numbers = np.concatenate([NO_NUMBERS, *(np.arange(len(share.rows)) for share in shares)])[near]
        return cls._grouped(bits, shares, distances[near].astype(np.uint16), owners, numbers)

    def __len__(self) -> int:
        return len(self.distances)

    @property
    def codes(self) -> Codes:
        """Packed code of each bucket, uint8, shape (n, bits // 8)."""
        return from_words(self._words(self.firsts[:-1]), self.bits)

    @property
    def sizes(self) -> Numbers:
        """Items of each bucket that pass, int64; with a filter they are counted when this is asked for."""
        return self._added([share.sizes() for share in self.shares])

    @property
    def marks(self) -> Numbers:
        """A number below 0 for each bucket that another one, or this one with other items, does not have, int64."""
        sums = self._added([share.part.sums(share.rows) for share in self.shares])
        return marked(self._words(self.firsts[:-1]), sums)

    def take(self, buckets: Numbers) -> Hits:
        """Return the buckets at these places, in this order."""
        counts = np.diff(self.firsts)[buckets]
        ends = np.cumsum(counts)
        pieces = np.repeat(self.firsts[:-1][buckets] - (ends - counts), counts) + np.arange(counts.sum())
        firsts = np.concatenate([_ZERO, ends])
        return Hits(self.bits, self.shares, self.distances[buckets], firsts, self.owners[pieces], self.numbers[pieces])

    def nearest(self, k: int) -> tuple[Ids, Numbers]:
        """Return the k nearest items by distance, then by item id, and their distances; fewer where there are fewer."""
        parts = [share.closest(k) for share in self.shares]
        if len(parts) == 1:
            return parts[0]
        ids = np.concatenate([NO_NUMBERS, *(each[0] for each in parts)])
        distances = np.concatenate([NO_NUMBERS, *(each[1] for each in parts)])
        order = np.lexsort((ids, distances))[:k]
        return ids[order], distances[order]

    def keyed(self, seeds: Seeds, offsets: Ranks, counts: Ranks) -> Ids:
        """Return items of all buckets in keyed order, bucket after bucket; `take` chooses the buckets.

        The order is a permutation of all items of a bucket; those that do not pass are left out of it. So it costs
        nothing that grows with a bucket, and a filter does not change who comes before whom.

        Args:
            seeds: Seed of the permutation of each bucket, uint64, shape (n, 4).
            offsets: How many items to pass over in each, int64, shape (n,).
            counts: How many items to take of each; fewer where there are fewer, int64, shape (n,).
        """
        pages = [
            self._bucket(bucket).keyed(seed, offset, count)
            for bucket, (seed, offset, count) in enumerate(zip(seeds, offsets.tolist(), counts.tolist(), strict=True))
        ]
        return np.concatenate([NO_NUMBERS, *pages])

    def by_item_id(self, offsets: Ranks, counts: Ranks) -> Ids:
        """Return items of all buckets by rising id: for comparison with an exact search only."""
        pages = [
            self._bucket(bucket).by_item_id(offset, count)
            for bucket, (offset, count) in enumerate(zip(offsets.tolist(), counts.tolist(), strict=True))
        ]
        return np.concatenate([NO_NUMBERS, *pages])

    def members(self, bucket: int) -> Ids:
        """Return all items of one bucket that pass by rising id: work that grows with the bucket."""
        return self._bucket(bucket).by_item_id(0, self._bucket(bucket).live)

    def _bucket(self, bucket: int) -> Bucket:
        """Return a bucket with all its pieces, those too in which nothing passes."""
        pieces = range(int(self.firsts[bucket]), int(self.firsts[bucket + 1]))
        known = {
            int(self.owners[piece]): self.shares[self.owners[piece]].piece(self.numbers[piece]) for piece in pieces
        }
        filtered = self.shares[0].screen is not None
        if filtered and len(known) < len(self.shares):
            word = self._words(self.firsts[bucket : bucket + 1])[0]
            rows = {owner: row_of(share.part.segment.words, word) for owner, share in enumerate(self.shares)}
            rest = {
                owner: Piece(self.shares[owner].part, int(row), listed=NO_NUMBERS)
                for owner, row in rows.items()
                if row >= 0
            }
            known = rest | known
        return Bucket(list(known.values()), filtered)

    @classmethod
    def _grouped(
        cls, bits: int, shares: Sequence[Share], distances: NDArray[np.uint16], owners: Numbers, numbers: Numbers
    ) -> Hits:
        """Make pieces with the same code one bucket."""
        pieces = cls(bits, shares, distances, np.arange(len(numbers) + 1), owners, numbers)
        words = pieces._words(pieces.firsts[:-1])
        order = np.lexsort((*words.T[::-1], distances))
        words = words[order]
        first = np.ones(len(order), np.bool_)
        first[1:] = (words[1:] != words[:-1]).any(axis=1)
        firsts = np.append(np.flatnonzero(first), len(order))
        return cls(bits, shares, distances[order][first], firsts, owners[order], numbers[order])

    def _words(self, pieces: Numbers) -> Words:
        words = np.empty((len(pieces), -(-self.bits // 64)), np.uint64)
        for owner, share in enumerate(self.shares):
            own = self.owners[pieces] == owner
            words[own] = share.part.segment.words[share.rows[self.numbers[pieces[own]]]]
        return words

    def _of_pieces(self, columns: Sequence[Numbers]) -> Numbers:
        """Return one value of each piece, given a column for each share."""
        values = np.empty(len(self.numbers), np.int64)
        for owner, column in enumerate(columns):
            own = self.owners == owner
            values[own] = column[self.numbers[own]]
        return values

    def _added(self, columns: Sequence[Numbers]) -> Numbers:
        """Return the sum over the pieces of each bucket; without buckets there is nothing to add."""
        values = self._of_pieces(columns)
        return np.add.reduceat(values, self.firsts[:-1]) if len(values) else values
