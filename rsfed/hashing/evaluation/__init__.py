"""Retrieval figures of Hamming rankings, exact over the order of ties.

Deep-hash codes tie heavily, and a ranking says nothing about the order of equal distances. So every figure is the
expectation over a uniformly random order of the items at each distance, computed exactly and not by drawing orders
(after McSherry and Najork, "Computing information retrieval performance measures efficiently in the presence of tied
scores", ECIR 2008).

Two items are relevant to each other when they share at least one class. Average precision is the form of MiLaN
(Roy et al., IGARSS 2018): the mean of the precisions at the relevant ranks *found* among the first k, 0 when none is;
items that were not found do not lower it, so it is to be read beside the chance level.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rsfed.codes import Codes, hamming

_QUERIES_AT_ONCE = 256  # bounds the distance matrix that is held


@dataclass(frozen=True, slots=True)
class Histograms:
    """For each query, how many items lie at each distance.

    Attributes:
        items: int64, shape (queries, distances): items at each distance, nearest first.
        relevant: int64, same shape: those of them that are relevant to the query.
    """

    items: NDArray[np.int64]
    relevant: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class RetrievalFigures:
    """Figures of one set of queries against one gallery, each from 0 to 1.

    Attributes:
        precision: Mean over the queries of the expected precision at `precision_k`.
        mean_average_precision: Mean over the queries of the expected average precision at `map_k`.
        chance_precision: The same precision for a gallery in random order.
        chance_map: The same mean average precision for a gallery in random order.
        queries: Number of queries.
        gallery: Number of items that were searched.
        precision_k: Cut-off of the precision.
        map_k: Cut-off of the mean average precision.
    """

    precision: float
    mean_average_precision: float
    chance_precision: float
    chance_map: float
    queries: int
    gallery: int
    precision_k: int
    map_k: int


def evaluate(  # noqa: PLR0913 - two labelled sets and how to compare them
    query_codes: Codes,
    query_labels: NDArray[np.bool_],
    gallery_codes: Codes,
    gallery_labels: NDArray[np.bool_],
    *,
    own: NDArray[np.int64] | None = None,
    precision_k: int = 10,
    map_k: int = 20,
) -> RetrievalFigures:
    """Search the gallery with every query and return the figures.

    Args:
        query_codes: Packed codes, uint8, shape (queries, bits // 8).
        query_labels: bool, shape (queries, classes).
        gallery_codes: Packed codes, uint8, shape (gallery, bits // 8).
        gallery_labels: bool, shape (gallery, classes).
        own: Position of each query in the gallery, int64, shape (queries,), -1 where it is not in it; a query never
            finds itself. None when no query is in the gallery.
        precision_k: Cut-off of the precision.
        map_k: Cut-off of the mean average precision.

    Raises:
        ValueError: there is no query, or the gallery is empty.
        CodeError: the codes differ in width.
    """
    if not len(query_codes) or not len(gallery_codes):
        raise ValueError("an evaluation needs at least one query and one item to find")
    counts = distance_histograms(query_codes, query_labels, gallery_codes, gallery_labels, own=own)
    unordered = Histograms(counts.items.sum(axis=1, keepdims=True), counts.relevant.sum(axis=1, keepdims=True))
    return RetrievalFigures(
        precision=float(expected_precision(counts, precision_k).mean()),
        mean_average_precision=float(expected_average_precision(counts, map_k).mean()),
        chance_precision=float(expected_precision(unordered, precision_k).mean()),
        chance_map=float(expected_average_precision(unordered, map_k).mean()),
        queries=len(query_codes),
        gallery=len(gallery_codes),
        precision_k=precision_k,
        map_k=map_k,
    )


def distance_histograms(
    query_codes: Codes,
    query_labels: NDArray[np.bool_],
    gallery_codes: Codes,
    gallery_labels: NDArray[np.bool_],
    *,
    own: NDArray[np.int64] | None = None,
) -> Histograms:
    """Count the gallery's items, and the relevant ones, at every distance from each query; arguments as `evaluate`."""
    distances = gallery_codes.shape[1] * 8 + 1
    items = np.zeros((len(query_codes), distances), dtype=np.int64)
    relevant = np.zeros_like(items)
    wide_gallery = gallery_labels.astype(np.float32)
    for start in range(0, len(query_codes), _QUERIES_AT_ONCE):
        rows = slice(start, start + _QUERIES_AT_ONCE)
        distance = hamming(query_codes[rows], gallery_codes)
        shares = query_labels[rows].astype(np.float32) @ wide_gallery.T > 0
        for row, (from_query, matches) in enumerate(zip(distance, shares, strict=True), start):
            items[row] = np.bincount(from_query, minlength=distances)
            relevant[row] = np.bincount(from_query[matches], minlength=distances)
            if own is not None and own[row] >= 0:
                place = from_query[own[row]]
                items[row, place] -= 1
                relevant[row, place] -= matches[own[row]]
    return Histograms(items, relevant)


def expected_precision(counts: Histograms, k: int) -> NDArray[np.float64]:
    """Return the expected share of relevant items among the first k, float64, shape (queries,).

    The denominator is k, also where the gallery holds fewer items.
    """
    before = np.cumsum(counts.items, axis=1) - counts.items
    taken = np.clip(k - before, 0, counts.items)
    share = np.divide(taken, counts.items, out=np.zeros(taken.shape), where=counts.items > 0)
    found: NDArray[np.float64] = (share * counts.relevant).sum(axis=1) / k
    return found


def expected_average_precision(counts: Histograms, k: int) -> NDArray[np.float64]:
    """Return the expected average precision over the relevant items found among the first k, shape (queries,)."""
    rows = zip(counts.items.tolist(), counts.relevant.tolist(), strict=True)
    return np.array([_expected_ap(items, relevant, k) for items, relevant in rows])


def average_precision(relevant: NDArray[np.bool_], k: int) -> float:
    """Return the average precision of one concrete ranking.

    Args:
        relevant: bool, shape (ranks,): whether the item at each rank is relevant, best rank first.
        k: Cut-off.
    """
    ranks = np.flatnonzero(relevant[:k]) + 1
    return float(np.mean(np.arange(1, len(ranks) + 1) / ranks)) if len(ranks) else 0.0


def precision(relevant: NDArray[np.bool_], k: int) -> float:
    """Return the share of relevant items among the first k ranks of one concrete ranking; the denominator is k."""
    return float(np.count_nonzero(relevant[:k])) / k


def _expected_ap(items: list[int], relevant: list[int], k: int) -> float:
    """Expected average precision of one query.

    All ties that fit into the first k ranks contribute a known number of relevant items in random order. Of the tie
    that straddles rank k only the first `room` items are seen: the number of relevant ones among them follows the
    hypergeometric distribution, and given that number their order is again uniformly random.
    """
    ranked = found = 0
    precisions = 0.0
    for size, matches in zip(items, relevant, strict=True):
        room = k - ranked
        if size > room:
            return sum(
                chance * (precisions + _tie_precisions(ranked, found, room, drawn)) / (found + drawn)
                for drawn, chance in _draws(size, matches, room)
                if found + drawn
            )
        precisions += _tie_precisions(ranked, found, size, matches)
        ranked += size
        found += matches
    return precisions / found if found else 0.0


def _tie_precisions(ranked: int, found: int, size: int, matches: int) -> float:
    """Expected sum of the precisions at the relevant ranks of one tie.

    Given that the j-th of `size` items in random order is relevant, each of the j - 1 before it is relevant with
    probability (matches - 1) / (size - 1).
    """
    if not matches:
        return 0.0
    others = (matches - 1) / (size - 1) if size > 1 else 0.0
    return matches / size * sum((found + 1 + j * others) / (ranked + 1 + j) for j in range(size))


def _draws(size: int, matches: int, room: int) -> list[tuple[int, float]]:
    """Hypergeometric probabilities of drawing each number of relevant items when `room` of `size` are drawn."""
    total = math.comb(size, room)
    least, most = max(0, room - (size - matches)), min(room, matches)
    return [(x, math.comb(matches, x) * math.comb(size - matches, room - x) / total) for x in range(least, most + 1)]
