"""Precision and recall of the labels of what is retrieved: the figures of multi-label retrieval on BigEarthNet.

Here nothing is relevant or not: an item is as good as its labels are those of the query (Sumbul and Demir, and the code
of CSMAE and DA4DTE by the same group). As everywhere, equal distances count with their expected value.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rsfed.hashing.evaluation.counts import Labels, Own, Search, compared
from rsfed.hashing.evaluation.expected import Values, expected_found


@dataclass(frozen=True, slots=True)
class LabelOverlap:
    """Expected means over the first k items.

    Attributes:
        precision: Share of an item's labels that are labels of the query.
        recall: Share of the query's labels that are labels of an item.
    """

    precision: Values
    recall: Values


def label_overlap(
    search: Search, query_labels: Labels, gallery_labels: Labels, k: int, *, own: Own | None = None
) -> LabelOverlap:
    """Compare the labels of each query with those of the first k items.

    The denominator of a mean is k, also where the gallery holds fewer items; without a label a share is 0.

    Args:
        search: Search on codes or features.
        query_labels: Labels of the queries.
        gallery_labels: Labels of the gallery.
        k: Cut-off.
        own: Position of each query in the gallery.
    """
    sizes = np.maximum(gallery_labels.sum(axis=1), 1)
    precisions, recalls = [], []
    for rows, levels, shared, itself in compared(search, query_labels, gallery_labels, own):
        wanted = np.maximum(query_labels[rows].sum(axis=1, keepdims=True), 1)
        others = ~itself
        items, precise, recalled = (
            _by_level(levels, others * value, search.levels) for value in (1, shared / sizes, shared / wanted)
        )
        counts = items.astype(np.int64)
        precisions.append(expected_found(counts, precise, k) / k)
        recalls.append(expected_found(counts, recalled, k) / k)
    return LabelOverlap(np.concatenate(precisions), np.concatenate(recalls))


def _by_level(levels: NDArray[np.integer], values: NDArray[np.number], count: int) -> NDArray[np.float64]:
    """Sum values up by query and level: shape (queries, count) of levels and values of shape (queries, items)."""
    cells = np.arange(len(levels))[:, None] * count + levels
    total = np.bincount(cells.ravel(), values.ravel(), minlength=len(levels) * count).astype(np.float64)
    return total.reshape(len(levels), count)


def f_score(precision: float, recall: float, beta: float) -> float:
    """Return the weighted harmonic mean of precision and recall, recall counting `beta` times; 0 of two zeros."""
    below = beta**2 * precision + recall
    return (1 + beta**2) * precision * recall / below if below else 0.0
