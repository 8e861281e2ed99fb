"""Curves of a ranking over its whole length, expected over the order of ties."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from rsfed.hashing.evaluation import Histograms


def precision_at_recall(counts: Histograms, levels: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean precision where each share of the relevant items is found.

    Within a tie the relevant items are taken to lie evenly, which is their expected place. Queries without a relevant
    item count nowhere.

    Args:
        counts: Items at each distance from each query.
        levels: Recall, each above 0 and at most 1, shape (levels,).

    Returns:
        float64, shape (levels,); zeros when no query has a relevant item.
    """
    curves = [
        _curve(items, relevant, levels)
        for items, relevant in zip(counts.items, counts.relevant, strict=True)
        if relevant.sum()
    ]
    return np.mean(curves, axis=0) if curves else np.zeros(len(levels))


def _curve(items: NDArray[np.int64], relevant: NDArray[np.int64], levels: NDArray[np.float64]) -> NDArray[np.float64]:
    found, taken = np.cumsum(relevant), np.cumsum(items)
    wanted = levels * found[-1]
    tie = np.searchsorted(found, wanted - 1e-9)
    share = (wanted - (found[tie] - relevant[tie])) / relevant[tie]
    precision: NDArray[np.float64] = wanted / (taken[tie] - (1 - share) * items[tie])
    return precision


def distance_shares(counts: Histograms) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return which share of all relevant and of all other pairs lies at each distance, each shape (distances,)."""
    relevant = counts.relevant.sum(axis=0)
    other = counts.items.sum(axis=0) - relevant
    return relevant / max(1, relevant.sum()), other / max(1, other.sum())
