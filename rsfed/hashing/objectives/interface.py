"""What the training loop needs of an objective."""

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
        compared: Whether the batch said anything of which patches are alike; False for example where all its patches
            are of one class.
    """

    total: Tensor
    compared: bool


class Objective(Protocol):
    """What the training loop needs of an objective.

    Attributes:
        views: Augmented views that it takes of each patch of a batch.
        betas: Decay rates of Adam's moments.
    """

    views: int
    betas: tuple[float, float]

    def sample(self, labels: NDArray[np.bool_], batch: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Choose the patches of a batch.

        Args:
            labels: bool, shape (patches, classes), at least one patch; a row without a class is an unlabelled patch.
            batch: Number of patches to choose, at least 3.
            rng: Source of chance.

        Returns:
            Positions of the patches, int64, shape (at most batch,), at least one; a patch may occur twice.
        """

    def losses(self, outputs: Tensor, labels: Tensor) -> Losses:
        """Return the loss of a batch.

        Args:
            outputs: Sigmoid outputs, float, shape (views x patches, bits): the first view of all patches in the order
                of `sample`, then the second.
            labels: bool, shape (views x patches, classes).
        """


ADAM_BETAS = (0.9, 0.999)  # those of Kingma and Ba, "Adam", ICLR 2015
