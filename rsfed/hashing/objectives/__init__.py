"""Objectives: what a hash network is trained for. Each says which patches form a batch and what their loss is.

Networks and the loop that takes the steps are in `rsfed.hashing`; here is no state and no IO.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Losses:
    """The loss of one batch.

    Attributes:
        total: What is minimised, a scalar.
        compared: Whether patches were compared; False where the batch held nothing to compare, for example one class.
    """

    total: Tensor
    compared: bool


class Objective(Protocol):
    """What the training loop needs of an objective."""

    def sample(self, labels: NDArray[np.bool_], batch: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Choose the patches of a batch.

        Args:
            labels: bool, shape (patches, classes); a row without a class is an unlabelled patch.
            batch: Number of patches to choose.
            rng: Source of chance.

        Returns:
            Positions of the patches, int64, shape (batch,); a patch may occur twice.
        """

    def losses(self, outputs: Tensor, labels: Tensor) -> Losses:
        """Return the loss of a batch.

        Args:
            outputs: Sigmoid outputs, float32, shape (batch, bits).
            labels: bool, shape (batch, classes).
        """
