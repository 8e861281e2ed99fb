"""Buckets of a catalogue: codes of at least k acquisitions each, of which a catalogue tells the middle.

Small clusters of codes join the nearest other one, the smallest first, until each has k acquisitions: at first within
a class of the codebook, then what is left over across classes. In the middle of a bucket every acquisition has one vote
for each bit, however many patches it has there. Pure rules.
"""

from __future__ import annotations

import heapq

import numpy as np
from numpy.typing import NDArray

from rsfed.codes import Codes, hamming, pack, unpack

_AT_ONCE = 1 << 14  # pairs of bucket and acquisition whose bits are added up
_FAR = np.iinfo(np.uint16).max

Places = NDArray[np.int64]
"""The class, cluster or bucket of each item, int64, shape (n,)."""


def buckets(codes: Codes, acquisitions: NDArray[np.uint64], classes: Places, floor: int) -> tuple[Places, Codes]:
    """Put items into buckets.

    Args:
        codes: Packed code of each item, uint8, shape (n, bits // 8).
        acquisitions: Its acquisition.
        classes: Its class of the codebook.
        floor: Distinct acquisitions that each bucket has at least; items of fewer altogether are in no bucket.

    Returns:
        The bucket of each item, -1 where it is in none, and the code in the middle of each bucket.
    """
    if len(np.unique(acquisitions)) < floor:
        return np.full(len(codes), -1, np.int64), codes[:0]
    whole = np.concatenate([classes[:, None].astype("<u4").view(np.uint8), codes], axis=1)
    _, distinct = np.unique(whole, axis=0, return_inverse=True)
    distinct = distinct.reshape(-1).astype(np.int64)
    members = _by_cluster(distinct)
    groups = np.array([classes[items[0]] for items in members])
    merged = np.arange(len(members))
    for group in np.unique(groups):
        merged = _joined(merged, np.flatnonzero(groups == group), members, codes, acquisitions, floor)
    alive = np.unique(merged)
    merged = _joined(merged, alive, _by_cluster(merged[distinct]), codes, acquisitions, floor)
    _, numbers = np.unique(merged[distinct], return_inverse=True)
    found = numbers.reshape(-1).astype(np.int64)
    return found, middles(codes, acquisitions, found)


def middles(codes: Codes, acquisitions: NDArray[np.uint64], places: Places) -> Codes:
    """Return the middle of each bucket, in which each acquisition of the bucket has one vote for each bit.

    Args:
        codes: Packed code of each item.
        acquisitions: Its acquisition.
        places: Its bucket, from 0 on without gaps.
    """
    order = np.lexsort((acquisitions, places))
    starts = _starts(places[order], acquisitions[order])
    of_bucket = places[order][starts]
    votes = np.zeros((int(places.max(initial=-1)) + 1, codes.shape[1] * 8))
    ends = np.append(starts[1:], len(order))
    for first in range(0, len(starts), _AT_ONCE):
        part = slice(first, first + _AT_ONCE)
        items = order[starts[part][0] : ends[part][-1]]
        bits = np.add.reduceat(unpack(codes[items]).astype(np.float64), starts[part] - starts[part][0], axis=0)
        np.add.at(votes, of_bucket[part], bits / (ends[part] - starts[part])[:, None])
    voters = np.bincount(of_bucket, minlength=len(votes))
    return pack(votes > voters[:, None] / 2)


def _joined(  # noqa: PLR0913, PLR0917 - what clusters are made of
    merged: Places,
    clusters: Places,
    members: list[Places],
    codes: Codes,
    acquisitions: NDArray[np.uint64],
    floor: int,
) -> Places:
    """Return the cluster that each one has joined, after some of them have joined each other.

    Args:
        merged: The cluster that each one has joined so far, shape (clusters,).
        clusters: The clusters that may join each other.
        members: Items of each, as positions.
        codes: Packed code of each item.
        acquisitions: Its acquisition.
        floor: Distinct acquisitions that none needs to join another with.
    """
    inside = [members[cluster] for cluster in clusters]
    behind = [set(acquisitions[items].tolist()) for items in inside]
    sums = np.array([unpack(codes[items]).sum(axis=0) for items in inside], np.float64)
    sizes = np.array([len(items) for items in inside], np.float64)
    centres = pack(sums > sizes[:, None] / 2)
    target = np.arange(len(clusters))
    gone = np.zeros(len(clusters), np.bool_)
    waiting = [(len(each), number) for number, each in enumerate(behind) if len(each) < floor]
    heapq.heapify(waiting)
    left = len(clusters)
    while waiting and left > 1:
        size, small = heapq.heappop(waiting)
        if gone[small] or size != len(behind[small]):
            continue
        distances = hamming(centres[small : small + 1], centres)[0]
        distances[gone] = _FAR
        distances[small] = _FAR
        near = int(distances.argmin())
        gone[small], target[small] = True, near
        left -= 1
        behind[near] |= behind[small]
        sums[near] += sums[small]
        sizes[near] += sizes[small]
        centres[near] = pack((sums[near] > sizes[near] / 2)[None])[0]
        if len(behind[near]) < floor:
            heapq.heappush(waiting, (len(behind[near]), near))
    while (target[target] != target).any():
        target = target[target]
    into = np.arange(len(merged))
    into[clusters] = clusters[target]
    return into[merged]


def _by_cluster(clusters: Places) -> list[Places]:
    """Return the items of each cluster, from 0 on; some may have none."""
    order = np.argsort(clusters, kind="stable")
    return np.split(order, np.cumsum(np.bincount(clusters))[:-1])


def _starts(first: NDArray[np.int64], second: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return where each pair of two sorted columns begins."""
    new = np.ones(len(first), np.bool_)
    new[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    return np.flatnonzero(new)
