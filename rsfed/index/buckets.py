"""Exact search over hash buckets: all patches with the same code are one bucket.

A bucket is looked at once, however many items it holds: deep-hash codes are skewed, so there are far fewer codes
than items. The k nearest items are found from a histogram of the distances weighted by the buckets' sizes (Norouzi
et al., arXiv 1307.2982, search whole Hamming radii; here the radii are counted, not probed).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rsfed.codes import Codes, check_bits
from rsfed.errors import CodeError

Ids = NDArray[np.int64]
Words = NDArray[np.uint64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Hits:
    """The buckets near one query code as columns, by rising distance, then by rising code.

    Attributes:
        rows: Place of each bucket in the buckets that were searched, int64, shape (m,).
        distances: Hamming distance to the query code, uint16, shape (m,).
        sizes: Items of each bucket that pass the filter, int64, shape (m,).
        codes: Packed code of each bucket, uint8, shape (m, bits // 8).
    """

    rows: NDArray[np.int64]
    distances: NDArray[np.uint16]
    sizes: NDArray[np.int64]
    codes: Codes

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, places: NDArray[np.int64]) -> Hits:
        """Return the buckets at these places, in this order."""
        return Hits(self.rows[places], self.distances[places], self.sizes[places], self.codes[places])


@dataclass(frozen=True, slots=True)
class Buckets:
    """Items grouped by their codes; never changes, so that threads share it without a lock.

    Attributes:
        bits: Width of the codes.
        words: Distinct codes in rising order as big-endian words, one row for each 64 bits, shape (words, n).
        starts: Where the items of each bucket start in `ids`, with the end of the last one, int64, shape (n + 1,).
        ids: Item ids, bucket by bucket, rising within a bucket, int64.
        places: Places in `ids` in the order of rising item id, int64.
        marks: A number below 0 for each bucket that another one, or this one with other items, does not have,
            int64, shape (n,).
    """

    bits: int
    words: Words
    starts: NDArray[np.int64]
    ids: Ids
    places: NDArray[np.int64] = field(repr=False)
    marks: NDArray[np.int64] = field(repr=False)

    @classmethod
    def build(cls, bits: int, ids: Ids, codes: Codes) -> Buckets:
        """Group items by code.

        Args:
            bits: Width of the codes.
            ids: Item ids, each once, int64, shape (n,).
            codes: Packed codes of the items, uint8, shape (n, bits // 8).

        Raises:
            CodeError: the codes have another width, or an item id comes twice.
        """
        ids = np.asarray(ids, dtype=np.int64)
        words = _to_words(codes, bits)
        if words.shape[1] != len(ids):
            raise CodeError(f"{len(ids)} items need as many codes; got {words.shape[1]}")
        order = np.lexsort((ids, *words[::-1]))
        ids, words = ids[order], words[:, order]
        first = np.ones(len(ids), dtype=np.bool_)
        first[1:] = (words[:, 1:] != words[:, :-1]).any(axis=0)
        starts = np.append(np.flatnonzero(first), len(ids))
        places = np.argsort(ids)
        if (np.diff(ids[places]) == 0).any():
            raise CodeError("an item has one code in an index, not two")
        return cls(bits, np.ascontiguousarray(words[:, first]), starts, ids, places, _marks(ids, starts))

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def item_ids(self) -> Ids:
        """Ids of all items in rising order: what a filter refers to."""
        return self.ids[self.places]

    def codes(self, rows: NDArray[np.int64]) -> Codes:
        """Return the packed codes of these buckets, uint8, shape (n, bits // 8)."""
        return _from_words(self.words[:, rows], self.bits)

    def item_codes(self) -> Codes:
        """Return the packed code of every item, in the order of `ids`."""
        return self.codes(np.repeat(np.arange(len(self.starts) - 1), np.diff(self.starts)))

    def search(
        self, codes: Codes, *, k: int | None = None, radius: int | None = None, keep: Mask | None = None
    ) -> list[Hits]:
        """Find all buckets up to the distance of the k-th nearest item, or all within a radius.

        Args:
            codes: Packed query codes, uint8, shape (q, bits // 8).
            k: How many items are wanted; everything when fewer are held.
            radius: Largest Hamming distance.
            keep: Which items count, in the order of `item_ids`, bool, shape (n,); all when left out.

        Returns:
            One `Hits` for each query code. Buckets without an item that counts are left out.

        Raises:
            CodeError: the query codes have another width than the index.
        """
        if (k is None) == (radius is None):
            raise ValueError("give either k or radius")
        queries = _to_words(codes, self.bits)
        sizes = self._sizes(keep)
        return [self._nearest(query, sizes, k, radius) for query in queries.T]

    def members(self, row: int) -> Ids:
        """Return the items of one bucket by rising id."""
        return self.ids[self.starts[row] : self.starts[row + 1]]

    def row_marked(self, mark: int) -> int | None:
        """Return the bucket with this mark, or None."""
        rows = np.flatnonzero(self.marks == mark)
        return int(rows[0]) if len(rows) else None

    def _sizes(self, keep: Mask | None) -> NDArray[np.int64]:
        if keep is None or not len(self):
            return np.diff(self.starts)
        return np.add.reduceat(self._in_places(keep), self.starts[:-1], dtype=np.int64)

    def _in_places(self, keep: Mask) -> Mask:
        placed = np.empty(len(self.ids), dtype=np.bool_)
        placed[self.places] = keep
        return placed

    def _nearest(self, query: Words, sizes: NDArray[np.int64], k: int | None, radius: int | None) -> Hits:
        distances = self._distances(query)
        if radius is None:
            radius = self._radius_of(distances, sizes, k or 0)
        rows = np.flatnonzero((distances <= radius) & (sizes > 0))
        rows = rows[np.argsort(distances[rows], kind="stable")]
        return Hits(rows, distances[rows], sizes[rows], self.codes(rows))

    def _distances(self, query: Words) -> NDArray[np.uint16]:
        distances = np.zeros(self.words.shape[1], dtype=np.uint16)
        for word, wanted in zip(self.words, query, strict=True):
            distances += np.bitwise_count(word ^ wanted)
        return distances

    def _radius_of(self, distances: NDArray[np.uint16], sizes: NDArray[np.int64], k: int) -> int:
        """Return the distance of the k-th nearest item."""
        items_within = np.cumsum(np.bincount(distances, weights=sizes, minlength=self.bits + 1))
        return min(int(np.searchsorted(items_within, k)), self.bits)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The buckets of one encoder of one release at one moment. Codes of two releases never meet in one."""

    release: bytes
    encoder: str
    buckets: Buckets


class BucketIndex:
    """The codes of an archive, changing; a search or snapshot sees either all of a change or nothing of it.

    Args:
        bits: Width of the codes.
    """

    def __init__(self, bits: int) -> None:
        self._buckets = Buckets.build(check_bits(bits), np.empty(0, np.int64), np.empty((0, bits // 8), np.uint8))

    def __len__(self) -> int:
        return len(self._buckets)

    @property
    def item_ids(self) -> Ids:
        """Ids of all items in rising order."""
        return self._buckets.item_ids

    def add(self, ids: Ids, codes: Codes) -> None:
        """Add items.

        Raises:
            CodeError: the codes have another width, or an item is in the index already.
        """
        old = self._buckets
        merged_ids = np.concatenate([old.ids, np.asarray(ids, dtype=np.int64)])
        self._buckets = Buckets.build(
            old.bits, merged_ids, np.concatenate([old.item_codes(), _checked(codes, old.bits)])
        )

    def remove(self, ids: Ids) -> None:
        """Remove items; those that are not in the index are passed over."""
        old = self._buckets
        stays = ~np.isin(old.ids, ids)
        self._buckets = Buckets.build(old.bits, old.ids[stays], old.item_codes()[stays])

    def search(
        self, codes: Codes, *, k: int | None = None, radius: int | None = None, keep: Mask | None = None
    ) -> list[Hits]:
        """Search as `Buckets.search` does."""
        return self._buckets.search(codes, k=k, radius=radius, keep=keep)

    def snapshot(self, release: bytes, encoder: str) -> Snapshot:
        """Return what the index holds now, under the release and encoder that made the codes."""
        return Snapshot(release, encoder, self._buckets)


def _checked(codes: Codes, bits: int) -> Codes:
    if codes.ndim != 2 or codes.shape[1] != bits // 8:
        raise CodeError(f"the index holds codes of {bits} bits; got {codes.shape[-1] * 8}")
    return codes


def _marks(ids: Ids, starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the sum of the scattered ids of each bucket, below 0: it changes whenever an item comes or goes."""
    if not len(ids):
        return np.empty(0, np.int64)
    sums = np.add.reduceat(_scattered(ids.astype(np.uint64)), starts[:-1])
    return (sums | np.uint64(1 << 63)).view(np.int64)


def _scattered(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scatter numbers over 64 bits, one to one: the finaliser of splitmix64 (Steele et al., 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _to_words(codes: Codes, bits: int) -> Words:
    """Return packed codes as big-endian 64-bit words, zero-padded, shape (words, n): they sort as the codes do."""
    _checked(codes, bits)
    padded = np.zeros((len(codes), -(-codes.shape[1] // 8) * 8), dtype=np.uint8)
    padded[:, : codes.shape[1]] = codes
    return np.ascontiguousarray(padded.view(">u8").astype(np.uint64).T)


def _from_words(words: Words, bits: int) -> Codes:
    """Return the packed codes of big-endian words, uint8, shape (n, bits // 8)."""
    padded = np.ascontiguousarray(words.T).astype(">u8").view(np.uint8)
    return padded.reshape(words.shape[1], len(words) * 8)[:, : bits // 8]
