"""Random-hyperplane hashing, the baseline without training.

Charikar, "Similarity estimation techniques from rounding algorithms", STOC 2002: a bit says on which side of a random
hyperplane through the origin a feature vector lies. Raw features share a large positive mean, so that most hyperplanes
would leave all of them on one side; standardising them on the archive makes the baseline as strong as it honestly gets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from rsfed.codes import Codes, check_bits, pack
from rsfed.hashing.baselines.finite import check_finite


@dataclass(frozen=True, slots=True)
class RandomHyperplanes:
    """A fitted baseline.

    Attributes:
        centre: Mean of the archive's features, float64, shape (features,).
        deviation: Their standard deviation, 1 where a feature is constant, shape (features,).
        normals: Normals of the hyperplanes, float64, shape (features, bits).
    """

    centre: NDArray[np.float64]
    deviation: NDArray[np.float64]
    normals: NDArray[np.float64]

    @classmethod
    def fit(cls, features: NDArray[np.float32], bits: int, seed: int) -> Self:
        """Draw hyperplanes for these features.

        Args:
            features: Features of the archive, float32, shape (n, features), n >= 1.
            bits: Width of the codes.
            seed: Seed of the hyperplanes.

        Raises:
            CodeError: bits is not a width that codes may have.
            TrainingError: there are no features, or one is not finite, which would give all images one code.
        """
        check_bits(bits)
        check_finite(features)
        deviation = features.std(axis=0, dtype=np.float64)
        normals = np.random.default_rng(seed).standard_normal((features.shape[1], bits))
        return cls(features.mean(axis=0, dtype=np.float64), np.where(deviation > 0, deviation, 1.0), normals)

    def encode(self, features: NDArray[np.float32]) -> Codes:
        """Return the packed codes of features of shape (n, features)."""
        return pack((features - self.centre) / self.deviation @ self.normals > 0)
