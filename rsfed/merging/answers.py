"""The answers of nodes as numpy columns, and what was asked of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Question:
    """What a verified query asks, as far as an answer has to fit it.

    Attributes:
        query_id: Name of the query, 16 bytes.
        release_digest: Release whose codes are asked for, 32 bytes.
        bits: Width of its codes.
        codes: Number of query codes.
        k: Items wanted for each code, and the largest sample of one bucket.
        radius: When given, all buckets within this distance in bits are wanted instead of the nearest k items.
        filtered: Fields that it is filtered by, values of rsfed.v1.FilterField, rising.
    """

    query_id: bytes
    release_digest: bytes
    bits: int
    codes: int
    k: int
    radius: int | None = None
    filtered: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class BucketColumns:
    """The buckets of one node near one code, in the node's rank order.

    Attributes:
        handles: Handles of the buckets, uint8, shape (b, 16).
        distances: Distance in bits or upper edge of its band, uint16, shape (b,), never falling.
        sizes: Items of each bucket, uint32, shape (b,).
        samples: Item handles listed for each bucket, uint32, shape (b,).
        item_handles: Handles of the listed items, bucket after bucket, uint8, shape (s, 16).
        footprints: West, south, east, north of each listed item in 1e-7 degree, int32, shape (s, 4); None where the
            node discloses none.
        acquired: Start and end of each listed item in milliseconds since 1970, int64, shape (s, 2); None as above.
    """

    handles: NDArray[np.uint8]
    distances: NDArray[np.uint16]
    sizes: NDArray[np.uint32]
    samples: NDArray[np.uint32]
    item_handles: NDArray[np.uint8]
    footprints: NDArray[np.int32] | None = None
    acquired: NDArray[np.int64] | None = None


@dataclass(frozen=True, slots=True)
class NodeAnswer:
    """One node's answer that passed validation.

    Attributes:
        columns: One set of buckets for each query code, in the order of the codes.
        examined: Items that were compared.
        held: Items that the archive holds.
        level: Policy level, a value of rsfed.v1.PolicyLevel.
        withheld: What was held back, a value of rsfed.v1.WithheldReason.
        unknown: Items that say nothing of a field of the filter; None without a filter.
    """

    columns: tuple[BucketColumns, ...]
    examined: int
    held: int
    level: int
    withheld: int
    unknown: int | None = None

    @property
    def coverage(self) -> float:
        """Items examined divided by items held; 1 for an empty archive."""
        return self.examined / self.held if self.held else 1.0

    @property
    def rows(self) -> int:
        """Buckets and items that are listed."""
        return sum(len(part.handles) + len(part.item_handles) for part in self.columns)


@dataclass(frozen=True, slots=True)
class MergedRanking:
    """One ranking over all nodes.

    Attributes:
        nodes: Names that `bucket_nodes` refers to by position.
        bucket_nodes: uint16, shape (b,).
        bucket_handles: uint8, shape (b, 16).
        bucket_distances: uint16, shape (b,), never falling.
        bucket_sizes: uint32, shape (b,).
        hit_buckets: Position of each hit's bucket, uint32, shape (h,), hits in rank order.
        hit_handles: uint8, shape (h, 16).
        footprints: int32, shape (h, 4), or None when no node disclosed any.
        acquired: int64, shape (h, 2), or None when no node disclosed any.
    """

    nodes: tuple[str, ...]
    bucket_nodes: NDArray[np.uint16]
    bucket_handles: NDArray[np.uint8]
    bucket_distances: NDArray[np.uint16]
    bucket_sizes: NDArray[np.uint32]
    hit_buckets: NDArray[np.uint32]
    hit_handles: NDArray[np.uint8]
    footprints: NDArray[np.int32] | None
    acquired: NDArray[np.int64] | None
