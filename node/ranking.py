"""The order in which a node lists what it found for one query code: by distance, ties by the keyed order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rsfed.index.buckets import Buckets, Hits, Ids
from rsfed.index.order import Order, Ranks, keyed, seeds

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

    def items(self, buckets: Buckets, rows: NDArray[np.int64], offsets: Ranks, counts: Ranks) -> Ids:
        """Return items of some buckets in keyed order, bucket after bucket.

        Args:
            buckets: Where the items are.
            rows: The buckets, int64, shape (m,).
            offsets: Rank of the first item wanted of each bucket, int64, shape (m,).
            counts: How many are wanted; no more than the bucket has from there, int64, shape (m,).
        """
        wanted = np.flatnonzero(counts)  # far fewer than there are buckets: each one costs a seed
        rows, offsets, counts = rows[wanted], offsets[wanted], counts[wanted]
        starts, sizes = buckets.starts[rows], buckets.starts[rows + 1] - buckets.starts[rows]
        parts = [b"bucket" + code.tobytes() for code in buckets.codes(rows)]
        items: Ids = buckets.ids[np.repeat(starts, counts) + self._positions(parts, sizes, offsets, counts)]
        return items

    def _positions(self, parts: Sequence[bytes], sizes: Ranks, offsets: Ranks, counts: Ranks) -> Ranks:
        """Return for each part `counts` positions in [0, size), from the rank `offsets` on."""
        part = np.repeat(np.arange(len(parts)), counts)
        ranks = np.arange(len(part)) - np.repeat(np.cumsum(counts) - counts, counts) + offsets[part]
        seed = seeds(self.tie_key, self.release, EPOCH, self.query_code, parts)
        return self.order(seed[part], sizes[part], ranks)
