"""Do codes keep the order within a class? Overlap of their neighbours with those of the float features.

Codes that put a whole class into one bucket reach a perfect precision and can neither rank within the class nor hide
an item; this is the figure that shows it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rsfed.hashing.evaluation.counts import CosineSearch, Labels, Own, Search, compared
from rsfed.hashing.evaluation.expected import Values


@dataclass(frozen=True, slots=True)
class Overlap:
    """Within-class overlap of each query that has anything relevant in the gallery.

    Attributes:
        values: Expected overlap, float64, shape (queries with a relevant item,).
        chance: The same for codes that are all equal: min(k, relevant items) / relevant items. A class of few images
            overlaps much by chance alone.
    """

    values: Values
    chance: Values


def within_class_overlap(  # noqa: PLR0913 - two searches of two labelled sets
    search: Search,
    floats: CosineSearch,
    query_labels: Labels,
    gallery_labels: Labels,
    *,
    own: Own | None = None,
    k: int = 20,
) -> Overlap:
    """Compare a search with the float search inside the classes of each query.

    Let C be the items of the gallery that share a class with the query, the query itself left out; H the first k of C
    by the search, F the first k of C by the cosine of the features. The overlap is the expected size of the
    intersection of H and F divided by min(k, size of C), ties of both in independent random order.

    Args:
        search: Search on codes.
        floats: Search on the features of the same queries and gallery, over all ranks.
        query_labels: Classes of the queries.
        gallery_labels: Classes of the gallery.
        own: Position of each query in the gallery.
        k: Neighbours that are compared.

    Raises:
        ValueError: the float search does not tell all ranks apart.
    """
    if floats.depth < len(gallery_labels):
        raise ValueError("within-class neighbours may lie at any rank; make the float search without a depth")
    values, chances = [], []
    for rows, levels, shared, itself in compared(search, query_labels, gallery_labels, own):
        inside = (shared > 0) & ~itself
        for level, reference, members in zip(levels, floats.ranked(rows), inside, strict=True):
            size = int(np.count_nonzero(members))
            if size:
                both = _chance_of_first(level[members], k) @ _chance_of_first(reference[members], k)
                values.append(both / min(k, size))
                chances.append(min(k, size) / size)
    return Overlap(np.array(values, np.float64), np.array(chances, np.float64))


def _chance_of_first(levels: NDArray[np.integer], k: int) -> NDArray[np.float64]:
    """Probability of each item to be among the first k, equal levels in random order; shape (items,)."""
    items = np.bincount(levels)
    seen = np.clip(k - (np.cumsum(items) - items), 0, items)
    chance: NDArray[np.float64] = (seen / np.maximum(items, 1))[levels]
    return chance
