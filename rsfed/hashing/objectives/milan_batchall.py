"""The losses of MiLaN over all triplets of a batch.

They are those of `rsfed.hashing.objectives.milan`, but a batch holds several classes, every triplet in it is formed,
and those that violate the margin are averaged (Hermans, Beyer and Leibe, "In defense of the triplet loss for person
re-identification", 2017, "batch all"). With several labels per patch, positives share at least one class with the
anchor, negatives none.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from rsfed.config_objectives import BatchAllSection
from rsfed.hashing.objectives.interface import ADAM_BETAS, Losses
from rsfed.hashing.objectives.sampling import balanced
from rsfed.hashing.objectives.terms import balance_loss, push_loss, related

_MOST_PAIRS = 4096  # of anchor and positive in a batch; bounds its memory to this many times the batch


class MilanBatchAll:
    """All triplets of a batch, push and balance.

    Args:
        section: Margin and weights.
    """

    views = 1
    betas = ADAM_BETAS

    def __init__(self, section: BatchAllSection) -> None:
        self._section = section

    def sample(self, labels: NDArray[np.bool_], batch: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Choose about equally many patches of several classes; see `Objective.sample`."""
        return balanced(labels, batch, rng)

    def losses(self, outputs: Tensor, labels: Tensor) -> Losses:
        """Return the weighted sum of the three losses; without a valid triplet that of push and balance alone."""
        total = self._section.push * push_loss(outputs) + self._section.balance * balance_loss(outputs)
        triplet = triplet_loss(outputs, labels, self._section.margin)
        return Losses(total if triplet is None else total + triplet, triplet is not None)


def triplet_loss(outputs: Tensor, labels: Tensor, margin: float) -> Tensor | None:
    """Return the mean over the triplets that violate the margin, 0 when none does; None without a valid triplet.

    Args:
        outputs: Sigmoid outputs, float, shape (n, bits).
        labels: bool, shape (n, classes); unlabelled patches are in no triplet.
        margin: By how much a negative must be farther than a positive, in squared L2 of normalised outputs.
    """
    alike = related(labels)
    labelled = labels.any(dim=1)
    unlike = ~alike & labelled[:, None] & labelled[None, :]
    pairs = (alike & ~torch.eye(len(labels), dtype=torch.bool)).nonzero()
    pairs = pairs[:: -(-len(pairs) // _MOST_PAIRS) or 1]
    negatives = unlike[pairs[:, 0]]
    if not negatives.any():
        return None
    unit = functional.normalize(outputs, dim=1)
    distance = 2 - 2 * unit @ unit.T
    violation = distance[pairs[:, 0], pairs[:, 1], None] - distance[pairs[:, 0]] + margin
    violation = functional.relu(violation) * negatives
    return violation.sum() / torch.count_nonzero(violation.detach()).clamp(min=1)
