"""Contrastive learning without labels, for archives that have none.

Two augmented views of a patch shall be more alike than either is to the views of all other patches of the batch. As in
the hash heads of RSiM's DA4DTE, it is asked of the relaxed code 2f - 1 itself, beside quantisation and balance of each
image.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rsfed.config_objectives import ContrastiveSection
from rsfed.hashing.objectives.interface import ADAM_BETAS, Losses
from rsfed.hashing.objectives.terms import balance_loss, quantisation_loss, view_loss


class Contrastive:
    """NT-Xent, quantisation and balance; looks at no label.

    Args:
        section: Temperature and weights.
    """

    views = 2
    betas = ADAM_BETAS

    def __init__(self, section: ContrastiveSection) -> None:
        self._section = section

    def sample(self, labels: NDArray[np.bool_], batch: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Choose patches, each as likely and none twice, since it would be told apart from itself."""
        return rng.permutation(len(labels))[:batch]

    def losses(self, outputs: Tensor, labels: Tensor) -> Losses:
        """Return the weighted sum of the three losses; of one patch, that of quantisation and balance."""
        section = self._section
        total = section.quantisation * quantisation_loss(outputs) + section.balance * balance_loss(outputs)
        if len(outputs) < 4:
            return Losses(total, compared=False)
        return Losses(total + view_loss(outputs, section.temperature), compared=True)
