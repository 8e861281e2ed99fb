"""The order in which a node lists what it found for one query code: by distance, ties by the keyed order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rsfed.codes import Ids
from rsfed.index.hits import Hits
from rsfed.index.order import Order, Ranks, by_item_id, keyed, seeds

EPOCH = 0  # `partner` publishes nothing in epochs: one for the life of a release


@dataclass(frozen=True, slots=True)
class Ranking:
    """The order of one query code.

    Attributes:
        tie_key: The node's tie key, 32 bytes.
        release: Digest of the release, 32 bytes.
        query_code: Packed code of the query.
        order: How ties are ordered.
    """

    tie_key: bytes
    release: bytes
    query_code: bytes
    order: Order = keyed

    def buckets(self, hits: Hits, limit: int) -> Hits:
        """Return the hits in rank order: buckets at one distance in keyed order.

        Args:
            hits: Buckets by rising distance.
            limit: How many will be listed at most; whole groups behind them are left out.
        """
        if not len(hits):
            return hits
        last = hits.distances[min(limit, len(hits)) - 1]
        distances = hits.distances[: np.searchsorted(hits.distances, last, side="right")]
        tied, starts, sizes = np.unique(distances, return_index=True, return_counts=True)
        parts = [b"distance" + int(distance).to_bytes(2, "big") for distance in tied]
        return hits.take(np.repeat(starts, sizes) + self._positions(parts, sizes, np.zeros_like(sizes), sizes))

    def items(self, hits: Hits, offsets: Ranks, counts: Ranks) -> Ids:
        """Return items of all hits in keyed order, bucket after bucket.

        Args:
            hits: The buckets.
            offsets: Rank of the first item wanted of each bucket, int64, shape (m,).
            counts: How many are wanted; no more than the bucket has from there, int64, shape (m,).
        """
        wanted = np.flatnonzero(counts)  # far fewer than there are buckets: each one costs a seed
        hits, offsets, counts = hits.take(wanted), offsets[wanted], counts[wanted]
        if self.order is by_item_id:
            return hits.by_item_id(offsets, counts)
        parts = [b"bucket" + code.tobytes() for code in hits.codes]
        return hits.keyed(seeds(self.tie_key, self.release, EPOCH, self.query_code, parts), offsets, counts)

    def _positions(self, parts: Sequence[bytes], sizes: Ranks, offsets: Ranks, counts: Ranks) -> Ranks:
        """Return for each part `counts` positions in [0, size), from the rank `offsets` on."""
        part = np.repeat(np.arange(len(parts)), counts)
        ranks = np.arange(len(part)) - np.repeat(np.cumsum(counts) - counts, counts) + offsets[part]
        seed = seeds(self.tie_key, self.release, EPOCH, self.query_code, parts)
        return self.order(seed[part], sizes[part], ranks)
