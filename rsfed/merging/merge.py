"""One ranking out of the answers of all nodes: deterministic, independent of the order of arrival.

Hits rank by distance; at equal distance the nodes take turns in the order of SHA-256(query id, node name), each with
its own next item. A node's first k items are always among its samples, so nothing that belongs to the first k of the
union is missed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from rsfed.merging.answers import BucketColumns, MergedRanking
from rsfed.wire import NO_FOOTPRINT, NO_TIME

Scalar = TypeVar("Scalar", bound=np.generic)


def node_order(query_id: bytes, names: Sequence[str]) -> dict[str, int]:
    """Return each node's turn at equal distances, from 0; another order for every query."""
    ranked = sorted(names, key=lambda name: hashlib.sha256(query_id + name.encode()).digest())
    return {name: turn for turn, name in enumerate(ranked)}


def merge(answers: Mapping[str, BucketColumns], query_id: bytes, *, k: int | None) -> MergedRanking:
    """Merge the buckets of all nodes near one code.

    Args:
        answers: Validated columns by node name.
        query_id: The query's 16 bytes.
        k: Items wanted; None keeps all that is listed (a search by radius).

    Returns:
        The first k hits and every bucket up to the distance of the last of them.
    """
    names = tuple(sorted(answers))
    if not names:
        return _empty()
    parts = [answers[name] for name in names]
    turns = node_order(query_id, names)
    turn = np.array([turns[name] for name in names])

    distances = np.concatenate([part.distances for part in parts])
    owner = np.repeat(np.arange(len(parts)), [len(part.distances) for part in parts])
    item_bucket = np.repeat(np.arange(len(distances)), np.concatenate([part.samples for part in parts]))

    hits = _interleave(distances[item_bucket], owner[item_bucket], turn)[:k]
    last = distances[item_bucket[hits[-1]]] if k is not None and len(hits) == k else np.iinfo(np.uint16).max
    buckets = _interleave(distances, owner, turn)
    buckets = buckets[distances[buckets] <= last]
    position = np.empty(len(distances), dtype=np.uint32)
    position[buckets] = np.arange(len(buckets), dtype=np.uint32)
    lengths = [len(part.item_handles) for part in parts]
    return MergedRanking(
        nodes=names,
        bucket_nodes=owner[buckets].astype(np.uint16),
        bucket_handles=np.concatenate([part.handles for part in parts])[buckets],
        bucket_distances=distances[buckets],
        bucket_sizes=np.concatenate([part.sizes for part in parts])[buckets],
        hit_buckets=position[item_bucket[hits]],
        hit_handles=np.concatenate([part.item_handles for part in parts])[hits],
        footprints=_optional([part.footprints for part in parts], lengths, hits, NO_FOOTPRINT),
        acquired=_optional([part.acquired for part in parts], lengths, hits, NO_TIME),
    )


def _interleave(distances: NDArray[np.uint16], owner: NDArray[np.intp], turn: NDArray[np.intp]) -> NDArray[np.intp]:
    """Order rows by distance, then by the row's place among its node's rows of that distance, then by turn.

    Args:
        distances: Distance of each row, shape (n,); never falling within a node, whose rows lie together.
        owner: Node of each row, shape (n,), never falling.
        turn: Turn of each node.
    """
    row = np.arange(len(distances))
    group = owner * (1 << 16) + distances
    place = row - np.searchsorted(group, group, side="left")
    return np.lexsort((turn[owner], place, distances))


def _optional(
    columns: list[NDArray[Scalar] | None], lengths: list[int], hits: NDArray[np.intp], unknown: int
) -> NDArray[Scalar] | None:
    """Return a column that only some nodes fill, with `unknown` where one does not; None when no node does."""
    known = next((column for column in columns if column is not None), None)
    if known is None:
        return None
    filled = [
        np.full((length, known.shape[1]), unknown, dtype=known.dtype) if column is None else column
        for column, length in zip(columns, lengths, strict=True)
    ]
    return np.concatenate(filled)[hits]


def _empty() -> MergedRanking:
    none, rows = np.empty(0, np.uint32), np.empty((0, 16), np.uint8)
    return MergedRanking((), none.astype(np.uint16), rows, none.astype(np.uint16), none, none, rows, None, None)
