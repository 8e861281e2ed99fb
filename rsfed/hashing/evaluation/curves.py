"""Curves over the Hamming radius, pooled over all pairs of a query and an item."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rsfed.hashing.evaluation.counts import Histograms


@dataclass(frozen=True, slots=True)
class PairHistograms:
    """Pairs at each distance.

    Attributes:
        relevant: Relevant pairs, int64, shape (distances,).
        irrelevant: All other pairs, int64, shape (distances,).
    """

    relevant: NDArray[np.int64]
    irrelevant: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class RadiusCurve:
    """What a search within each radius finds, from radius 0.

    Attributes:
        precision: Share of the pairs within the radius that are relevant, float64, shape (distances,), NaN where no
            pair is so near.
        recall: Share of the relevant pairs that are within the radius, float64, same shape; 0 where there is none.
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]


def pair_histograms(counts: Histograms) -> PairHistograms:
    """Count the pairs of all queries by distance."""
    relevant = counts.relevant.sum(axis=0)
    return PairHistograms(relevant, counts.items.sum(axis=0) - relevant)


def radius_curve(pairs: PairHistograms) -> RadiusCurve:
    """Return precision and recall within each radius.

    Every pair weighs the same, so that a query that finds much weighs more than one that finds little, and a radius
    that is empty for some queries needs no convention.
    """
    found = np.cumsum(pairs.relevant)
    near = found + np.cumsum(pairs.irrelevant)
    precision = np.divide(found, near, out=np.full(near.shape, np.nan), where=near > 0)
    return RadiusCurve(precision, found / max(1, found[-1]))
