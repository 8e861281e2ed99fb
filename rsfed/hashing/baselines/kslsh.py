"""KSLSH: hyperplanes in the space of a kernel, learnt bit by bit from pairs of labelled images.

Liu et al., "Supervised hashing with kernels", CVPR 2012, as Demir and Bruzzone adapt it to remote-sensing images
("Hashing-based scalable remote sensing image search and retrieval in large archives", TGRS 2016). Codes in -1 and +1
shall have the inner product `bits` for a similar pair and `-bits` for any other. Each bit starts from the best
direction of the relaxed problem, is refined on a smooth sign function, and is taken off what remains to be explained.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.special import expit

from rsfed.codes import Codes, check_bits
from rsfed.errors import TrainingError
from rsfed.hashing.baselines.kernel import AnchorKernel, draw_anchors

LABELLED = 2_000  # most labelled samples whose pairs are learnt from
ITERATIONS = 500
_SETTLED = 1e-2  # change of the cost for each sample, below which a refinement ends
_DOUBLINGS = 50  # of the step's inverse, before a refinement ends because no step lowers the cost

Matrix = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class KSLSH:
    """A fitted baseline.

    Attributes:
        kernel: Kernel against the anchors, centred on the labelled samples; this centring stands for a bias.
        weights: Weights of the anchors for every bit, float64, shape (anchors, bits).
    """

    kernel: AnchorKernel
    weights: Matrix

    @classmethod
    def fit(cls, features: NDArray[np.float32], labels: NDArray[np.bool_], bits: int, seed: int) -> Self:
        """Learn from the labelled features; two are similar when they share a class.

        Args:
            features: Features of the archive, float32, shape (n, features).
            labels: bool, shape (n, classes); a row without a class is unlabelled and takes no part.
            bits: Width of the codes.
            seed: Seed of the anchors and, in a large archive, of the labelled samples.

        Raises:
            CodeError: bits is not a width that codes may have.
            TrainingError: every two labelled samples share a class, or none do; a feature is not finite, or all
                samples have the same features.
        """
        check_bits(bits)
        rng = np.random.default_rng(seed)
        known = labels.any(axis=1)
        features, labels = features[known], labels[known]
        drawn = np.sort(rng.choice(len(features), min(LABELLED, len(features)), replace=False))
        pairs = Pairs.of(labels[drawn], bits)
        kernel = AnchorKernel.fit(draw_anchors(features, rng), features)
        return cls(kernel, learn_weights(kernel.rows(features[drawn]), pairs, bits))

    def encode(self, features: NDArray[np.float32]) -> Codes:
        """Return the packed codes of features of shape (n, features)."""
        return self.kernel.encode(features, self.weights)


@dataclass(frozen=True, slots=True)
class Pairs:
    """The matrix S: what the inner products of the codes shall still gain, in parts that are fast to multiply with.

    Attributes:
        members: Which set of classes a sample has, 1 or 0, shape (samples, sets).
        wanted: Wanted inner product of samples of two sets, shape (sets, sets).
        signs: Signs that earlier bits gave, whose products are taken off, shape (samples, earlier bits).
    """

    members: Matrix
    wanted: Matrix
    signs: Matrix

    @classmethod
    def of(cls, labels: NDArray[np.bool_], bits: int) -> Self:
        """Want `bits` for every pair of samples that shares a class and -`bits` for every other.

        Args:
            labels: bool, shape (samples, classes), no row without a class.
            bits: Width of the codes.

        Raises:
            TrainingError: the pairs are all similar or all dissimilar.
        """
        sets, member = np.unique(labels, axis=0, return_inverse=True)
        shared = sets.astype(np.float32) @ sets.T.astype(np.float32) > 0
        if len(sets) == len(labels) and np.count_nonzero(shared) == len(sets):
            raise TrainingError("no two labelled images share a class; KSLSH needs a class with at least two images")
        if shared.all():
            raise TrainingError("every two labelled images share a class; KSLSH needs images of at least two classes")
        wanted = np.where(shared, float(bits), -float(bits))
        return cls(np.eye(len(sets))[member.ravel()], wanted, np.empty((len(labels), 0)))

    def times(self, columns: Matrix) -> Matrix:
        """Return S times a vector or matrix of shape (samples, ...)."""
        product: Matrix = self.members @ (self.wanted @ (self.members.T @ columns))
        return product - self.signs @ (self.signs.T @ columns)

    def less(self, signs: Matrix) -> Pairs:
        """Return S - yy' for the signs y of one more bit, shape (samples,)."""
        return Pairs(self.members, self.wanted, np.column_stack([self.signs, signs]))


