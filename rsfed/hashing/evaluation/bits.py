"""Statistics of codes that need no labels: do the bits carry something, and do items share buckets?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rsfed.codes import Codes, unpack

LARGEST = 10


@dataclass(frozen=True, slots=True)
class BitStatistics:
    """Statistics of the codes of an archive.

    Attributes:
        entropy: Entropy of each bit, float64, shape (bits,), in bits: 1 where half of the items have it, 0 where all
            or none have.
        correlation: Mean absolute correlation over the pairs of different bits that are not constant; None where
            fewer than two are not.
        constant: Number of bits that are the same in all items.
        distinct: Number of distinct codes.
        largest_share: Share of the items that lie in the ten largest buckets.
    """

    entropy: NDArray[np.float64]
    correlation: float | None
    constant: int
    distinct: int
    largest_share: float


def bit_statistics(codes: Codes) -> BitStatistics:
    """Measure packed codes, uint8, shape (n, bits // 8).

    Raises:
        ValueError: there is no code.
    """
    if not len(codes):
        raise ValueError("bit statistics need at least one code")
    binary = unpack(codes)
    share = binary.mean(axis=0)
    varies = (share > 0) & (share < 1)
    buckets = np.sort(np.unique(codes, axis=0, return_counts=True)[1])
    return BitStatistics(
        entropy=_entropy(share),
        correlation=_mean_correlation(binary[:, varies]),
        constant=int(np.count_nonzero(~varies)),
        distinct=len(buckets),
        largest_share=float(buckets[-LARGEST:].sum() / len(codes)),
    )


def _entropy(share: NDArray[np.float64]) -> NDArray[np.float64]:
    """Entropy in bits of events of these probabilities."""
    both = np.stack([share, 1 - share])
    entropy: NDArray[np.float64] = -(both * np.log2(both, out=np.zeros_like(both), where=both > 0)).sum(axis=0)
    return entropy + 0.0  # no -0


def _mean_correlation(binary: NDArray[np.bool_]) -> float | None:
    """Mean absolute correlation between different columns, none of them constant."""
    bits = binary.shape[1]
    if bits < 2:
        return None
    correlation = np.abs(np.corrcoef(binary.T.astype(np.float64)))
    return float((correlation.sum() - np.trace(correlation)) / (bits * (bits - 1)))
