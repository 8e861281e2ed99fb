"""The closed form: the last layer of a hash network by one ridge regression, the same however data are spread.

What the layer takes of each patch is regressed on the hash centres of its classes. The regression needs of the data
only two sums over patches, so nodes send these, once, and what follows from their total is what all patches in one
place give, up to the rounding of float32, and to classes that a node has too little of (`node.training.bounds`).

- Several labels: the target of a bit is the mean of the centres' signs, so a bit on which they are evenly divided is
  pulled to the threshold, unlike with `centres`.
- The same sums have the directions in which patches differ most. Bits that centres leave free are hyperplanes through
  the mean patch, in random directions among these: patches that are near stay near, and what tells new classes apart
  is kept. (Gong and Lazebnik, "Iterative quantization", CVPR 2011, start from the same rotation.)
- The sums of fewer patches than the layer takes values of span a space that these patches lie in: they disclose
  features of small nodes. So a node below a least number of patches gives none. That is no proof of secrecy; summing
  them under encryption would be.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse.linalg import LinearOperator, eigsh

from rsfed.errors import TrainingError

LEAST_PATCHES = 20  # labelled patches that a node's sums come from
ROUNDING = 1e-7  # of its trace, that a matrix in float32 may have below zero as an eigenvalue

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Sums:
    """What a node gives: sums over its labelled patches.

    Attributes:
        gram: Of products of what the layer takes of a patch, the last of it a 1, floating, shape (width, width).
        targets: Of products of this and the bits of its centre, floating, shape (width, bits).
        patches: Number of patches.
    """

    gram: NDArray[np.floating]
    targets: NDArray[np.floating]
    patches: int

    @classmethod
    def of(cls, rows: Matrix, labels: NDArray[np.bool_], centres: NDArray[np.bool_]) -> Self:
        """Sum over labelled patches.

        Args:
            rows: What the layer takes of each, float64, shape (n, width).
            labels: bool, shape (n, classes); each has a class.
            centres: bool, shape (classes, bits).
        """
        chosen = labels.astype(np.float64)
        wanted = chosen @ np.where(centres, 1.0, -1.0) / chosen.sum(axis=1, keepdims=True)
        return cls(rows.T @ rows, rows.T @ wanted, len(rows))

    def times(self, share: float) -> Self:
        """Return the sums with another weight."""
        return replace(self, gram=share * self.gram, targets=share * self.targets)

    def at_most(self, patches: float) -> Self:
        """Return the sums, as light as those of so many patches where they are of more."""
        return self if self.patches <= patches else self.times(patches / self.patches)

    def over(self, values: NDArray[np.int64]) -> Self:
        """Return the sums for a layer that takes only these of the values, rising, and the 1 at their end."""
        kept = np.append(values, len(self.gram) - 1)
        return replace(self, gram=self.gram[np.ix_(kept, kept)], targets=self.targets[kept])


def total(parts: Iterable[Sums]) -> Sums:
    """Return the sums of several parts together, float64; parts that are made one by one are held one by one.

    Raises:
        TrainingError: TOO_FEW_PATCHES, there is no part.
    """
    summed: Sums | None = None
    for part in parts:
        if summed is None:
            summed = replace(part, gram=part.gram.astype(np.float64), targets=part.targets.astype(np.float64))
            continue
        np.add(summed.gram, part.gram, out=summed.gram)
        np.add(summed.targets, part.targets, out=summed.targets)
        summed = replace(summed, patches=summed.patches + part.patches)
    if summed is None:
        raise TrainingError("no node has enough labelled patches for the closed form", reason="TOO_FEW_PATCHES")
    return summed


def solve(sums: Sums, ridge: float) -> Matrix:
    """Return the weights of the ridge regression, shape (width, bits); the ridge and what float32 lacks are added."""
    regular = sums.gram.astype(np.float64)
    regular[np.diag_indices_from(regular)] += ridge + ROUNDING * np.trace(regular)
    # Its transpose is the same and lies as LAPACK wants it: it is large, and needs no copy.
    factor = cho_factor(regular.T, lower=True, overwrite_a=True, check_finite=False)
    weights: Matrix = cho_solve(factor, sums.targets)
    return weights


def hyperplanes(sums: Sums, count: int, seed: int) -> Matrix:
    """Return hyperplanes through the mean patch, their normals random among the directions of the largest variance.

    Args:
        sums: Sums over patches.
        count: Number of hyperplanes, fewer than the width.
        seed: Turns the directions.

    Returns:
        float64, shape (width, count), the last row their offsets.
    """
    mean = sums.gram[-1, :-1] / sums.gram[-1, -1]

    def spread(direction: Matrix) -> Matrix:
        gone: Matrix = sums.gram[:-1, :-1] @ direction / sums.gram[-1, -1] - mean * (mean @ direction)
        return gone

    # Some of many: Lanczos takes a fortieth of the time of a whole decomposition, and the covariance is never made.
    covariance = LinearOperator((len(mean), len(mean)), spread, dtype=np.float64)
    _, directions = eigsh(covariance, count, v0=np.ones(len(mean)), rng=np.random.default_rng(seed))
    turned, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((count, count)))
    normals = directions @ turned
    return np.vstack([normals, -mean @ normals])