def learn_weights(rows: Matrix, pairs: Pairs, bits: int) -> Matrix:
    """Learn one direction after the other.

    Args:
        rows: Centred kernel of the samples, shape (samples, anchors).
        pairs: Wanted inner products of the codes.
        bits: Number of directions.

    Returns:
        Weights of the anchors, shape (anchors, bits).
    """
    basis = _range_of(rows)  # K'K is singular where anchors are many or alike; outside its range nothing changes a bit
    rows = rows @ basis
    weights = np.zeros((basis.shape[1], bits))
    for bit in range(bits):
        weights[:, bit], signs = _next_direction(rows, pairs)
        pairs = pairs.less(signs)
    return basis @ weights


def relaxed_direction(rows: Matrix, pairs: Pairs) -> Matrix:
    """Return the a that makes a'K'SKa largest where a'K'Ka is the number of samples."""
    _, vectors = eigh(rows.T @ pairs.times(rows), rows.T @ rows, subset_by_index=(rows.shape[1] - 1, rows.shape[1] - 1))
    direction: Matrix = vectors[:, 0]
    return direction * math.sqrt(len(rows) / np.square(rows @ direction).sum())


def refine(rows: Matrix, pairs: Pairs, direction: Matrix) -> Matrix:
    """Lower the smooth cost by Nesterov's accelerated gradient, the step found by doubling its inverse.

    Ends after `ITERATIONS`, or when the cost for each sample changes by at most 0.01.
    """

    def lifted(vector: Matrix) -> Matrix:
        """A direction followed by its projections: steps are linear, so they need no product of their own."""
        return np.concatenate([vector, rows @ vector])

    width = len(direction)
    here = before = lifted(direction)
    cost, _ = smooth_cost(here[width:], pairs)
    momentum, previous_momentum, inverse_step = 1.0, 0.0, 1.0
    for _ in range(ITERATIONS):
        ahead = here + (previous_momentum - 1) / momentum * (here - before)
        value, slope = smooth_cost(ahead[width:], pairs)
        gradient = rows.T @ slope
        steepest = lifted(gradient)
        for _ in range(_DOUBLINGS + 1):
            there = ahead - steepest / inverse_step
            reached, _ = smooth_cost(there[width:], pairs)
            if reached <= value - gradient @ gradient / (2 * inverse_step):
                break
            inverse_step *= 2
        else:
            break
        here, before = there, here
        change, cost = abs(reached - cost), reached
        if change / len(rows) <= _SETTLED:
            break
        previous_momentum, momentum = momentum, (1 + math.sqrt(1 + 4 * momentum**2)) / 2
    return here[:width]


def smooth_cost(projections: Matrix, pairs: Pairs) -> tuple[float, Matrix]:
    """Return -p(x)'S p(x), with p(x) = 2 / (1 + e^-x) - 1 in place of the sign, and its slope at x = Ka."""
    smooth = 2 * expit(projections) - 1
    pulled = pairs.times(smooth)
    return float(-smooth @ pulled), -pulled * (1 - smooth**2)


def _next_direction(rows: Matrix, pairs: Pairs) -> tuple[Matrix, Matrix]:
    """Return the direction of the next bit and the signs that it gives the samples."""
    relaxed = relaxed_direction(rows, pairs)
    refined = refine(rows, pairs, relaxed)
    signs, refined_signs = (np.where(rows @ direction > 0, 1.0, -1.0) for direction in (relaxed, refined))
    if refined_signs @ pairs.times(refined_signs) > signs @ pairs.times(signs):
        return refined, refined_signs
    return relaxed, signs


def _range_of(rows: Matrix) -> Matrix:
    """Return orthonormal columns that span what K'K does not take to 0, shape (anchors, rank)."""
    values, vectors = eigh(rows.T @ rows)
    basis: Matrix = vectors[:, values > len(values) * np.finfo(np.float64).eps * max(values[-1], 0.0)]
    return basis
