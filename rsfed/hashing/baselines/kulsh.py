"""KULSH: random hyperplanes in the space of a kernel, learnt without labels.

Kulis and Grauman, "Kernelized locality-sensitive hashing", ICCV 2009, as Demir and Bruzzone use it for remote-sensing
images ("Hashing-based scalable remote sensing image search and retrieval in large archives", TGRS 2016), with an RBF
kernel. The sum of t random anchors, whitened by the inverse square root of the anchors' kernel, is nearly a normal
direction by the central limit theorem. In the literature it may lose to plain hyperplanes; it is not mended here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh

from rsfed.codes import Codes, check_bits
from rsfed.hashing.baselines.kernel import AnchorKernel, draw_anchors

SUMMED = 30  # most anchors that are summed to a direction


@dataclass(frozen=True, slots=True)
class KULSH:
    """A fitted baseline.

    Attributes:
        kernel: Kernel against the anchors, centred on them.
        weights: Weights of the anchors for every bit, float64, shape (anchors, bits).
    """

    kernel: AnchorKernel
    weights: NDArray[np.float64]

    @classmethod
    def fit(cls, features: NDArray[np.float32], bits: int, seed: int) -> Self:
        """Draw directions among these features.

        Args:
            features: Features of the archive, float32, shape (n, features), n >= 1.
            bits: Width of the codes.
            seed: Seed of anchors and directions.

        Raises:
            CodeError: bits is not a width that codes may have.
            TrainingError: a feature is not finite, or all images have the same features.
        """
        check_bits(bits)
        rng = np.random.default_rng(seed)
        anchors = draw_anchors(features, rng)
        kernel = AnchorKernel.fit(anchors, anchors)
        by_columns = kernel.rows(anchors)
        whitening = inverse_root(by_columns - by_columns.mean(axis=1, keepdims=True))
        summed = max(1, min(len(anchors) // 4, SUMMED))
        chosen = np.zeros((len(anchors), bits))
        for bit in range(bits):
            chosen[rng.choice(len(anchors), summed, replace=False), bit] = 1
        return cls(kernel, whitening @ chosen)

    def encode(self, features: NDArray[np.float32]) -> Codes:
        """Return the packed codes of features of shape (n, features).

        A query's kernel row is centred by the column means alone: the rest of the centring is one number for the whole
        row, and the weights of a bit sum to 0, since the whitening takes every constant to 0.
        """
        return self.kernel.encode(features, self.weights)


def inverse_root(kernel: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return K^-1/2 of a symmetric matrix; directions without positive eigenvalue are left out.

    The centred kernel has an eigenvalue 0 that rounding may turn into 1e-17: what is below the rounding error of the
    largest one counts as 0.
    """
    values, vectors = eigh(kernel)
    kept = values > len(values) * np.finfo(np.float64).eps * max(values[-1], 0.0)
    vectors = vectors[:, kept]
    root: NDArray[np.float64] = vectors / np.sqrt(values[kept]) @ vectors.T
    return root
