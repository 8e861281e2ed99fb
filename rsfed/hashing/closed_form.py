"""The closed form: codes from the features of a frozen trunk by one ridge regression, the same however data are spread.

Random Fourier features (Rahimi and Recht, "Random features for large-scale kernel machines", NIPS 2007) of a patch's
features, standardised as the trained head does it, are regressed on the hash centres of its classes. The regression
needs of the data only two sums over patches, so nodes send these, once, and what follows from their total is what all
patches in one place give, up to the rounding of float64: no skew between nodes changes a bit of it.

- The projections follow from the seed, so every node draws the same. Their bandwidth needs no data: its square is the
  squared norm of a standardised patch, which is the number of features, so patches without correlation have a kernel
  of 1/e.
- Centres take all bits; none is left free, as `centres` does. Where a prediction falls between centres ranks patches
  within a class.
- Several labels: the target of a bit is the mean of the centres' signs, so a bit on which they are evenly divided is
  pulled to the threshold, unlike with `centres`.
- The sums of fewer patches than there are projections span a space that these patches' features lie in: they disclose
  features of small nodes. So a node below a least number of patches gives none. That is no proof of secrecy; summing
  them under encryption would be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve

from rsfed.codes import Codes, check_bits, pack
from rsfed.errors import TrainingError
from rsfed.hashing.centres import hash_centres

PROJECTIONS = 4096
LEAST_PATCHES = 20  # labelled patches that a node's sums come from
RIDGE = 0.1  # a patch's projections have the norm 1
_EPSILON = 1e-5  # added to the variance of a patch, as LayerNorm does

Matrix = NDArray[np.float64]
Features = NDArray[np.float32]
Node = tuple[Features, NDArray[np.bool_]]
"""Features of a node's patches, shape (n, features), and their labels, shape (n, classes)."""


@dataclass(frozen=True, slots=True)
class Projections:
    """Random Fourier features.

    Attributes:
        directions: float64, shape (features, projections).
        phases: float64, shape (projections,).
    """

    directions: Matrix
    phases: Matrix

    @classmethod
    def draw(cls, width: int, seed: int, count: int = PROJECTIONS) -> Self:
        """Draw the projections of patches with `width` features; every node that draws by the same seed has the same.

        Args:
            width: Features of a patch.
            seed: Seed of the run.
            count: Number of projections.
        """
        rng = np.random.default_rng(seed)
        directions = rng.standard_normal((width, count)) / np.sqrt(width)
        return cls(directions, rng.uniform(0, 2 * np.pi, count))

    def rows(self, features: Features) -> Matrix:
        """Return the projections of patches, shape (n, projections), from features of shape (n, features)."""
        wide = features.astype(np.float64)
        deviation = np.sqrt(wide.var(axis=1, keepdims=True) + _EPSILON)
        standardised = (wide - wide.mean(axis=1, keepdims=True)) / deviation
        rows: Matrix = np.cos(standardised @ self.directions + self.phases) * np.sqrt(2 / len(self.phases))
        return rows


@dataclass(frozen=True, slots=True)
class Sums:
    """What a node gives: sums over its labelled patches.

    Attributes:
        gram: Of products of a patch's projections, float64, shape (projections, projections).
        targets: Of products of its projections and the bits of its centre, float64, shape (projections, bits).
        patches: Number of patches.
    """

    gram: Matrix
    targets: Matrix
    patches: int

    @classmethod
    def of(cls, rows: Matrix, labels: NDArray[np.bool_], centres: NDArray[np.bool_]) -> Self:
        """Sum over the labelled patches of a node.

        Args:
            rows: Projections of its patches, shape (n, projections).
            labels: bool, shape (n, classes).
            centres: bool, shape (classes, bits).

        Raises:
            TrainingError: TOO_FEW_PATCHES.
        """
        known = labels.any(axis=1)
        rows, chosen = rows[known], labels[known].astype(np.float64)
        if len(rows) < LEAST_PATCHES:
            raise TrainingError(
                f"{len(rows)} labelled patches are too few for sums that do not disclose them; ingest or map at least "
                f"{LEAST_PATCHES}",
                reason="TOO_FEW_PATCHES",
            )
        wanted = chosen @ np.where(centres, 1.0, -1.0) / chosen.sum(axis=1, keepdims=True)
        return cls(rows.T @ rows, rows.T @ wanted, len(rows))

    def times(self, share: float) -> Self:
        """Return the sums with another weight."""
        return replace(self, gram=share * self.gram, targets=share * self.targets)


def total(parts: Sequence[Sums]) -> Sums:
    """Return the sums of several nodes together.

    Raises:
        TrainingError: TOO_FEW_PATCHES, no node gave sums.
    """
    if not parts:
        raise TrainingError("no node has enough labelled patches for the closed form", reason="TOO_FEW_PATCHES")
    return Sums(
        np.sum([each.gram for each in parts], axis=0),
        np.sum([each.targets for each in parts], axis=0),
        sum(each.patches for each in parts),
    )


def solve(sums: Sums, ridge: float = RIDGE) -> Matrix:
    """Return the weights of the ridge regression, shape (projections, bits)."""
    regular = sums.gram + ridge * np.eye(len(sums.gram))
    weights: Matrix = cho_solve(cho_factor(regular, lower=True), sums.targets)
    return weights


@dataclass(frozen=True, slots=True)
class ClosedForm:
    """A hasher.

    Attributes:
        projections: As every node draws them.
        weights: Of the projections for every bit, shape (projections, bits).
    """

    projections: Projections
    weights: Matrix

    @classmethod
    def fit(
        cls, nodes: Sequence[Node], classes: Sequence[int], bits: int, seed: int, *, projections: int = PROJECTIONS
    ) -> Self:
        """Fit on the patches of several nodes, each summed apart; one node stands for all in one place.

        Args:
            nodes: What each node holds. A node with too few labelled patches is left out.
            classes: Stable ids of the classes in the order of the columns of labels.
            bits: Width of the codes.
            seed: Seed of the centres and projections.
            projections: Number of projections.

        Raises:
            CodeError: bits is not a width that codes may have.
            TrainingError: TOO_MANY_CLASSES, or TOO_FEW_PATCHES at every node.
        """
        check_bits(bits)
        centres = hash_centres(classes, bits, seed)
        drawn = Projections.draw(nodes[0][0].shape[1], seed, projections)
        parts = [
            Sums.of(drawn.rows(features), labels, centres)
            for features, labels in nodes
            if np.count_nonzero(labels.any(axis=1)) >= LEAST_PATCHES
        ]
        return cls(drawn, solve(total(parts)))

    def encode(self, features: Features) -> Codes:
        """Return the packed codes of features of shape (n, features)."""
        return pack(self.projections.rows(features) @ self.weights > 0)
