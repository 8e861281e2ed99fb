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

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rsfed.codes import Codes
from rsfed.hashing.evaluation.counts import Histograms, distance_histograms
from rsfed.hashing.evaluation.expected import expected_average_precision, expected_precision

__all__ = ["RetrievalFigures", "average_precision", "evaluate", "precision"]


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
