"""The kernel of the kernel baselines: RBF values of features against anchors drawn from the archive.

With a bandwidth of the mean squared distance to the anchors, exp(-d^2 / (2 * bandwidth)), as Liu et al. choose it
("Supervised hashing with kernels", CVPR 2012), nothing is left to tune.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from rsfed.codes import Codes, pack
from rsfed.errors import TrainingError
from rsfed.hashing.baselines.finite import check_finite

ANCHORS = 300
_ROWS_AT_ONCE = 16_384  # bounds the kernel rows that are held while codes are made


@dataclass(frozen=True, slots=True)
class AnchorKernel:
    """A kernel against fixed anchors, centred on the features that it was fitted to.

    Attributes:
        anchors: Features of the anchors, float64, shape (anchors, features), the first taken off all.
        origin: The first anchor, shape (features,): it is taken off queries too, so that a large mean costs no digits.
        bandwidth: Mean squared distance of the features to the anchors.
        means: Mean of each column of the kernel over the features, shape (anchors,).
    """

    anchors: NDArray[np.float64]
    origin: NDArray[np.float64]
    bandwidth: float
    means: NDArray[np.float64]

    @classmethod
    def fit(cls, anchors: NDArray[np.floating], features: NDArray[np.floating]) -> Self:
        """Measure bandwidth and column means.

        Args:
            anchors: Shape (anchors, features).
            features: What bandwidth and means are taken over, shape (n, features), n >= 1.

        Raises:
            TrainingError: there are none, a feature is not finite, or all images have the same features.
        """
        check_finite(features)
        check_finite(anchors)
        origin = anchors[0].astype(np.float64)
        centred = anchors - origin
        squared = _squared_distances(features - origin, centred)
        bandwidth = float(squared.mean())
        if not bandwidth:
            raise TrainingError("all images have the same features, so that no kernel can tell them apart")
        return cls(centred, origin, bandwidth, np.exp(-squared / (2 * bandwidth)).mean(axis=0))

    def rows(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the centred kernel of features of shape (n, features) against the anchors, shape (n, anchors)."""
        squared = _squared_distances(features - self.origin, self.anchors)
        kernel: NDArray[np.float64] = np.exp(-squared / (2 * self.bandwidth)) - self.means
        return kernel

    def encode(self, features: NDArray[np.floating], weights: NDArray[np.float64]) -> Codes:
        """Return packed codes: bit r of a row is whether its kernel row times `weights[:, r]` is above 0.

        Args:
            features: Shape (n, features).
            weights: Shape (anchors, bits).
        """
        binary = np.empty((len(features), weights.shape[1]), np.bool_)
        for start in range(0, len(features), _ROWS_AT_ONCE):
            rows = slice(start, start + _ROWS_AT_ONCE)
            binary[rows] = self.rows(features[rows]) @ weights > 0
        return pack(binary)


def draw_anchors(features: NDArray[np.floating], rng: np.random.Generator) -> NDArray[np.floating]:
    """Draw `ANCHORS` different rows, all of them where there are fewer."""
    return features[rng.choice(len(features), min(ANCHORS, len(features)), replace=False)]


def _squared_distances(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared Euclidean distances, shape (len(a), len(b)), none below 0."""
    squares: NDArray[np.float64] = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1) - 2 * a @ b.T
    return np.maximum(squares, 0.0, out=squares)
