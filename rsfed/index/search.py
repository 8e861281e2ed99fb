"""Exact search over the segments of an index: what is near each query code, by distance and then by code."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rsfed.codes import Codes, Ids
from rsfed.errors import UsageError
from rsfed.index.filters import Filter, Screen
from rsfed.index.hits import Hits, Share
from rsfed.index.nearest import nearest
from rsfed.index.picking import grouped, weigh
from rsfed.index.segment import Part
from rsfed.index.words import Words, to_words

_ALL = 2**62  # items; more than there can be
_LISTED = 24  # looking at one item of a bucket costs 1, taking one from an inverted list and finding its code this
_GROWTH = 4  # at least so many times more items are looked at when too few passed


@dataclass(frozen=True)
class View:
    """An index at one moment; never changes.

    Attributes:
        bits: Width of the codes.
        parts: The segments, each with the places of its items that are gone.
    """

    bits: int
    parts: tuple[Part, ...]

    def __len__(self) -> int:
        return sum(part.live for part in self.parts)

    @cached_property
    def item_ids(self) -> Ids:
        """Ids of all items in rising order."""
        return np.sort(np.concatenate([np.empty(0, np.int64), *(part.ids for part in self.parts)]))

    def search(
        self, codes: Codes, *, k: int | None = None, radius: int | None = None, where: Filter | None = None
    ) -> list[Hits]:
        """Find all buckets up to the distance of the k-th nearest item, or all within a radius.

        Args:
            codes: Packed query codes, uint8, shape (q, bits // 8).
            k: How many items are wanted; everything when fewer are held.
            radius: Largest Hamming distance, at most the width of the codes.
            where: Which items count; all when left out.

        Returns:
            One `Hits` for each query code. Buckets without an item that counts are left out.

        Raises:
            CodeError: the query codes have another width than the index.
            UsageError: SEARCH_RANGE, k is below 1 or the radius is not within the width of the codes.
        """
        if (k is None) == (radius is None):
            raise ValueError("give either k or radius")
        if k is not None and k < 1:
            raise UsageError(f"ask for at least one item; got k = {k}", reason="SEARCH_RANGE")
        if radius is not None and not 0 <= radius <= self.bits:
            raise UsageError(f"a radius is 0 to {self.bits} bits; got {radius}", reason="SEARCH_RANGE")
        queries = to_words(codes, self.bits)
        screens = [None if where is None else Screen.of(part.segment, where) for part in self.parts]
        limit = self.bits if radius is None else radius
        wanted = _ALL if k is None else min(k, _ALL)
        return [self._nearest(query, screens, wanted, limit) for query in queries]

    def _nearest(self, query: Words, screens: list[Screen | None], k: int, limit: int) -> Hits:
        shares = []
        for part, screen in zip(self.parts, screens, strict=True):
            share = _unfiltered(part, query, k, limit) if screen is None else _filtered(part, screen, query, k, limit)
            if len(self.parts) > 1 and share.counts.sum() >= k:  # no other part needs to look farther
                limit = min(limit, int(share.distances[-1]))
            shares.append(share)
        return Hits.joined(self.bits, shares, k)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The index of one encoder of one release at one moment. Codes of two releases never meet in one."""

    release: bytes
    encoder: str
    view: View


def _unfiltered(part: Part, query: Words, k: int, limit: int) -> Share:
    segment = part.segment
    return Share(
        part,
        None,
        *nearest(segment.words, segment.starts, part.gone, segment.tables, query, segment.bits, k, limit),
    )


def _filtered(part: Part, screen: Screen, query: Words, k: int, limit: int) -> Share:
    """Look at the items of near buckets while that is cheaper than to take all that can pass from inverted lists."""
    segment, enough = part.segment, k if k < _ALL else 1
    budget = _LISTED * screen.most
    wanted = int(min(2 * k / max(screen.share, 1e-12), _ALL)) if k < _ALL else _ALL
    while screen.most and (wanted < budget or wanted == _ALL):
        rows, distances, held = nearest(
            segment.words, segment.starts, part.gone, segment.tables, query, segment.bits, wanted, limit
        )
        counts, sufficed, total = weigh(segment.starts, part.gone, screen.tests, rows, distances, k, enough, budget)
        if not sufficed:
            break
        if total >= k or held.sum() < wanted:
            kept = np.flatnonzero(counts)
            return Share(part, screen, rows[kept], distances[kept], counts[kept])
        wanted = min(max(_GROWTH, 2 * k // max(int(total), 1)) * wanted, _ALL)  # as rare as it is near this query
    return _listed(part, screen, query, k, limit)


def _listed(part: Part, screen: Screen, query: Words, k: int, limit: int) -> Share:
    segment = part.segment
    rows, places, firsts = grouped(segment.starts, part.gone, screen.places(segment))
    distances = np.bitwise_count(segment.words[rows] ^ query).sum(axis=1, dtype=np.int64)
    counts = np.diff(firsts)
    reached = np.searchsorted(np.cumsum(np.bincount(distances, weights=counts, minlength=1)), k)
    near = np.flatnonzero(distances <= min(int(reached), limit))
    near = near[np.argsort(distances[near], kind="stable")]
    return Share(part, screen, rows[near], distances[near], counts[near], places, firsts[near])
