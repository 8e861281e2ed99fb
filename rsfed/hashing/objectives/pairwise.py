"""The likelihood of pairs.

Li, Wang and Kang, "Feature learning based deep supervised hashing with pairwise labels" (DPSH), IJCAI 2016: two patches
share a class with probability sigmoid(theta), where theta is half the inner product of their codes, and outputs are
drawn to -1 and 1. Two codes of K bits reach K/2: at 64 bits that is past where the sigmoid has a slope, and few bits
would do. So theta is the mean over the bits times `scale`, whose default is DPSH's K/2 for 16 bits at every width.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from rsfed.config_objectives import PairwiseSection
from rsfed.hashing.objectives.interface import ADAM_BETAS, Losses
from rsfed.hashing.objectives.sampling import balanced
from rsfed.hashing.objectives.terms import quantisation_loss, related


class Pairwise:
    """Likelihood of pairs and quantisation.

    Args:
        section: Scale and weight.
    """

    views = 1
    betas = ADAM_BETAS

    def __init__(self, section: PairwiseSection) -> None:
        self._section = section

    def sample(self, labels: NDArray[np.bool_], batch: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """Choose about equally many patches of several classes; see `Objective.sample`."""
        return balanced(labels, batch, rng)

    def losses(self, outputs: Tensor, labels: Tensor) -> Losses:
        """Return the weighted sum of both losses; where no pair differs, that of quantisation alone.

        With pairs that are alike alone, all codes would fall together.
        """
        total = self._section.quantisation * quantisation_loss(outputs)
        pairs = pair_loss(outputs, labels, self._section.scale)
        return Losses(total if pairs is None else total + pairs, pairs is not None)


def pair_loss(outputs: Tensor, labels: Tensor, scale: float) -> Tensor | None:
    """Return the mean negative log-likelihood of the pairs; None where no two patches differ in class.

    Args:
        outputs: Sigmoid outputs, float, shape (n, bits).
        labels: bool, shape (n, classes); two patches are alike when they share a class, unlabelled ones in no pair.
        scale: Theta of two equal binary codes.
    """
    labelled = labels.any(dim=1)
    signs, alike = 2 * outputs[labelled] - 1, related(labels[labelled])
    if alike.all():
        return None
    first, second = torch.triu_indices(len(signs), len(signs), offset=1)
    theta = scale * (signs @ signs.T / signs.shape[1])[first, second]
    return (functional.softplus(theta) - alike[first, second] * theta).mean()
